"""Whether a distillation helps: the student alone and distilled, in pairs of one seed."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from kd_plugins.experiments import paired, reasons
from kd_plugins.experiments.data import other_data
from kd_plugins.experiments.logs import Training
from kd_plugins.experiments.metrics import Headline
from kd_plugins.experiments.results import Result
from kd_plugins.experiments.timing import median


@dataclass
class Side:
    """One config, trained with several seeds: the student alone, or distilled.

    Args:
        name: What to call it.
        config: Where its config is.
        config_hash: Of the config whichever the seed.
        results: Of the seeds that are finished.
        trainings: What these have logged.
        failed: Why the other seeds gave no result.
        ratios: Of each term, the norm of its gradient over the task's.
        teacher: The teacher's metrics on the validation set, as it teaches; those on
            its own preprocessing have ``own/`` in front.
        notes: What is worth knowing of the comparison.
    """

    name: str
    config: str
    config_hash: str = ''
    results: Mapping[int, Result] = field(default_factory=dict)
    trainings: Mapping[int, Training] = field(default_factory=dict)
    failed: Mapping[int, str] = field(default_factory=dict)
    ratios: Mapping[str, float] = field(default_factory=dict)
    teacher: Mapping[str, float] = field(default_factory=dict)
    notes: Sequence[str] = ()


def conclude(
    alone: Side, distilled: Sequence[Side], worth: float = 0.0, alpha: float = paired.ALPHA
) -> dict[str, Any]:
    """Return all that there is to say, as JSON can hold it.

    Args:
        alone: The student alone.
        distilled: The distillations, each with pairs of its own.
        worth: The gain in points that a distillation has to be above.
        alpha: The probability of a GO or a NO-GO for any of them where every true
            gain is ``worth``.

    Raises:
        ValueError: If no seed is finished on both sides of any, or results are of other data
            than each other.
    """
    pairs = [[seed for seed in side.results if seed in alone.results] for side in distilled]
    if not any(pairs):
        raise ValueError('no seed is finished both alone and distilled: nothing can be compared.')
    results = {
        f'seed {seed} of {side.name}': result
        for side in (alone, *distilled)
        for seed, result in side.results.items()
    }
    if said := other_data(results):
        raise ValueError(
            f'{said}, so the difference of their figures would not be that of the method: remove '
            'what was trained and looked at before it changed (the folders of these configs in the '
            'work directory), and start again.'
        )
    headline = next(iter(alone.results.values())).headline
    compared = [
        paired.compare(
            [side.results[seed].last - alone.results[seed].last for seed in seeds], worth, alpha
        )
        if seeds
        else None
        for side, seeds in zip(distilled, pairs, strict=True)
    ]
    adjusted = paired.holm([each.p if each else None for each in compared])
    return dict(
        metric=headline.name,
        label=headline.label,
        worth=worth,
        alpha=alpha,
        power=paired.POWER,
        rule=rule(len(distilled), worth, alpha),
        alone=dict(
            name=alone.name,
            config=alone.config,
            config_hash=alone.config_hash,
            notes=list(alone.notes),
            failed=_failed(alone),
            **_figures(alone, list(alone.results)),
        ),
        configs=[
            _one(alone, side, seeds, each, p, headline, worth, alpha, len(distilled))
            for side, seeds, each, p in zip(distilled, pairs, compared, adjusted, strict=True)
        ],
    )


def rule(configs: int, worth: float, alpha: float) -> str:
    """Say how it is decided, and how often that is wrong."""
    bound = f'{worth:g} points' if worth else '0'
    several = (
        f" With {configs} configs the p values are Holm's, so that this holds for all of them "
        'together; the intervals are those of each alone.'
        if configs > 1
        else ''
    )
    return (
        f'Paired t test on the differences of the last validation, one a seed: GO where their mean '
        f'is significantly above {bound}, NO-GO where it is significantly below, INCONCLUSIVE '
        f'otherwise. Where the true gain is {bound}, {100 * alpha:g} % of such experiments say GO '
        f'or NO-GO, one half each.{several} This holds for a number of seeds that was chosen '
        'beforehand: who adds seeds until it says GO is wrong more often (of 5 %, 9 % with one '
        'more look, 17 % with a look at every number of seeds from 3 to 10).'
    )


def _one(
    alone: Side,
    side: Side,
    seeds: Sequence[int],
    compared: paired.Comparison | None,
    p: float | None,
    headline: Headline,
    worth: float,
    alpha: float,
    configs: int,
) -> dict[str, Any]:
    whole = dict(
        name=side.name,
        config=side.config,
        config_hash=side.config_hash,
        failed=_failed(side),
        notes=list(side.notes),
        teacher=dict(side.teacher),
        gradient_ratios=dict(side.ratios),
        **_figures(side, seeds),
    )
    if compared is None:
        return dict(whole, decision=paired.INCONCLUSIVE, says='No seed is finished on both sides.')
    decision = paired.decide(compared, p, worth, alpha)
    decided = decision != paired.INCONCLUSIVE
    # Holm leaves at least this to every config.
    outlook = paired.outlook(compared, worth, alpha / configs)
    both = [(alone.results[seed], side.results[seed]) for seed in seeds]
    found = [
        *reasons.teachers_skill(headline, side.teacher, [a.last for a, _ in both]),
        *reasons.weights_of_terms(side.ratios),
        *(
            reason
            for look in reasons.OF_LOGS
            for reason in look([side.trainings[s] for s in seeds if s in side.trainings])
        ),
        *reasons.the_same_student(
            compared.differences, [a.predictions == d.predictions for a, d in both if a.predictions]
        ),
    ]
    whole['notes'] += _unlike_ends(seeds, both)
    return dict(
        whole,
        decision=decision,
        says=_says(decision, compared, outlook, worth, seeds) + _left_out(alone, side),
        pairs=[
            dict(
                seed=seed,
                alone=a.last,
                distilled=d.last,
                difference=d.last - a.last,
                best_alone=a.best,
                best_distilled=d.best,
            )
            for seed, (a, d) in zip(seeds, both, strict=True)
        ],  # fmt: skip
        mean=compared.mean,
        deviation=compared.deviation,
        interval=None if compared.low is None else [compared.low, compared.high],
        p=compared.p,
        p_adjusted=p,
        more_seeds=0 if decided else outlook and _more(outlook.pairs, seeds),
        more_seeds_at_most=0 if decided else outlook and _more(outlook.pairs_at_most, seeds),
        detectable=outlook and outlook.detectable,
        validation_error=validation_error(both),
        cost=_cost(alone, side, seeds),
        reasons=[asdict(reason) for reason in found],
    )


def _says(
    decision: str,
    compared: paired.Comparison,
    outlook: paired.Outlook | None,
    worth: float,
    seeds: Sequence[int],
) -> str:
    """Say in words what the figures come to."""
    bound = f'{worth:g} points' if worth else '0'
    if len(seeds) == 1:
        return (
            'One pair has no spread, so there is no interval and nothing is decided: train two '
            'seeds or more, better three.'
        )
    if compared.identical:
        return (
            f'All {len(seeds)} differences are {compared.mean:+.2f}, which has no spread to judge '
            'by: add a seed.'
        )
    assert outlook is not None
    if decision == paired.GO:
        return f'The gain is above {bound}.'
    if decision == paired.NO_GO:
        return f'The gain is below {bound}.'
    said = (
        f'{len(seeds)} pairs with this spread find gains that are {outlook.detectable:.2f} points '
        f'from {bound} or more, with a probability of {100 * paired.POWER:.0f} %. '
    )
    more, most = (_more(n, seeds) for n in (outlook.pairs, outlook.pairs_at_most))
    if more is None:
        return said + (
            f'If the true gain is the one seen, no {paired.MOST_PAIRS} seeds would settle it: it '
            f'is too near to {bound} to matter.'
        )
    upper = f'up to {most}' if most is not None else f'more than {paired.MOST_PAIRS}'
    return said + (
        f'If the true gain is the one seen, about {more} more seeds would settle it ({upper} '
        'if the spread is larger than it seems).'
    )


def _left_out(alone: Side, side: Side) -> str:
    """Say which seeds there is no pair of, since one of its trainings failed."""
    sides = [(each, seeds) for each, seeds in (('alone', alone.failed), ('distilled', side.failed))
             if seeds]  # fmt: skip
    if not sides:
        return ''
    said = ' and '.join(f'{", ".join(map(str, seeds))} {each}' for each, seeds in sides)
    return (
        f' Left out are seeds that failed ({said}): where it is the method that makes trainings '
        'fail, what is left flatters it.'
    )


def _unlike_ends(seeds: Sequence[int], pairs: Sequence[tuple[Result, Result]]) -> list[str]:
    """Say which pairs did not train as long on both sides, as early stopping does it."""
    said = [
        f'seed {seed} after {alone.steps[-1]} alone and {distilled.steps[-1]} distilled'
        for seed, (alone, distilled) in zip(seeds, pairs, strict=True)
        if alone.steps[-1] != distilled.steps[-1]
    ]
    return [f'Not all pairs ended after as many steps: {"; ".join(said)}'] if said else []


def _more(pairs: int | None, seeds: Sequence[int]) -> int | None:
    """Return how many are missing: one at least, since those that there are do not suffice."""
    return None if pairs is None else max(1, pairs - len(seeds))


def validation_error(pairs: Sequence[tuple[Result, Result]]) -> float | None:
    """Return two standard errors, in points, that a validation set of this size leaves.

    By so much, at most, the difference of two classifiers may change on other pictures
    of the same kind; more seeds do not make it smaller, and the interval does not
    hold it. The variance of a difference in accuracy is at most that of the share of
    pictures that they answer otherwise.

    Args:
        pairs: Results of the student alone and distilled.

    Returns:
        The mean over the pairs; None where they keep no predictions.
    """
    errors = []
    for alone, distilled in pairs:
        n = len(alone.predictions)
        if not n or len(distilled.predictions) != n:
            return None
        unlike = sum(
            a != b for a, b in zip(alone.predictions, distilled.predictions, strict=True)
        ) / n  # fmt: skip
        difference = (distilled.last - alone.last) / 100
        errors.append(math.sqrt(max(unlike - difference**2, 0) / n))
    return 200 * statistics.fmean(errors) if errors else None


def _figures(side: Side, seeds: Sequence[int]) -> dict[str, Any]:
    results = [side.results[seed] for seed in seeds]
    return dict(
        seeds=list(seeds),
        last=[result.last for result in results],
        best=[result.best for result in results],
        parameters=results[0].parameters if results else None,
    )


def _failed(side: Side) -> list[dict[str, Any]]:
    return [dict(seed=seed, reason=reason) for seed, reason in side.failed.items()]


def _cost(alone: Side, side: Side, seeds: Sequence[int]) -> dict[str, Any]:
    seconds = [statistics.fmean(s.results[seed].seconds for seed in seeds) for s in (alone, side)]
    memory = [max(_memory(s, seed) for seed in seeds) for s in (alone, side)]
    curves = [side.trainings[seed].train for seed in seeds if seed in side.trainings]
    shares = [
        median(list(curve['teacher_seconds'].values())) / median(list(curve['time'].values()))
        for curve in curves
        if curve.get('teacher_seconds') and curve.get('time')
    ]
    return dict(
        seconds_alone=seconds[0],
        seconds=seconds[1],
        times=seconds[1] / seconds[0] if seconds[0] else None,
        memory_alone_mib=memory[0] or None,
        memory_mib=memory[1] or None,
        teacher_share=statistics.fmean(shares) if shares else None,
    )


def _memory(side: Side, seed: int) -> float:
    """Return the peak in MiB: mmengine's log starts that of a GPU anew with every line."""
    training = side.trainings.get(seed)
    logged = training.train.get('memory', {}).values() if training else ()
    return max([side.results[seed].memory_mib, *logged])
