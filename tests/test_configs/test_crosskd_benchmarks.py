"""CrossKD's COCO configs against the published settings and figures."""

import pytest
import yaml
from helpers import ROOT
from mmengine.config import Config
from mmengine.hub import get_config

from kd_plugins.networks import resolve_network

GIOU, IOU = dict(type='mmdet.GIoULoss'), dict(type='mmdet.IoULoss')
FCOS = 'fcos/fcos_{}-caffe_fpn_gn-head_ms-640-800-2x_coco'
R101 = 'gfl/gfl_r101_fpn_ms-2x_coco'
# Config, stock student, stock teacher, epochs, after, weights, IoU loss, PKD's weight, and box AP
# on val2017, by github.com/jbwang1997/CrossKD (87e156a), configs/crosskd, configs/crosskd+pkd and
# README.md.
PUBLISHED = [
    ('gfl_r101_r50_fpn_1x', 'gfl/gfl_r50_fpn_1x_coco', R101, 12, 3, (1, 4), None, 6, 43.7, 43.9),
    ('retinanet_r101_r50_fpn_2x', 'retinanet/retinanet_r50_fpn_2x_coco',
     'retinanet/retinanet_r101_fpn_2x_coco', 24, 3, (1, 1), GIOU, 2, 39.7, 39.8),
    ('fcos_r101_r50_fpn_ms-2x', FCOS.format('r50'), FCOS.format('r101'), 24, 2, (0.4, 0.75), IOU,
     2, 41.1, 41.3),
    ('atss_r101_r50_fpn_1x', 'atss/atss_r50_fpn_1x_coco', 'atss/atss_r101_fpn_1x_coco', 12, 3,
     (1, 1), GIOU, 1, 41.8, 41.8),
    ('retinanet_swin-t_r50_fpn_1x', 'retinanet/retinanet_r50_fpn_1x_coco', None, 12, 3, (1, 1),
     GIOU, None, '38.0', None),
    ('gfl_r50_r18_fpn_1x', None, 'gfl/gfl_r50_fpn_1x_coco', 12, 3, (1, 4), None, None, None, None),
    ('retinanet_r50_r18_fpn_1x', 'retinanet/retinanet_r18_fpn_1x_coco',
     'retinanet/retinanet_r50_fpn_1x_coco', 12, 3, (1, 1), GIOU, None, None, None),
]  # fmt: skip


def load(name):
    return Config.fromfile(ROOT / f'configs/crosskd/crosskd_{name}_coco.py')


@pytest.mark.parametrize('row', PUBLISHED, ids=lambda row: row[0])
def test_settings_are_as_published(row):
    name, student, teacher, epochs, after, weights, iou, pkd, *_ = row
    cfg = load(name)
    assert cfg.optim_wrapper.optimizer.lr == 0.01 and cfg.train_cfg.max_epochs == epochs
    assert 8 * cfg.train_dataloader.batch_size == 16
    distiller = cfg.model.distiller
    assert distiller.student_recorders.inside == dict(type='kd_plugins.HeadFeatures', after=after)
    assert distiller.teacher_recorders.cross == dict(type='kd_plugins.CrossHead', question='inside')
    terms = distiller.distill_losses.to_dict()
    assert terms.pop('loss_crosskd_cls') == dict(
        type='kd_plugins.CrossKDClassificationLoss', loss_weight=weights[0]
    )
    loc = dict(type='kd_plugins.CrossKDLocalizationLoss', loss_weight=weights[1])
    assert terms.pop('loss_crosskd_loc') == (dict(loc, loss_iou=iou) if iou else loc)
    center = dict(type='kd_plugins.CrossKDCenternessLoss', loss_weight=1.0)
    assert terms == ({'loss_crosskd_center': center} if name.startswith('atss') else {})
    if student:
        built, _ = resolve_network(cfg.model.architecture, 'model.architecture')
        stock = get_config(f'mmdet::{student}.py').model
        assert all(built[key] == stock[key] for key in ('type', 'backbone', 'neck', 'bbox_head'))
    if teacher:
        assert cfg.model.teacher == dict(cfg_path=f'mmdet::{teacher}.py', pretrained=True)
        _, weights = resolve_network(cfg.model.teacher, 'model.teacher')
        assert weights.startswith('https://')
    if pkd:
        both = load(f'pkd_{name}').model.distiller
        terms = both.distill_losses.to_dict()
        assert terms.pop('loss_pkd') == dict(type='kd_plugins.PKDLoss', loss_weight=pkd)
        assert terms == distiller.distill_losses.to_dict()
        assert both.student_recorders.neck.type == 'kd_plugins.Features'


def test_figures_are_the_papers():
    models = yaml.safe_load((ROOT / 'configs/crosskd/metafile.yml').read_text())['Models']
    found = {model['Name']: model for model in models}
    readme = (ROOT / 'configs/crosskd/README.md').read_text()
    for name, *_, pkd, alone, both in PUBLISHED:
        rows = {f'crosskd_{name}_coco': alone, f'crosskd_pkd_{name}_coco': both}
        for key, figure in rows.items() if pkd else [*rows.items()][:1]:
            model = found.pop(key)
            metric = model['Results'][0]['Metrics']['box AP'] if 'Results' in model else None
            assert str(metric) == str(figure)
            assert figure is None or model['Metadata']['Source of results'] == 'paper'
            assert figure is None or f'| {figure} |' in readme
    assert not found
