"""Small immutable records that the parts of the package hand to each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Progress:
    """How far a training has come, as the train loop reports it.

    Every curriculum of the package is a pure function of this record, hence
    right after a resume without being saved.

    Args:
        iter: Iterations completed before the current one, counted from 0.
        max_iters: Iterations of the whole training, at least 1.
        epoch: Epochs completed before the current one, counted from 0.
        max_epochs: Epochs of the whole training. An iteration-based loop has
            no epochs and reports 1.
    """

    iter: int
    max_iters: int
    epoch: int
    max_epochs: int

    @property
    def has_epochs(self) -> bool:
        """Whether an epoch schedule could move at all in this loop."""
        return self.max_epochs > 1

    @classmethod
    def from_message_hub(cls, hub: Any) -> Progress | None:
        """Read what mmengine's always-on ``RuntimeInfoHook`` publishes.

        Args:
            hub: An ``mmengine.logging.MessageHub``.

        Returns:
            The progress, or None outside of a training that a Runner drives.
        """
        keys = ('iter', 'max_iters', 'epoch', 'max_epochs')
        values = [hub.get_info(key) for key in keys]
        if any(value is None for value in values):
            return None
        return cls(*(int(value) for value in values))
