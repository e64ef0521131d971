"""What a distillation is doing, in the log."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from mmengine.hooks import Hook
from torch import Tensor, nn

from kd_plugins.experiments.timing import now
from kd_plugins.hooks.of_runner import is_logged, teacher_in, terms_of, trained_model
from kd_plugins.registry import HOOKS
from kd_plugins.teachers import Teacher


@HOOKS.register_module()
class DistillationLogHook(Hook):
    """Log what a training's losses do not tell, in the iterations that are logged.

    * Whatever a term says of itself: ``kd_plugins.KDLoss`` the ``agreement``,
      the share in % of this process's samples that student and teacher
      classify alike; ``kd_plugins.DKDLoss`` its parts ``tckd`` and ``nckd``
      besides, unweighted. A term says so by a method ``diagnose``, which takes
      the arguments of its ``forward`` and returns named scalars. Several terms
      that use a name get it with theirs: ``agreement.kd`` is of ``loss_kd``. Of pictures
      without labels beside labelled ones it has ``unlabelled_`` before it.
    * ``teacher_seconds``: what the teacher's look at a batch took, or at both parts of one.

    They go the way of all scalars: into the log, the visualizer's JSON file,
    TensorBoard, wandb. Other iterations cost nothing. In a training without a
    teacher of kd_plugins the hook does nothing. Put it into ``default_hooks``,
    under any name.
    """

    # Before the LoggerHook, which is BELOW_NORMAL.
    priority = 'NORMAL'

    def __init__(self) -> None:
        self._handles: list[Any] = []
        # Of every term what it said in each of its calls.
        self._seen: dict[str, list[dict[str, Tensor]]] = {}
        self._seconds: float | None = None
        self._published: set[str] = set()
        self._stop_timing: Callable[[], None] = lambda: None

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        """Listen to the terms and the teacher if this iteration will be logged."""
        model = trained_model(runner)
        terms = terms_of(model)
        if getattr(model, 'distillation_stopped', False):
            # mmengine repeats the last value of a scalar in every later line.
            for name in self._published:
                runner.message_hub.log_scalars.pop(name, None)
            return
        if not terms or not is_logged(self, runner, batch_idx):
            return
        for name, term in terms.items():
            if hasattr(term, 'diagnose'):
                self._listen(name, term)
        self._time(teacher_in(model))

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Publish what was heard, and stop listening."""
        for handle in self._handles:
            handle.remove()
        self._stop_timing()
        first = [said[0] for said in self._seen.values()]
        names = [name for said in first for name in said]
        for term, heard in self._seen.items():
            for prefix, said in zip(('', 'unlabelled_'), heard, strict=False):
                for name, value in said.items():
                    if names.count(name) > 1:
                        # Without "loss" in it: mmengine logs running means of such names.
                        name = f'{name}.{term.removeprefix("loss_").replace("loss", "term")}'
                    self._publish(runner, prefix + name, value)
        if self._seconds is not None:
            self._publish(runner, 'teacher_seconds', self._seconds)
        self._handles, self._seen, self._seconds = [], {}, None

    def _publish(self, runner: Any, name: str, value: Any) -> None:
        self._published.add(f'train/{name}')
        runner.message_hub.update_scalar(f'train/{name}', value)

    def _listen(self, name: str, term: nn.Module) -> None:
        def hear(term: Any, args: tuple, kwargs: dict[str, Any]) -> None:
            with torch.no_grad():
                self._seen.setdefault(name, []).append(term.diagnose(*args, **kwargs))

        self._handles.append(term.register_forward_pre_hook(hear, with_kwargs=True))

    def _time(self, teacher: Teacher) -> None:
        begun = 0.0

        def begin() -> None:
            nonlocal begun
            begun = now()

        def end(*_: Any) -> None:
            self._seconds = (self._seconds or 0.0) + now() - begun

        self._stop_timing = teacher.watch(begin, end)
