"""The configs of DIST, WTTM and LSKD against the published settings and figures."""

import pytest
import yaml
from helpers import ROOT
from mmengine.config import Config

# Pair, learning rate and the paper's top-1 on CIFAR-100. github.com/hunto/DIST_KD, README and
# classification/configs/strategies/distill/dist_cifar.yaml.
DIST = [
    ('wrn40_2_wrn40_1', 0.05, 74.43),
    ('resnet56_resnet20', 0.05, 71.75),
    ('resnet32x4_resnet8x4', 0.05, 76.31),
    ('resnet50_mobilenetv2', 0.01, 68.66),
    ('resnet32x4_shufflenetv1', 0.01, 76.34),
    ('resnet32x4_shufflenetv2', 0.01, 77.35),
]
# ImageNet: resnet_dist.yaml there.
DIST_IMAGENET = [('resnet34_resnet18', 72.07), ('resnet50_mobilenetv1', 73.24)]
# Pair, base temperature, weight (and beta), top-1: names of the logs, and the tables, of
# github.com/sunshangquan/logit-standardization-KD at f6e5aa5.
LSKD_KD = [
    ('resnet32x4_resnet8x4', 2, 9, 76.62),
    ('vgg13_vgg8', 3, 9, 74.36),
    ('wrn40_2_wrn40_1', 2, 9, 74.37),
    ('wrn40_2_wrn16_2', 2, 9, 76.11),
    ('resnet56_resnet20', 2, 9, 71.43),
    ('resnet110_resnet32', 2, 9, 74.17),
    ('resnet110_resnet20', 4, 12, 71.48),
    ('resnet32x4_shufflenetv2', 2, 9, 75.56),
    ('vgg13_mobilenetv2', 3, 9, 68.61),
    ('resnet50_mobilenetv2', 3, 1, 69.02),
]
LSKD_DKD = [
    ('resnet32x4_resnet8x4', 2, 9, 8, 77.01),
    ('vgg13_vgg8', 2, 15, 2, 74.81),
    ('resnet56_resnet20', 3, 18, 2, 72.32),
    ('resnet50_mobilenetv2', 2, 15, 2, 70.45),
]
LSKD_CTKD = [
    ('resnet56_resnet20', 71.34), ('vgg13_vgg8', 74.47), ('wrn40_2_wrn40_1', 74.58),
]  # fmt: skip


def load(path):
    cfg = Config.fromfile(ROOT / 'configs' / path)
    loss = cfg.model.distiller.distill_losses.loss_kd
    return cfg, loss.to_dict(), cfg.model.architecture.head.loss.loss_weight


def lskd(tau):
    return dict(type='kd_plugins.LSKDTemperature', tau=tau)


@pytest.mark.parametrize(('pair', 'lr', '_'), DIST)
def test_dist_on_cifar_is_as_published(pair, lr, _):
    cfg, loss, ce = load(f'dist_kd/dist_{pair}_1xb64_cifar100.py')
    assert loss == dict(type='kd_plugins.DISTLoss', tau=4.0, loss_weight=2.0) and ce == 1.0
    assert cfg.optim_wrapper.optimizer.lr == lr and cfg.train_dataloader.batch_size == 64
    assert cfg.param_scheduler.milestones == [150, 180, 210] and cfg.train_cfg.max_epochs == 240


@pytest.mark.parametrize(('pair', '_'), DIST_IMAGENET)
def test_dist_on_imagenet_is_as_published(pair, _):
    cfg, loss, ce = load(f'dist_kd/dist_{pair}_8xb32_in1k.py')
    assert loss == dict(type='kd_plugins.DISTLoss', tau=1.0, loss_weight=2.0)
    assert cfg.model.architecture.head.get('loss', {}).get('loss_weight', ce) == 1.0
    sgd = dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=1e-4)
    assert dict(cfg.optim_wrapper.optimizer) == sgd and cfg.train_dataloader.batch_size == 32
    assert cfg.param_scheduler.milestones == [30, 60, 90] and cfg.train_cfg.max_epochs == 100
    assert cfg.auto_scale_lr.base_batch_size == 256


def test_ttm_and_wttm_are_as_printed():
    _, loss, ce = load('wttm/ttm_vgg13_vgg8_1xb64_cifar100.py')
    printed = dict(type='kd_plugins.WTTMLoss', gamma=0.1, loss_weight=45.0, weighted=False)
    assert loss == printed and ce == 1.0
    _, loss, ce = load('wttm/wttm_vgg13_vgg8_1xb64_cifar100.py')
    assert loss == dict(type='kd_plugins.WTTMLoss', gamma=0.2, loss_weight=4.0) and ce == 1.0


@pytest.mark.parametrize(('pair', 'tau', 'weight', '_'), LSKD_KD)
def test_lskd_with_kd_is_as_logged(pair, tau, weight, _):
    _, loss, ce = load(f'lskd/lskd_kd_{pair}_1xb64_cifar100.py')
    assert loss == dict(type='kd_plugins.KDLoss', tau=lskd(tau), loss_weight=weight)
    assert ce == 0.1


@pytest.mark.parametrize(('pair', 'tau', 'weight', 'beta', '_'), LSKD_DKD)
def test_lskd_with_dkd_is_as_logged(pair, tau, weight, beta, _):
    _, loss, ce = load(f'lskd/lskd_dkd_{pair}_1xb64_cifar100.py')
    expected = dict(alpha=1.0, beta=beta, loss_weight=weight, warmup=20)
    assert loss == dict(expected, type='kd_plugins.DKDLoss', tau=lskd(tau)) and ce == 1.0


@pytest.mark.parametrize(('pair', '_'), LSKD_CTKD)
def test_lskd_with_ctkd_is_as_logged(pair, _):
    cfg, loss, ce = load(f'lskd/lskd_ctkd_kd_{pair}_1xb64_cifar100.py')
    tau = lskd(dict(type='kd_plugins.GlobalTemperature'))
    assert loss == dict(type='kd_plugins.KDLoss', tau=tau, loss_weight=9.0) and ce == 0.1
    assert cfg.default_hooks.curriculum_temperature.length == 10


def test_lskd_on_imagenet_is_as_logged():
    cfg, loss, ce = load('lskd/lskd_kd_resnet34_resnet18_8xb64_in1k.py')
    assert loss == dict(type='kd_plugins.KDLoss', tau=lskd(2.0), loss_weight=9.0) and ce == 1.0
    assert cfg.optim_wrapper.optimizer.lr == 0.2 and 8 * cfg.train_dataloader.batch_size == 512


PHOTOGRAPHS = dict(
    dist='dist_kd/dist', wttm='wttm/wttm', lskd_kd='lskd/lskd_kd', lskd_dkd='lskd/lskd_dkd'
)


@pytest.mark.parametrize('name', PHOTOGRAPHS)
def test_photographs_are_seen_as_by_kd(name):
    cfg, _, ce = load(f'{PHOTOGRAPHS[name]}_resnet20_resnet8_1xb64_cifar10-small.py')
    kd, _, _ = load('kd/kd_resnet20_resnet8_1xb64_cifar10-small.py')
    for key in ('optim_wrapper', 'param_scheduler', 'train_cfg', 'train_dataloader'):
        assert cfg[key] == kd[key]
    assert cfg.model.teacher == kd.model.teacher
    assert cfg.model.teacher_ckpt == kd.model.teacher_ckpt
    assert ce == (0.1 if name == 'lskd_kd' else 1.0)


def test_metafiles_have_the_papers_figures():
    wanted = {
        'dist_kd': {f'dist_{p}_1xb64_cifar100': f for p, _, f in DIST}
        | {f'dist_{p}_8xb32_in1k': f for p, f in DIST_IMAGENET},
        'wttm': {'ttm_vgg13_vgg8_1xb64_cifar100': 74.33},
        'lskd': {f'lskd_kd_{p}_1xb64_cifar100': f for p, _, _, f in LSKD_KD}
        | {f'lskd_dkd_{p}_1xb64_cifar100': f for p, *_, f in LSKD_DKD}
        | {f'lskd_ctkd_kd_{p}_1xb64_cifar100': f for p, f in LSKD_CTKD},
    }
    for folder, figures in wanted.items():
        models = yaml.safe_load((ROOT / f'configs/{folder}/metafile.yml').read_text())['Models']
        assert all(model['Metadata']['Source of results'] == 'paper' for model in models)
        found = {m['Name']: m['Results'][0]['Metrics']['Top 1 Accuracy'] for m in models}
        assert found == figures
