"""The Wide ResNets of FixMatch, FlexMatch and FullMatch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from kd_plugins import checks
from kd_plugins.models.staged import StagedBackbone
from kd_plugins.registry import MODELS

#: He's start with fan-out, uniform; biases 0.
START = dict(
    type='Kaiming',
    layer='Conv2d',
    mode='fan_out',
    nonlinearity='leaky_relu',
    distribution='uniform',
)
_Norm = partial(nn.BatchNorm2d, eps=1e-3, momentum=1e-3)
_Conv = partial(nn.Conv2d, kernel_size=3, padding=1)


class _Block(nn.Module):
    """Norm, leaky ReLU and 3 x 3 convolution, twice, and a shortcut.

    Where the channels change, the shortcut is a 1 x 1 convolution. In the first stage both
    ways then begin with the norm, in later ones neither does.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, first: bool) -> None:
        super().__init__()
        self.changes = in_channels != out_channels
        self.bn1 = _Norm(in_channels) if first or not self.changes else None
        self.conv1 = _Conv(in_channels, out_channels, stride=stride)
        self.bn2 = _Norm(out_channels)
        self.conv2 = _Conv(out_channels, out_channels)
        self.relu = nn.LeakyReLU(0.1)
        self.shortcut = nn.Conv2d(in_channels, out_channels, 1, stride) if self.changes else None

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum of both ways."""
        active = x if self.bn1 is None else self.relu(self.bn1(x))
        out = self.conv2(self.relu(self.bn2(self.conv1(active))))
        return out + (x if self.shortcut is None else self.shortcut(active))


@MODELS.register_module()
class FixMatchWideResNet(StagedBackbone):
    """Wide ResNet of ``6n + 4`` layers (in three stages) as semi-supervised learning has it.

    It is not :class:`CIFARWideResNet`: leaky ReLUs (0.1), convolutions with biases, batch
    norms with an epsilon and a momentum of 0.001; and where the channels change, only the
    first stage normalises what comes in. (The published networks have a norm there, too,
    whose output nothing reads.)

    Args:
        depth: 28, or another ``6n + 4``: n blocks a stage.
        widen_factor: 2 (CIFAR-10, SVHN, STL-10) or 8 (CIFAR-100).
        num_stages: 3, or 4 for STL-10, which makes it WRN-37 with a depth of 28.
        first_stride: 1, or 2 for STL-10.
        out_indices: Stages whose maps to return; None for the last one.
        init_cfg: The published start by default.

    Raises:
        ValueError: On another depth, or a stage that is not there.

    Source: github.com/TorchSSL/TorchSSL (f26e1d4), models/nets/wrn.py and wrn_var.py, and
    github.com/megvii-research/FullMatch (c54c0b9), models/nets/wrn.py, whose start this is.
    """

    def __init__(
        self,
        depth: int = 28,
        widen_factor: int = 2,
        num_stages: int = 3,
        first_stride: int = 1,
        out_indices: Sequence[int] | None = None,
        init_cfg: Any = START,
    ) -> None:
        super().__init__(num_stages, out_indices, init_cfg)
        name = type(self).__name__
        blocks, rest = divmod(depth - 4, 6)
        if rest or blocks < 1:
            raise checks.refuse(f'{name}.depth', depth, 'a number 6n + 4, such as 28')
        checks.whole_number(f'{name}.widen_factor', widen_factor)
        checks.one_of(f'{name}.first_stride', first_stride, (1, 2))
        widths = [16, *(16 * 2**i * widen_factor for i in range(num_stages))]
        self.conv1 = _Conv(3, widths[0])
        for i, stride in enumerate([first_stride, *[2] * (num_stages - 1)]):
            stage = [_Block(widths[i], widths[i + 1], stride, first=i == 0)]
            stage += [_Block(widths[i + 1], widths[i + 1], 1, i == 0) for _ in range(blocks - 1)]
            self.add_module(f'block{i + 1}', nn.Sequential(*stage))
        self.num_stages = num_stages
        self.bn1 = _Norm(widths[-1])
        self.relu = nn.LeakyReLU(0.1)

    def stages(self) -> Iterator[Callable[[Tensor], Tensor]]:
        """See :class:`StagedBackbone`."""
        return (partial(self._stage, i) for i in range(self.num_stages))

    def _stage(self, i: int, x: Tensor) -> Tensor:
        x = self.get_submodule(f'block{i + 1}')(self.conv1(x) if i == 0 else x)
        return self.relu(self.bn1(x)) if i == self.num_stages - 1 else x
