"""The configs of FixMatch, FlexMatch, FullMatch and FullFlex against what their authors publish."""

import math

import pytest
import torch
from helpers import ROOT
from mmengine.config import Config
from mmengine.fileio import load
from mmengine.registry import DATASETS, OPTIM_WRAPPERS, PARAM_SCHEDULERS, init_default_scope

FOLDER = ROOT / 'configs/fullmatch'
KINDS = ('fixmatch', 'flexmatch', 'fullmatch', 'fullflex')
# Of config/*match of TorchSSL/TorchSSL (f26e1d4) and of fullmatch.py and config/ of
# megvii-research/FullMatch (c54c0b9): network, data, label counts, classes, unlabelled
# pictures (those of torchvision and ILSVRC), weight decay, iterations, labels a step.
SETTINGS = [
    ('wrn28-2', 'cifar10', [40, 250, 4000], 10, 50000, 5e-4, 2**20, 64),
    ('wrn28-8', 'cifar100', [400, 2500, 10000], 100, 50000, 1e-3, 2**20, 64),
    ('wrn28-2', 'svhn', [40, 250, 1000], 10, 73257 + 531131, 5e-4, 2**20, 64),
    ('wrn37-2', 'stl10', [40, 250, 1000], 10, 105000, 5e-4, 2**20, 64),
    ('resnet50', 'in1k', [100000], 1000, 1281167, 3e-4, 2000000, 32),
]
# README.md of TorchSSL: best accuracies.
TORCHSSL = {
    ('fixmatch', 'cifar10'): [92.53, 95.14, 95.79],
    ('flexmatch', 'cifar10'): [95.03, 95.02, 95.81],
    ('fixmatch', 'cifar100'): [53.58, 71.97, 77.8],
    ('flexmatch', 'cifar100'): [60.06, 73.51, 78.1],
    ('fixmatch', 'stl10'): [64.03, 90.19, 93.75],
    ('flexmatch', 'stl10'): [70.85, 91.77, 94.23],
    ('fixmatch', 'svhn'): [96.19, 97.98, 98.04],
    ('flexmatch', 'svhn'): [91.81, 93.41, 93.28],
    ('fixmatch', 'in1k'): [56.34],
    ('flexmatch', 'in1k'): [58.15],
}


def name_of(kind, network, data, labels):
    each = 4 if data == 'in1k' else 8
    return f'{kind}_{network}_8xb{each}_{data}-{"100k" if labels == 100000 else labels}'


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('row', SETTINGS, ids=lambda row: row[1])
def test_is_as_published(kind, row):
    network, data, counts, classes, unlabelled, decay, iterations, step = row
    for labels in counts:
        cfg = Config.fromfile(FOLDER / f'{name_of(kind, network, data, labels)}.py')
        model, loader = cfg.model, cfg.train_dataloader
        assert loader.dataset.labels_per_class * classes == labels
        assert loader.sampler.source_ratio == [1, 7] and loader.sampler.infinite
        # On eight processes.
        assert loader.batch_size == loader.sampler.batch_size == step // 8 * 8
        assert cfg.auto_scale_lr.base_batch_size == 8 * step
        terms = {name: dict(term) for name, term in model.distiller.distill_losses.items()}
        wanted = dict(loss_fixmatch=dict(type='kd_plugins.FixMatchLoss'))
        if 'full' in kind:
            wanted['loss_anl'] = dict(type='kd_plugins.ANLLoss')
            wanted['loss_eml'] = dict(type='kd_plugins.EMLLoss')
        assert terms == wanted
        label = dict(model.distiller.connectors.pseudo_labels)
        kinds = dict(type='kd_plugins.PseudoLabels')
        if 'flex' in kind:
            kinds = dict(type='kd_plugins.FlexiblePseudoLabels', num_unlabelled=unlabelled)
        assert label == dict(kinds, cutoff=0.95)
        assert model.architecture.head.num_classes == classes == cfg.data_preprocessor.num_classes
        optimizer = dict(type='SGD', lr=0.03, momentum=0.9, nesterov=True, weight_decay=decay)
        assert cfg.optim_wrapper.optimizer == optimizer
        assert cfg.train_cfg.max_iters == iterations and not cfg.train_cfg.by_epoch
        average = dict(
            type='EMAHook', ema_type='kd_plugins.ExponentialMovingAverage', momentum=0.001,
            from_start=True,
        )  # fmt: skip
        assert average in [dict(hook) for hook in cfg.custom_hooks]
        # fullmatch.py: with 400 labels of CIFAR-100 on several GPUs.
        assert cfg.get('sync_bn') == ('torch' if labels == 400 else None)


@pytest.mark.parametrize('data', ['cifar10', 'in1k'])
def test_the_learning_rate_and_the_decay_are_the_published_ones(data):
    row = next(row for row in SETTINGS if row[1] == data)
    cfg = Config.fromfile(FOLDER / f'{name_of("fullmatch", row[0], data, row[2][0])}.py')
    init_default_scope('mmpretrain')
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.BatchNorm2d(4))
    wrapper = dict(cfg.optim_wrapper, constructor='DefaultOptimWrapperConstructor')
    paramwise = wrapper.pop('paramwise_cfg')
    from mmengine.optim import build_optim_wrapper

    built = build_optim_wrapper(network, dict(wrapper, paramwise_cfg=paramwise))
    assert OPTIM_WRAPPERS.get('OptimWrapper') is type(built)
    decays = [group['weight_decay'] for group in built.optimizer.param_groups]
    assert decays == [row[5], 0, 0, 0]
    steps = 800
    schedule = dict(cfg.param_scheduler, optimizer=built)
    # The same schedule, of fewer steps.
    schedule.update(T_max=schedule['T_max'] * steps / row[6], end=steps)
    scheduler = PARAM_SCHEDULERS.build(schedule)
    for t in range(steps - 1):
        lr = built.optimizer.param_groups[0]['lr']
        assert math.isclose(lr, 0.03 * math.cos(7 * math.pi * t / (16 * steps)), rel_tol=1e-9)
        scheduler.step()


def test_the_strong_view_is_the_published_one():
    """Fourteen operations, two a picture, in the ranges of randaugment.py (FullMatch)."""
    cfg = Config.fromfile(FOLDER / 'fullmatch_wrn28-2_8xb8_cifar10-40.py')
    flip, crop, operations, cutout = cfg.train_dataloader.dataset.unlabelled.pipeline[0].transforms
    assert flip.prob == 0.5 and crop == dict(type='RandomCrop', crop_size=32, padding=4)
    assert operations.num_policies == 2 and operations.magnitude_std == 'inf'
    assert len(operations.policies) == 14
    assert dict(cutout) == dict(type='Cutout', shape=16, pad_val=127, prob=1.0)
    init_default_scope('mmpretrain')
    from mmpretrain.registry import TRANSFORMS

    built = TRANSFORMS.build(dict(operations))
    ranges = {}
    for transform in built.transforms:
        name = type(transform).__name__ + getattr(transform, 'direction', '')[:1]
        if transform.magnitude_range is None:
            continue
        draws = [transform.random_negative(transform.random_magnitude()) for _ in range(2000)]
        ranges[name] = (min(draws), max(draws))
        assert transform.prob == 0.5
    factor = {name: (1 + low, 1 + high) for name, (low, high) in ranges.items()}
    for name in ('Brightness', 'ColorTransform', 'Contrast', 'Sharpness'):
        assert factor[name] == pytest.approx((0.05, 0.95), abs=0.01)
    for name in ('Shearh', 'Shearv', 'Translateh', 'Translatev'):
        assert ranges[name] == pytest.approx((-0.3, 0.3), abs=0.01)
    assert ranges['Rotate'] == pytest.approx((-30, 30), abs=1)
    assert ranges['Solarize'] == pytest.approx((0, 256), abs=3)
    # It rounds up, theirs down: 4 to 7 bits.
    assert ranges['Posterize'] == pytest.approx((3, 7), abs=0.05)


def test_every_config_is_listed_with_the_published_figure():
    models = load(FOLDER / 'metafile.yml')['Models']
    listed = {model['Name']: model for model in models}
    assert {f'{name}.py' for name in listed} == {path.name for path in FOLDER.glob('*.py')}
    readme = (FOLDER / 'README.md').read_text()
    for network, data, counts, *_ in SETTINGS:
        for kind in KINDS:
            values = TORCHSSL.get((kind, data), [None] * len(counts))
            for labels, value in zip(counts, values, strict=True):
                results = listed[name_of(kind, network, data, labels)].get('Results')
                found = results and results[0]['Metrics']['Top 1 Accuracy']
                assert found == value
                assert value is None or f'{value:g}' in readme


def test_an_svhn_of_torchvision_is_read(monkeypatch):
    import numpy as np
    import torchvision

    class Files:
        def __init__(self, root, split, download=False):
            size = dict(train=3, extra=2, test=1)[split]
            asked.append((root, split, download))
            self.data = np.full((size, 3, 32, 32), size, np.uint8)
            self.data[:, 1] += 100
            self.labels = np.arange(size)

    asked = []
    monkeypatch.setattr(torchvision.datasets, 'SVHN', Files)
    cfg = dict(type='kd_plugins.SVHN', data_root='here', splits=['train', 'extra'])
    dataset = DATASETS.build(dict(cfg, download=False))
    assert len(dataset) == 5 and dataset.get_gt_labels().tolist() == [0, 1, 2, 0, 1]
    assert dataset.get_data_info(4)['img'].shape == (32, 32, 3)
    assert dataset.get_data_info(4)['img'][0, 0].tolist() == [2, 102, 2]
    assert asked == [('here', 'train', False), ('here', 'extra', False)]
    DATASETS.build(cfg)
    assert ('here', 'train', True) in asked
    for splits in ('train', ['train', 'unlabeled'], []):
        with pytest.raises(ValueError, match=r'SVHN.splits'):
            DATASETS.build(dict(cfg, splits=splits))


def test_an_stl10_of_torchvision_has_pictures_without_labels(monkeypatch):
    import numpy as np
    import torchvision

    class Files:
        def __init__(self, root, split, download=False):
            self.data = np.zeros((2, 3, 96, 96), np.uint8)
            self.labels = np.array([-1, -1] if split == 'unlabeled' else [3, 9])

    monkeypatch.setattr(torchvision.datasets, 'STL10', Files)
    dataset = DATASETS.build(
        dict(type='kd_plugins.STL10', data_root='here', splits=['unlabeled', 'train'])
    )
    labels = [dataset.get_data_info(i).get('gt_label') for i in range(4)]
    assert labels == [None, None, 3, 9] and len(dataset.metainfo['classes']) == 10
