"""What a detector that teaches finds in pictures without labels, as their ground truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.dist import all_reduce
from mmengine.structures import InstanceData
from torch import Tensor, nn

from kd_plugins import checks
from kd_plugins.distillers.fitting import recorder_of
from kd_plugins.losses.roi import RoILoss
from kd_plugins.networks import classes_of, score_threshold
from kd_plugins.teachers import StoredTeacher, Teacher

KEY = 'model.pseudo_boxes'
#: Parts of a student whose own loss wants more of an object than its box.
_MORE_THAN_BOXES = ('mask_head', 'semantic_head', 'semantic_seg_head', 'proto_net')
#: Pixels of a side that a box has at least, as mmdet's ``FilterAnnotations`` has it.
_THINNEST = 1.0


class PseudoBoxes:
    """The teacher's sure boxes in the place of annotated ones, for terms that weigh by targets.

    The teacher is asked once, in the augmented picture. Boxes that its own suppression leaves, and
    of which it is sure enough, go through the student's own assigner (and, of two stages, its RPN
    and sampler) as if they were annotated. Positive anchors, or RoIs, then weigh in a
    distillation term as much as the teacher was sure of the box that they stand for, in [0, 1];
    the number of positives by which a term divides stays a number. All other anchors and RoIs
    weigh 1: there the teacher says that there is nothing.

    Args:
        score: Boxes count from this score on. A batch in which none does teaches nothing by the
            terms that read targets, as every batch where it is above 1.
        loss_weight: Factor of the student's own losses on these boxes, which know no scores; times
            the share of the pictures that have a box. By default they add nothing.

    Attributes:
        pictures: How many pictures of the latest batch have a box, a number of shape (), averaged
            over processes.
        boxes: How many boxes there are in it, on this process.
        share: The share of its pictures that have a box, likewise averaged.

    Raises:
        ValueError: If a setting is out of range.
    """

    def __init__(self, score: float = 0.4, loss_weight: float = 0.0) -> None:
        self.score = checks.number(f'{KEY}.score', score, 'a score, 0 or above', least=0)
        self.loss_weight = checks.number(
            f'{KEY}.loss_weight', loss_weight, 'a finite weight, 0 or above', least=0
        )
        self.pictures, self.boxes, self.share = torch.zeros(()), 0, torch.zeros(())

    def check(self, student: nn.Module, teacher: Teacher, distiller: Any) -> None:
        """Refuse what cannot work together, before any step.

        Raises:
            ValueError: Naming the setting.
        """
        network: Any = teacher.network
        if isinstance(teacher, StoredTeacher):
            raise ValueError(
                f'{KEY} asks the teacher what it finds in a picture, which model.teacher_cache '
                'does not store: leave one of them out.'
            )
        if not teacher or not hasattr(network, 'predict') or not hasattr(network, 'extract_feat'):
            kind = type(network).__name__ if teacher else 'nobody yet'
            raise ValueError(
                f'{KEY} asks the teacher what it finds in a picture, and model.teacher is {kind}: '
                'give a detector of mmdet with its checkpoint.'
            )
        known, wanted = classes_of(network), classes_of(student)
        if known != wanted:
            raise ValueError(
                f'{KEY}: the teacher finds {known} classes, and the student learns {wanted}: give '
                "model.teacher_class_map, the teacher's class, by name or index, for every class "
                'of the student.'
            )
        roi_head: Any = getattr(student, 'roi_head', None)
        for owner in (student, roi_head):
            for name in _MORE_THAN_BOXES:
                if getattr(owner, name, None) is not None:
                    raise ValueError(
                        f'{KEY} makes boxes, and the {name} of the student '
                        f'({type(student).__name__}) learns more of an object than its box: give a '
                        'student of boxes, or leave the pictures without labels out.'
                    )
        if getattr(getattr(student, 'bbox_head', None), 'use_atss', True) is False:
            raise ValueError(
                f'{KEY}: which box a location of the student stands for cannot be told of a '
                'VFNetHead with use_atss=False: leave it True.'
            )
        path, least = score_threshold(network)
        if least > self.score:
            raise ValueError(
                f'{KEY}.score={self.score:g} is below the score from which the teacher keeps boxes '
                f'at all ({path}={least:g}): give at least {least:g}, or lower that of '
                'model.teacher.'
            )
        self._check_rois(distiller)

    @staticmethod
    def _check_rois(distiller: Any) -> None:
        """Refuse a term on RoIs that cannot weigh them."""
        for name, mapping in distiller.loss_forward_mappings.items():
            of_rois = [
                record
                for record in mapping.values()
                if record['from_student'] and hasattr(recorder_of(distiller, record), 'check_field')
            ]
            loss = distiller.distill_losses[name]
            if of_rois and not (isinstance(loss, RoILoss) and loss.takes_weights):
                inner = getattr(loss, 'loss', loss)
                raise ValueError(
                    f'{KEY}: model.distiller.distill_losses.{name} ({type(inner).__name__}) cannot '
                    'weigh RoIs by how sure the teacher is: give '
                    "dict(type='kd_plugins.RoILoss', loss=...) around kd_plugins.DKDLoss or "
                    'kd_plugins.KDLoss.'
                )

    def give(self, data_samples: Sequence[Any], found: Sequence[Any]) -> list[Any]:
        """Return samples with the sure boxes as their objects.

        All processes must call.

        Args:
            data_samples: The samples; they stay as they are.
            found: Of each what the teacher found, see :meth:`kd_plugins.teachers.Teacher.find`.
        """
        samples = []
        for sample, objects in zip(data_samples, found, strict=True):
            own = sample.new()
            own.pop('ignored_instances', None)
            height, width = sample.img_shape[:2]
            # Not every head ends its boxes where the picture ends.
            x, y = objects.bboxes[:, 0::2], objects.bboxes[:, 1::2]
            corners = torch.stack([x.clamp(0, width), y.clamp(0, height)], dim=2).float()
            whole = (corners[:, 1] - corners[:, 0]).amin(dim=1) >= _THINNEST
            sure = (objects.scores >= self.score) & whole
            own.gt_instances = InstanceData(
                bboxes=corners.flatten(1)[sure],
                labels=objects.labels[sure],
                scores=objects.scores[sure].float(),
            )
            samples.append(own)
        counts = [len(sample.gt_instances) for sample in samples]
        self.boxes = sum(counts)
        # A process alone whose pictures have no box would count its labelled ones for more.
        self.pictures = found[0].bboxes.new_full((), sum(map(bool, counts)), dtype=torch.float32)
        all_reduce(self.pictures, op='mean')
        self.share = self.pictures / max(len(samples), 1)
        return samples

    def losses(self, losses: Mapping[str, Any]) -> dict[str, Any]:
        """Return what the student's own losses on these boxes add to the total.

        Args:
            losses: As upstream returns them.
        """
        factor = self.loss_weight * self.share
        return {
            f'unlabelled_{name}': [each * factor for each in value]
            if isinstance(value, (list, tuple))
            else value * factor
            for name, value in losses.items()
            if 'loss' in name and self.loss_weight
        }

    def said(self, inputs: Tensor) -> dict[str, Tensor]:
        """Return for the log how many boxes a picture of the latest batch has."""
        return dict(pseudo_boxes=inputs.new_tensor(self.boxes / max(len(inputs), 1)))


def pseudo_boxes_of(
    cfg: Mapping[str, Any] | None, student: nn.Module, teacher: Teacher, distiller: Any
) -> PseudoBoxes | None:
    """Build what ``model.pseudo_boxes`` says, and check it; None for None.

    Raises:
        ValueError: As :class:`PseudoBoxes`.
    """
    if cfg is None:
        return None
    unknown = sorted(set(cfg) - {'score', 'loss_weight'}) if isinstance(cfg, Mapping) else [cfg]
    if unknown:
        raise checks.refuse(KEY, cfg, 'dict(score=0.4), and loss_weight if you like')
    boxes = PseudoBoxes(**cfg)
    boxes.check(student, teacher, distiller)
    return boxes


def reads_targets(distiller: Any) -> set[str]:
    """Return the names of the terms that read targets of the student's own loss."""
    return {
        name
        for name, mapping in distiller.loss_forward_mappings.items()
        for record in mapping.values()
        if record['from_student'] and getattr(recorder_of(distiller, record), 'needs_loss', False)
    }
