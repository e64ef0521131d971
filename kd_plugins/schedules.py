"""Schedules: stateless maps from a training's progress to a number."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from kd_plugins.structures import Progress


@dataclass(frozen=True)
class LinearWarmup:
    """``min(t / length, 1)`` with ``t`` counted from 1.

    Epochs are counted from 1, as DKD's published code does, so that the first
    epoch has ``1 / length`` and a length of 1 means no warm-up.

    Args:
        length: Epochs, or iterations, until the factor is 1; at least 1.
        by_epoch: Whether ``length`` counts epochs. Iteration-based loops have
            none and need False.
        name: What the user calls this setting, for error messages.
    """

    length: int
    by_epoch: bool = True
    name: str = 'warmup'

    def __post_init__(self) -> None:
        if isinstance(self.length, bool) or not isinstance(self.length, int) or self.length < 1:
            raise ValueError(
                f'{self.name}={self.length!r} is not a warm-up length: give a whole number of '
                'epochs, at least 1 (1 means no warm-up), or dict(length=..., by_epoch=False) '
                'for iterations.'
            )

    @classmethod
    def from_cfg(cls, cfg: int | Mapping[str, Any] | LinearWarmup, name: str) -> LinearWarmup:
        """Build from a number of epochs or from ``dict(length=, by_epoch=)``."""
        return _from_cfg(cls, cfg, name, 'length', 'warm-up')

    def __call__(self, progress: Progress | None) -> float:
        """Return the factor, in (0, 1].

        Raises:
            RuntimeError: If there is no progress to read, because the loss
                runs outside of an algorithm that hands it over.
            ValueError: If epochs are asked for in a loop that has none.
        """
        if self.length == 1:
            return 1.0
        said = f'{self.name}={self.length}'
        done, _ = _position(progress, self.by_epoch, said, f'{self.name}=dict(length=<iterations>')
        return min((done + 1) / self.length, 1.0)


@dataclass(frozen=True)
class Descent:
    """A value that goes from ``max`` to ``min`` and stays there.

    Epochs, or iterations, are counted from 1: the first one is already a step
    down, and number ``length`` is the first at ``min``.

    Args:
        max: The value before the first step, finite.
        min: The value from ``length`` on, finite and at most ``max``.
        length: Epochs, or iterations, on the way; at least 1.
        by_epoch: Whether ``length`` counts epochs. Iteration-based loops have
            none and need False.
        name: What the user calls this setting, for error messages.

    Raises:
        ValueError: If the values or the length are none.
    """

    max: float
    min: float
    length: int
    by_epoch: bool = True
    name: str = 'schedule'

    def __post_init__(self) -> None:
        for key in ('max', 'min'):
            value = getattr(self, key)
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not number or not math.isfinite(value):
                raise ValueError(f'{self.name}.{key}={value!r} is not a finite number.')
        if self.min > self.max:
            raise ValueError(
                f'{self.name}.min={self.min!r} is above max={self.max!r}: the schedule starts at '
                'max and goes down to min.'
            )
        if isinstance(self.length, bool) or not isinstance(self.length, int) or self.length < 1:
            raise ValueError(
                f'{self.name}.length={self.length!r} is not a length: give a whole number of '
                'epochs, at least 1, or of iterations beside by_epoch=False.'
            )

    def remaining(self, part: float) -> float:
        """Return what is left of the descent, from 1 to 0, after ``part`` of its length."""
        raise NotImplementedError

    def __call__(self, progress: Progress | None) -> float:
        """Return the value for the running step, in [min, max].

        Raises:
            RuntimeError: If there is no progress to read, because the part
                runs outside of an algorithm that hands it over.
            ValueError: If :meth:`check` refuses the training.
        """
        if progress is None:
            raise RuntimeError(
                f'{self.name} needs to know how far the training is, and nobody said: use it '
                'inside kd_plugins.SingleTeacherDistill, or call set_progress(...) on the loss '
                'before every step.'
            )
        self.check(progress)
        step = (progress.epoch if self.by_epoch else progress.iter) + 1
        remaining = self.remaining(min(step / self.length, 1.0))
        return remaining * (self.max - self.min) + self.min

    def check(self, progress: Progress) -> None:
        """Refuse a training in which the schedule would not reach its end.

        Raises:
            ValueError: If the training is shorter than ``length``, or has no
                epochs to count.
        """
        if self.by_epoch and not progress.has_epochs:
            raise ValueError(
                f'{self.name}.length={self.length} counts epochs, but this train loop has none (an '
                'iteration-based loop, or a single epoch), so it would never move: give '
                'by_epoch=False and length=<iterations>.'
            )
        longest = progress.max_epochs if self.by_epoch else progress.max_iters
        if self.length > longest:
            unit = 'epochs' if self.by_epoch else 'iterations'
            raise ValueError(
                f'{self.name}.length={self.length} is longer than the training, which has '
                f'{longest} {unit}, so the schedule would never reach min={self.min:g}: give a '
                f'length of at most {longest}.'
            )


class CosineDescent(Descent):
    """Half a cosine: slow, fast, slow."""

    def remaining(self, part: float) -> float:
        """Return ``(cos(pi part) + 1) / 2``."""
        return (math.cos(math.pi * part) + 1) / 2


class LinearDescent(Descent):
    """A straight line."""

    def remaining(self, part: float) -> float:
        """Return ``1 - part``."""
        return 1 - part


@dataclass(frozen=True)
class Decay:
    """A share that is 1 at the start of the training and goes towards 0.

    With x the part of the training that is over, counted from 0 (the first
    epoch, or iteration, has 1; after the last one it would be 0): ``1 - x``
    (linear), ``(1 - x)^2`` (quadratic) or ``cos(pi x / 2)`` (cosine).

    Args:
        form: ``'linear'``, ``'quadratic'`` or ``'cosine'``.
        by_epoch: Whether x moves once an epoch. Iteration-based loops have no
            epochs and need False.
        name: What the user calls this setting, for error messages.

    Raises:
        ValueError: If there is no such form.
    """

    form: str
    by_epoch: bool = True
    name: str = 'decay'

    def __post_init__(self) -> None:
        if self.form not in DECAY_FORMS:
            raise ValueError(
                f'{self.name}={self.form!r} is not one of {", ".join(map(repr, DECAY_FORMS))} '
                '(or dict(form=..., by_epoch=False), to move in every iteration).'
            )

    @classmethod
    def from_cfg(cls, cfg: str | Mapping[str, Any] | Decay, name: str) -> Decay:
        """Build from a form or from ``dict(form=, by_epoch=)``."""
        return _from_cfg(cls, cfg, name, 'form', 'decay')

    def __call__(self, progress: Progress | None) -> float:
        """Return the share for the running step, in [0, 1].

        Raises:
            RuntimeError: If there is no progress to read, because the loss
                runs outside of an algorithm that hands it over.
            ValueError: If epochs are asked for in a loop that has none.
        """
        said = f'{self.name}={self.form!r}'
        done, of = _position(progress, self.by_epoch, said, f'{self.name}=dict(form={self.form!r}')
        return self.at(done / of)

    def at(self, part: float) -> float:
        """Return the share when ``part`` of the training, in [0, 1], is over."""
        return DECAY_FORMS[self.form](part)


DECAY_FORMS: Mapping[str, Callable[[float], float]] = {
    'linear': lambda x: 1 - x,
    'quadratic': lambda x: (1 - x) ** 2,
    'cosine': lambda x: math.cos(math.pi * x / 2),
}


def _from_cfg(cls: Any, cfg: Any, name: str, key: str, what: str) -> Any:
    """Build a schedule from its one setting ``key``, or from that and ``by_epoch``."""
    if isinstance(cfg, cls):
        return cfg
    if not isinstance(cfg, Mapping):
        return cls(cfg, name=name)
    if set(cfg) - {key, 'by_epoch'} or key not in cfg:
        raise ValueError(
            f'{name}={dict(cfg)!r} is not a {what}: it takes the keys {key} and by_epoch.'
        )
    return cls(cfg[key], cfg.get('by_epoch', True), name)


def _position(
    progress: Progress | None, by_epoch: bool, said: str, instead: str
) -> tuple[int, int]:
    """Return how many epochs, or iterations, are done, and of how many.

    Args:
        progress: The progress, if anybody told it.
        by_epoch: Which of them.
        said: The setting that asks, for error messages.
        instead: The beginning of the setting for iterations.
    """
    if progress is None:
        raise RuntimeError(
            f'{said} needs to know how far the training is, and nobody said: train '
            'kd_plugins.SingleTeacherDistill with a Runner, or call set_progress(...) on the loss '
            'before every step.'
        )
    if not by_epoch:
        return progress.iter, progress.max_iters
    if not progress.has_epochs:
        raise ValueError(
            f'{said} counts epochs, but this train loop has none (an iteration-based loop, or a '
            f'single epoch), so it would never move: give {instead}, by_epoch=False).'
        )
    return progress.epoch, progress.max_epochs
