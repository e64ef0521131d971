"""A loss on logits, for the RoIs of two-stage detectors."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kd_plugins.registry import MODELS
from kd_plugins.structures import RoIOutputs, RoISpec
from kd_plugins.temperatures import InstanceTemperature

__all__ = ['RoILoss']


@MODELS.register_module()
class RoILoss(nn.Module):
    """A loss on class logits, for what two-stage detectors say of the student's RoIs.

    The loss is called once a stage with the logits of that stage, (R, C + 1),
    background last and a class like any other, and, if it takes ``gt_labels``,
    with the student's labels; of pictures without labels also with the ``weights`` of the RoIs,
    see :class:`kd_plugins.algorithms.PseudoBoxes`. The sum over the stages is returned. It averages
    over the RoIs of this device, as published for DKD. A batch without any RoI
    gives 0, with a graph to everything that learns.

    Args:
        loss: Config of the loss: ``kd_plugins.DKDLoss``, ``kd_plugins.KDLoss``
            with a number or a learned temperature, or another whose first two
            arguments are the student's and the teacher's logits.

    Raises:
        ValueError: If the mapped recorders are no ``kd_plugins.RoIHead``, or a
            temperature of the loss does not count the background.

    Source: Zhao et al., "Decoupled Knowledge Distillation", CVPR 2022, arXiv
    2203.08679, section 4.2; github.com/megvii-research/mdistiller at a08d46f,
    detection. A sum over the stages of a cascade is a choice of this package.
    """

    def __init__(self, loss: Mapping[str, Any] | nn.Module) -> None:
        super().__init__()
        self.loss = loss if isinstance(loss, nn.Module) else MODELS.build(dict(loss))
        takes = inspect.signature(self.loss.forward).parameters
        self._takes_labels = 'gt_labels' in takes
        #: Whether the loss can trust a RoI less than another one.
        self.takes_weights = 'weights' in takes

    def check_specs(
        self, key: str, preds_S: RoISpec | None = None, preds_T: RoISpec | None = None
    ) -> None:
        """Refuse records of another kind; called before the first step."""
        if not isinstance(preds_S, RoISpec) or not isinstance(preds_T, RoISpec):
            raise ValueError(
                f"{key} reads records of dict(type='kd_plugins.RoIHead'): map preds_S and preds_T "
                'to such a recorder of either side.'
            )
        for module in self.loss.modules():
            if isinstance(module, InstanceTemperature):
                columns = preds_S.num_classes + 1
                if module.num_classes != columns:
                    raise ValueError(
                        f'{key}: InstanceTemperature.num_classes={module.num_classes} does not fit '
                        f'the {columns} columns of the {preds_S.head} of the student and of the '
                        f'{preds_T.head} of the teacher: give {columns}, since background is a '
                        'class like any other.'
                    )

    def forward(self, preds_S: Sequence[RoIOutputs], preds_T: Sequence[RoIOutputs]) -> Tensor:
        """Return the loss, a scalar.

        Args:
            preds_S: The student's records, one a stage.
            preds_T: The teacher's answers.
        """
        terms = [self._of_stage(*pair) for pair in zip(preds_S, preds_T, strict=True)]
        return torch.stack(terms).sum()

    def diagnose(
        self, preds_S: Sequence[RoIOutputs], preds_T: Sequence[RoIOutputs]
    ) -> dict[str, Tensor]:
        """Return what the loss says of every stage with RoIs, for ``DistillationLogHook``."""
        said = {}
        for record_S, record_T in zip(preds_S, preds_T, strict=True):
            if hasattr(self.loss, 'diagnose') and len(record_S.rois):
                stage = f'.s{record_S.stage}' if len(preds_S) > 1 else ''
                values, more = self._arguments(record_S, record_T)
                of_stage = self.loss.diagnose(*values, **more)
                said.update({f'{name}{stage}': value for name, value in of_stage.items()})
        return said

    @property
    def loss_weight(self) -> Any:
        """The factor of the loss, where it has one."""
        return self.loss.loss_weight

    @property
    def lower_bound(self) -> float | None:
        """What a sum of the loss over stages is never below, before its weight."""
        return 0.0 if getattr(self.loss, 'lower_bound', None) == 0 else None

    def _of_stage(self, record_S: RoIOutputs, record_T: RoIOutputs) -> Tensor:
        values, more = self._arguments(record_S, record_T)
        if len(record_S.rois):
            return self.loss(*values, **more)
        # Means over nothing are NaN in most losses. One row of zeros takes part instead, so
        # that a learned temperature, too, has a gradient on every rank.
        logits = record_S.cls_logits
        row = logits.new_zeros((1, logits.shape[1]))
        more = {name: value.new_zeros(1) for name, value in more.items()}
        return self.loss(row + logits.sum(), row, **more) * 0

    def _arguments(
        self, record_S: RoIOutputs, record_T: RoIOutputs
    ) -> tuple[tuple[Tensor, Tensor], dict[str, Tensor]]:
        values = record_S.cls_logits, record_T.cls_logits
        more: dict[str, Tensor] = {}
        if self._takes_labels:
            assert record_S.labels is not None
            more['gt_labels'] = record_S.labels
        if self.takes_weights and record_S.weights is not None:
            more['weights'] = record_S.weights
        return values, more
