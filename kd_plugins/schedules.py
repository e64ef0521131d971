"""Schedules: stateless maps from a training's progress to a number."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from kd_plugins import checks
from kd_plugins.structures import Progress

#: Share of the distance between ``min`` and ``max`` after a part x, in [0, 1], of the way.
FORMS: Mapping[str, Callable[[float], float]] = {
    'rise': lambda x: x,
    'linear': lambda x: 1 - x,
    'quadratic': lambda x: (1 - x) ** 2,
    'half cosine': lambda x: (math.cos(math.pi * x) + 1) / 2,
    'quarter cosine': lambda x: math.cos(math.pi * x / 2),
}


@dataclass(frozen=True)
class Schedule:
    """``min + share(x) * (max - min)``, with x the part of the way that is over.

    With a ``length``, epochs (or iterations) are counted from 1: the first one
    is already a step on the way, and from number ``length`` on x is 1. Over the
    whole training (``length=None``) they are counted from 0: the first one has
    x = 0, and x would be 1 after the last.

    Args:
        form: One of :data:`FORMS`.
        length: Epochs, or iterations, on the way; None for the whole training.
        by_epoch: Whether epochs are counted. Iteration-based loops have none
            and need False.
        max: The larger end, finite.
        min: The smaller end, finite and at most ``max``.
        said: The setting as the user wrote it, for error messages.
        instead: How the user writes it for iterations, for error messages.
    """

    form: str
    length: int | None = None
    by_epoch: bool = True
    max: float = 1.0
    min: float = 0.0
    said: str = 'the schedule'
    instead: str = 'by_epoch=False and a number of iterations'

    def at(self, part: float) -> float:
        """Return the value when ``part`` of the way, in [0, 1], is over."""
        return FORMS[self.form](part) * (self.max - self.min) + self.min

    # Compiled by torch 2.1 it would stay where it was: attributes of modules, such as their
    # progress, are constants there.
    @torch.compiler.disable
    def __call__(self, progress: Progress | None) -> float:
        """Return the value for the running step.

        Raises:
            RuntimeError: If there is no progress to read, because the part
                runs outside of an algorithm that hands it over.
            ValueError: If :meth:`check` refuses the training.
        """
        if self.length == 1:
            # At its end from the beginning, whatever the training is like.
            return self.at(1.0)
        if progress is None:
            raise RuntimeError(
                f'{self.said} needs to know how far the training is, and nobody said: train '
                'kd_plugins.SingleTeacherDistill with a Runner, or call set_progress(...) on the '
                'loss before every step.'
            )
        self.check(progress)
        done, whole = self._count(progress)
        return self.at(done / whole if self.length is None else min((done + 1) / self.length, 1.0))

    def check(self, progress: Progress) -> None:
        """Refuse a training in which the schedule would not reach its end.

        Raises:
            ValueError: If the training is shorter than ``length``, or has no
                epochs to count.
        """
        if self.length == 1:
            return
        if self.by_epoch and not progress.has_epochs:
            raise ValueError(
                f'{self.said} counts epochs, but this train loop has none (an iteration-based '
                'loop, or a single epoch), so it would never move: give '
                f'{self.instead}.'
            )
        _, whole = self._count(progress)
        if self.length is not None and self.length > whole:
            unit = 'epochs' if self.by_epoch else 'iterations'
            raise ValueError(
                f'{self.said} is longer than the training, which has {whole} {unit}, so it would '
                f'never reach {self.at(1.0):g}: give a length of at most {whole}.'
            )

    def _count(self, progress: Progress) -> tuple[int, int]:
        """Return how many epochs, or iterations, are done, and of how many."""
        if self.by_epoch:
            return progress.epoch, progress.max_epochs
        return progress.iter, progress.max_iters


def warmup(cfg: int | Mapping[str, Any], name: str = 'warmup') -> Schedule:
    """A factor that grows in a line, ``min(t / length, 1)`` with t counted from 1.

    Args:
        cfg: A number of epochs, of which 1 means no warm-up, or
            ``dict(length=, by_epoch=)``.
        name: What the user calls this setting.

    Raises:
        ValueError: If the length is none.
    """
    length, by_epoch = _spelled(cfg, name, 'length')
    checks.whole_number(
        name,
        length,
        right='a whole number of epochs, at least 1 (1 means no warm-up), or dict(length=..., '
        'by_epoch=False) for iterations',
    )
    return Schedule(
        'rise',
        length,
        by_epoch,
        said=f'{name}={_said(length, by_epoch)}',
        instead=f'{name}=dict(length=<iterations>, by_epoch=False)',
    )


def descent(
    form: str,
    max: float,
    min: float,
    length: int,
    by_epoch: bool = True,
    name: str = 'schedule',
) -> Schedule:
    """A value that goes from ``max`` to ``min`` and stays there.

    Args:
        form: ``'cosine'``, half a cosine (slow, fast, slow), or ``'linear'``.
        max: The value before the first step, finite.
        min: The value from ``length`` on, finite and at most ``max``.
        length: Epochs, or iterations, on the way, at least 1.
        by_epoch: Whether ``length`` counts epochs.
        name: What the user calls what takes these settings.

    Raises:
        ValueError: If there is no such form, a number is none, or ``by_epoch``
            is neither True nor False.
    """
    forms = {'cosine': 'half cosine', 'linear': 'linear'}
    checks.one_of(f'{name}.schedule', form, forms)
    checks.number(f'{name}.max', max)
    checks.number(f'{name}.min', min)
    if min > max:
        raise ValueError(
            f'{name}.min={min!r} is above max={max!r}: the schedule starts at max and goes down '
            'to min.'
        )
    checks.whole_number(
        f'{name}.length',
        length,
        right='a whole number of epochs, at least 1, or of iterations beside by_epoch=False',
    )
    checks.flag(f'{name}.by_epoch', by_epoch)
    return Schedule(
        forms[form],
        length,
        by_epoch,
        max,
        min,
        said=f'{name}.length={length}',
        instead='by_epoch=False and length=<iterations>',
    )


def decay(cfg: str | Mapping[str, Any], name: str = 'decay') -> Schedule:
    """A share that is 1 at the start of the training and goes towards 0 over all of it.

    With x the part of the training that is over: ``1 - x`` (linear),
    ``(1 - x)^2`` (quadratic) or ``cos(pi x / 2)`` (cosine).

    Args:
        cfg: ``'linear'``, ``'quadratic'`` or ``'cosine'``, which move once an
            epoch, or ``dict(form=, by_epoch=)``.
        name: What the user calls this setting.

    Raises:
        ValueError: If there is no such form.
    """
    forms = {'linear': 'linear', 'quadratic': 'quadratic', 'cosine': 'quarter cosine'}
    form, by_epoch = _spelled(cfg, name, 'form')
    checks.one_of(name, form, forms, 'or dict(form=..., by_epoch=False) to move in every iteration')
    return Schedule(
        forms[form],
        by_epoch=by_epoch,
        said=f'{name}={form!r}',
        instead=f'{name}=dict(form={form!r}, by_epoch=False)',
    )


def _spelled(cfg: Any, name: str, key: str) -> tuple[Any, bool]:
    """Read a setting that is one value, or that value as ``key`` beside ``by_epoch``."""
    if not isinstance(cfg, Mapping):
        return cfg, True
    if set(cfg) - {key, 'by_epoch'} or key not in cfg:
        raise checks.refuse(name, dict(cfg), f'dict({key}=..., by_epoch=...) or the {key} alone')
    return cfg[key], checks.flag(f'{name}.by_epoch', cfg.get('by_epoch', True))


def _said(length: int, by_epoch: bool) -> str:
    return str(length) if by_epoch else f'dict(length={length}, by_epoch=False)'
