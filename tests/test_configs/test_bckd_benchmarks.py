"""BCKD's COCO configs against the published settings and mmdet's own configs."""

import pytest
import yaml
from helpers import ROOT
from mmengine.config import Config
from mmengine.hub import get_config

from kd_plugins.networks import resolve_network

# Config, stock student, stock teacher, epochs, milestones, alone, taught: box AP on
# val2017 by arXiv 2308.14286 and github.com/TinyTigerPan/BCKD (121c9aa), README.md.
R101 = 'gfl/gfl_r101_fpn_ms-2x_coco'
GFL = 'gfl/gfl_r50_fpn_1x_coco'
FCOS = 'fcos/fcos_{}-caffe_fpn_gn-head_ms-640-800-2x_coco'
ONE, TWO = (12, [8, 11]), (24, [16, 22])
PUBLISHED = [
    ('gfl_r101_r50_fpn_1x', GFL, R101, *ONE, 40.1, 43.2),
    ('gfl_r101_r34_fpn_1x', 'ld/ld_r34-gflv1-r101_fpn_1x_coco', R101, *ONE, 38.9, '42.0'),
    ('gfl_r101_r18_fpn_1x', 'ld/ld_r18-gflv1-r101_fpn_1x_coco', R101, *ONE, 35.8, 38.6),
    ('gfl_r101_mobilenetv2_fpn_1x', None, R101, *ONE, None, None),
    ('gfl_swin-t_r50_fpn_1x', GFL, None, *ONE, None, None),
    ('atss_r101_r50_fpn_1x', 'atss/atss_r50_fpn_1x_coco', 'atss/atss_r101_fpn_1x_coco', *ONE,
     None, None),
    ('fcos_r101_r50_fpn_ms-2x', FCOS.format('r50'), FCOS.format('r101'), *TWO, None, None),
    ('retinanet_r101_r50_fpn_2x', 'retinanet/retinanet_r50_fpn_2x_coco',
     'retinanet/retinanet_r101_fpn_2x_coco', *TWO, None, None),
]  # fmt: skip


def load(name):
    return Config.fromfile(ROOT / 'configs/bckd' / f'bckd_{name}_coco.py')


def plain(cfg):
    """A part of a config, however it was inherited."""
    if isinstance(cfg, dict):
        return {key: plain(value) for key, value in cfg.items() if key != '_scope_'}
    return [plain(value) for value in cfg] if isinstance(cfg, list) else cfg


@pytest.mark.parametrize('row', PUBLISHED, ids=lambda row: row[0])
def test_settings_are_as_published(row):
    name, student, teacher, epochs, milestones, *_ = row
    cfg = load(name)
    sgd = dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=1e-4)
    assert dict(cfg.optim_wrapper.optimizer) == sgd
    # The published code clips nothing; upstream's FCOS does.
    assert ('clip_grad' in cfg.optim_wrapper) == name.startswith('fcos')
    assert 8 * cfg.train_dataloader.batch_size == 16
    assert cfg.train_cfg.max_epochs == epochs
    warm_up, steps = cfg.param_scheduler
    assert (warm_up.begin, warm_up.end) == (0, 500)
    assert steps.milestones == milestones and steps.gamma == 0.1
    terms = cfg.model.distiller.distill_losses
    assert dict(terms.loss_bckd_cls) == dict(
        type='kd_plugins.BCKDClassificationLoss', loss_weight=1.0
    )
    assert dict(terms.loss_bckd_loc) == dict(
        type='kd_plugins.BCKDLocalizationLoss',
        loss_iou=dict(type='mmdet.GIoULoss'),
        loss_weight=4.0,
    )
    built, _ = resolve_network(cfg.model.architecture, 'model.architecture')
    if student is not None:
        stock = get_config(f'mmdet::{student}.py').model
        for part in ('backbone', 'neck', 'data_preprocessor', 'train_cfg', 'test_cfg'):
            assert built.get(part) == stock.get(part)
        if not student.startswith('ld/'):
            assert built.bbox_head == stock.bbox_head and built.type == stock.type
    if teacher is not None:
        # The weights that the package's index lists for exactly this config.
        whole = get_config(f'mmdet::{teacher}.py', pretrained=True)
        network, weights = resolve_network(cfg.model.teacher, 'model.teacher')
        assert weights == whole.model_path and weights.startswith('https://')
        assert network.backbone == whole.model.backbone and network.backbone.depth == 101
        assert 'teacher_ckpt' not in cfg.model


def test_gfl_students_lose_as_published():
    cfg = load('gfl_r101_r18_fpn_1x')
    head = cfg.model.architecture.bbox_head
    assert (head.loss_cls.type, head.loss_cls.beta, head.loss_cls.loss_weight) == (
        'QualityFocalLoss', 2.0, 1.0,
    )  # fmt: skip
    assert (head.loss_dfl.loss_weight, head.loss_bbox.loss_weight) == (0.25, 2.0)
    assert head.loss_bbox.type == 'GIoULoss' and head.reg_max == 16
    warm_up = cfg.param_scheduler[0]
    assert (warm_up.type, warm_up.start_factor) == ('LinearLR', 0.001)
    resize = next(s for s in cfg.train_dataloader.dataset.pipeline if 'Resize' in s.type)
    assert resize.scale == (1333, 800)
    for depth in (18, 34, 50):
        backbone = load(f'gfl_r101_r{depth}_fpn_1x').model.architecture.backbone
        assert backbone.init_cfg.checkpoint == f'torchvision://resnet{depth}'
        assert backbone.frozen_stages == 1 and backbone.norm_eval is True


def test_mobilenet_student_is_as_published():
    student = load('gfl_r101_mobilenetv2_fpn_1x').model.architecture
    assert student.backbone == dict(
        type='MobileNetV2',
        out_indices=(1, 2, 4, 6),
        act_cfg=dict(type='LeakyReLU', negative_slope=0.1),
        init_cfg=dict(type='Pretrained', checkpoint='open-mmlab://mmdet/mobilenet_v2'),
    )
    assert student.neck.in_channels == [24, 32, 96, 320] and student.neck.start_level == 1


def test_swin_teacher_is_what_its_own_training_leaves():
    cfg = load('gfl_swin-t_r50_fpn_1x')
    alone = Config.fromfile(ROOT / 'configs/vanilla/gfl_swin-t_fpn_ms-2x_coco.py')
    network, weights = resolve_network(cfg.model.teacher, 'model.teacher')
    assert weights is None
    assert plain(network) == plain(alone.model)
    # A Swin-T has 28 million weights and gives three maps.
    assert network.backbone.type == 'SwinTransformer' and network.backbone.embed_dims == 96
    folder, last = cfg.model.teacher_ckpt.split('/')[1:]
    assert folder == 'gfl_swin-t_fpn_ms-2x_coco' and last == 'epoch_24.pth'
    assert alone.train_cfg.max_epochs == 24


@pytest.mark.parametrize('depth', [18, 34, 50])
def test_ld_is_mmdets_own(depth):
    cfg = Config.fromfile(ROOT / f'configs/ld/ld_gfl_r101_r{depth}_fpn_1x_coco.py')
    stock = get_config(f'mmdet::ld/ld_r{depth}-gflv1-r101_fpn_1x_coco.py')
    teacher = cfg.model.pop('teacher_config')
    assert teacher.endswith(stock.model.pop('teacher_config'))
    assert plain(cfg.model) == plain(stock.model)
    assert Config.fromfile(teacher).model.backbone.depth == 101
    for key in ('optim_wrapper', 'param_scheduler', 'train_cfg', 'train_dataloader'):
        assert plain(cfg[key]) == plain(stock[key])
    assert cfg.model.bbox_head.loss_ld.T == 10


def listed(folder):
    rows = yaml.safe_load((ROOT / f'configs/{folder}/metafile.yml').read_text())['Models']
    return {
        row['Name']: (row['Metadata']['Source of results'], row['Results'][0]['Metrics']['box AP'])
        for row in rows
    }


def test_figures_are_the_sources():
    wanted = {
        f'bckd_{row[0]}_coco': ('paper', float(row[-1])) for row in PUBLISHED if row[-1] is not None
    }
    assert listed('bckd') == wanted
    readme = (ROOT / 'configs/bckd/README.md').read_text()
    for name, *_, alone, taught in PUBLISHED:
        (line,) = [line for line in readme.splitlines() if f'(bckd_{name}_coco.py)' in line]
        figures = [f' {value} |' for value in (alone, taught) if value is not None]
        assert all(figure in line for figure in figures)
        assert figures or line.endswith('| COCO | | |')


def test_mmdets_figures_are_those_of_its_index():
    from pathlib import Path

    import mmdet

    index = Path(mmdet.__file__).parent / '.mim/configs/ld/metafile.yml'
    rows = yaml.safe_load(index.read_text())['Models']
    theirs = {row['Name']: row['Results'][0]['Metrics']['box AP'] for row in rows}
    assert listed('ld') == {
        f'ld_gfl_r101_r{depth}_fpn_1x_coco': (
            'mmdet',
            theirs[f'ld_r{depth}-gflv1-r101_fpn_1x_coco'],
        )
        for depth in (18, 34, 50)
    }
