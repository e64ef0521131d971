"""The configs of CWD, PKD, MGD and SL2 against the published settings and figures."""

import logging
from types import SimpleNamespace

import pytest
import torch
import yaml
from helpers import ROOT
from helpers.detection import images, untrained
from mmengine.config import Config
from mmengine.registry import HOOKS, MODELS

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


#: The student, the next larger one and mmyolo's box AP.
RTMDET = dict(tiny=('s', 96, 128, 41.8), s=('m', 128, 192, 45.7), m=('l', 192, 256, 50.2))


def rtmdet(student):
    name = f'cwd_rtmdet_{RTMDET[student][0]}_{student}_8xb32-300e_coco'
    return name, Config.fromfile(ROOT / f'configs/cwd/{name}.py')


def hook_of(cfg, kind):
    (hook,) = [hook for hook in cfg.custom_hooks if hook.type.split('.')[-1] == kind]
    return hook


@pytest.mark.parametrize('student', RTMDET)
def test_rtmdets_recipe_is_mmyolos(student):
    name, cfg = rtmdet(student)
    teacher, before, after, figure = RTMDET[student]
    assert cfg.model.teacher.cfg_path == f'mmdet::rtmdet/rtmdet_{teacher}_8xb32-300e_coco.py'
    assert cfg.model.architecture.neck.out_channels == before
    assert cfg.model.distiller.connectors.projector == dict(
        type='kd_plugins.MapsConnector', in_channels=[before] * 3, out_channels=[after] * 3
    )
    assert cfg.model.distiller.distill_losses.loss_cwd == dict(
        type='kd_plugins.CWDLoss', tau=1.0, loss_weight=1.0, normed=True
    )
    # The term ends as the pipeline changes; the average and the rest are the student's.
    ends = hook_of(cfg, 'StopDistillHook').stop_epoch
    assert ends == hook_of(cfg, 'PipelineSwitchHook').switch_epoch == 280
    assert hook_of(cfg, 'EMAHook').momentum == 0.0002 and cfg.train_cfg.max_epochs == 300
    models = yaml.safe_load((ROOT / 'configs/cwd/metafile.yml').read_text())['Models']
    (model,) = [model for model in models if model['Name'] == name]
    assert model['Results'][0]['Metrics']['box AP'] == figure
    assert model['Metadata']['Source of results'] == 'mmyolo'


def test_rtmdets_term_ends_with_the_epoch():
    _, cfg = rtmdet('tiny')
    torch.manual_seed(0)
    model = MODELS.build(untrained(cfg)).train()
    hook = HOOKS.build(hook_of(cfg, 'StopDistillHook'))
    data = model.data_preprocessor(images(), True)
    projector = model.distiller.connectors['projector']
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    for epoch, taught in ((0, True), (279, True), (280, False), (281, False)):
        hook.before_train_epoch(
            SimpleNamespace(epoch=epoch, model=model, logger=logging.getLogger('silent'))
        )
        before = [p.detach().clone() for p in model.parameters()]
        learned = [p.detach().clone() for p in projector.parameters()]
        losses = model(**data, mode='loss')
        assert ('distill.loss_cwd' in losses) is taught and 'student.loss_cls' in losses
        optimizer.zero_grad()
        model.parse_losses(losses)[0].backward()
        optimizer.step()
        same = [torch.equal(a, b) for a, b in zip(learned, projector.parameters(), strict=True)]
        assert all(same) is not taught
        assert not all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
