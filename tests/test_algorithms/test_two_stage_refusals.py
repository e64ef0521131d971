"""Pairs of detectors whose RoIs cannot be compared, and what is said about them."""

import pytest
from helpers.detection import detector as dense
from helpers.two_stage import detector, distillation
from mmengine.registry import MODELS, init_default_scope


@pytest.fixture(autouse=True)
def scope():
    init_default_scope('mmdet')


def refused(says, *networks, recorders=None, losses=None, mapping=None, **kwargs):
    cfg = distillation(*networks, **kwargs)
    for side, recorder in (recorders or {}).items():
        cfg['distiller'][f'{side}_recorders'] = recorder
    if losses:
        cfg['distiller'].distill_losses.loss_dkd = losses
    cfg['distiller'].loss_forward_mappings.loss_dkd.update(mapping or {})
    with pytest.raises(ValueError, match=says):
        MODELS.build(cfg)


def changed(**changes):
    return detector(changes={key.replace('__', '.'): value for key, value in changes.items()})


SIGMOID = dict(type='CrossEntropyLoss', use_sigmoid=True, loss_weight=1.0)
SEESAW = dict(_delete_=True, type='SeesawLoss', num_classes=3)
SABL = 'sabl/sabl-faster-rcnn_r50_fpn_1x_coco.py'
SPARSE = 'sparse_rcnn/sparse-rcnn_r50_fpn_1x_coco.py'
MULTI = 'crowddet/crowddet-rcnn_r50_fpn_8xb2-30e_crowdhuman.py'
HTC = 'htc/htc-without-semantic_r50_fpn_1x_coco.py'
TRIDENT = 'tridentnet/tridentnet_r50-caffe_1x_coco.py'
READ = 'StandardRoIHead, CascadeRoIHead'


def stock(path, **more):
    return dict(cfg_path=f'mmdet::{path}', backbone=dict(init_cfg=None), **more)


@pytest.mark.parametrize(
    ('says', 'network', 'kind'),
    [
        (r'a dense detector has none: give two-stage .* kd_plugins\.DetectionHead', dense, 'GFL'),
        (r'loss_cls CrossEntropyLoss do not compete in one softmax',
         lambda: changed(roi_head__bbox_head__loss_cls=SIGMOID), 'FasterRCNN'),
        (r'loss_cls SeesawLoss do not compete in one softmax',
         lambda: changed(roi_head__bbox_head__loss_cls=SEESAW), 'FasterRCNN'),
        (r'its box head SABLHead makes targets of its own', lambda: stock(SABL), 'FasterRCNN'),
        (rf'its SparseRoIHead is not one .* {READ}', lambda: stock(SPARSE), 'SparseRCNN'),
        (rf'its MultiInstanceRoIHead is not one .* {READ}', lambda: stock(MULTI), 'CrowdDet'),
        (rf'its HybridTaskCascadeRoIHead is not one .* {READ}', lambda: stock(HTC),
         'HybridTaskCascade'),
        (rf'its TridentRoIHead is not one .* {READ}',
         lambda: stock(TRIDENT, roi_head=dict(shared_head=dict(init_cfg=None))),
         'TridentFasterRCNN'),
    ],
)  # fmt: skip
def test_a_network_without_such_heads_is_refused(says, network, kind):
    where = r'{0}_recorders\.rois reads the RoI head of the {0} \({1}; the {2} is a FasterRCNN\), '
    refused(where.format('teacher', kind, 'student') + f'.*{says}', 'Faster', network())
    if 'is not one' not in says:
        refused(where.format('student', kind, 'teacher') + f'.*{says}', network(), 'Faster')


@pytest.mark.parametrize(
    ('says', 'student', 'teacher', 'class_map'),
    [
        (r'StandardRoIHead of the student has 1 and the CascadeRoIHead of the teacher has 3: give '
         r'a teacher with as many stages', 'Faster', 'Cascade', None),
        (r'StandardRoIHead of the student knows 3 classes and the StandardRoIHead of the teacher '
         r'4: give .* or model\.teacher_class_map', 'Faster', lambda: detector(classes=4), None),
        (r'knows 3 classes .* of the teacher 2: give', 'Faster', lambda: detector(classes=4),
         [1, 0]),
        (r'teacher_class_map\[3\]=4 is no class of the teacher: .* from 0 to 3',
         'Faster', lambda: detector(classes=4), [0, 1, 2, 4]),
    ],
)  # fmt: skip
def test_heads_that_do_not_correspond_are_refused_when_built(says, student, teacher, class_map):
    networks = [n() if callable(n) else n for n in (student, teacher)]
    refused(says, *networks, teacher_class_map=class_map)


HEAD = dict(type='kd_plugins.RoIHead')
PLAIN = dict(type='ModuleOutputs', source='roi_head.bbox_head.fc_cls')


def test_recorders_of_the_wrong_side_are_refused():
    refused(r"student_recorders\.rois\.question='rois' of the student: give no question",
            recorders=dict(student=dict(rois=dict(HEAD, question='rois'))))  # fmt: skip
    refused(r"teacher_recorders\.rois\.question=None of the teacher: give question='\.\.\.'",
            recorders=dict(teacher=dict(rois=HEAD)))  # fmt: skip
    refused(r"question='roi' is not one of student_recorders \(did you mean 'rois'\?\)",
            recorders=dict(teacher=dict(rois=dict(HEAD, question='roi'))))  # fmt: skip
    neck = dict(type='ModuleOutputs', source='neck')
    refused(r"question='neck' is no RoIHead of the student",
            recorders=dict(student=dict(rois=HEAD, neck=neck),
                           teacher=dict(rois=dict(HEAD, question='neck'))))  # fmt: skip


def test_sigmoids_for_classes_that_share_a_softmax_are_refused():
    sigmoid = dict(type='kd_plugins.SigmoidKDLoss')
    says = r'loss_dkd=SigmoidKDLoss is for .* a sigmoid, .* \(StandardRoIHead\) excludes .*KDLoss'
    refused(says, losses=dict(type='kd_plugins.RoILoss', loss=sigmoid))
    reads = [dict(recorder='rois', from_student=s, data_idx='cls_logits') for s in (True, False)]
    refused(says, losses=sigmoid,
            mapping=dict(preds_S=reads[0], preds_T=reads[1]))  # fmt: skip


def test_terms_that_take_something_else_of_a_record_are_refused():
    reads = dict(recorder='rois', from_student=True)
    refused(r"loss_dkd\.preds_S\.data_idx='cls_logits': this term takes the records of all stages",
            mapping=dict(preds_S=dict(reads, data_idx='cls_logits')))  # fmt: skip
    refused(r"preds_S\.data_idx=None names no tensor .* 'cls_logits', 'labels', .*RoILoss",
            losses=dict(type='kd_plugins.KDLoss'))  # fmt: skip
    labels = dict(recorder='rois', from_student=False, data_idx='labels')
    refused(r"preds_T\.data_idx='labels' names no tensor",
            losses=dict(type='kd_plugins.KDLoss'),
            mapping=dict(preds_S=dict(reads, data_idx='cls_logits'), preds_T=labels))  # fmt: skip


def test_a_student_without_its_own_losses_is_refused():
    refused(r'calculate_student_loss=False leaves .*student_recorders\.rois nothing to record',
            calculate_student_loss=False)  # fmt: skip


@pytest.mark.parametrize('loss', ['mmrazor.KLDivergence', 'kd_plugins.KDLoss'])
def test_classifiers_of_proposals_of_either_side_are_refused(loss):
    says = (
        r"loss_dkd would compare 'roi_head\.bbox_head\.fc_cls' of the student with "
        r"'roi_head\.bbox_head\.fc_cls' of the teacher row by row, but each of them sees proposals "
        r"of its own: record both with dict\(type='kd_plugins\.RoIHead'\)"
    )
    recorders = dict(student=dict(rois=PLAIN), teacher=dict(rois=PLAIN))
    refused(says, recorders=recorders, losses=dict(type=loss))


def test_heads_of_ones_own_are_read_as_those_that_they_derive_from():
    from mmdet.models import Shared2FCBBoxHead, StandardRoIHead

    @MODELS.register_module(force=True)
    class WiderBoxHead(Shared2FCBBoxHead):
        def forward(self, x):
            return super().forward(2 * x)

    @MODELS.register_module(force=True)
    class NamedRoIHead(StandardRoIHead):
        pass

    cfg = changed(**{'roi_head__type': 'NamedRoIHead', 'roi_head__bbox_head__type': 'WiderBoxHead'})
    assert MODELS.build(distillation(cfg, 'Faster')).distiller is not None


def test_features_that_are_not_the_necks_are_refused():
    from mmdet.models import FasterRCNN

    @MODELS.register_module(force=True)
    class Refining(FasterRCNN):
        def extract_feat(self, batch_inputs):
            return tuple(2 * level for level in super().extract_feat(batch_inputs))

    cfg = detector()
    cfg.type = 'Refining'
    refused('Refining has an extract_feat of its own', 'Faster', cfg)
