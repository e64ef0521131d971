"""The mixed precision settings of an optimizer wrapper."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from mmengine.device import get_device
from mmengine.optim.optimizer.amp_optimizer_wrapper import GradScaler  # the device's own

from kd_plugins import checks


def as_dtype(
    dtype: str | torch.dtype | None, key: str = 'optim_wrapper.dtype'
) -> torch.dtype | None:
    """Return the type that autocast casts to; None for full precision.

    Args:
        dtype: Its name, such as ``'bfloat16'``.
        key: The config key, for error messages.

    Raises:
        ValueError: If there is no such mixed precision, or none on a CPU.
    """
    if dtype is None:
        return None
    known = {str(kind).removeprefix('torch.'): kind for kind in (torch.float16, torch.bfloat16)}
    name = str(dtype).removeprefix('torch.')
    if name not in known:
        raise ValueError(
            f"{key}={dtype!r} is no mixed precision: give 'float16' or 'bfloat16', or leave it out."
        )
    if name == 'float16' and get_device() == 'cpu':
        raise ValueError(f"{key}='float16' needs an accelerator: on a CPU give 'bfloat16'.")
    return known[name]


def build_scaler(loss_scale: str | float | Mapping[str, Any]) -> Any:
    """Build the ``GradScaler`` of this machine's accelerator.

    Raises:
        ValueError: If there is no accelerator, or the setting is none.
    """
    if get_device() == 'cpu':
        raise ValueError(
            f'optim_wrapper.loss_scale={loss_scale!r} needs an accelerator: on a CPU leave it out, '
            'bfloat16 does not need it.'
        )
    if loss_scale == 'dynamic':
        return GradScaler()
    if isinstance(loss_scale, Mapping):
        return GradScaler(**loss_scale)
    if checks.is_number(loss_scale):
        return GradScaler(init_scale=float(loss_scale))
    raise ValueError(
        f"optim_wrapper.loss_scale={loss_scale!r} is none: give 'dynamic', a number, or a dict of "
        "GradScaler's settings."
    )
