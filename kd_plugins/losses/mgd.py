"""MGD: the teacher's map is generated from a part of the student's."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kd_plugins import checks
from kd_plugins.losses.base import at_least_float32
from kd_plugins.losses.maps import ProjectedMapsLoss, added
from kd_plugins.registry import MODELS
from kd_plugins.structures import Progress

__all__ = ['MGDLoss', 'mgd_loss']

#: Keeps the masks apart from what else is drawn by the training's seed.
STREAM = 2205_01529


def mgd_loss(generated: Tensor, preds_T: Tensor) -> Tensor:
    """Sum of the squared differences of both maps, per picture.

    Args:
        generated: What was generated of the student's masked map, (N, C, H, W).
        preds_T: The teacher's, of that shape.

    Returns:
        Scalar. It grows with channels and positions: so does what weight it needs.

    Source: Yang, Li, Shao, Shi, Yuan, Yuan, "Masked Generative Distillation", ECCV 2022, arXiv
    2205.01529, equation 4.
    """
    return (generated - preds_T).square().sum() / max(len(generated), 1)


@MODELS.register_module()
class MGDLoss(ProjectedMapsLoss):
    """:func:`mgd_loss`, added up over the levels, times ``loss_weight``.

    A level of the student's maps goes through a 1 x 1 convolution if the channels differ. Then a
    random part is set to 0, and a 3 x 3 convolution, ReLU and another 3 x 3 convolution generate
    the teacher's map. All have biases, learn by this loss alone, are trained by the student's
    optimizer and kept in checkpoints as ``distiller.*``.

    The masks are a function of the training's seed, its iteration and the process: a resumed run
    draws those of one that was not interrupted, each process its own, and nothing else that is
    random in the training is moved. (mmrazor's ``MGDConnector`` draws on the CPU, of the
    generator that the student's dropout draws of, too, and all processes of one seed draw the
    same.)

    Args:
        channels_S: Channels of the student's maps that take part, the first level first.
        channels_T: Those of the teacher's.
        loss_weight: Factor of the loss (alpha). Published: 2e-5 for dense detectors and for
            segmentation, 5e-7 for two-stage ones, 7e-5 for classifiers.
        mask_ratio: How likely a position is masked, from 0 to below 1 (lambda). Published, in
            the same order: 0.65, 0.75, 0.45, 0.15. 0 masks nothing.
        mask_on: ``'positions'``, of all channels alike, or ``'channels'``, as for classifiers.
        levels: Which levels take part, counted from 0; None for all.
        resize: ``'coarser'`` to average the larger of two maps over areas; None to refuse
            maps of other sizes.

    Raises:
        ValueError: On a setting out of range, or maps of other shapes.

    Source: as :func:`mgd_loss`; github.com/yzd-v/MGD.
    """

    def __init__(
        self,
        channels_S: Sequence[int],
        channels_T: Sequence[int],
        loss_weight: float = 2e-5,
        mask_ratio: float = 0.65,
        mask_on: str = 'positions',
        levels: Sequence[int] | None = None,
        resize: str | None = None,
    ) -> None:
        super().__init__(channels_S, channels_T, loss_weight, levels, resize)
        right = 'the share that is masked, from 0 to below 1'
        self.mask_ratio = checks.number('MGDLoss.mask_ratio', mask_ratio, right, least=0)
        if mask_ratio >= 1:
            raise checks.refuse('MGDLoss.mask_ratio', mask_ratio, right)
        self.mask_on = checks.one_of('MGDLoss.mask_on', mask_on, ('positions', 'channels'))
        self.progress: Progress | None = None

    def set_progress(self, progress: Progress | None) -> None:
        """Take the progress of the training; called before every step."""
        self.progress = progress

    def projector(self, channels_S: int, channels_T: int) -> nn.Module:
        align: list[nn.Module] = []
        if channels_S != channels_T:
            align.append(nn.Conv2d(channels_S, channels_T, 1))
        generation = nn.Sequential(
            nn.Conv2d(channels_T, channels_T, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels_T, channels_T, 3, padding=1),
        )
        return nn.ModuleDict(dict(align=nn.Sequential(*align), generation=generation))

    def forward(
        self, preds_S: Tensor | Sequence[Tensor], preds_T: Tensor | Sequence[Tensor]
    ) -> Tensor:
        """Return the loss, a scalar in float32 or better.

        Args:
            preds_S: The student's map, (N, C, H, W), or several, one a level.
            preds_T: The teacher's, of the same heights and widths; detached here.
        """
        parts = []
        for i, (layers, x_S, x_T) in enumerate(self._projected(preds_S, preds_T)):
            x_S = layers['align'](x_S)
            if self.mask_ratio:
                x_S = x_S * self._mask(i, x_S)
            # The layers may run in half precision; the difference may not.
            parts.append(mgd_loss(at_least_float32(layers['generation'](x_S)), x_T))
        return added(parts) * self.loss_weight

    # Another seed in every step is nothing to compile.
    @torch.compiler.disable
    def _mask(self, level: int, like: Tensor) -> Tensor:
        """Return 0 where a map is masked, else 1. Outside of a training it is torch's draw."""
        n, c, h, w = like.shape
        shape = (n, 1, h, w) if self.mask_on == 'positions' else (n, c, 1, 1)
        generator = None
        if self.progress is not None:
            group = torch.distributed
            rank = group.get_rank() if group.is_available() and group.is_initialized() else 0
            seed = 0
            for part in (STREAM, self.progress.seed or 0, self.progress.iter, rank, level):
                seed = (seed * 1_000_003 + part) % 2**63
            generator = torch.Generator().manual_seed(seed)
        # Drawn on the CPU, masks are the same on every device.
        kept = torch.rand(shape, generator=generator) >= self.mask_ratio
        if like.is_cuda:
            kept = kept.pin_memory()
        return kept.to(like.device, non_blocking=True).to(like.dtype)
