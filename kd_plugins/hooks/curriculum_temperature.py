"""CTKD: the curriculum of learned temperatures, and their values in the log."""

from __future__ import annotations

from typing import Any

from mmengine.hooks import Hook
from torch import nn

from kd_plugins.hooks.of_runner import is_logged, trained_model
from kd_plugins.registry import HOOKS
from kd_plugins.schedules import Schedule, descent
from kd_plugins.structures import Progress
from kd_plugins.temperatures import LearnedTemperature


@HOOKS.register_module()
class CurriculumTemperatureHook(Hook):
    """Set the strength at which learned temperatures learn against the student.

    The gradient of every learned temperature of the model is multiplied by a
    number that goes from ``max`` to ``min``. It is a pure function of the
    progress, hence right after a resume without being saved.

    The hook also writes the temperature into the message hub whenever the
    ``LoggerHook`` is about to log, as ``train/tau``, or ``train/tau.<term>``
    if there are several (``distill_losses.loss_kd`` is the term ``kd``). For
    an instance-wise temperature that is the mean over this process's batch,
    beside ``..._min`` and ``..._max``. Without the hook a temperature follows
    the published curriculum (the defaults below) and is not logged.

    Put it into ``default_hooks``, under any name, which leaves the inherited
    ``custom_hooks`` as they are.

    Args:
        schedule: ``'cosine'``, the published one, or ``'linear'``.
        max: Strength before the first epoch, at most 0.
        min: Strength from epoch ``length`` on, below 0. The published -1 is the
            whole gradient, reversed.
        length: Epochs from ``max`` to ``min``, counted from 1: 10 on CIFAR-100,
            5 on ImageNet. The first epoch of 10 has -0.0245.
        by_epoch: False to count iterations instead.

    Raises:
        ValueError: If the temperature would not learn against the student, the
            schedule is longer than the training, or nothing is to be scheduled.
    """

    # Before the LoggerHook, which is BELOW_NORMAL.
    priority = 'NORMAL'

    def __init__(
        self,
        schedule: str = 'cosine',
        max: float = 0.0,
        min: float = -1.0,
        length: int = 10,
        by_epoch: bool = True,
    ) -> None:
        name = type(self).__name__
        self.curriculum = descent(schedule, max, min, length, by_epoch, name)
        if max > 0 or min >= 0:
            raise ValueError(
                f'{name}.max={max!r}, min={min!r} would not train the temperature against the '
                'student: its gradient is multiplied by these, so give max at most 0 and min '
                'below 0 (0 and -1 are the published ones).'
            )
        self._temperatures: dict[str, LearnedTemperature] = {}
        self._before: dict[str, Schedule] = {}

    def before_train(self, runner: Any) -> None:
        """Check the curriculum and give it to every learned temperature."""
        progress = Progress.from_message_hub(runner.message_hub)
        if progress is not None:
            self.curriculum.check(progress)
        self._temperatures = named_temperatures(trained_model(runner))
        if not self._temperatures:
            raise ValueError(
                f'{type(self).__name__} finds no learned temperature in the model: give a loss '
                "tau=dict(type='kd_plugins.GlobalTemperature'), or leave the hook out."
            )
        self._before = {
            name: temperature.curriculum for name, temperature in self._temperatures.items()
        }
        for temperature in self._temperatures.values():
            temperature.curriculum = self.curriculum

    def after_train(self, runner: Any) -> None:
        """Give back the curriculum: another training of the model may have another one."""
        for name, curriculum in self._before.items():
            self._temperatures[name].curriculum = curriculum

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Publish the temperatures of this step if it is about to be logged."""
        if not is_logged(self, runner, batch_idx):
            return
        for name, temperature in self._temperatures.items():
            tau = temperature.last
            if tau is None or tau.numel() == 0:
                continue
            runner.message_hub.update_scalar(f'train/{name}', tau.mean())
            if tau.dim() == 2:
                runner.message_hub.update_scalar(f'train/{name}_min', tau.min())
                runner.message_hub.update_scalar(f'train/{name}_max', tau.max())


def named_temperatures(model: nn.Module) -> dict[str, LearnedTemperature]:
    """Return the learned temperatures of a model by the names they are logged as."""
    found = {
        path: module
        for path, module in model.named_modules()
        if isinstance(module, LearnedTemperature)
    }
    if len(found) == 1:
        return dict(tau=next(iter(found.values())))
    return {_log_name(path): module for path, module in found.items()}


def _log_name(path: str) -> str:
    """``distiller.distill_losses.loss_kd.tau`` is logged as ``tau.kd``.

    Without "loss" in it, because mmengine logs running means of such names.
    """
    # LSKD's temperature holds a temperature.
    term = path.removeprefix('distiller.distill_losses.').removesuffix('.tau').removesuffix('.tau')
    return 'tau.' + term.removeprefix('loss_').replace('loss', 'term')
