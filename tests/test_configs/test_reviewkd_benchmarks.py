"""ReviewKD's configs, and those of two-stage detectors, against the published settings."""

import functools
import json

import pytest
import torch
import yaml
from helpers import ROOT
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.registry import MODELS, init_default_scope

from kd_plugins.networks import forbid_inplace, resolve_network
from kd_plugins.recorders import FeaturesRecorder

# Teacher, student, weight, in_channels, out_channels, mid channels, out_sizes: by
# github.com/dvlab-research/ReviewKD (cede6ea), CIFAR-100/script/reviewKD.sh and
# model/reviewkd.py.
CIFAR = [
    ('wrn40_2', 'wrn16_2', 5.0, [32, 64, 128, 128], None, 128, None),
    ('wrn40_2', 'wrn40_1', 5.0, [16, 32, 64, 64], [32, 64, 128, 128], 64, None),
    ('wrn40_2', 'shufflenetv1', 5.0, [240, 480, 960, 960], [32, 64, 128, 128], 512, [32, 16, 8, 1]),
    ('resnet32x4', 'resnet8x4', 5.0, [64, 128, 256, 256], None, 256, None),
    ('resnet32x4', 'shufflenetv1', 5.0, [240, 480, 960, 960], [64, 128, 256, 256], 512,
     [32, 16, 8, 1]),
    ('resnet32x4', 'shufflenetv2', 8.0, [116, 232, 464, 1024], [64, 128, 256, 256], 512,
     [32, 16, 8, 1]),
    ('resnet56', 'resnet20', 0.6, [16, 32, 64, 64], None, 64, None),
    ('resnet110', 'resnet32', 1.0, [16, 32, 64, 64], None, 64, None),
]  # fmt: skip
# The same of ImageNet/README.md and models/reviewkd.py, and top-1.
IMAGENET = [
    ('resnet34', 'resnet18', 1.0, [64, 128, 256, 512, 512], None, 512, 71.61),
    ('resnet50', 'mobilenetv1', 8.0, [128, 256, 512, 1024, 1024], [256, 512, 1024, 2048, 2048],
     256, 72.56),
]  # fmt: skip
# Teacher, student, weight of ReviewKD in detection/configs of megvii-research/mdistiller
# (a08d46f); box AP of the student alone, with DKD and with ReviewDKD by arXiv 2203.08679.
COCO = [
    ('r101', 'r50', 1.0, 37.93, 39.25, 40.65),
    ('r101', 'r18', 1.2, 33.26, 35.05, 37.01),
    ('r50', 'mobilenetv2', 2.0, 29.47, 32.34, 34.35),
]
CAFFE = dict(mean=[103.530, 116.280, 123.675], std=[1.0, 1.0, 1.0], bgr_to_rgb=False)
TORCHVISION = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True)


def load(path):
    return Config.fromfile(ROOT / 'configs' / f'{path}.py')


def check_terms(cfg, weight, warmup, channels, out_channels, mid):
    fusion = cfg.model.distiller.connectors.fusion
    assert fusion.in_channels == channels and fusion.get('out_channels') == out_channels
    # The published norm is the default one.
    assert fusion.mid_channels == mid and 'norm_cfg' not in fusion
    (loss,) = cfg.model.distiller.distill_losses.values()
    assert (loss.type, loss.loss_weight, loss.get('warmup', 1)) == (
        'kd_plugins.ReviewKDLoss', weight, warmup,
    )  # fmt: skip


@pytest.mark.parametrize('row', CIFAR, ids=lambda row: '-'.join(row[:2]))
def test_cifar_pairs_have_the_published_settings(row):
    teacher, student, weight, channels, out_channels, mid, sizes = row
    name = f'{teacher}_{student}_1xb64_cifar100'
    cfg, dkd = load(f'reviewkd/reviewkd_{name}'), load(f'kd/kd_{name}')
    check_terms(cfg, weight, 20, channels, out_channels, mid)
    assert cfg.model.distiller.connectors.fusion.get('out_sizes') == sizes
    for key in ('optim_wrapper', 'param_scheduler', 'train_cfg', 'train_dataloader'):
        assert cfg[key] == dkd[key]
    assert cfg.model.teacher == dkd.model.teacher
    assert cfg.model.teacher_ckpt == dkd.model.teacher_ckpt
    assert cfg.model.architecture.head.loss.get('loss_weight', 1.0) == 1.0


@pytest.mark.parametrize('row', IMAGENET, ids=lambda row: '-'.join(row[:2]))
def test_imagenet_pairs_have_the_published_settings(row):
    teacher, student, weight, channels, out_channels, mid, figure = row
    name = f'reviewkd_{teacher}_{student}_8xb32_in1k'
    cfg = load(f'reviewkd/{name}')
    check_terms(cfg, weight, 1, channels, out_channels, mid)
    assert cfg.optim_wrapper.optimizer.lr == 0.1 and cfg.train_dataloader.batch_size * 8 == 256
    assert cfg.train_cfg.max_epochs == 100 and cfg.param_scheduler.milestones == [30, 60, 90]


def recorded(network, sources, inputs):
    forbid_inplace(network)
    recorder = FeaturesRecorder(sources)
    recorder.initialize(network)
    with recorder, torch.no_grad():
        network(inputs)
    return recorder.data_buffer[0]


@pytest.mark.parametrize(
    'name', ['resnet56_resnet20_1xb64_cifar100', 'resnet32x4_resnet8x4_1xb64_cifar100']
)
def test_teachers_are_read_before_and_students_after_the_last_activation(name):
    cfg = load(f'reviewkd/reviewkd_{name}')
    init_default_scope('mmpretrain')
    inputs = torch.randn(2, 3, 32, 32)
    for side, key in (('teacher', 'teacher'), ('student', 'architecture')):
        network = MODELS.build(dict(cfg.model[key], _scope_='mmpretrain')).eval()
        network.backbone.out_indices = (0, 1, 2)
        sources = cfg.model.distiller[f'{side}_recorders'].levels.sources
        *maps, pooled = recorded(network, sources, inputs)
        with torch.no_grad():
            stages = network.backbone(inputs)
        assert torch.equal(pooled, stages[-1].mean(dim=(2, 3)))
        for x, stage in zip(maps, stages, strict=True):
            assert (x < 0).any().item() == (side == 'teacher')
            assert torch.equal(x.relu(), stage)


def test_the_wide_teacher_is_read_after_the_norms_that_follow_its_stages():
    cfg = load('reviewkd/reviewkd_wrn40_2_wrn16_2_1xb64_cifar100')
    network = MODELS.build(dict(cfg.model.teacher, _scope_='mmpretrain')).eval()
    inputs = torch.randn(2, 3, 32, 32)
    sources = cfg.model.distiller.teacher_recorders.levels.sources
    first, second, third, pooled = recorded(network, sources, inputs)
    backbone = network.backbone
    with torch.no_grad():
        one = backbone.block1(backbone.conv1(inputs))
        two = backbone.block2(one)
        three = backbone.block3(two)
        assert torch.equal(first, backbone.block2[0].bn1(one))
        assert torch.equal(second, backbone.block3[0].bn1(two))
        assert torch.equal(third, backbone.bn1(three))
        assert torch.allclose(pooled, third.relu().mean(dim=(2, 3)), atol=1e-6)


def check_schedule(cfg):
    assert dict(cfg.optim_wrapper.optimizer) == dict(
        type='SGD', lr=0.01, momentum=0.9, weight_decay=1e-4
    )
    assert cfg.optim_wrapper.paramwise_cfg == dict(norm_decay_mult=0.0)
    assert cfg.train_cfg.max_iters == 180000 and 'max_epochs' not in cfg.train_cfg
    assert 4 * cfg.train_dataloader.batch_size == 8 == cfg.auto_scale_lr.base_batch_size
    warm_up, steps = cfg.param_scheduler
    assert (warm_up.start_factor, warm_up.begin, warm_up.end) == (0.001, 0, 1000)
    assert (steps.milestones, steps.gamma, steps.end) == ([120000, 160000], 0.1, 180000)
    assert not (warm_up.by_epoch or steps.by_epoch or cfg.default_hooks.checkpoint.by_epoch)
    assert cfg.default_hooks.checkpoint.interval == 10000
    pipeline = {step.type: step for step in cfg.train_dataloader.dataset.pipeline}
    scales = [tuple(scale) for scale in pipeline['RandomChoiceResize'].scales]
    assert scales == [(1333, short) for short in range(640, 801, 32)]
    assert pipeline['RandomFlip'].prob == 0.5


def normalisation(preprocessor):
    return {key: preprocessor[key] for key in CAFFE}


@functools.cache
def listed_teacher(depth):
    """The teacher's stock config and, by mmdet's index, its weights; reading that takes seconds."""
    name = f'faster-rcnn_{depth}-caffe_fpn_ms-3x_coco'
    return get_config(f'mmdet::faster_rcnn/{name}.py', pretrained=True)


@functools.cache
def resolved(teacher):
    return resolve_network(json.loads(teacher), 'model.teacher')


def check_student(model, student):
    assert normalisation(model.data_preprocessor) == TORCHVISION
    backbone = model.backbone
    # detectron2's norms neither move nor learn.
    assert backbone.norm_eval is True and backbone.norm_cfg.requires_grad is False
    if student == 'mobilenetv2':
        assert backbone.type == 'MobileNetV2' and 'frozen_stages' not in backbone
        assert backbone.init_cfg.checkpoint == 'open-mmlab://mmdet/mobilenet_v2'
        assert (backbone.out_indices, model.neck.in_channels) == ((1, 2, 4, 6), [24, 32, 96, 320])
    else:
        assert backbone.depth == int(student[1:]) and backbone.frozen_stages == 1
        assert backbone.init_cfg.checkpoint == f'torchvision://resnet{student[1:]}'


@pytest.mark.parametrize('method', ['vanilla', 'dkd', 'reviewkd', 'reviewdkd', 'ctkd_dkd'])
@pytest.mark.parametrize('row', COCO, ids=lambda row: '-'.join(row[:2]))
def test_coco_pairs_have_the_published_settings(row, method):
    teacher, student, weight, *_ = row
    folder = dict(reviewdkd='reviewkd', ctkd_dkd='ctkd').get(method, method)
    if method == 'vanilla':
        cfg = load(f'vanilla/faster-rcnn_{student}_fpn_180k_coco')
        check_schedule(cfg)
        return check_student(cfg.model, student)
    cfg = load(f'{folder}/{method}_faster-rcnn_{teacher}_{student}_fpn_180k_coco')
    check_schedule(cfg)
    check_student(cfg.model.architecture, student)
    # The weights that mmdet's index lists, and the input that they were trained with.
    network, weights = resolved(json.dumps(cfg.model.teacher, sort_keys=True))
    whole = listed_teacher(teacher)
    assert weights == whole.model_path and f'{teacher}_caffe_fpn_mstrain_3x' in weights
    assert normalisation(network.data_preprocessor) == CAFFE
    assert network.backbone == whole.model.backbone and network.backbone.style == 'caffe'
    terms = cfg.model.distiller.distill_losses
    assert set(terms) == {
        'dkd': {'loss_dkd'}, 'ctkd_dkd': {'loss_dkd'}, 'reviewkd': {'loss_reviewkd'},
        'reviewdkd': {'loss_dkd', 'loss_reviewkd'},
    }[method]  # fmt: skip
    if 'loss_reviewkd' in terms:
        assert dict(terms.loss_reviewkd) == dict(type='kd_plugins.ReviewKDLoss', loss_weight=weight)
        fusion = dict(cfg.model.distiller.connectors.fusion)
        assert fusion == dict(
            type='kd_plugins.ReviewKDConnector', in_channels=[256] * 5, mid_channels=256
        )
    if 'loss_dkd' in terms:
        loss = dict(terms.loss_dkd.loss)
        tau = loss.pop('tau')
        assert tau == (dict(type='kd_plugins.GlobalTemperature') if method == 'ctkd_dkd' else 1.0)
        assert loss == dict(type='kd_plugins.DKDLoss', alpha=1.0, beta=0.25, loss_weight=1.0)
    hook = cfg.default_hooks.get('curriculum_temperature')
    assert (hook is not None) == (method == 'ctkd_dkd')
    assert hook is None or not hook.by_epoch


def test_upstream_still_lacks_the_input_of_this_teacher():
    # When this fails, mmdet's config is right again, and ours need not mend it.
    cfg = get_config('mmdet::faster_rcnn/faster-rcnn_r101-caffe_fpn_ms-3x_coco.py')
    assert normalisation(cfg.model.data_preprocessor) == TORCHVISION
    assert cfg.model.backbone.style == 'caffe'


def test_mask_rcnn_has_the_published_weight_and_a_caffe_teacher():
    cfg = load('reviewkd/reviewkd_mask-rcnn_r101_r50_fpn_180k_coco')
    check_schedule(cfg)
    check_student(cfg.model.architecture, 'r50')
    assert cfg.model.distiller.distill_losses.loss_reviewkd.loss_weight == 0.8
    network, _ = resolve_network(cfg.model.teacher, 'model.teacher')
    assert network.type == cfg.model.architecture.type == 'MaskRCNN'
    assert normalisation(network.data_preprocessor) == CAFFE
    annotations = cfg.train_dataloader.dataset.pipeline[1]
    assert annotations.with_mask and cfg.val_evaluator.metric == ['bbox', 'segm']
    assert cfg.test_evaluator.metric == ['bbox', 'segm']


def test_metafiles_have_the_papers_figures():
    wanted = {folder: {} for folder in ('vanilla', 'dkd', 'reviewkd')}
    for teacher, student, _, alone, dkd, reviewdkd in COCO:
        pair = f'faster-rcnn_{teacher}_{student}_fpn_180k_coco'
        wanted['vanilla'][f'faster-rcnn_{student}_fpn_180k_coco'] = alone
        wanted['dkd'][f'dkd_{pair}'] = dkd
        wanted['reviewkd'][f'reviewdkd_{pair}'] = reviewdkd
    for teacher, student, *_, figure in IMAGENET:
        wanted['reviewkd'][f'reviewkd_{teacher}_{student}_8xb32_in1k'] = figure
    for folder, figures in wanted.items():
        readme = (ROOT / f'configs/{folder}/README.md').read_text()
        models = yaml.safe_load((ROOT / f'configs/{folder}/metafile.yml').read_text())['Models']
        got = {}
        for model in models:
            result = model['Results'][0]
            if result['Dataset'] == 'COCO' or folder == 'reviewkd':
                assert model['Metadata']['Source of results'] == 'paper'
                (got[model['Name']],) = result['Metrics'].values()
                (line,) = [x for x in readme.splitlines() if f'({model["Name"]}.py)' in x]
                assert folder == 'vanilla' or f'{got[model["Name"]]:.2f}' in line
        assert got == figures
