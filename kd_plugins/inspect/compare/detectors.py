"""Running a trained detector and its teacher over the same pictures."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kd_plugins.algorithms import SingleTeacherDistill
from kd_plugins.losses.bckd import localization_weight
from kd_plugins.recorders.detection_head import DetectionHeadRecorder
from kd_plugins.structures import HeadSpec


@dataclass
class Detections:
    """What both dense detectors find in one picture, in pixels of the network's input.

    Args:
        student: Boxes (M, 4), labels (M,) and scores (M,) of the student.
        teacher: The same of the teacher.
        weights: How much every place tells both apart, in [0, 1], (H, W): the
            largest :func:`kd_plugins.losses.localization_weight` of any anchor
            there, of any level. It is what BCKD weighs an anchor's box with.
    """

    student: tuple[Tensor, Tensor, Tensor]
    teacher: tuple[Tensor, Tensor, Tensor]
    weights: Tensor


@torch.no_grad()
def detect(
    algorithm: SingleTeacherDistill, batch: dict[str, Any], score: float = 0.3
) -> list[Detections]:
    """Run both detectors over a batch.

    Args:
        algorithm: A distillation with a ``kd_plugins.DetectionHead`` recorder on
            either side.
        batch: As the data loader gives it.
        score: The lowest score of a box to keep.

    Raises:
        ValueError: If it has no such recorders.
    """
    data = algorithm.data_preprocessor(batch, False)
    inputs, samples = data['inputs'], data['data_samples']
    found, records = [], []
    student = algorithm.architecture
    for manager, look, predict in (
        (
            algorithm.distiller.student_recorders,
            lambda: student(inputs, samples, mode='tensor'),
            lambda given: student(inputs, given, mode='predict'),
        ),
        (
            algorithm.distiller.teacher_recorders,
            lambda: algorithm.teacher.look(inputs, samples),
            lambda given: algorithm.teacher.predict(inputs, given),
        ),
    ):
        heads = [r for r in manager.recorders.values() if isinstance(r, DetectionHeadRecorder)]
        if not heads:
            raise ValueError(
                'the config records no dense head (kd_plugins.DetectionHead) on both sides, as '
                'configs/_base_/distill/bckd.py does.'
            )
        with manager:
            look()
        records.append((heads[0].get_record_data(), heads[0].spec))
        predicted = predict(_unscaled(samples))
        found.append([_kept(sample.pred_instances, score) for sample in predicted])
    (record_S, spec), (record_T, _) = records
    assert spec is not None  # of a head that has been found
    weights = localization_weight(record_S.cls_logits.float(), record_T.cls_logits.float())
    maps = _weight_maps(weights, record_S.level_sizes, spec, tuple(inputs.shape[2:]))
    return [Detections(*each) for each in zip(*found, maps, strict=True)]


def _unscaled(samples: Sequence[Any]) -> list[Any]:
    """Return copies whose predictions come in pixels of the network's input."""
    copies = [copy.deepcopy(sample) for sample in samples]
    for sample in copies:
        sample.set_metainfo(dict(scale_factor=(1.0, 1.0)))
    return copies


def _kept(instances: Any, score: float) -> tuple[Tensor, Tensor, Tensor]:
    kept = instances[instances.scores > score].cpu()
    boxes = getattr(kept.bboxes, 'tensor', kept.bboxes)
    return boxes, kept.labels, kept.scores


def _weight_maps(
    weights: Tensor, level_sizes: tuple[int, ...], spec: HeadSpec, size: tuple[int, int]
) -> Tensor:
    """Return (N, H, W) of weights (N, A): at every pixel the largest of the levels."""
    maps = []
    levels = zip(weights.split(level_sizes, dim=1), spec.strides, spec.anchors, strict=True)
    for level, stride, anchors in levels:
        rows, columns = -(-size[0] // stride), -(-size[1] // stride)
        grid = level.reshape(len(level), 1, rows, columns, anchors).amax(dim=-1)
        whole = F.interpolate(grid, scale_factor=stride, mode='nearest')
        maps.append(whole[:, 0, : size[0], : size[1]])
    return torch.stack(maps).amax(dim=0).cpu()
