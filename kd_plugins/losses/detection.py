"""What the detection terms (BCKD, LD) share: checks and the mean over positives."""

from __future__ import annotations

import torch
from torch import Tensor

from kd_plugins.structures import HeadOutputs, HeadSpec, HeadTargets

#: Upstream's reductions add it to every number of positives that they divide by.
EPS = torch.finfo(torch.float32).eps


def check_heads(key: str, spec_S: HeadSpec | None, spec_T: HeadSpec | None) -> None:
    """Refuse heads whose anchors or classes do not correspond, before any step.

    Args:
        key: The config key of the loss.
        spec_S: The student's head.
        spec_T: The teacher's; None, as for the student's, where the mapping
            names a recorder of another kind.

    Raises:
        ValueError: Naming what differs, and both sides.
    """
    if not isinstance(spec_S, HeadSpec) or not isinstance(spec_T, HeadSpec):
        raise ValueError(
            f"{key} reads records of dict(type='kd_plugins.DetectionHead'): map preds_S and "
            'preds_T to such a recorder of either side.'
        )
    for of_S, of_T, what, remedy in (
        (spec_S.num_classes, spec_T.num_classes, 'num_classes', 'of the same classes'),
        (len(spec_S.strides), len(spec_T.strides), 'feature levels', 'with as many'),
        (spec_S.strides, spec_T.strides, 'strides', 'of the same strides'),
        (spec_S.anchors, spec_T.anchors, 'anchors per location', 'with as many'),
        (spec_S.shapes, spec_T.shapes, 'anchor boxes', 'of the same scales and ratios'),
    ):
        if of_S != of_T:
            said = '' if what == 'anchor boxes' else f' {of_S} and {of_T}'
            raise ValueError(
                f'{key} compares anchor by anchor, but the {spec_S.head} of the student and the '
                f'{spec_T.head} of the teacher differ in their {what}{said}: give a teacher '
                f'{remedy}.'
            )


def check_outputs(owner: str, preds_S: HeadOutputs, preds_T: HeadOutputs) -> HeadTargets:
    """Return the student's targets of two records that fit each other.

    Raises:
        ValueError: If they are no records of heads, the maps differ, or the
            student was given no targets.
    """
    for name, preds in (('preds_S', preds_S), ('preds_T', preds_T)):
        if not isinstance(preds, HeadOutputs):
            raise ValueError(
                f'{owner}.{name} is a {type(preds).__name__}: map it to a recorder '
                "dict(type='kd_plugins.DetectionHead'), without data_idx."
            )
    if (
        preds_S.level_sizes != preds_T.level_sizes
        or preds_S.cls_logits.shape != preds_T.cls_logits.shape
    ):
        raise ValueError(
            f'{owner} compares anchor by anchor, but of one batch the {preds_S.head} of the '
            f'student has {preds_S.level_sizes} anchors on its levels, and the {preds_T.head} of '
            f'the teacher {preds_T.level_sizes}: both feature pyramids must start at the same '
            'stride, and model.teacher_input_size must be left out.'
        )
    if preds_S.targets is None:
        raise ValueError(
            f'{owner} weighs anchors by the targets of the student, and its {preds_S.head} '
            'computed none: leave model.calculate_student_loss=True (a loss_weight of 0 switches '
            'a loss of the student off), and map preds_S to the student.'
        )
    return preds_S.targets


def mean_over_positives(values: Tensor, targets: HeadTargets) -> Tensor:
    """Sum of values of shape (N, A) times their weights, per positive anchor.

    Levels without positive anchors count nothing; see
    :attr:`kd_plugins.structures.HeadTargets.weights`.
    """
    return (values * targets.weights).sum() / (targets.num_pos + EPS)
