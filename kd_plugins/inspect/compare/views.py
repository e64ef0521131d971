"""The views of a comparison: what each runs, and what it draws."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from mmengine.runner import Runner
from torch import Tensor

from kd_plugins.inspect.compare import drawing, patches
from kd_plugins.inspect.compare.classifiers import ask, correlation_difference, term_values
from kd_plugins.inspect.compare.detectors import detect
from kd_plugins.inspect.compare.loading import (
    batch_of,
    class_names,
    random_batch,
    reads_files,
    validation_batches,
    validation_set,
)
from kd_plugins.networks import swaps_channels


@dataclass(frozen=True)
class Choice:
    """What to compare on.

    Args:
        images: Files, and numbers of pictures of the validation set. Views of the
            set as a whole take none.
        samples: How many pictures of the validation set, where none are named; by
            default 6 (``answers``, ``boxes``), 5 (``patches``) or 1000.
        moments: Parts of the training that are over, 0 to 1, to draw CSKD's target
            at (``patches``).
        tell: Called with how many pictures of the whole set's views are done, of how many,
            and what they are.
    """

    images: Sequence[str | int] = ()
    samples: int | None = None
    moments: Sequence[float] = (0.25, 0.5, 1.0)
    tell: Callable[[int, int, str], None] = lambda done, total, what: None


def answers(runner: Runner, choice: Choice) -> tuple[Figure, list[str]]:
    """Both classifiers' first classes, and the value of every term for each picture alone."""
    batch = _batch(runner, choice)
    found = ask(runner.model, [batch])
    known = bool((found.labels >= 0).all())
    terms = term_values(runner, batch) if known else {}
    names = class_names(runner.cfg, found.preds_S.shape[1])
    titles = [
        '\n'.join([title, *(f'{name} {values[i]:.3g}' for name, values in terms.items())])
        for i, title in enumerate(_titles(found.labels, names, choice))
    ]
    return drawing.draw_answers(_pictures(runner, batch), titles, found, names), []


def correlation(runner: Runner, choice: Choice) -> tuple[Figure, list[str]]:
    """How differently both classifiers relate the classes."""
    found = ask(runner.model, validation_batches(runner.cfg, choice.samples or 1000, choice.tell))
    difference = correlation_difference(found)
    names = class_names(runner.cfg, len(difference))
    said = f'mean size of the difference: {difference.abs().mean().item():.4f}'
    return drawing.draw_correlation(difference, len(found.labels), names), [said]


def tsne(runner: Runner, choice: Choice) -> tuple[Figure, list[str]]:
    """Both classifiers' penultimate features, by class."""
    found = ask(runner.model, validation_batches(runner.cfg, choice.samples or 1000, choice.tell))
    if len(found.labels) < 10:
        raise ValueError(
            f'--view tsne needs 10 samples or more, and there are {len(found.labels)}.'
        )
    return drawing.draw_tsne(found, class_names(runner.cfg, found.preds_S.shape[1])), []


def boxes(runner: Runner, choice: Choice) -> tuple[Figure, list[str]]:
    """What both dense detectors find, and how much every place tells the two apart."""
    batch = _batch(runner, choice)
    found = detect(runner.model, batch)
    return drawing.draw_boxes(_pictures(runner, batch), found), []


def patch_targets(runner: Runner, choice: Choice) -> tuple[Figure, list[str]]:
    """What CSKD hands to the patches, and what they say."""
    if not choice.images:
        size = len(validation_set(runner.cfg))
        spread = np.linspace(0, size - 1, choice.samples or 5).astype(int).tolist()
        choice = Choice(spread, None, choice.moments)
    batch = batch_of(runner.cfg, choice.images)
    found = patches.look(runner.model, batch, choice.moments)
    names = class_names(runner.cfg, next(iter(found.columns.values())).shape[1])
    titles = _titles(found.labels, names, choice)
    return drawing.draw_patches(_pictures(runner, batch), titles, found, names), []


VIEWS: dict[str, Callable[[Runner, Choice], tuple[Figure, list[str]]]] = {
    'answers': answers,
    'correlation': correlation,
    'tsne': tsne,
    'boxes': boxes,
    'patches': patch_targets,
}


def _batch(runner: Runner, choice: Choice) -> dict[str, Any]:
    """Return one batch: the pictures that were named, or some of the validation set."""
    if choice.images:
        return batch_of(runner.cfg, choice.images)
    return random_batch(runner.cfg, choice.samples or 6)


def _pictures(runner: Runner, batch: dict[str, Any]) -> list[np.ndarray]:
    bgr = reads_files(runner.cfg) or swaps_channels(runner.model.data_preprocessor)
    return [drawing.displayed(image, bgr) for image in batch['inputs']]


def _titles(labels: Tensor, names: Sequence[str], choice: Choice) -> list[str]:
    """Return the class of every picture; where it is unknown, the name of its file."""
    return [
        names[label] if label >= 0 else Path(str(choice.images[i])).name if choice.images else ''
        for i, label in enumerate(labels.tolist())
    ]
