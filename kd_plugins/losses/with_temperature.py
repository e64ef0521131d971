"""Another package's loss, with a temperature of ours in the place of its number."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from kd_plugins.losses.base import at_least_float32
from kd_plugins.registry import MODELS
from kd_plugins.temperatures import InstanceTemperature, as_temperature

__all__ = ['WithTemperature']


@MODELS.register_module()
class WithTemperature(nn.Module):
    """A loss that reads a number ``tau``, called with a temperature module's.

    It takes the arguments of the loss and returns what the loss returns; floating
    tensors among the arguments are brought to float32 first. mmrazor's
    KLDivergence, DKDLoss, DISTLoss, WSLD and ChannelWiseDivergence are such
    losses; losses of kd_plugins take ``tau=dict(type=...)`` themselves.

    mmrazor's DKDLoss is infinite for confident students, whatever the
    temperature; ``kd_plugins.DKDLoss`` is finite.

    Args:
        loss: Config of the loss, without ``tau``.
        tau: The temperature: a number, a config such as
            ``dict(type='kd_plugins.GlobalTemperature')``, or a module. It must
            be one number for the whole batch.

    Raises:
        ValueError: If the loss has no number ``tau``, is given one besides, or
            the temperature is instance-wise.
    """

    def __init__(
        self, loss: Mapping[str, Any] | nn.Module, tau: float | Mapping[str, Any] | nn.Module
    ) -> None:
        super().__init__()
        if isinstance(loss, Mapping) and 'tau' in loss:
            raise ValueError(
                f'WithTemperature.loss.tau={loss["tau"]!r} would have no effect beside '
                'WithTemperature.tau: give one of them.'
            )
        self.loss = loss if isinstance(loss, nn.Module) else MODELS.build(dict(loss))
        if not isinstance(getattr(self.loss, 'tau', None), (int, float)):
            raise ValueError(
                f'WithTemperature.loss={type(self.loss).__name__} has no number tau to replace: '
                'give a loss that has one, such as mmrazor.KLDivergence, or give tau to the loss '
                'itself if it is of kd_plugins.'
            )
        self.tau = as_temperature(tau, 'WithTemperature.tau')
        if any(isinstance(module, InstanceTemperature) for module in self.tau.modules()):
            self._refuse_per_sample()
        self._arguments = list(inspect.signature(self.loss.forward).parameters)

    @property
    def forward(self) -> Callable[..., Tensor]:  # type: ignore[override]
        """Return the call; its signature is that of the loss's own forward."""

        @functools.wraps(self.loss.forward)
        def forward(*args: Any, **kwargs: Any) -> Tensor:
            return self._forward({**dict(zip(self._arguments, args, strict=False)), **kwargs})

        return forward

    @property
    def needs_labels(self) -> bool:
        """Whether the loss needs labels that its signature could do without."""
        return getattr(self.loss, 'needs_labels', False)

    @property
    def without_labels(self) -> str:
        """What the loss says can be done without labels."""
        return getattr(self.loss, 'without_labels', 'take a term that needs none')

    def _forward(self, values: dict[str, Any]) -> Tensor:
        for name, value in values.items():
            if isinstance(value, Tensor) and value.is_floating_point():
                values[name] = at_least_float32(value)
        pair = self._arguments[:2]
        student, teacher = (values[name] for name in pair)
        tau = self.tau(student, teacher)
        if isinstance(tau, Tensor) and tau.numel() != 1:
            self._refuse_per_sample()
        values.update(zip(pair, self.tau.transform(student, teacher), strict=True))
        number = self.loss.tau
        self.loss.tau = tau
        try:
            with _FiniteKLDivergence():
                return self.loss(**values)
        finally:
            # Back to a number: the tensor holds the graph of the step.
            self.loss.tau = number

    def _refuse_per_sample(self) -> None:
        raise ValueError(
            f'WithTemperature.tau={type(self.tau).__name__} gives one temperature per sample, but '
            f'{type(self.loss).__name__} averages over the batch before it multiplies by tau^2: '
            'give kd_plugins.GlobalTemperature, or use a loss of kd_plugins.'
        )


class _FiniteKLDivergence(TorchFunctionMode):
    """Give ``F.kl_div`` a gradient in the target where the target is 0.

    Elsewhere a teacher has none, so nobody minds that it is 0/0 there; a
    learned temperature gives it one, and mmrazor's DKDLoss masks a class by
    taking its probability to an exact 0. The smallest normal number in its
    place changes no loss and passes no gradient.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.kl_div and len(args) >= 2 and not kwargs.get('log_target'):
            target = args[1]
            target = target.masked_fill(target == 0, torch.finfo(target.dtype).tiny)
            args = (args[0], target, *args[2:])
        return func(*args, **kwargs)
