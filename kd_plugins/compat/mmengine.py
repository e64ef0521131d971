"""What mmengine lacks, added to its modules as soon as they are imported.

* It reads checkpoints by ``torch.load``, which runs what a pickle tells it to:
  always on torch 2.1, and after one warning in the maintained continuation. The
  loaders of ``mmengine.runner.checkpoint`` read by
  :mod:`kd_plugins.files.reading` instead.
* It tells a model nothing of the training that it is in. What models find for
  themselves, ``MessageHub.get_current_instance()``, belongs to the runner that
  was built last. ``RuntimeInfoHook``, which every runner has, tells them, see
  :mod:`kd_plugins.hooks.every_runner`.
* It tells a dataset nothing of the epoch. Loops without epochs iterate their loader
  before any hook is called; so the loaders that a runner builds are told to number the views
  that they ask for, see :mod:`kd_plugins.views.sampling`.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

from kd_plugins.compat.loading import complete


def _guard_checkpoints(module: ModuleType) -> None:
    # Late, because it imports torch.
    from kd_plugins.files import reading

    reading.install(module)


def _tell_models(module: ModuleType) -> None:
    hook = module.RuntimeInfoHook  # type: ignore[attr-defined]
    for name in ('before_train', 'before_train_epoch', 'before_train_iter', 'after_train'):
        method = getattr(hook, name)
        if not hasattr(method, '__wrapped__'):
            setattr(hook, name, _then_tell(method))


def _then_tell(method: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(method)
    def call(self: Any, runner: Any, *args: Any, **kwargs: Any) -> None:
        from kd_plugins.hooks import every_runner

        method(self, runner, *args, **kwargs)
        getattr(every_runner, method.__name__)(runner)

    return call


def _number_views(module: ModuleType) -> None:
    for name in ('Runner', 'FlexibleRunner'):
        runner = vars(module).get(name)
        if runner is not None and not hasattr(runner.build_dataloader, '__wrapped__'):
            runner.build_dataloader = staticmethod(_then_number(runner.build_dataloader))


def _then_number(build: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(build)
    def call(*args: Any, **kwargs: Any) -> Any:
        loader = build(*args, **kwargs)
        # Before it is imported no dataset can have views.
        views = sys.modules.get('kd_plugins.views')
        return loader if views is None else views.number_if_repeatable(loader)

    return call


def install() -> None:
    """Let these modules be completed; calling it twice is fine."""
    complete(
        {
            'mmengine.runner.checkpoint': _guard_checkpoints,
            'mmengine.hooks.runtime_info_hook': _tell_models,
            'mmengine.runner.runner': _number_views,
            'mmengine.runner._flexible_runner': _number_views,
        }
    )
