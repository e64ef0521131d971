"""The paired t test beside scipy's own, published numbers, and by simulation."""

import numpy as np
import pytest
from scipy import stats

from kd_plugins.experiments import paired
from kd_plugins.experiments.paired import GO, INCONCLUSIVE, NO_GO


@pytest.mark.parametrize('n', [2, 3, 4, 7, 40])
@pytest.mark.parametrize('alpha', [0.05, 0.2])
def test_interval_and_p_are_scipys(n, alpha):
    rng = np.random.default_rng(n)
    alone = rng.normal(61, 2, n)
    distilled = alone + rng.normal(1, 1.5, n)
    found = paired.compare((distilled - alone).tolist(), alpha=alpha)
    oracle = stats.ttest_rel(distilled, alone)
    interval = oracle.confidence_interval(1 - alpha)
    assert found.p == pytest.approx(oracle.pvalue, rel=1e-9)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), rel=1e-9)
    # The mean is as far from a gain that it has to be above as that lets it.
    other = paired.compare((distilled - alone).tolist(), worth=0.7, alpha=alpha)
    assert other.p == pytest.approx(stats.ttest_1samp(distilled - alone, 0.7).pvalue, rel=1e-9)
    assert (other.low, other.high) == (found.low, found.high)


def test_one_difference_and_equal_ones_have_no_interval():
    one, same = paired.compare([3.5]), paired.compare([1.2, 61.2 - 60, 81.2 - 80.0])
    for found, mean in ((one, 3.5), (same, 1.2)):
        assert found.mean == pytest.approx(mean)
        assert (found.low, found.high, found.p) == (None, None, None)
        assert paired.decide(found, found.p) == INCONCLUSIVE and paired.outlook(found) is None
    assert same.identical and not one.identical
    assert paired.compare([1.2, 1.3, 1.2]).p is not None


@pytest.mark.parametrize('wrong', [[], [1.0, float('nan')], [float('inf')]])
def test_what_is_no_difference_is_refused(wrong):
    with pytest.raises(ValueError, match='one or more finite numbers'):
        paired.compare(wrong)


def decisions(differences, worth=0.0):
    """What is said of every row."""
    found = [paired.compare(row, worth) for row in differences.tolist()]
    return [paired.decide(each, each.p, worth) for each in found]


@pytest.mark.parametrize('n, worth, grid', [(3, 0.0, None), (3, 0.5, None), (6, 0.0, None),
                                            (3, 0.0, 0.5), (5, 0.0, 1.0)])  # fmt: skip
def test_without_an_effect_it_is_wrong_as_often_as_it_says(n, worth, grid):
    trials = 4000
    differences = np.random.default_rng(7).normal(worth, 1.0, (trials, n))
    if grid:
        # Counts of pictures: equal differences are likely.
        differences = np.round(differences / grid) * grid
    said = decisions(differences, worth)
    # Four standard errors of a share of 0.025 in so many trials.
    slack = 4 * (0.025 * 0.975 / trials) ** 0.5
    for decision in (GO, NO_GO):
        share = said.count(decision) / trials
        assert share < 0.025 + slack
        if grid is None:
            assert share > 0.025 - slack


def test_several_comparisons_are_together_wrong_as_often_as_one():
    trials, configs, seeds = 3000, 4, 4
    rng = np.random.default_rng(3)
    distilled = rng.normal(0, 1, (trials, configs, seeds))
    # All are compared with the same student alone, which ties the tests.
    differences = distilled - rng.normal(0, 1, (trials, 1, seeds))
    corrected = plain = 0
    for trial in differences.tolist():
        ps = [paired.compare(row).p for row in trial]
        corrected += any(p < 0.05 for p in paired.holm(ps))
        plain += any(p < 0.05 for p in ps)
    slack = 4 * (0.05 * 0.95 / trials) ** 0.5
    assert corrected / trials < 0.05 + slack < plain / trials


def test_holm_is_rs():
    # R 4: p.adjust(c(0.01, 0.04, 0.03, 0.005), 'holm'), and the example of its ties.
    assert paired.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert paired.holm([0.01, 0.02, 0.03, 0.04, 0.05]) == pytest.approx(
        [0.05, 0.08, 0.09, 0.09, 0.09]
    )
    assert paired.holm([0.9, 0.8]) == [1.0, 1.0] and paired.holm([0.04]) == [0.04]
    # A config without an interval counts as one that was looked at.
    assert paired.holm([None, 0.01]) == [None, 0.02]
    assert paired.holm([]) == []


@pytest.mark.parametrize('effect, alpha, wanted, pairs', [
    # G*Power 3.1, difference between two dependent means, two tails.
    (0.2, 0.05, 0.8, 199), (0.5, 0.05, 0.8, 34), (0.8, 0.05, 0.8, 15), (-0.5, 0.05, 0.8, 34),
])  # fmt: skip
def test_pairs_needed_are_gpowers(effect, alpha, wanted, pairs):
    assert paired.pairs_needed(effect, alpha, wanted) == pairs
    assert paired.power(effect, pairs - 1, alpha) < wanted <= paired.power(effect, pairs, alpha)


@pytest.mark.parametrize('effect, n', [(0.0, 3), (1.0, 3), (2.0, 3), (1.0, 8)])
def test_power_is_how_often_the_test_finds_it(effect, n):
    trials = 4000
    said = decisions(np.random.default_rng(n).normal(effect, 1.0, (trials, n)))
    share = 1 - said.count(INCONCLUSIVE) / trials
    power = paired.power(effect, n)
    assert share == pytest.approx(power, abs=4 * (power * (1 - power) / trials) ** 0.5)


def test_power_is_a_probability_however_large_the_effect():
    for n in (2, 3, 30, 1000):
        values = [paired.power(e, n) for e in (0, 1e-12, 1e-3, 0.5, 3, 20, 1e3, 1e6)]
        assert values == sorted(values) or max(np.diff(values)) > -1e-9
        assert values[0] == 0.05 and 0.9 < values[-1] <= 1
    assert paired.pairs_needed(0.0) is None and paired.pairs_needed(1e4) == 2


def test_the_outlook_says_what_would_settle_it():
    found = paired.compare([1.0, 4.0, -0.5, 2.5])
    outlook = paired.outlook(found)
    effect = found.mean / found.deviation
    assert outlook.pairs == paired.pairs_needed(effect) > 4
    # So many pairs of this spread find what they are said to find.
    assert paired.power(outlook.detectable / found.deviation, 4) == pytest.approx(0.8, abs=1e-6)
    # The deviation's upper end by its chi square: 20 % of samples are below it.
    rng = np.random.default_rng(0)
    deviations = rng.normal(0, 1, (20000, 4)).std(axis=1, ddof=1)
    widest = found.deviation / np.quantile(deviations, 0.2)
    assert outlook.pairs_at_most == pytest.approx(paired.pairs_needed(found.mean / widest), abs=1)
    # What is nearer to the bound needs more, at a stricter level too.
    assert paired.outlook(found, worth=0.5).pairs > outlook.pairs
    assert paired.outlook(found, alpha=0.01).pairs > outlook.pairs


def test_decisions_are_about_the_bound():
    found = paired.compare([2.0, 2.2, 1.9, 2.1], worth=3.0)
    assert paired.decide(found, found.p, 3.0) == NO_GO
    above = paired.compare([2.0, 2.2, 1.9, 2.1])
    assert paired.decide(above, above.p) == GO
    assert paired.decide(above, 0.05) == INCONCLUSIVE
