"""mmcv's compiled operators, for tensors in another memory format.

Several of them read the memory of a tensor as if it were contiguous, whatever its
strides say: RoIAlign pools numbers of other places and channels out of a map in torch's
channels-last layout, without an error, and deformable convolutions stop. Here they are
given contiguous tensors, which costs nothing where they are.
"""

from __future__ import annotations

import functools
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from kd_plugins.compat.loading import wrapped

#: Modules of ``mmcv.ops`` whose operators take maps.
_MAPS = (
    'roi_align', 'roi_pool', 'deform_roi_pool', 'deform_conv', 'modulated_deform_conv', 'carafe',
    'masked_conv',
)  # fmt: skip
_NAMES = frozenset(f'mmcv.ops.{name}' for name in _MAPS)


class MapsFinder(importlib.abc.MetaPathFinder):
    """Finds the modules whose operators are to get contiguous tensors."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,
        target: ModuleType | None = None,
    ) -> importlib.machinery.ModuleSpec | None:
        """Return a spec for these, None for every other module."""
        return wrapped(fullname, path, target, _then_contiguous) if fullname in _NAMES else None


@contextmanager
def _then_contiguous(module: ModuleType) -> Iterator[None]:
    yield
    _make_contiguous(module)


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
    """Let the operators be found so; calling it twice is fine."""
    for name in _NAMES & sys.modules.keys():
        _make_contiguous(sys.modules[name])
    if not any(isinstance(finder, MapsFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, MapsFinder())
