"""Reasons are found where there are, and only there."""

import numpy as np
import pytest

from kd_plugins.experiments import reasons
from kd_plugins.experiments.logs import Training
from kd_plugins.experiments.metrics import HEADLINES

TOP1, AP = HEADLINES


def trainings(name, *curves):
    return [
        Training('kd', {name: {10 * (i + 1): float(v) for i, v in enumerate(curve)}})
        for curve in curves
    ]


def of(found):
    return [reason.of for reason in found]


@pytest.mark.parametrize('teacher, alone, expected', [
    (70.0, [69.5, 70.1], ['teacher']), (70.0, [61.0, 62.0], []), (60.0, [61.0], ['teacher']),
])  # fmt: skip
def test_a_teacher_no_better_than_the_student(teacher, alone, expected):
    found = reasons.teachers_skill(TOP1, {'accuracy/top1': teacher}, alone)
    assert of(found) == expected
    assert all(f'{teacher:.2f} and {np.mean(alone):.2f}' in reason.what for reason in found)
    better = 'hardly' if teacher > np.mean(alone) else 'no'
    assert all(f'is {better} better than' in reason.what for reason in found)
    # Average precisions are counted from 0 to 1 by upstream.
    assert of(reasons.teachers_skill(AP, {'coco/bbox_mAP': teacher / 100}, alone)) == expected


def test_a_teacher_that_is_measured_on_another_input():
    metrics = {'accuracy/top1': 80.0, 'own/accuracy/top1': 84.0}
    (found,) = reasons.teachers_skill(TOP1, metrics, [60.0])
    assert found.of == 'input' and '80.00' in found.what and '84.00' in found.what
    metrics['own/accuracy/top1'] = 80.5
    assert reasons.teachers_skill(TOP1, metrics, [60.0]) == []
    assert reasons.teachers_skill(TOP1, {}, [60.0]) == []


@pytest.mark.parametrize('ratio, weak', [(2000, 'task'), (0.0004, 'term'), (900, ''), (0.002, ''),
                                         (0.0, '')])  # fmt: skip
def test_terms_that_drown_or_are_drowned(ratio, weak):
    found = reasons.weights_of_terms({'loss_kd': ratio})
    assert len(found) == bool(weak)
    assert not weak or f'the {weak} hardly takes part' in found[0].what


def noisy(curve, seed=0, by=2.0):
    return np.asarray(curve) + np.random.default_rng(seed).normal(0, by, len(curve))


@pytest.mark.parametrize('curve, stops', [
    (np.linspace(10, 80, 40), False),
    ([*np.linspace(10, 60, 20), *[60] * 20], True),
    ([*np.linspace(10, 60, 20), *np.linspace(60, 40, 20)], True),
    ([*np.linspace(10, 98, 20), *[98] * 20], False),
    (np.linspace(60, 60, 3), False),
])  # fmt: skip
@pytest.mark.parametrize('name', ['agreement', 'dense_agreement', 'agreement.kd'])
def test_agreement_that_stops(curve, stops, name):
    seeds = trainings(name, *(noisy(curve, seed, by=1.0) for seed in range(3)))
    found = reasons.agreement_that_stops(seeds)
    assert of(found) == ['agreement'] * stops


def test_the_rise_is_that_of_a_straight_line_and_its_error_that_of_scipy():
    from scipy import stats

    curve = noisy([*np.full(20, 50.0), *np.linspace(50, 50.5, 20)], 5, by=0.5)
    (found,) = reasons.agreement_that_stops(trainings('agreement', curve))
    x = np.arange(21, 41) / 20 - 1
    line = stats.linregress(x, curve[20:])
    assert f'{line.slope:+.1f} ± {line.stderr:.1f} points' in found.what


@pytest.mark.parametrize('curve, rises', [
    (np.geomspace(2, 0.1, 40), False),
    ([*np.geomspace(2, 0.5, 20), *np.linspace(0.5, 0.9, 20)], True),
    ([*np.geomspace(2, 0.5, 20), *[0.5] * 20], False),
    (np.linspace(1, 3, 40), True),
    ([1.0, 2.0, 3.0], False),
])  # fmt: skip
def test_a_task_loss_that_rises(curve, rises):
    curves = [np.asarray(curve) * (1 + 0.01 * noisy(np.zeros(len(curve)), s, 1)) for s in range(3)]
    assert (
        of(reasons.task_loss_that_rises(trainings('task_loss', *curves))) == ['task loss'] * rises
    )
    assert reasons.task_loss_that_rises([Training('kd')]) == []
    broken = trainings('task_loss', [float('nan')] * 40)
    assert reasons.task_loss_that_rises(broken) == []


def test_noise_is_no_rise():
    wrong = 0
    for seed in range(200):
        curves = [0.01 * np.exp(noisy(np.zeros(20), 3 * seed + i, 1.0)) for i in range(3)]
        wrong += bool(reasons.task_loss_that_rises(trainings('task_loss', *curves)))
    assert wrong < 40


def test_a_distillation_that_changed_nothing():
    assert of(reasons.the_same_student([0.0, 0.0], [True, True])) == ['nothing']
    assert reasons.the_same_student([0.0, 0.1], [True, False]) == []
    assert reasons.the_same_student([0.0, 0.0], []) == []
