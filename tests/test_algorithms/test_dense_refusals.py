"""Pairs of detectors that cannot be compared anchor by anchor, and what is said about them."""

import pytest
from helpers.detection import build, detector, distillation, images, losses, term
from mmengine.config import ConfigDict
from mmengine.registry import MODELS
from mmengine.runner import save_checkpoint


def refused(student, teacher, says, changes=None, **distiller):
    with pytest.raises(ValueError, match=says):
        MODELS.build(distillation(student, teacher, changes, **distiller))


HALVED = [4, 8, 16, 32, 64]


@pytest.mark.parametrize(
    ('student', 'teacher', 'says'),
    [
        (detector(classes=3), detector('ATSS', classes=5),
         r'loss_bckd_cls compares .* GFLHead of the student and the ATSSHead of the teacher differ '
         r'in their num_classes 3 and 5: give a teacher of the same classes'),
        (detector(), detector(strides=HALVED),
         r'strides \(8, 16, 32, 64, 128\) and \(4, 8, 16, 32, 64\)'),
        (detector(strides=HALVED[:4]), detector(strides=HALVED), r'feature levels 4 and 5'),
        (detector('RetinaNet'), detector('ATSS'),
         r'RetinaHead of the student and the ATSSHead of the teacher differ in their anchors per '
         r'location \(9, 9, 9, 9, 9\) and \(1, 1, 1, 1, 1\)'),
        (detector('RetinaNet'),
         detector('RetinaNet', anchor_generator=dict(
             type='AnchorGenerator', octave_base_scale=4, scales_per_octave=3,
             ratios=[2.0, 1.0, 0.5], strides=[8, 16, 32, 64, 128])),
         r'differ in their anchor boxes: give a teacher of the same scales and ratios'),
        (detector(), detector('RetinaNet', loss_cls=dict(type='CrossEntropyLoss')),
         r"teacher_recorders\.head\.source='bbox_head' of the teacher \(RetinaNet\): the head "
         r'RetinaHead was built with loss_cls\.use_sigmoid=False'),
    ],
)  # fmt: skip
def test_heads_that_do_not_correspond_are_refused_when_built(student, teacher, says):
    refused(student, teacher, says)


TWO_STAGES = dict(
    cfg_path='mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py',
    backbone=dict(init_cfg=None, base_channels=8),
    neck=dict(in_channels=[32, 64, 128, 256], out_channels=16),
    rpn_head=dict(in_channels=16, feat_channels=16),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=16),
        bbox_head=dict(in_channels=16, fc_out_channels=16),
    ),
)


def test_a_two_stage_detector_is_refused_on_either_side():
    says = (
        r"{0}_recorders\.head\.source='bbox_head' is not in the {0} \(FasterRCNN, a two-stage "
        r"detector; the {1} is a GFL\): give a dense detector, whose 'bbox_head' is one of "
        r'GFLHead, ATSSHead, .*, YOLOXHead, or record two of two stages with '
        r'kd_plugins\.RoIHead'
    )
    refused(detector(), TWO_STAGES, says.format('teacher', 'student'))
    refused(TWO_STAGES, detector(), says.format('student', 'teacher'))


def test_a_head_that_cannot_be_read_is_refused():
    says = r'of the student \(GFL\): the head LADHead is not one that can be read: give .* GFLHead,'
    student = detector('ATSS')
    student['type'] = 'GFL'
    student['bbox_head']['type'] = 'LADHead'
    refused(student, detector(), says)


def test_a_head_of_ones_own_may_change_layers_but_not_losses():
    from mmdet.models import GFLHead

    @MODELS.register_module(force=True)
    class WiderHead(GFLHead):
        def forward_single(self, x, scale):
            return super().forward_single(2 * x, scale)

    @MODELS.register_module(force=True)
    class OtherHead(GFLHead):
        def loss_by_feat(self, *args, **kwargs):
            return super().loss_by_feat(*args, **kwargs)

    student = detector()
    student['bbox_head']['type'] = 'WiderHead'
    assert losses(build(student).train(), images())['distill.loss_bckd_cls'] > 0
    student['bbox_head']['type'] = 'OtherHead'
    refused(student, detector(), r'the head OtherHead is not one that can be read')


def test_ld_needs_the_same_bins():
    ld = term('loss_ld', type='kd_plugins.LDLoss')
    says = (
        r'but the {} of the student has {} bins and the {} of the teacher has {} bins: give two GFL'
    )
    for student, teacher, said in (
        (detector(), detector('ATSS'), ('GFLHead', '17', 'ATSSHead', 'no')),
        (detector(), detector(reg_max=8), ('GFLHead', '17', 'GFLHead', '9')),
        (detector('ATSS'), detector('ATSS'), ('ATSSHead', 'no', 'ATSSHead', 'no')),
    ):
        refused(student, teacher, says.format(*said), **ld)


def test_records_of_another_kind_are_refused():
    other = ConfigDict(head=dict(type='ModuleOutputs', source='bbox_head'))
    says = r"loss_bckd_cls reads records of dict\(type='kd_plugins\.DetectionHead'\): map preds_S"
    cfg = distillation()
    cfg['distiller']['teacher_recorders'] = other
    with pytest.raises(ValueError, match=says):
        MODELS.build(cfg)


def test_a_student_without_its_own_losses_is_refused():
    says = r'calculate_student_loss=False leaves model\.distiller\.student_recorders\.head nothing'
    with pytest.raises(ValueError, match=says):
        build(changes=dict(calculate_student_loss=False))


def test_a_checkpoint_of_another_detector_is_refused(tmp_path):
    path = str(tmp_path / 'atss.pth')
    save_checkpoint(dict(state_dict=MODELS.build(detector('ATSS')).state_dict()), path)
    refused(detector(), detector(),
            r"teacher_ckpt='.*atss\.pth' does not fit the teacher \(GFL with ResNet\): .* missing "
            r'\(first: bbox_head\.gfl_cls\.weight\); .* unknown to it \(first: bbox_head\.atss',
            changes=dict(teacher_ckpt=path))  # fmt: skip


def test_a_pyramid_that_starts_elsewhere_than_its_head_believes_is_refused():
    student = detector()
    student['neck']['start_level'] = 0
    model = build(student).train()
    says = (
        r'GFLHead of the student has \(256, 64, 16, 4, 1\) anchors .* teacher \(64, 16, 4, 1, 1\)'
    )
    with pytest.raises(ValueError, match=says):
        losses(model, images())


def test_another_input_size_of_the_teacher_is_refused():
    model = build(changes=dict(teacher_input_size=128)).train()
    with pytest.raises(ValueError, match=r'model\.teacher_input_size must be left out'):
        losses(model, images())
