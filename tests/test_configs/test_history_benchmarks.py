"""The configs of Zipf's label smoothing and RecursiveMix against what their authors publish."""

import pytest
import torch
import yaml
from helpers import ROOT
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.registry import DATASETS, MODELS, TRANSFORMS, init_default_scope

from kd_plugins.networks import resolve_network

# Config, lr, batch over all processes, epochs, milestones, lambda, classes, pixels, top-1
# of arXiv 2207.12980 (README.md of megvii-research/zipfls, 108e27a).
ZIPF = [
    ('preact-resnet18_1xb128_cifar100', 128, 200, [100, 150], 0.1, 100, 77.38),
    ('preact-resnet18_1xb128_tiny-imagenet', 128, 200, [100, 150], 1.0, 200, 59.25),
    ('resnet50_4xb64_in1k', 256, 100, [30, 60, 90], 0.1, 1000, None),
    ('resnet50_4xb64_inat21', 256, 100, [30, 60, 90], 1.0, 10000, None),
]
# Config, processes, batch over all of them, omega, classes.
MIX = [
    ('pyramidnet200_2xb32_cifar10', 2, 64, 0.1, 10),
    ('pyramidnet200_2xb32_cifar100', 2, 64, 0.1, 100),
    ('resnet50_8xb64_in1k', 8, 512, 0.5, 1000),
]
CIFAR = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.fixture(autouse=True)
def scope():
    init_default_scope('mmpretrain')


def assert_normalised(cfg, wanted):
    for key, values in zip(('mean', 'std'), wanted, strict=True):
        assert cfg.data_preprocessor[key] == pytest.approx([255 * v for v in values])


def kinds(pipeline):
    return [step['type'].removeprefix('kd_plugins.') for step in pipeline]


@pytest.mark.parametrize('row', ZIPF, ids=lambda row: row[0])
def test_zipf_is_as_published(row):
    name, batch, epochs, milestones, weight, classes, _ = row
    cfg = Config.fromfile(ROOT / f'configs/zipf/zipf_{name}.py')
    sgd = dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=1e-4)
    assert dict(cfg.optim_wrapper.optimizer) == sgd
    processes = int(name.split('_')[1].split('x')[0])
    assert processes * cfg.train_dataloader.batch_size == batch == cfg.auto_scale_lr.base_batch_size
    assert cfg.train_cfg.max_epochs == epochs
    assert (cfg.param_scheduler.milestones, cfg.param_scheduler.gamma) == (milestones, 0.1)
    (loss,) = cfg.model.distiller.distill_losses.values()
    assert dict(loss) == dict(type='kd_plugins.ZipfLoss', loss_weight=weight)
    dense = cfg.model.distiller.student_recorders.dense
    # 64 votes of maps of 4 x 4; 49 of the maps of ImageNet.
    assert dense.get('upsample', 1) == (2 if 'preact' in name else 1)
    assert cfg.model.teacher is None and cfg.model.architecture.head.num_classes == classes
    assert cfg.data_preprocessor.num_classes == classes
    assert_normalised(cfg, CIFAR if 'cifar' in name else IMAGENET)
    # Whole models start as torch's and torchvision's do.
    assert cfg.model.architecture.head.init_cfg is None
    if 'resnet50' in name:
        assert cfg.model.architecture.backbone.zero_init_residual is False
    train = cfg.train_dataloader.dataset.pipeline
    sizes = {'cifar100': 32, 'tiny-imagenet': 32, 'in1k': 224, 'inat21': 224}
    size = sizes[name.split('_')[-1]]
    crop = 'RandomCrop' if 'cifar' in name else 'RandomResizedCrop'
    assert kinds(train)[-3:] == [crop, 'RandomFlip', 'PackInputs']
    assert train[-3].get('crop_size', train[-3].get('scale')) == size
    if 'tiny' in name:
        assert kinds(cfg.val_dataloader.dataset.pipeline)[1:] == ['ResizeEdge', 'PackInputs']
        for key in ('val_dataloader', 'test_dataloader'):
            assert cfg[key].dataset.pipeline[1].scale == 32


@pytest.mark.parametrize('row', MIX, ids=lambda row: row[0])
def test_recursive_mix_is_as_published(row):
    name, processes, batch, omega, classes = row
    cfg = Config.fromfile(ROOT / f'configs/recursive_mix/recursive-mix_{name}.py')
    assert f'{processes}xb{batch // processes}' in name
    assert processes * cfg.train_dataloader.batch_size == batch == cfg.auto_scale_lr.base_batch_size
    assert cfg.train_cfg.max_epochs == 300
    (part,) = cfg.model.batch_parts
    assert dict(part) == dict(type='kd_plugins.RecursiveMix', alpha=0.5)
    (loss,) = cfg.model.distiller.distill_losses.values()
    channels = 1024 if classes < 1000 else 2048
    assert dict(loss) == dict(
        type='kd_plugins.RecursiveMixLoss',
        loss_weight=omega,
        channels=channels,
        num_classes=classes,
    )
    assert cfg.model.teacher is None and cfg.model.architecture.head.num_classes == classes
    assert cfg.data_preprocessor.num_classes == classes
    assert_normalised(cfg, CIFAR if classes < 1000 else IMAGENET)
    optimizer = dict(cfg.optim_wrapper.optimizer)
    if classes < 1000:
        assert cfg.train_dataloader.dataset.type == f'CIFAR{classes}'
        assert cfg.test_dataloader.dataset.type == f'CIFAR{classes}'
        assert optimizer == dict(
            type='SGD', lr=0.25, momentum=0.9, weight_decay=1e-4, nesterov=True
        )
        assert cfg.model.architecture.backbone.depth == 200
        assert cfg.model.architecture.backbone.alpha == 240
    else:
        assert optimizer == dict(type='SGD', lr=0.2, momentum=0.9, weight_decay=1e-4)
        pipeline = cfg.train_dataloader.dataset.pipeline
        assert kinds(pipeline)[-3:] == ['ColorJitter', 'Lighting', 'PackInputs']
        jitter, lighting = pipeline[-3], pipeline[-2]
        assert {jitter[k] for k in ('brightness', 'contrast', 'saturation')} == {0.4}
        assert lighting.alphastd == 0.1
        assert lighting.eigval == pytest.approx([255 * v for v in (0.2175, 0.0188, 0.0045)])


# Epoch from 1 and learning rate, in the logs of implus/RecursiveMix-pytorch (ed381bf),
# logs/log_cifar10_300epoch_pyramidnet_rm_97.60_top1_acc.log and
# log_imagenet_300epoch_r50_rm_79.20_top1_acc.log.
LOGGED = {
    'pyramidnet200_2xb32_cifar10': {
        1: 0.041667, 2: 0.083333, 5: 0.208333, 6: 0.25, 7: 0.25, 150: 0.25, 151: 0.025,
        225: 0.025, 226: 0.0025, 300: 0.0025,
    },
    'resnet50_8xb64_in1k': {
        1: 0.033333, 2: 0.066667, 5: 0.166667, 6: 0.199863, 7: 0.199803, 150: 0.101047,
        151: 0.1, 225: 0.030034, 226: 0.029289, 300: 0.000005,
    },
}  # fmt: skip


@pytest.mark.parametrize('name', LOGGED)
def test_learning_rates_are_those_of_the_published_logs(name):
    from mmengine.optim import OptimWrapper
    from mmengine.registry import PARAM_SCHEDULERS

    cfg = Config.fromfile(ROOT / f'configs/recursive_mix/recursive-mix_{name}.py')
    settings = {k: v for k, v in cfg.optim_wrapper.optimizer.items() if k != 'type'}
    sgd = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], **settings)
    wrapper = OptimWrapper(sgd)
    schedulers = [
        PARAM_SCHEDULERS.build(each, default_args=dict(optimizer=wrapper))
        for each in cfg.param_scheduler
    ]
    sgd.step()
    rates = {}
    for epoch in range(1, 301):
        rates[epoch] = sgd.param_groups[0]['lr']
        for scheduler in schedulers:
            scheduler.step()
    for epoch, wanted in LOGGED[name].items():
        # In the warm-up theirs is not yet on the cosine, 0.05 % below.
        assert rates[epoch] == pytest.approx(wanted, rel=1e-3 if epoch < 6 else 1e-5, abs=6e-7)


def test_the_detector_starts_from_the_mixed_backbone(tmp_path, monkeypatch):
    name = 'configs/recursive_mix/atss_r50-recursive-mix_fpn_1x_coco.py'
    cfg = Config.fromfile(ROOT / name)
    stock = get_config('mmdet::atss/atss_r50_fpn_1x_coco.py')
    init_cfg = cfg.model.backbone.pop('init_cfg')
    stock.model.backbone.pop('init_cfg')
    for key in ('backbone', 'neck', 'bbox_head', 'train_cfg', 'test_cfg', 'data_preprocessor'):
        assert cfg.model[key] == stock.model[key]
    trained = 'recursive-mix_resnet50_8xb64_in1k'
    assert init_cfg.checkpoint == f'work_dirs/{trained}/epoch_300.pth'
    source = Config.fromfile(ROOT / f'configs/recursive_mix/{trained}.py')
    assert source.train_cfg.max_epochs == 300
    # It normalises as the classifier did, and takes all of its backbone and nothing else.
    for key in ('mean', 'std'):
        assert cfg.model.data_preprocessor[key] == source.data_preprocessor[key]
    classifier = MODELS.build(dict(source.model, data_preprocessor=source.data_preprocessor))
    checkpoint = tmp_path / init_cfg.checkpoint
    checkpoint.parent.mkdir(parents=True)
    torch.save(dict(state_dict=classifier.state_dict(), meta={}), checkpoint)
    monkeypatch.chdir(tmp_path)
    init_default_scope('mmdet')
    detector = MODELS.build(dict(cfg.model, backbone=dict(cfg.model.backbone, init_cfg=init_cfg)))
    detector.backbone.init_weights()
    wanted = classifier.backbone.state_dict()
    for key, value in detector.backbone.state_dict().items():
        assert torch.equal(value, wanted[key])


def test_pictures_of_inaturalist_are_class_folders(tmp_path):
    cfg = Config.fromfile(ROOT / 'configs/zipf/zipf_resnet50_4xb64_inat21.py')
    import numpy as np
    from mmcv import imwrite

    for folder in ('train_mini', 'val'):
        for kind in ('00000_Animalia', '00001_Animalia'):
            path = tmp_path / folder / kind / 'a.jpg'
            imwrite(np.full((300, 260, 3), 90, np.uint8), str(path))
    for key, folder in (('train_dataloader', 'train_mini'), ('val_dataloader', 'val')):
        dataset = DATASETS.build(dict(cfg[key].dataset, data_root=str(tmp_path)))
        assert len(dataset) == 2 and dataset.data_prefix['img_path'].endswith(folder)
        sample = dataset[1]
        assert sample['inputs'].shape == (3, 224, 224) and sample['data_samples'].gt_label == 1


def test_colours_are_changed_as_published():
    import numpy as np

    cfg = Config.fromfile(ROOT / 'configs/recursive_mix/recursive-mix_resnet50_8xb64_in1k.py')
    lighting = TRANSFORMS.build(cfg.train_dataloader.dataset.pipeline[-2])
    grey = np.full((2, 2, 3), 100.0, np.float32)
    shifts = np.array([lighting(dict(img=grey.copy()))['img'][0, 0] - 100 for _ in range(4000)])
    # In blue, green, red, the order of pictures that are read by cv2.
    vectors = np.array(
        [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]]
    )
    values = 255 * np.array([0.2175, 0.0188, 0.0045])
    wanted = (vectors * values * 0.1) @ (vectors * values * 0.1).T
    assert np.allclose(np.cov(shifts.T)[::-1, ::-1], wanted, rtol=0.1)


def test_figures_are_the_sources():
    def listed(folder):
        rows = yaml.safe_load((ROOT / f'configs/{folder}/metafile.yml').read_text())['Models']
        return {
            row['Name']: (
                row['Metadata']['Source of results'],
                *row['Results'][0]['Metrics'].values(),
            )
            for row in rows
        }

    assert listed('zipf') == {
        f'zipf_{row[0]}': ('paper', row[-1]) for row in ZIPF if row[-1] is not None
    }
    assert listed('recursive_mix') == {
        'recursive-mix_pyramidnet200_2xb32_cifar10': ('paper', 97.65),
        'recursive-mix_resnet50_8xb64_in1k': ('paper', 79.20),
        'atss_r50-recursive-mix_fpn_1x_coco': ('paper', 41.5),
    }
    for folder in ('zipf', 'recursive_mix'):
        readme = (ROOT / f'configs/{folder}/README.md').read_text()
        for path in (ROOT / f'configs/{folder}').glob('*.py'):
            (line,) = [line for line in readme.splitlines() if f']({path.name})' in line]
            figures = listed(folder).get(path.stem)
            assert figures is None or f'{figures[1]:g}' in line.replace('79.20', '79.2')


def test_networks_are_the_published_ones():
    for path, number in (
        ('zipf/zipf_preact-resnet18_1xb128_cifar100.py', 11217444),
        ('zipf/zipf_resnet50_4xb64_in1k.py', 25557032),
        ('recursive_mix/recursive-mix_pyramidnet200_2xb32_cifar100.py', 26844952),
    ):
        cfg = Config.fromfile(ROOT / 'configs' / path)
        network, _ = resolve_network(cfg.model.architecture, 'model.architecture')
        built = MODELS.build(network)
        assert sum(p.numel() for p in built.parameters()) == number
