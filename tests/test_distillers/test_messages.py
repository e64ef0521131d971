"""What is wrong with a distillation is said in words that lead on."""

import copy
import io

import pytest
import torch
from helpers import algorithm_cfg, batch, build, distiller
from helpers.detection import detector
from helpers.networks import resnet, vit
from mmengine.config import ConfigDict
from mmengine.hub import get_config
from mmengine.registry import MODELS, DefaultScope, init_default_scope
from mmpretrain.structures import DataSample
from PIL import Image

from kd_plugins import checks
from kd_plugins.inspect.check.findings import examine_size
from kd_plugins.inspect.check.report import Report
from kd_plugins.networks import size_made_for
from kd_plugins.teachers import build_teacher


def test_a_module_that_is_not_there_is_answered_with_one_that_is():
    read = dict(logits=dict(type='ModuleOutputs', source='zzz'))
    init_default_scope('mmpretrain')
    for network, example in (
        (dict(vit(), _scope_='mmpretrain'), "such as 'head.layers.head'"),
        (dict(resnet(), _scope_='mmpretrain'), "such as 'head.fc'"),
    ):
        cfg = algorithm_cfg(
            architecture=network, teacher=network, teacher_ckpt=None, allow_random_teacher=True,
            distiller=dict(distiller(), student_recorders=read, distill_losses={},
                           loss_forward_mappings={}, teacher_recorders={}),
        )  # fmt: skip
        with pytest.raises(ValueError, match=rf"source='zzz' is not in the student .*{example}"):
            MODELS.build(cfg)


def queries(name, source):
    """A stock detector beside one of its kind, compared at one module."""
    with DefaultScope.overwrite_default_scope('mmdet'):
        network = ConfigDict(get_config(f'mmdet::{name}.py').model, _scope_='mmdet')
    network.backbone.update(depth=18, init_cfg=None)
    network.backbone.base_channels = 8
    neck = network.neck
    neck.in_channels = [8, 16, 32, 64][-len(neck.in_channels) :]
    read = dict(out=dict(type='ModuleOutputs', source=source))
    return dict(
        type='kd_plugins.SingleTeacherDistill', architecture=network,
        teacher=copy.deepcopy(network), allow_random_teacher=True,
        distiller=dict(
            student_recorders=read, teacher_recorders=read,
            distill_losses=dict(loss_l2=dict(type='L2Loss', normalize=False)),
            loss_forward_mappings=dict(
                loss_l2=dict(s_feature=dict(recorder='out', from_student=True),
                             t_feature=dict(recorder='out', from_student=False)),
            ),
        ),
    )  # fmt: skip


@pytest.mark.parametrize(
    ('name', 'source'),
    [
        ('detr/detr_r50_8xb2-150e_coco', 'bbox_head.fc_cls'),
        ('detr/detr_r50_8xb2-150e_coco', 'decoder'),
        ('dab_detr/dab-detr_r50_8xb2-50e_coco', 'bbox_head'),
        ('sparse_rcnn/sparse-rcnn_r50_fpn_1x_coco', 'roi_head.bbox_head.0'),
    ],
)
def test_queries_of_two_networks_are_not_compared(name, source):
    says = 'query by query' if 'sparse' not in name else 'query by query|row by row'
    with pytest.raises(ValueError, match=rf"loss_l2 would compare '{source}' .* {says}"):
        MODELS.build(queries(name, source))


def test_no_connector_of_ours_or_mmrazors_matches_queries():
    cfg = queries('detr/detr_r50_8xb2-150e_coco', 'decoder')
    norm = dict(type='mmrazor.NormConnector', in_channels=256, norm_cfg=dict(type='BN1d'))
    cfg['distiller']['connectors'] = dict(between=norm)
    for record in cfg['distiller']['loss_forward_mappings']['loss_l2'].values():
        record['connector'] = 'between'
    with pytest.raises(ValueError, match=r"loss_l2 would compare 'decoder' .* query by query"):
        MODELS.build(cfg)


@pytest.mark.parametrize(
    'name', ['detr/detr_r50_8xb2-150e_coco', 'faster_rcnn/faster-rcnn_r50_fpn_1x_coco']
)
def test_no_source_of_several_is_passed_by(name):
    last = 'decoder' if 'detr' in name else 'roi_head.bbox_head.fc_cls'
    cfg = queries(name, 'neck')
    read = dict(out=dict(type='kd_plugins.Features', sources=['neck', last]))
    cfg['distiller'].update(student_recorders=read, teacher_recorders=read)
    with pytest.raises(ValueError, match=rf"loss_l2 would compare '{last}' .*(query|row) by"):
        MODELS.build(cfg)


def test_what_has_a_place_in_the_picture_is_compared():
    MODELS.build(queries('detr/detr_r50_8xb2-150e_coco', 'encoder'))


def test_a_term_that_fails_is_named():
    model = build()
    inputs, labels = batch()
    term = model.distiller.distill_losses['loss_kd']
    for error, kind in ((ValueError('no'), ValueError), (RuntimeError('sizes'), RuntimeError)):

        def fail(*args, error=error, **kwargs):
            raise error

        term.forward = fail
        with pytest.raises(kind, match=rf'^model.distiller.distill_losses.loss_kd: {error}$'):
            model(inputs, labels, mode='loss')
    # Torch's own kinds say what they are.
    term.forward = lambda **kwargs: (_ for _ in ()).throw(torch.cuda.OutOfMemoryError('full'))
    with pytest.raises(torch.cuda.OutOfMemoryError, match='^full$'):
        model(inputs, labels, mode='loss')


@pytest.mark.parametrize('connected', [False, True])
@pytest.mark.parametrize('term', ['ChannelWiseDivergence', 'KLDivergence', 'DistanceWiseRKD'])
def test_all_that_a_module_returns_is_no_tensor_to_mmrazors_terms_either(term, connected):
    """Torch and Python speak of a tuple without saying whose."""
    init_default_scope('mmpretrain')
    read = dict(out=dict(type='ModuleOutputs', source='backbone'))
    network = dict(resnet(), _scope_='mmpretrain')
    mapping = {f'preds_{side}': dict(recorder='out', from_student=side == 'S') for side in 'ST'}
    cfg = dict(
        student_recorders=read, teacher_recorders=read, connectors={},
        distill_losses=dict(loss_kd=dict(type=f'mmrazor.{term}')),
        loss_forward_mappings=dict(loss_kd=mapping),
    )  # fmt: skip
    if connected:
        norm = dict(type='mmrazor.NormConnector', in_channels=64, norm_cfg=dict(type='BN'))
        cfg['connectors']['norm'] = norm
        mapping['preds_S']['connector'] = 'norm'
    model = MODELS.build(
        algorithm_cfg(
            architecture=network, teacher=network, teacher_ckpt=None, allow_random_teacher=True,
            distiller=cfg,
        )
    )  # fmt: skip
    who = 'NormConnector' if connected else term
    says = rf'loss_kd: {who}\.preds_S is a tuple of 1, not a tensor: add data_idx=0 to its entry'
    samples = [DataSample().set_gt_label(i) for i in range(2)]
    with pytest.raises(ValueError, match=says):
        model(torch.randn(2, 3, 32, 32), samples, mode='loss')


def teacher(**changes):
    init_default_scope('mmpretrain')
    return build_teacher(
        dict(changes.pop('network'), _scope_='mmpretrain'),
        preprocessor=torch.nn.Identity(), allow_random=True, **changes,
    )  # fmt: skip


def test_pictures_of_other_channels_are_named():
    with pytest.raises(ValueError, match='takes pictures of 3 channels, and the batch .* has 1 '):
        teacher(network=resnet()).look(torch.randn(2, 1, 32, 32))


def swin():
    return dict(
        type='ImageClassifier',
        backbone=dict(
            type='SwinTransformerV2', img_size=64, window_size=[4, 4, 4, 2],
            arch=dict(embed_dims=8, depths=[1, 1, 1, 1], num_heads=[1, 2, 2, 2],
                      extra_norm_every_n_blocks=0),
        ),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', num_classes=3, in_channels=64),
    )  # fmt: skip


def test_pictures_of_another_size_are_named_with_the_remedy():
    one = teacher(network=swin())
    assert size_made_for(one.network) == (64, 64)
    says = r'is made for pictures of 64 x 64, .* set model.teacher_input_size=\(64, 64\)'
    with pytest.raises(ValueError, match=says):
        one.look(torch.randn(2, 3, 40, 40))
    teacher(network=swin(), input_size=(64, 64)).look(torch.randn(2, 3, 40, 40))


def test_the_check_compares_sizes():
    network = teacher(network=vit()).network
    made_for = size_made_for(network)
    report = Report('x')
    examine_size(report, network, torch.zeros(1, 3, *made_for))
    assert report.findings == []
    examine_size(report, network, torch.zeros(1, 3, made_for[0], made_for[1] + 16))
    (finding,) = report.findings
    assert finding.change == f'set model.teacher_input_size={made_for}.'
    assert size_made_for(teacher(network=resnet()).network) is None


def test_an_errors_line_has_no_address():
    with pytest.raises(Exception) as caught:
        Image.open(io.BytesIO(b'nothing'))
    assert ' at 0x' in str(caught.value)
    assert checks.said(caught.value) == 'cannot identify image file <_io.BytesIO object>'
    assert checks.said(ValueError('a\n  b')) == 'a b' and checks.said(ValueError()) == 'no message'


def test_a_list_of_modules_is_not_called_itself():
    """mmrazor's issue 339: CWD at YOLOX's multi_level_cls_convs, whose loss was never computed."""
    init_default_scope('mmdet')
    network = dict(detector('YOLOX'))
    read = dict(out=dict(type='ModuleOutputs', source='bbox_head.multi_level_cls_convs'))
    cfg = algorithm_cfg(
        architecture=network, teacher=copy.deepcopy(network), teacher_ckpt=None,
        allow_random_teacher=True,
        distiller=dict(student_recorders=read, teacher_recorders=read, distill_losses={},
                       loss_forward_mappings={}),
    )  # fmt: skip
    says = r"is a ModuleList, .* such as 'bbox_head.multi_level_cls_convs.0'"
    with pytest.raises(ValueError, match=says):
        MODELS.build(cfg)
