"""mmcv's compiled operators, for tensors in another memory format.

Several of them read the memory of a tensor as if it were contiguous, whatever its
strides say: RoIAlign pools numbers of other places and channels out of a map in torch's
channels-last layout, without an error, and deformable convolutions stop. Here they are
given contiguous tensors, which costs nothing where they are.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import ModuleType
from typing import Any

from kd_plugins.compat.loading import complete

#: Modules of ``mmcv.ops`` whose operators take maps.
_MAPS = (
    'roi_align', 'roi_pool', 'deform_roi_pool', 'deform_conv', 'modulated_deform_conv', 'carafe',
    'masked_conv',
)  # fmt: skip


def _make_contiguous(module: ModuleType) -> None:
    """Let every autograd function that a module defines take contiguous tensors."""
    from torch.autograd import Function

    for kind in list(vars(module).values()):
        if not isinstance(kind, type) or not issubclass(kind, Function):
            continue
        if kind.__module__ == module.__name__ and not hasattr(kind.forward, '__wrapped__'):
            kind.forward = staticmethod(_contiguous(kind.forward))  # type: ignore[assignment]


def _contiguous(forward: Callable[..., Any]) -> Callable[..., Any]:
    from torch import Tensor

    @functools.wraps(forward)
    def with_contiguous(ctx: Any, *args: Any) -> Any:
        return forward(ctx, *(in_order(x) if isinstance(x, Tensor) else x for x in args))

    def in_order(x: Tensor) -> Tensor:
        # What a forward keeps depends on whether its inputs take gradients, and a copy that is
        # made inside of one takes none.
        return x if x.is_contiguous() else x.contiguous().requires_grad_(x.requires_grad)

    return with_contiguous


def install() -> None:
    """Give the operators such tensors; calling it twice is fine."""
    complete({f'mmcv.ops.{name}': _make_contiguous for name in _MAPS})
