"""What CSKD hands to the patches of a picture, and what they say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kd_plugins.algorithms import SingleTeacherDistill
from kd_plugins.losses.cskd import CSKDLoss, fused_target


@dataclass
class Patches:
    """What both classifiers say of N pictures, as a whole and at every position.

    Args:
        preds_S: The student's class of each picture, (N,).
        preds_T: The teacher's.
        labels: The classes, (N,); -1 where they are unknown.
        columns: Dense logits, (N, C, H, W), by what they are.
    """

    preds_S: Tensor
    preds_T: Tensor
    labels: Tensor
    columns: dict[str, Tensor]


@torch.no_grad()
def look(
    algorithm: SingleTeacherDistill, batch: dict[str, Any], moments: Sequence[float]
) -> Patches:
    """Run both networks on a batch, the teacher as it teaches.

    Args:
        algorithm: A distillation with a ``kd_plugins.CSKDLoss``.
        batch: As the data loader gives it.
        moments: Parts of the training that are over, 0 to 1, to give the target at.

    Raises:
        ValueError: If it has no such term.
    """
    distiller = algorithm.distiller
    terms = distiller.distill_losses.items()
    found = [(name, loss) for name, loss in terms if isinstance(loss, CSKDLoss)]
    if not found:
        raise ValueError(
            'the config has no kd_plugins.CSKDLoss among model.distiller.distill_losses: give the '
            'config of a CSKD training.'
        )
    name, loss = found[0]
    data = algorithm.data_preprocessor(batch, False)
    inputs, samples = data['inputs'], data['data_samples']
    with distiller.teacher_recorders, distiller.student_recorders:
        logits_T = algorithm.teacher.look(inputs, samples)
        logits_S = algorithm.student(inputs, samples, mode='tensor')
    mapping = distiller.loss_forward_mappings[name]
    dense_S, dense_T = (
        distiller.get_record(**mapping[key]).float().cpu() for key in ('preds_S', 'preds_T')
    )
    columns = {'teacher, everywhere': dense_T}
    for moment in moments:
        target = fused_target(dense_T, dense_T.mean(dim=(2, 3)), loss.decay.at(moment))
        columns[f'target at {moment:.0%}'] = target
    columns["student's patches"] = dense_S
    labels = [int(s.gt_label) if 'gt_label' in s else -1 for s in samples]
    return Patches(
        logits_S.argmax(dim=1).cpu(),
        logits_T.argmax(dim=1).cpu(),
        torch.tensor(labels),
        columns,
    )
