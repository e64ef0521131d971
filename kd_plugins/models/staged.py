"""What the networks share: stages in a row, and which of their maps to return."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from mmengine.model import BaseModule
from torch import Tensor, nn

#: Normal with deviation ``sqrt(2 / (k * k * out_channels))``, biases 0.
HE_FAN_OUT = dict(type='Kaiming', layer='Conv2d')


class StagedBackbone(BaseModule):
    """A backbone that returns a tuple with the feature maps of some stages.

    Args:
        num_stages: How many stages :meth:`stages` yields.
        out_indices: Which of them to return the maps of, counted from 0 and
            ascending; the last one by default, which is what a
            ``GlobalAveragePooling`` neck and a ``LinearClsHead`` take.
        init_cfg: As in every mmengine module. None is torch's own start.

    Raises:
        ValueError: If there is no such stage.
    """

    def __init__(
        self, num_stages: int, out_indices: Sequence[int] | None, init_cfg: Any = None
    ) -> None:
        super().__init__(init_cfg)
        self.out_indices = (num_stages - 1,) if out_indices is None else tuple(out_indices)
        if not self.out_indices or any(i not in range(num_stages) for i in self.out_indices):
            raise ValueError(
                f'{type(self).__name__}.out_indices={out_indices!r} names a stage that is not '
                f'there, or none: give numbers from 0 to {num_stages - 1}.'
            )

    def stages(self) -> Iterator[Callable[[Tensor], Tensor]]:
        """Yield what the picture passes through; the stem belongs to the first stage."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the chosen maps of pictures of shape (N, 3, H, W)."""
        maps = []
        for index, stage in enumerate(self.stages()):
            x = stage(x)
            if index in self.out_indices:
                maps.append(x)
        return tuple(maps)


def conv_bn_relu(in_channels: int, out_channels: int, size: int, **kwargs: Any) -> list[nn.Module]:
    """Return a convolution without bias that keeps the size, its norm and a ReLU."""
    return [
        nn.Conv2d(in_channels, out_channels, size, padding=size // 2, bias=False, **kwargs),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    ]
