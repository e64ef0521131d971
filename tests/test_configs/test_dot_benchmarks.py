"""DOT's benchmark configs against the published settings."""

import pytest
import yaml
from helpers import ROOT
from mmengine.config import Config

# Name, lr, batch on one machine, epochs, its milestones, weight decay, delta, tau,
# weights of KD and of the labels, and the paper's top-1. Settings:
# megvii-research/mdistiller at a08d46f10d6102bd6e3f258ca5ac880b020ea259,
# configs/*/dot; figures: arXiv 2307.08436.
CIFAR = (240, [150, 180, 210], 5e-4, 0.075, 4.0, 0.9, 0.1)
TINY = (200, [60, 120, 160], 5e-4, 0.075, 4.0, 0.9, 0.1)
IMAGENET = (100, [30, 60, 90], 1e-4, 0.09, 1.0, 0.5, 0.5)
PUBLISHED = [
    ('resnet32x4_resnet8x4_1xb64_cifar100', 0.05, 64, *CIFAR, 75.12),
    ('vgg13_vgg8_1xb64_cifar100', 0.05, 64, *CIFAR, 73.77),
    ('resnet32x4_shufflenetv2_1xb64_cifar100', 0.01, 64, *CIFAR, 75.55),
    ('resnet18_mobilenetv2_1xb256_tiny-imagenet', 0.2, 256, *TINY, 64.01),
    ('resnet18_shufflenetv2_1xb256_tiny-imagenet', 0.2, 256, *TINY, 65.75),
    ('resnet34_resnet18_8xb64_in1k', 0.2, 512, *IMAGENET, 71.72),
    ('resnet50_mobilenetv1_8xb64_in1k', 0.2, 512, *IMAGENET, 73.09),
]


@pytest.mark.parametrize('row', PUBLISHED, ids=lambda row: row[0])
def test_settings_and_figures_are_as_published(row):
    pair, lr, batch, epochs, milestones, decay, delta, tau, kd_weight, ce_weight, top1 = row
    name = f'dot_kd_{pair}'
    cfg = Config.fromfile(ROOT / 'configs/dot' / f'{name}.py')
    wrapper = cfg.optim_wrapper
    assert (wrapper.type, wrapper.delta) == ('kd_plugins.DOTOptimWrapper', delta)
    assert dict(wrapper.optimizer) == dict(type='SGD', lr=lr, momentum=0.9, weight_decay=decay)
    processes = int(pair.split('xb')[0][-1])
    assert cfg.train_dataloader.batch_size * processes == batch
    assert cfg.param_scheduler.milestones == milestones and cfg.param_scheduler.gamma == 0.1
    assert cfg.train_cfg.max_epochs == epochs
    kd = cfg.model.distiller.distill_losses.loss_kd
    assert (kd.type, kd.tau, kd.loss_weight) == ('kd_plugins.KDLoss', tau, kd_weight)
    assert cfg.model.architecture.head.loss.loss_weight == ce_weight
    models = yaml.safe_load((ROOT / 'configs/dot/metafile.yml').read_text())['Models']
    (listed,) = [model for model in models if model['Name'] == name]
    assert listed['Results'][0]['Metrics']['Top 1 Accuracy'] == top1
    readme = (ROOT / 'configs/dot/README.md').read_text()
    (line,) = [line for line in readme.splitlines() if f'({name}.py)' in line]
    assert f' {top1} |' in line


def test_only_the_optimizer_differs_from_the_training_without_dot():
    for path in (ROOT / 'configs/dot').glob('dot_*.py'):
        if 'digits' in path.stem or 'coco' in path.stem:
            continue
        base = path.stem.removeprefix('dot_')
        cfg = Config.fromfile(path)
        plain = Config.fromfile(ROOT / 'configs' / base.split('_')[0] / f'{base}.py')
        assert cfg.optim_wrapper.pop('delta') and cfg.optim_wrapper.pop('type')
        plain.optim_wrapper.pop('type', None)
        assert cfg.to_dict() == plain.to_dict()
