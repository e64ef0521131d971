"""For EEKD: what a module says in every checkpoint of a teacher."""

from __future__ import annotations

import functools
from typing import Any

import torch
from mmrazor.models.task_modules.recorder.base_recorder import BaseRecorder
from torch import Tensor, nn

from kd_plugins import checks
from kd_plugins.networks import classes_of
from kd_plugins.registry import TASK_UTILS

__all__ = ['EveryCheckpointRecorder']


@TASK_UTILS.register_module()
class EveryCheckpointRecorder(BaseRecorder):
    """Record a module of every network that a teacher is made of.

    A record is one tensor, (N, M, ...), of the M checkpoints in their order; of a
    teacher of one network, (N, 1, ...). In a config:
    ``logits=dict(type='kd_plugins.EveryCheckpoint', source='head.fc')``.

    Args:
        source: Name of the module in one network.
        of: ``'outputs'``, or ``'inputs'`` for what goes into it. Of several tensors,
            the last.

    Raises:
        ValueError: If ``of`` is neither; in the first step, if the module is called
            several times or gives no tensor.
    """

    def __init__(self, source: str, of: str = 'outputs') -> None:
        super().__init__(source)
        self.of = checks.one_of('EveryCheckpoint.of', of, ('outputs', 'inputs'))
        self._recording = False
        self._heard: dict[int, Tensor] = {}
        self._number = 1
        self.num_classes: int | None = None

    def check_source(
        self, network: nn.Module, key: str, side: str, other: nn.Module | None = None
    ) -> None:
        """Refuse a module that a network lacks."""
        for one in _networks(network):
            names = {name for name, _ in one.named_modules()}
            if self.source not in names:
                raise ValueError(
                    f'{key}.source={self.source!r} is not in the {side} ({type(one).__name__}): '
                    'give the name of one of its modules in one checkpoint, such as '
                    f'{[name for name in names if name.startswith("head")][-1:] or ["backbone"]}.'
                )

    def prepare_from_model(self, model: nn.Module | None = None) -> None:
        """Hook the module of every network."""
        assert model is not None
        networks = _networks(model)
        self._number = len(networks)
        for i, network in enumerate(networks):
            module = network.get_submodule(self.source)
            module.register_forward_hook(functools.partial(self._hear, i))
        if self.of == 'outputs':
            self.num_classes = classes_of(networks[0], self.source)

    def _hear(self, i: int, module: nn.Module, args: tuple, output: Any) -> None:
        if not self._recording:
            return
        value = args if self.of == 'inputs' else output
        while isinstance(value, (list, tuple)) and value:
            value = value[-1]
        if not isinstance(value, Tensor) or i in self._heard:
            raise ValueError(
                f'EveryCheckpoint.source={self.source!r} '
                + (
                    'is called several times in a forward pass'
                    if i in self._heard
                    else f'has {self.of} of type {type(value).__name__}'
                )
                + ': give a module that is called once and gives a tensor.'
            )
        self._heard[i] = value
        if len(self._heard) == self._number:
            each = [self._heard[j] for j in range(self._number)]
            self.data_buffer.append(torch.stack(each, dim=1))
            self._heard.clear()

    def __enter__(self) -> None:
        super().__enter__()
        self._heard.clear()
        self._recording = True

    def __exit__(self, exc_type: Any, exc_value: Any, traceback: Any) -> None:
        super().__exit__(exc_type, exc_value, traceback)
        self._recording = False


def _networks(network: nn.Module) -> list[nn.Module]:
    several = getattr(network, 'networks', None)
    return several if isinstance(several, list) else [network]
