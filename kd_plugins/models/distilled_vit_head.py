"""The head of a distilled vision transformer, which mmpretrain's cannot train."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmpretrain.models.heads import DeiTClsHead
from torch import Tensor

from kd_plugins.registry import MODELS


@MODELS.register_module()
class DistilledViTHead(DeiTClsHead):
    """The class token learns from labels, the distillation token from a teacher.

    The labels' loss is that of the class token alone. The distillation token's
    logits are those of the module ``layers.head_dist``, to be recorded for the
    terms that train it; without such a term its weights get no gradient. The
    parameters are those of mmpretrain's ``DeiTClsHead``, into which a trained
    checkpoint loads strictly.

    Args:
        num_classes: How many classes.
        in_channels: Width of the tokens.
        predictions: How many logits are averaged for an answer: 2, class and
            distillation token, as DeiT and mmpretrain do; or 3, with the mean
            over the patch tokens as the distillation token's classifier reads
            them, as CSKD does. That needs ``out_type='raw'`` in the backbone.
        init_cfg: As in every mmengine module. DeiT starts from a truncated
            normal distribution; mmpretrain's own head from zero.
        **kwargs: As in ``DeiTClsHead``.

    Raises:
        ValueError: If ``predictions`` is neither 2 nor 3, or the backbone gives
            no patch tokens for the third.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        predictions: int = 2,
        init_cfg: Any = dict(type='TruncNormal', layer='Linear', std=0.02, bias=0.0),  # noqa: B006
        **kwargs: Any,
    ) -> None:
        if predictions not in (2, 3):
            raise ValueError(
                f'DistilledViTHead.predictions={predictions!r} is wrong: give 2 (class and '
                'distillation token, as DeiT) or 3 (and the patch tokens, as CSKD).'
            )
        super().__init__(num_classes, in_channels, init_cfg=init_cfg, **kwargs)
        self.predictions = predictions

    def pre_logits(self, feats: Sequence[Any]) -> tuple[Tensor, ...]:
        """Return the class token and the distillation token, (N, C), and the patches, if any.

        Args:
            feats: The backbone's outputs, of which the last counts: both tokens
                (``out_type='cls_token'``) or all, (N, L, C) (``out_type='raw'``).
        """
        last = feats[-1]
        if isinstance(last, Tensor) and last.dim() == 3:
            tokens: tuple[Tensor, ...] = (last[:, 0], last[:, 1], last[:, 2:])
        elif isinstance(last, (list, tuple)) and len(last) == 2 and self.predictions == 2:
            tokens = tuple(last)
        else:
            needs = "'raw'" if self.predictions == 3 else "'cls_token' or 'raw'"
            raise ValueError(
                f'DistilledViTHead.predictions={self.predictions} does not fit what the backbone '
                f'gives: use a DistilledVisionTransformer with out_type={needs}.'
            )
        if self.hidden_dim is None:
            return tokens
        return tuple(self.layers.act(self.layers.pre_logits(token)) for token in tokens)

    def forward(self, feats: Sequence[Any]) -> Tensor:
        """Return the averaged logits, (N, classes)."""
        tokens = self.pre_logits(feats)
        answers = self.layers.head(tokens[0]) + self.layers.head_dist(tokens[1])
        if self.predictions == 3:
            # A linear layer of a mean is the mean of the linear layer.
            answers = answers + self.layers.head_dist(tokens[2].mean(dim=1))
        return answers / self.predictions

    def loss(self, feats: Sequence[Any], data_samples: list, **kwargs: Any) -> dict[str, Tensor]:
        """Return the loss of the class token; let the distillation token's logits be recorded."""
        tokens = self.pre_logits(feats)
        self.layers.head_dist(tokens[1])
        return self._get_loss(self.layers.head(tokens[0]), data_samples, **kwargs)
