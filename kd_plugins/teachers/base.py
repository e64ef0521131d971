"""What every teacher is to the rest of the package."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

Answer = TypeVar('Answer')


class Teacher:
    """Nobody to ask: ``teacher=None``. The kinds of teachers are its subclasses.

    A teacher is no part of the module tree, so that optimizers, EMA, DDP and
    checkpoints never see it, and no part of a copy either: deep copies of an
    algorithm share its teacher.

    Attributes:
        network: The network that is asked, or None.
        weights: Where its weights come from, in words; None where nobody said.
        classes: The names of its classes in its order; None where nobody said.
        class_map: The ``teacher_class_map`` that chose them; None where there was none.
        has_own_input: Whether the network declares a preprocessor of its own.
        data_preprocessor: The student's, whose batches it is shown.
        members: The teachers that it is made of, where it is made of several.
    """

    network: nn.Module | None = None
    weights: str | None = None
    classes: Sequence[str] | None = None
    class_map: Sequence[int | str] | None = None
    has_own_input = False
    data_preprocessor: nn.Module | None = None
    members: Sequence[Teacher] = ()

    def __bool__(self) -> bool:
        return self.network is not None

    def __deepcopy__(self, memo: dict[int, Any]) -> Teacher:
        return self

    def recording(self, distiller: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the config of a distiller with the recorders that this teacher fills."""
        return distiller

    def connect(self, distiller: Any) -> None:
        """Take notice of the distiller, built, whose recorders it will fill."""

    def begin(self, dataset: Any, hooks: Iterable[Any] = ()) -> None:
        """Take notice of the training set, and of the runner's hooks, before a training."""

    def flush(self) -> None:
        """Write what it keeps in memory, if it keeps anything."""

    def end(self) -> None:
        """Take notice of the end of a training."""

    def record(
        self, recorders: Any, inputs: Tensor, data_samples: Sequence[Any] | None = None
    ) -> None:
        """Have its recorders record what it says of a batch.

        Args:
            recorders: The distiller's ``teacher_recorders``.
            inputs, data_samples: As in :meth:`look`.
        """
        with recorders:
            self.look(inputs, data_samples)

    def find(self, recorders: Any, inputs: Tensor, data_samples: Sequence[Any]) -> list[Any]:
        """Return the objects that a detector finds; its recorders record as in :meth:`record`.

        Args:
            recorders, inputs, data_samples: As there.

        Returns:
            Of each picture mmengine's ``InstanceData`` with ``bboxes``, (x1, y1, x2, y2) in
            pixels of ``inputs``, ``labels`` and ``scores``, after the network's own suppression.

        Raises:
            RuntimeError: If there is no network.
        """
        raise RuntimeError('model.teacher=None cannot find objects: give a teacher.')

    def look(self, inputs: Tensor, data_samples: Sequence[Any] | None = None) -> Any:
        """Show the teacher a batch, for its recorders to record.

        Without a gradient, without a loss, in the teacher's own precision.

        Args:
            inputs: The student's preprocessed batch, (N, channels, H, W).
            data_samples: Its samples.

        Returns:
            What the network's forward returns, or its features if it ends there; None
            where there is none.
        """
        return None

    def look_for_features_only(self) -> None:
        """From now on end every :meth:`look` with the features, which are what it returns.

        For a detector whose heads nobody reads as it looks.
        """

    def answer(self, question: Callable[[nn.Module], Answer]) -> Answer:
        """Ask the network something that was recorded from the student.

        Gradients reach what the question holds of the student; the teacher's
        weights take none.

        Args:
            question: Is called with the network, in its precision.

        Raises:
            RuntimeError: If there is no network.
        """
        raise RuntimeError('model.teacher=None cannot answer: give a teacher.')

    def convert(self, inputs: Tensor, data_samples: Sequence[Any] | None = None) -> Tensor:
        """Return the network's input for the student's preprocessed batch."""
        return inputs

    def predict(self, inputs: Tensor, data_samples: Sequence[Any] | None = None) -> Any:
        """Return the network's predictions for the student's preprocessed batch.

        Raises:
            RuntimeError: If there is no network.
        """
        raise RuntimeError('model.teacher=None cannot predict: give a teacher.')

    @torch.no_grad()
    def val_step(self, data: Any) -> Any:
        """Return the predictions for a batch as the data loader gives it.

        They come from the input with which the teacher teaches: mmrazor's loops,
        which validate a teacher, measure what it teaches.

        Raises:
            RuntimeError: If there is no network.
        """
        assert self.data_preprocessor is not None
        data = self.data_preprocessor(data, False)
        return self.predict(**data) if isinstance(data, dict) else self.predict(*data)

    def watch(
        self, before: Callable[..., None] | None = None, after: Callable[..., None] | None = None
    ) -> Callable[[], None]:
        """Have functions called around every :meth:`look`.

        Hooks on the network itself would not be seen by a compiled one.

        Args:
            before: Called without arguments.
            after: Called with what the network returned and the data samples.

        Returns:
            What ends it.
        """
        return lambda: None

    def state(self) -> nn.Module | None:
        """Return what checkpoints of the training keep of it, for ``distiller.snapshot``."""
        return None

    def follow(self, change: Callable[[nn.Module], Any]) -> None:
        """Move or convert the network as the algorithm that owns it is."""
