"""Schedules: stateless maps from a training's progress to a number."""

from __future__ import annotations

from collections.abc import Mapping
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
        if isinstance(cfg, LinearWarmup):
            return cfg
        if isinstance(cfg, Mapping):
            unknown = sorted(set(cfg) - {'length', 'by_epoch'})
            if unknown or 'length' not in cfg:
                raise ValueError(
                    f'{name}={dict(cfg)!r} is not a warm-up: it takes the keys length and by_epoch.'
                )
            return cls(cfg['length'], cfg.get('by_epoch', True), name)
        return cls(cfg, name=name)

    def __call__(self, progress: Progress | None) -> float:
        """Return the factor, in (0, 1].

        Raises:
            RuntimeError: If there is no progress to read, because the loss
                runs outside of an algorithm that hands it over.
            ValueError: If epochs are asked for in a loop that has none.
        """
        if self.length == 1:
            return 1.0
        if progress is None:
            raise RuntimeError(
                f'{self.name}={self.length} needs to know how far the training is, and nobody '
                'said: train kd_plugins.SingleTeacherDistill with a Runner, or call '
                'set_progress(...) on the loss before every step.'
            )
        if not self.by_epoch:
            return min((progress.iter + 1) / self.length, 1.0)
        if not progress.has_epochs:
            raise ValueError(
                f'{self.name}={self.length} counts epochs, but this train loop has none (an '
                'iteration-based loop, or a single epoch), so it would never move: give '
                f'{self.name}=dict(length=<iterations>, by_epoch=False).'
            )
        return min((progress.epoch + 1) / self.length, 1.0)
