"""The configs of CWD, PKD, MGD and SL2 against the published settings and figures."""

import pytest
import yaml
from helpers import ROOT
from mmengine.config import Config

RETINANET = 'mmdet::retinanet/retinanet_x101-64x4d_fpn_1x_coco.py'
FPN = dict(channels_S=[256] * 5, channels_T=[256] * 5)
#: The loss, the teacher, and the paper's box AP.
COCO = {
    'cwd_retinanet_r101_r50_fpn_1x_coco': (
        dict(type='kd_plugins.CWDLoss', tau=1.0, loss_weight=10.0),
        'mmdet::retinanet/retinanet_r101_fpn_2x_coco.py', None,
    ),
    'pkd_retinanet_x101_r50_fpn_2x_coco': (
        dict(type='kd_plugins.PKDLoss', loss_weight=10.0, levels=[0, 1, 2, 3]), RETINANET, 40.8,
    ),
    'mgd_retinanet_x101_r50_fpn_2x_coco': (
        dict(type='kd_plugins.MGDLoss', loss_weight=2e-5, mask_ratio=0.65, **FPN), RETINANET, 41.0,
    ),
    'sl2_gfl_r101_r50_fpn_1x_coco': (
        dict(type='kd_plugins.SL2Loss', loss_weight=6.0, **FPN),
        'mmdet::gfl/gfl_r101_fpn_ms-2x_coco.py', None,
    ),
}  # fmt: skip


@pytest.mark.parametrize('name', COCO)
def test_coco_is_as_published(name):
    method = name.split('_')[0]
    cfg = Config.fromfile(ROOT / f'configs/{method}/{name}.py')
    loss, teacher, figure = COCO[name]
    assert dict(cfg.model.distiller.distill_losses) == {f'loss_{method}': loss}
    assert cfg.model.teacher == dict(cfg_path=teacher, pretrained=True)
    assert cfg.optim_wrapper.optimizer.lr == 0.01
    assert 'levels' not in cfg
    models = yaml.safe_load((ROOT / f'configs/{method}/metafile.yml').read_text())['Models']
    (model,) = [model for model in models if model['Name'] == name]
    found = model['Results'][0]['Metrics']['box AP'] if 'Results' in model else None
    assert found == figure
    assert (figure is None) or model['Metadata']['Source of results'] == 'paper'


def test_mgds_student_starts_from_the_teacher_and_is_clipped():
    cfg = Config.fromfile(ROOT / 'configs/mgd/mgd_retinanet_x101_r50_fpn_2x_coco.py')
    assert cfg.optim_wrapper.clip_grad == dict(max_norm=35, norm_type=2)
    for part in ('neck', 'bbox_head'):
        start = cfg.model.architecture[part].init_cfg
        assert (start.type, start.prefix) == ('Pretrained', f'{part}.')
        assert 'retinanet_x101_64x4d_fpn_1x_coco' in start.checkpoint
