"""For DKD and KD on two-stage detectors: what their box heads say of one set of RoIs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from mmrazor.models.task_modules.recorder.base_recorder import BaseRecorder
from torch import Tensor, nn

from kd_plugins.losses.base import at_least_float32
from kd_plugins.recorders.listening import leave, listen
from kd_plugins.recorders.sides import beside
from kd_plugins.registry import TASK_UTILS
from kd_plugins.structures import RoIOutputs, RoISpec

__all__ = ['RoIHeadRecorder']

#: RoI heads of mmdet that classify RoIs in ``_bbox_forward`` by features and boxes alone.
#: A subclass of one is read alike.
ROI_HEADS = (
    'StandardRoIHead',
    'CascadeRoIHead',
    'DoubleHeadRoIHead',
    'DynamicRoIHead',
    'GridRoIHead',
    'PISARoIHead',
    'MaskScoringRoIHead',
    'PointRendRoIHead',
)
#: What a mapping may take of a record, by ``data_idx``.
FIELDS = ('cls_logits', 'labels', 'bbox_preds', 'rois')


@TASK_UTILS.register_module()
class RoIHeadRecorder(BaseRecorder):
    """Records what the box heads of a two-stage detector say of the student's RoIs.

    In a config ``dict(type='kd_plugins.RoIHead')`` for the student and
    ``dict(type='kd_plugins.RoIHead', question='rois')`` for the teacher, where
    ``rois`` is the student's recorder. A record is a
    :class:`kd_plugins.structures.RoIOutputs`, one a stage.

    The student's is what its own loss was computed on, with its graph and the
    targets that its own box head made: nothing is computed a second time. The
    teacher answers: its box head, on its own features, says what it thinks of
    the same boxes, in pixels of its own input. Its RPN and masks are not asked,
    and where no other recorder needs them they do not run.

    A mapping that names the recorder alone gives a term all records, stage after
    stage: ``kd_plugins.RoILoss`` takes them. With ``data_idx='cls_logits'`` (or
    another field) it gives the tensor of one stage, that of ``record_idx``.

    Args:
        question: The student's recorder whose RoIs the teacher is asked about.
    """

    #: Of the teacher's forward.
    needs = 'features'
    #: Of the student's.
    needs_loss = True
    #: Of the class logits: other heads are refused.
    protocol = 'softmax'

    def __init__(self, question: str | None = None) -> None:
        super().__init__('roi_head')
        self.question = question
        self.spec: RoISpec | None = None
        self._recording = False
        self._head: Any = None
        self._forward: tuple[int, Tensor, Mapping[str, Any]] | None = None
        # Of every record the results of the sampler, picture by picture.
        self._sampled: list[Sequence[Any]] = []
        # Of the latest batch that the network has seen.
        self._input_shape: tuple[int, int] = (0, 0)
        self._features: Sequence[Tensor] = ()

    def check_source(
        self, network: nn.Module, key: str, side: str, other: nn.Module | None
    ) -> None:
        """Refuse a network whose box heads cannot be read.

        Args:
            network: The student or the teacher.
            key: The config key of this recorder.
            side: 'student' or 'teacher'.
            other: The network of the other side.

        Raises:
            ValueError: Naming both networks and the heads that can be read.
        """
        if (self.question is None) == (side == 'teacher'):
            right = (
                "question='...', the name of the student's recorder whose RoIs it is asked about"
                if side == 'teacher'
                else 'no question: the student is not asked, but records the RoIs of its own loss'
            )
            raise ValueError(f'{key}.question={self.question!r} of the {side}: give {right}.')
        complaint = _complaint(network)
        if complaint:
            raise ValueError(
                f'{key} reads the RoI head of the {side} ({type(network).__name__}'
                f'{beside(side, other)}), but {complaint}.'
            )

    def check_field(self, key: str, name: Any, whole: bool) -> None:
        """Refuse a mapping that would hand a term something else than it takes.

        Args:
            key: The config key of the mapping.
            name: Its ``data_idx``.
            whole: Whether the term takes whole records.

        Raises:
            ValueError: Saying what would be right.
        """
        fields = FIELDS if self.question is None else [f for f in FIELDS if f != 'labels']
        if whole and name is not None:
            raise ValueError(
                f'{key}.data_idx={name!r}: this term takes the records of all stages: leave it out.'
            )
        if not whole and name not in fields:
            raise ValueError(
                f'{key}.data_idx={name!r} names no tensor of a RoIHead, and this term takes '
                f'tensors: give one of {", ".join(map(repr, fields))} (of the stage record_idx), '
                "or put the loss into dict(type='kd_plugins.RoILoss', loss=...), which takes all "
                'stages.'
            )

    def check_question(self, key: str, asked: Any, spec: Any = None) -> None:
        """Refuse a student whose RoIs the teacher cannot be asked about.

        Args:
            key: The config key of this recorder.
            asked: The student's recorder.
            spec: What is known of its records.

        Raises:
            ValueError: Naming what differs, and both sides.
        """
        if not isinstance(asked, RoIHeadRecorder):
            raise ValueError(
                f'{key}.question={self.question!r} is no RoIHead of the student, whose RoIs the '
                "teacher could be asked about: add dict(type='kd_plugins.RoIHead') to "
                'student_recorders and name it.'
            )
        assert self.spec is not None and asked.spec is not None
        ours, theirs = self.spec, asked.spec
        if ours.stages != theirs.stages:
            raise ValueError(
                f'{key} answers stage by stage, but the {theirs.head} of the student has '
                f'{theirs.stages} and the {ours.head} of the teacher has {ours.stages}: give a '
                'teacher with as many stages.'
            )
        if ours.num_classes != theirs.num_classes:
            raise ValueError(
                f'{key}: the {theirs.head} of the student knows {theirs.num_classes} classes and '
                f'the {ours.head} of the teacher {ours.num_classes}: give a teacher of the same '
                "classes, or model.teacher_class_map, the teacher's class, by name or index, for "
                'every class of the student.'
            )

    def prepare_from_model(self, model: nn.Module | None = None) -> None:
        """Find the RoI head, and have the network's input and features reported."""
        assert model is not None
        head: Any = model.get_submodule(self.source)
        classes = int(_box_heads(head)[0].num_classes)
        self.spec = RoISpec(type(head).__name__, classes, len(_box_heads(head)))
        backbone: Any = model.backbone
        backbone.register_forward_pre_hook(self._see_input)
        if self.question is None:
            self._head = head
        else:
            neck: Any = getattr(model, 'neck', None)
            (backbone if neck is None else neck).register_forward_hook(self._see_features)

    def _see_input(self, module: nn.Module, args: tuple) -> None:
        if self._recording:
            height, width = args[0].shape[-2:]
            self._input_shape = height, width

    def _see_features(self, module: nn.Module, args: tuple, output: Any) -> None:
        if self._recording:
            self._features = output

    def __enter__(self) -> None:
        super().__enter__()
        self._recording = True
        if self._head is not None:
            self._sampled = []
            listen(self._head, 'loss', self._hear_loss)
            listen(self._head, '_bbox_forward', self._hear_forward)
            for box_head in _box_heads(self._head):
                listen(box_head, 'get_targets', self._hear_targets)

    def __exit__(self, exc_type: Any, exc_value: Any, traceback: Any) -> None:
        super().__exit__(exc_type, exc_value, traceback)
        self._recording = False
        self._forward = None
        if self._head is not None:
            leave(self._head, 'loss')
            leave(self._head, '_bbox_forward')
            for box_head in _box_heads(self._head):
                leave(box_head, 'get_targets')
            self._fill_stages()

    def reset_data_buffer(self) -> None:
        """Let go of the records, and of the features that answers came from."""
        super().reset_data_buffer()
        self._features = ()

    def get_record_data(self, record_idx: int = 0, data_idx: Any = None) -> Any:
        """Return the records of all stages, or a field of the one of ``record_idx``.

        Args:
            record_idx: The stage.
            data_idx: The name of a field of :class:`kd_plugins.structures.RoIOutputs`.
        """
        if data_idx is None:
            return tuple(self.data_buffer)
        return getattr(self.data_buffer[record_idx], data_idx)

    def _hear_forward(self, args: tuple, kwargs: Mapping[str, Any], returned: Any) -> None:
        # Samplers may ask the box head as well: the loss takes what was said last.
        rois = kwargs['rois'] if 'rois' in kwargs else args[-1]
        stage = kwargs.get('stage', args[0] if args and isinstance(args[0], int) else 0)
        self._forward = stage, rois, returned

    def _hear_targets(self, args: tuple, kwargs: Mapping[str, Any], returned: Any) -> None:
        sampled = kwargs['sampling_results'] if 'sampling_results' in kwargs else args[0]
        assert self._forward is not None and self.spec is not None
        stage, rois, outputs = self._forward
        record = RoIOutputs(
            head=self.spec.head,
            stage=stage,
            input_shape=self._input_shape,
            rois=rois,
            cls_logits=outputs['cls_score'],
            bbox_preds=outputs['bbox_pred'],
            labels=returned[0],
            rois_per_image=tuple(len(s.pos_priors) + len(s.neg_priors) for s in sampled),
        )
        self.data_buffer.append(record)
        self._sampled.append(sampled)

    def _hear_loss(self, args: tuple, kwargs: Mapping[str, Any], returned: Any) -> None:
        samples = kwargs['batch_data_samples'] if 'batch_data_samples' in kwargs else args[-1]
        objects = [sample.gt_instances for sample in samples]
        if any('scores' in each for each in objects):
            pairs = zip(self.data_buffer, self._sampled, strict=True)
            self._data_buffer = [
                replace(record, weights=_trust(record, sampled, objects))
                for record, sampled in pairs
            ]
        self._sampled = []

    def _fill_stages(self) -> None:
        """Add empty records of the stages that a cascade without boxes did not reach."""
        assert self.spec is not None
        while 0 < len(self.data_buffer) < self.spec.stages:
            last: RoIOutputs = self.data_buffer[-1]
            assert last.labels is not None
            nothing = replace(
                last,
                stage=last.stage + 1,
                rois=last.rois[:0],
                cls_logits=last.cls_logits[:0],
                bbox_preds=None if last.bbox_preds is None else last.bbox_preds[:0],
                labels=last.labels[:0],
                weights=None if last.weights is None else last.weights[:0],
                rois_per_image=(0,) * len(last.rois_per_image),
            )
            self.data_buffer.append(nothing)

    @torch.no_grad()
    def answer(self, network: nn.Module, record: RoIOutputs) -> RoIOutputs:
        """Return what the teacher's box head says of the RoIs of a record of the student."""
        head: Any = network.get_submodule(self.source)
        box_heads = _box_heads(head)
        box_head = box_heads[record.stage]
        if len(record.rois):
            weight = next(box_head.parameters())
            # Pooled in the type of the weights: half precision would round the boxes, too.
            features = tuple(level.to(weight.dtype) for level in self._features)
            rois = _scaled(record.rois, record.input_shape, self._input_shape)
            stage = (record.stage,) if isinstance(head.bbox_head, nn.ModuleList) else ()
            outputs = head._bbox_forward(*stage, features, rois)
            logits, boxes = outputs['cls_score'], outputs['bbox_pred']
        else:
            # Not every layer takes a batch of nothing.
            width = box_head.fc_reg.out_features if box_head.with_reg else 0
            logits = record.cls_logits.new_zeros((0, box_head.num_classes + 1))
            boxes = logits.new_zeros((0, width)) if width else None
        return RoIOutputs(
            head=type(head).__name__,
            stage=record.stage,
            input_shape=self._input_shape,
            rois=record.rois,
            cls_logits=logits,
            bbox_preds=boxes,
            labels=None,
            rois_per_image=record.rois_per_image,
        )


def _box_heads(head: Any) -> list[Any]:
    """Return the box heads, one a stage."""
    heads = head.bbox_head
    return list(heads) if isinstance(heads, nn.ModuleList) else [heads]


def _trust(record: RoIOutputs, sampled: Sequence[Any], objects: Sequence[Any]) -> Tensor:
    """Return the scores of the objects that RoIs were assigned to, 1 of background, (R,).

    Args:
        record: What was recorded of the RoIs; those of a picture begin with its objects.
        sampled: What the sampler gave, picture by picture.
        objects: The objects of each picture.
    """
    weights = [
        torch.cat([of.scores[each.pos_assigned_gt_inds], of.scores.new_ones(len(each.neg_priors))])
        for each, of in zip(sampled, objects, strict=True)
    ]
    return torch.cat(weights).to(at_least_float32(record.cls_logits))


def _scaled(rois: Tensor, before: tuple[int, int], after: tuple[int, int]) -> Tensor:
    """Return boxes of one input in pixels of another one of the same pictures."""
    if before == after:
        return rois
    height, width = (new / old for new, old in zip(after, before, strict=True))
    # A clone, and numbers that are no tensors, so that no device is waited for.
    rois = at_least_float32(rois).clone()
    rois[:, 1::2] *= width
    rois[:, 2::2] *= height
    return rois


def _complaint(network: Any) -> str | None:
    """Say why the box heads of a network cannot be read, None if they can."""
    head = getattr(network, 'roi_head', None)
    if head is None:
        dense = hasattr(network, 'bbox_head')
        return (
            f'{"a dense detector" if dense else "it"} has none: give two-stage detectors as '
            'student and as teacher'
            + (', or record two dense ones with kd_plugins.DetectionHead' if dense else '')
        )
    kinds = [kind.__name__ for kind in type(head).__mro__ if kind.__module__.startswith('mmdet.')]
    if not kinds or kinds[0] not in ROI_HEADS:
        return (
            f'its {type(head).__name__} is not one that can be read: give a detector with one of '
            f'{", ".join(ROI_HEADS)}, or with a head derived from one'
        )
    if _defines(network, 'extract_feat') != 'TwoStageDetector':
        return (
            f'{_defines(network, "extract_feat")} has an extract_feat of its own, so that what its '
            'box head pools cannot be told: put the difference into the neck'
        )
    for box_head in _box_heads(head):
        name, loss = type(box_head).__name__, getattr(box_head, 'loss_cls', None)
        if _defines(box_head, 'get_targets') != 'BBoxHead':
            return (
                f'its box head {name} makes targets of its own, which cannot be read: give '
                "mmdet's Shared2FCBBoxHead, or another one that keeps the get_targets of BBoxHead"
            )
        if getattr(loss, 'use_sigmoid', None) is not False or box_head.custom_cls_channels:
            return (
                f'the classes of its {name} with loss_cls {type(loss).__name__} do not compete in '
                'one softmax with the background: give a box head with '
                "loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=False)"
            )
    return None


def _defines(module: nn.Module, name: str) -> str | None:
    """Return the name of the class that a method comes from."""
    return next((kind.__name__ for kind in type(module).__mro__ if name in vars(kind)), None)
