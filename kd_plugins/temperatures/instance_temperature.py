"""CTKD's instance-wise temperature: one learned number per sample."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_plugins import checks
from kd_plugins.registry import MODELS
from kd_plugins.temperatures.learned import LearnedTemperature


@MODELS.register_module()
class InstanceTemperature(LearnedTemperature):
    """``start + end * sigmoid(MLP([teacher, student]))`` for every sample.

    The MLP has two layers with a ReLU between them and reads both networks'
    logits, detached: the reversed gradient trains the MLP and never reaches
    the student. Width, activation and initialisation are choices of this package.

    Args:
        num_classes: Classes of both networks, at least 2.
        hidden: Width of the MLP, at least 1.
        inputs: What the MLP reads: ``'logits'`` (the authors' loop) or
            ``'probabilities'``, softmax at temperature 1 (the authors' figure).
        start: Lower end of the range, above 0.
        end: Width of the range, above 0: tau lies in (start, start + end).
        init: Initial bias of the last layer, hence about the initial raw value.

    Raises:
        ValueError: On a setting out of range.
    """

    def __init__(
        self,
        num_classes: int,
        hidden: int = 128,
        inputs: str = 'logits',
        start: float = 1.0,
        end: float = 20.0,
        init: float = 1.0,
    ) -> None:
        super().__init__(start, end, init)
        for key, value, least in (('num_classes', num_classes, 2), ('hidden', hidden, 1)):
            checks.whole_number(f'InstanceTemperature.{key}', value, least)
        checks.one_of('InstanceTemperature.inputs', inputs, ('logits', 'probabilities'))
        self.num_classes = num_classes
        self.inputs = inputs
        self.hidden = nn.Linear(2 * num_classes, hidden)
        self.output = nn.Linear(hidden, 1)
        nn.init.constant_(self.output.bias, self.init)

    def raw(self, preds_S: Tensor, preds_T: Tensor) -> Tensor:
        """Return the MLP's output, shape (N, 1).

        Raises:
            ValueError: If the logits have other classes than ``num_classes``.
        """
        if preds_S.shape[1] != self.num_classes or preds_T.shape[1] != self.num_classes:
            raise ValueError(
                f'InstanceTemperature.num_classes={self.num_classes} does not fit logits of shape '
                f'{tuple(preds_S.shape)} (student) and {tuple(preds_T.shape)} (teacher): give the '
                'number of classes of both networks.'
            )
        dtype = torch.promote_types(preds_S.dtype, torch.float32)
        both = [preds_T.detach().to(dtype), preds_S.detach().to(dtype)]
        if self.inputs == 'probabilities':
            both = [logits.softmax(dim=1) for logits in both]
        # Autocast would run the layers in half precision, where logits of some
        # tens leave only two digits of tau.
        with torch.autocast(preds_S.device.type, enabled=False):
            return _linear(self.output, F.relu(_linear(self.hidden, torch.cat(both, dim=1))))


def _linear(layer: nn.Linear, x: Tensor) -> Tensor:
    """Apply a layer in the precision of ``x``, whatever its weights are kept in."""
    return F.linear(x, layer.weight.to(x.dtype), layer.bias.to(x.dtype))
