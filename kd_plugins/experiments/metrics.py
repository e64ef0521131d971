"""Which metric of a validation is the headline, what it means, and what guessing gives."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

#: Standard deviations above the mean of guessing that luck may reach.
LUCK = 3.0
#: An average precision up to here says nothing: detections at random have it.
RANDOM_AP = 0.005


@dataclass(frozen=True)
class Headline:
    """The metric that a training is judged by.

    Args:
        name: As the evaluator gives it, for example ``'coco/bbox_mAP'``.
        label: As tables call it.
        metafile: As OpenMMLab's metafiles call it.
        percent: What makes its values percent.
    """

    name: str
    label: str
    metafile: str
    percent: float

    @property
    def is_top1(self) -> bool:
        """Whether this is a classifier's accuracy, and not an average precision."""
        return self.label == 'top-1'

    def value(self, metrics: Mapping[str, float]) -> float | None:
        """Return its value in percent.

        None if it is not there, not a number, or -1, which is COCO's answer
        where the pictures have no object.
        """
        value = metrics.get(self.name)
        if value is None or math.isnan(value) or value < 0:
            return None
        return self.percent * value

    def by_luck(self, samples: int, classes: int) -> float:
        """Return the highest value, in percent, that guessing could give.

        Args:
            samples: How many samples were counted, above 0.
            classes: How many classes there are, above 1; an average precision
                needs neither.
        """
        if self.is_top1:
            return 100 * right_by_luck(samples, classes)
        return self.percent * RANDOM_AP


#: The first that an evaluator gives is the headline.
HEADLINES = (
    Headline('accuracy/top1', 'top-1', 'Top 1 Accuracy', 1.0),
    Headline('coco/bbox_mAP', 'COCO AP', 'box AP', 100.0),
)


def headline(names: Iterable[str]) -> Headline | None:
    """Return the headline among the metrics of an evaluator.

    Args:
        names: The metrics' names; a prefix of the evaluator's own counts as
            the usual one (``'night/bbox_mAP'``).

    Returns:
        The headline, under the name that the evaluator gives it, or None.
    """
    given = list(names)
    for known in HEADLINES:
        last = known.name.split('/')[-1]
        for name in (known.name, *given):
            if name in given and name.split('/')[-1] == last:
                return replace(known, name=name)
    return None


#: Metrics of mmpretrain and mmdet that give none, whatever their settings.
_WITHOUT = frozenset(
    (
        *('SingleLabelMetric', 'MultiLabelMetric', 'AveragePrecision', 'ConfusionMatrix'),
        *('RetrievalRecall', 'RetrievalAveragePrecision', 'VOCMultiLabelMetric'),
        *('VOCAveragePrecision', 'VOCMetric', 'LVISMetric', 'CityScapesMetric', 'CrowdHumanMetric'),
        *('OpenImagesMetric', 'CocoPanopticMetric', 'SemSegMetric', 'DumpDetResults'),
        *('DumpProposals', 'DumpResults'),
    )
)


def may_give_headline(evaluator: Any) -> bool:
    """Whether an evaluator may give a headline, as far as its config tells.

    Args:
        evaluator: ``val_evaluator`` of a config: a metric, several, or an ``Evaluator``
            of them. What is not upstream's may give anything.
    """
    if isinstance(evaluator, Mapping):
        if 'metrics' in evaluator:
            return may_give_headline(evaluator['metrics'])
        kind = evaluator.get('type')
        name = (kind if isinstance(kind, str) else getattr(kind, '__name__', '')).split('.')[-1]
        if name == 'Accuracy':
            return 1 in _listed(evaluator.get('topk', 1))
        if name == 'CocoMetric':
            return 'bbox' in _listed(evaluator.get('metric', 'bbox'))
        return name not in _WITHOUT
    return not isinstance(evaluator, (list, tuple)) or any(map(may_give_headline, evaluator))


def _listed(value: Any) -> Any:
    return value if isinstance(value, (list, tuple)) else [value]


def right_by_luck(samples: int, classes: int) -> float:
    """Return the share of right answers, 0 to 1, that guessing could reach.

    It is three standard deviations of a binomial distribution above its mean.
    At 1 there are too few samples to tell.

    Args:
        samples: How many answers there are, above 0.
        classes: Among how many classes, above 1.

    Raises:
        ValueError: If there are fewer.
    """
    if samples < 1 or classes < 2:
        raise ValueError(
            f'samples={samples!r} and classes={classes!r} leave nothing to guess: give at least '
            '1 sample and 2 classes.'
        )
    p = 1 / classes
    return min(1.0, p + LUCK * math.sqrt(p * (1 - p) / samples))


def is_guessing(metrics: Mapping[str, float], samples: int, classes: int) -> bool:
    """Whether a network's headline is no better than guessing.

    False where that cannot be told: no known metric, no object in the pictures,
    too few samples, fewer than two classes.

    Args:
        metrics: What an evaluator gave.
        samples: How many samples it has counted.
        classes: How many classes there are.
    """
    found = headline(metrics)
    value = found.value(metrics) if found else None
    if found is None or value is None:
        return False
    if found.is_top1 and (samples < 1 or classes < 2 or right_by_luck(samples, classes) >= 1):
        return False
    return value <= found.by_luck(samples, classes)
