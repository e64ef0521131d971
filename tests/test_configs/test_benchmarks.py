"""The benchmark configs against the papers' tables."""

import math

import numpy as np
import pytest
import torch
import yaml
from helpers import ROOT
from mmengine.config import Config
from mmengine.registry import DATASETS, MODELS, TRANSFORMS, init_default_scope

# Teacher, student, learning rate, DKD's beta, and top-1 of KD, DKD and CTKD on
# CIFAR-100. DKD: arXiv 2203.08679 and github.com/megvii-research/mdistiller;
# CTKD: arXiv 2211.16231 and github.com/zhengli97/CTKD.
PAIRS = [
    ('resnet56', 'resnet20', 0.05, 2, 70.66, 71.97, 71.19),
    ('resnet110', 'resnet32', 0.05, 2, 73.08, 74.11, 73.52),
    ('resnet110', 'resnet20', 0.05, None, 70.66, None, 70.99),
    ('resnet32x4', 'resnet8x4', 0.05, 8, 73.33, 76.32, None),
    ('wrn40_2', 'wrn16_2', 0.05, 6, 74.92, 76.23, 75.45),
    ('wrn40_2', 'wrn40_1', 0.05, 6, 73.54, 74.81, 73.93),
    ('vgg13', 'vgg8', 0.05, 6, 72.98, 74.68, 73.52),
    ('resnet32x4', 'shufflenetv1', 0.01, 8, 74.07, 76.45, 74.48),
    ('wrn40_2', 'shufflenetv1', 0.01, 8, 74.83, 76.70, 75.78),
    ('vgg13', 'mobilenetv2', 0.01, 6, 67.37, 69.71, 68.46),
    ('resnet50', 'mobilenetv2', 0.01, 8, 67.35, 70.35, 68.47),
    ('resnet32x4', 'shufflenetv2', 0.01, 8, 74.45, 77.07, 75.31),
]
# Parameters with 100 classes, recorded from mdistiller (a08d46f), and top-1 alone,
# from RepDistiller (b84f547).
NETWORKS = {
    'resnet56': (861620, 72.34),
    'resnet110': (1736564, 74.31),
    'resnet32x4': (7433860, 79.42),
    'resnet50': (23705252, 79.34),
    'wrn40_2': (2255156, 75.61),
    'vgg13': (9462180, 74.64),
    'resnet20': (278324, 69.06),
    'resnet32': (472756, 71.14),
    'resnet8x4': (1233540, 72.50),
    'wrn16_2': (703284, 73.26),
    'wrn40_1': (569780, 71.98),
    'vgg8': (3965028, 70.36),
    'mobilenetv2': (812836, 64.60),
    'shufflenetv1': (949258, 70.50),
    'shufflenetv2': (1355528, 71.82),
}
SLOW = ('mobilenetv2', 'shufflenetv1', 'shufflenetv2')


def load(path):
    cfg = Config.fromfile(ROOT / 'configs' / path)
    init_default_scope('mmpretrain')
    return cfg


def terms(cfg):
    """The distillation loss, and the weight of the student's own."""
    loss = cfg.model.distiller.distill_losses.loss_kd
    return dict(loss), cfg.model.architecture.head.loss.loss_weight


def parameters(model):
    return sum(p.numel() for p in MODELS.build(model).parameters())


def check_schedule(cfg, lr):
    assert dict(cfg.optim_wrapper.optimizer) == dict(
        type='SGD', lr=lr, momentum=0.9, weight_decay=5e-4
    )
    assert cfg.param_scheduler.milestones == [150, 180, 210] and cfg.param_scheduler.gamma == 0.1
    assert cfg.train_cfg.max_epochs == 240 and cfg.train_dataloader.batch_size == 64


@pytest.mark.parametrize('pair', PAIRS, ids=lambda pair: f'{pair[0]}-{pair[1]}')
def test_cifar_pairs_have_the_published_settings(pair):
    teacher, student, lr, beta, _, dkd, ctkd = pair
    stem = f'{teacher}_{student}_1xb64_cifar100.py'
    cfg = load(f'kd/kd_{stem}')
    kd = dict(type='kd_plugins.KDLoss', tau=4.0, loss_weight=0.9)
    assert terms(cfg) == (kd, 0.1)
    check_schedule(cfg, lr)
    assert parameters(cfg.model.architecture) == NETWORKS[student][0]
    assert parameters(cfg.model.teacher) == NETWORKS[teacher][0]
    # The teacher is what its own training leaves.
    assert cfg.model.teacher == load(f'vanilla/{teacher}_1xb64_cifar100.py').model
    assert cfg.model.teacher_ckpt == f'work_dirs/{teacher}_1xb64_cifar100/epoch_240.pth'
    if dkd is not None:
        cfg = load(f'dkd/dkd_{stem}')
        loss = dict(type='kd_plugins.DKDLoss', tau=4.0, alpha=1.0, beta=float(beta), warmup=20)
        assert terms(cfg) == (loss, 1.0)
        check_schedule(cfg, lr)
    if ctkd is not None:
        cfg = load(f'ctkd/ctkd_kd_{stem}')
        assert terms(cfg) == (dict(kd, tau=dict(type='kd_plugins.GlobalTemperature')), 0.1)
        assert cfg.default_hooks.curriculum_temperature.length == 10
        check_schedule(cfg, lr)
        # On DKD, beta is 2 for all of CIFAR-100, and the temperature warms up instead.
        cfg = load(f'ctkd/ctkd_dkd_{stem}')
        loss = dict(type='kd_plugins.DKDLoss', alpha=1.0, beta=2.0, loss_weight=1.0, warmup=1)
        assert terms(cfg) == (dict(loss, tau=dict(type='kd_plugins.GlobalTemperature')), 1.0)
        assert cfg.default_hooks.curriculum_temperature.length == 10
        check_schedule(cfg, lr)


@pytest.mark.parametrize('name', NETWORKS)
def test_networks_alone_have_the_published_settings(name):
    cfg = load(f'vanilla/{name}_1xb64_cifar100.py')
    check_schedule(cfg, 0.01 if name in SLOW else 0.05)
    network = MODELS.build(cfg.model)
    assert sum(p.numel() for p in network.parameters()) == NETWORKS[name][0]
    network.init_weights()
    fc = network.head.fc
    if name.startswith('vgg') or name == 'mobilenetv2':
        assert abs(fc.weight.std() / 0.01 - 1) < 5 / math.sqrt(2 * fc.weight.numel())
        assert not fc.bias.any()
        return
    bound = 1 / math.sqrt(fc.in_features)
    assert 0.98 * bound < fc.weight.abs().max() <= bound
    assert bool(fc.bias.any()) != name.startswith('wrn')
    # No residual branch starts at zero.
    norms = [m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert all((norm.weight == 1).all() for norm in norms)


@pytest.mark.parametrize(
    'pair, beta, parameters_S, parameters_T',
    [
        # torchvision's counts, and mdistiller's of MobileNetV1.
        ('resnet34_resnet18', 0.5, 11689512, 21797672),
        ('resnet50_mobilenetv1', 2.0, 4231976, 25557032),
    ],
)
def test_imagenet_pairs_have_the_published_settings(pair, beta, parameters_S, parameters_T):
    from kd_plugins.networks import resolve_network

    cfg = load(f'kd/kd_{pair}_8xb64_in1k.py')
    assert terms(cfg) == (dict(type='kd_plugins.KDLoss', tau=1.0, loss_weight=0.5), 0.5)
    student, _ = resolve_network(cfg.model.architecture, 'model.architecture')
    teacher, _ = resolve_network(cfg.model.teacher, 'model.teacher')
    assert (parameters(student), parameters(teacher)) == (parameters_S, parameters_T)
    alone = load(f'vanilla/{pair.split("_")[1]}_8xb64_in1k.py')
    assert alone.model.backbone == student.backbone
    assert alone.model.head.init_cfg is None and student.head.init_cfg is None
    dkd = load(f'dkd/dkd_{pair}_8xb64_in1k.py')
    loss = dict(type='kd_plugins.DKDLoss', tau=1.0, alpha=1.0, beta=beta, warmup=1)
    assert terms(dkd) == (loss, 1.0)
    for one in (cfg, dkd, alone):
        sgd = dict(type='SGD', lr=0.2, momentum=0.9, weight_decay=1e-4)
        assert dict(one.optim_wrapper.optimizer) == sgd
        assert one.param_scheduler.milestones == [30, 60, 90]
        assert one.train_cfg.max_epochs == 100 and 8 * one.train_dataloader.batch_size == 512


@pytest.mark.parametrize(
    'method, loss',
    [
        ('kd', dict(type='kd_plugins.KDLoss', loss_weight=1.0)),
        ('dkd', dict(type='kd_plugins.DKDLoss', loss_weight=1.0, alpha=1.0, beta=1.0, warmup=1)),
    ],
)
def test_ctkd_on_imagenet_has_the_published_settings(method, loss):
    cfg = load(f'ctkd/ctkd_{method}_resnet34_resnet18_8xb32_in1k.py')
    assert terms(cfg) == (dict(loss, tau=dict(type='kd_plugins.GlobalTemperature')), 1.0)
    sgd = dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=1e-4)
    assert dict(cfg.optim_wrapper.optimizer) == sgd
    assert cfg.param_scheduler.milestones == [30, 60, 90]
    assert cfg.train_cfg.max_epochs == 120 and 8 * cfg.train_dataloader.batch_size == 256
    assert cfg.default_hooks.curriculum_temperature.length == 5


def test_cifar_pictures_are_normalised_and_augmented_as_published():
    from torchvision import transforms

    cfg = load('vanilla/resnet20_1xb64_cifar100.py')
    picture = torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8)
    normalise = transforms.Normalize((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761))
    preprocess = MODELS.build(dict(cfg.data_preprocessor, type='ClsDataPreprocessor'))
    got = preprocess(dict(inputs=[picture]))['inputs'][0]
    torch.testing.assert_close(got, normalise(picture / 255), rtol=1e-5, atol=1e-5)
    # Of 81 crops and a mirror, all and no others come out, on black.
    pixels = (picture.permute(1, 2, 0).numpy() // 2 + 1).copy()
    padded = torch.nn.functional.pad(torch.from_numpy(pixels).permute(2, 0, 1), (4,) * 4)
    crops = {
        padded[:, y : y + 32, x : x + 32].numpy().tobytes() for y in range(9) for x in range(9)
    }
    mirrors = {
        padded[:, y : y + 32, x : x + 32].flip(2).numpy().tobytes()
        for y in range(9)
        for x in range(9)
    }
    pipeline = [TRANSFORMS.build(step) for step in cfg.train_dataloader.dataset.pipeline]
    seen = set()
    for _ in range(2000):
        results = dict(img=pixels.copy(), gt_label=0)
        for step in pipeline:
            results = step(results)
        seen.add(results['inputs'].numpy().tobytes())
    assert seen <= crops | mirrors and len(seen & crops) > 75 and len(seen & mirrors) > 75


# DOT's table: student, its parameters with 200 classes, and top-1 with KD.
TINY = [('mobilenetv2', 2497480, 58.35), ('shufflenetv2', 1355528 + 1024 * 100 + 100, 62.26)]


@pytest.mark.parametrize('student, number, _', TINY, ids=lambda value: str(value))
def test_tiny_imagenet_pairs_have_the_published_settings(student, number, _):
    cfg = load(f'kd/kd_resnet18_{student}_1xb256_tiny-imagenet.py')
    assert terms(cfg) == (dict(type='kd_plugins.KDLoss', tau=4.0, loss_weight=0.9), 0.1)
    alone = load(f'vanilla/{student}_1xb256_tiny-imagenet.py')
    teacher = load('vanilla/resnet18_1xb256_tiny-imagenet.py')
    assert cfg.model.teacher == teacher.model
    assert parameters(cfg.model.architecture) == parameters(alone.model) == number
    assert parameters(cfg.model.teacher) == 11220132 + 512 * 100 + 100
    for one in (cfg, alone, teacher):
        sgd = dict(type='SGD', lr=0.2, momentum=0.9, weight_decay=5e-4)
        assert dict(one.optim_wrapper.optimizer) == sgd
        assert one.param_scheduler.milestones == [60, 120, 160]
        assert one.train_cfg.max_epochs == 200 and one.train_dataloader.batch_size == 256


def test_tiny_imagenet_pictures_are_rotated_mirrored_and_normalised_as_published(tmp_path):
    import cv2
    from PIL import Image
    from torchvision import transforms

    cfg = load('vanilla/resnet18_1xb256_tiny-imagenet.py')
    picture = np.random.RandomState(0).randint(1, 256, (64, 64, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / 'a.png'), picture)
    preprocess = MODELS.build(dict(cfg.data_preprocessor, type='ClsDataPreprocessor'))
    normalise = transforms.Normalize((0.4802, 0.4481, 0.3975), (0.2302, 0.2265, 0.2262))

    def run(steps):
        results = dict(img_path=str(tmp_path / 'a.png'), gt_label=0)
        for step in [TRANSFORMS.build(step) for step in steps]:
            results = step(results)
        return preprocess(dict(inputs=[results['inputs']]))['inputs'][0]

    rgb = torch.from_numpy(picture[..., ::-1].copy()).permute(2, 0, 1)
    got = run(cfg.val_dataloader.dataset.pipeline)
    torch.testing.assert_close(got, normalise(rgb / 255), rtol=1e-5, atol=1e-5)
    black = normalise(torch.zeros(3, 64, 64))[:, 0, 0]
    middle = normalise(rgb / 255)[:, 31:33, 31:33].reshape(3, 4)

    def outside(angle):
        rotated = Image.new('L', (64, 64), 255).rotate(angle)
        return 64 * 64 - np.count_nonzero(rotated)

    most = 0
    for _ in range(60):
        got = run(cfg.train_dataloader.dataset.pipeline)
        most = max(most, int((got - black[:, None, None]).abs().amax(dim=0).lt(1e-5).sum()))
        # Turned about its centre and mirrored, a picture keeps its inner pixels there.
        assert ((got[:, 32, 32, None] - middle).abs().amax(dim=0) < 1e-4).any()
    # The widest of 60 angles lies between 15 and 20 degrees but for one in 30 million cases.
    assert outside(15) < most <= outside(20)


def figures(folder):
    models = yaml.safe_load((ROOT / 'configs' / folder / 'metafile.yml').read_text())['Models']
    for model in models:
        assert model['Metadata']['Source of results'] == 'paper'
    return {
        (m['Name'], m['Results'][0]['Dataset']): m['Results'][0]['Metrics']['Top 1 Accuracy']
        for m in models
        if m['Results'][0]['Dataset'] != 'COCO'
    }


def test_metafiles_have_the_papers_figures():
    wanted = {folder: {} for folder in ('vanilla', 'kd', 'dkd', 'ctkd')}
    for teacher, student, _, _, kd, dkd, ctkd in PAIRS:
        stem = f'{teacher}_{student}_1xb64_cifar100'
        for folder, name, figure in (
            ('kd', f'kd_{stem}', kd),
            ('dkd', f'dkd_{stem}', dkd),
            ('ctkd', f'ctkd_kd_{stem}', ctkd),
        ):
            if figure is not None:
                wanted[folder][name, 'CIFAR-100'] = figure
    for name, (_, figure) in NETWORKS.items():
        wanted['vanilla'][f'{name}_1xb64_cifar100', 'CIFAR-100'] = figure
    # Teachers of DM-KD, by its paper.
    wanted['vanilla']['resnet34_1xb64_cifar100', 'CIFAR-100'] = 78.05
    wanted['vanilla']['vgg11_1xb64_cifar100', 'CIFAR-100'] = 71.32
    wanted['kd']['kd_resnet34_resnet18_8xb64_in1k', 'ImageNet-1k'] = 71.03
    wanted['kd']['kd_resnet50_mobilenetv1_8xb64_in1k', 'ImageNet-1k'] = 70.50
    wanted['dkd']['dkd_resnet34_resnet18_8xb64_in1k', 'ImageNet-1k'] = 71.70
    wanted['dkd']['dkd_resnet50_mobilenetv1_8xb64_in1k', 'ImageNet-1k'] = 72.05
    for student, _, figure in TINY:
        name = f'kd_resnet18_{student}_1xb256_tiny-imagenet'
        wanted['kd'][name, 'Tiny-ImageNet'] = figure
    wanted['ctkd']['ctkd_dkd_resnet56_resnet20_1xb64_cifar100', 'CIFAR-100'] = 71.65
    wanted['ctkd']['ctkd_kd_resnet34_resnet18_8xb32_in1k', 'ImageNet-1k'] = 71.32
    wanted['ctkd']['ctkd_dkd_resnet34_resnet18_8xb32_in1k', 'ImageNet-1k'] = 71.51
    assert {folder: figures(folder) for folder in wanted} == wanted


@pytest.mark.parametrize('empty', [False, True])
@pytest.mark.parametrize('config', ['resnet20_1xb64_cifar100.py', 'resnet18_8xb64_in1k.py'])
def test_a_missing_or_empty_data_folder_is_named(config, empty, tmp_path):
    cfg = load(f'vanilla/{config}')
    if empty:
        (tmp_path / 'train').mkdir()
    dataset = dict(cfg.train_dataloader.dataset, data_root=str(tmp_path))
    says = f'{tmp_path}' if 'cifar' in config or not empty else r'subfolders \(0\).*check the data'
    with pytest.raises((RuntimeError, FileNotFoundError, AssertionError), match=says) as caught:
        DATASETS.build(dataset)
    assert len(str(caught.value).splitlines()) == 1


def test_a_teacher_of_other_classes_is_refused_when_it_is_built():
    cfg = load('kd/kd_resnet56_resnet20_1xb64_cifar100.py')
    cfg.model.update(teacher_ckpt=None, allow_random_teacher=True)
    cfg.model.teacher.head.num_classes = 10
    says = r"loss_kd would compare .* 'head\.fc' of the student has 100 classes, .* has 10 classes"
    with pytest.raises(ValueError, match=says):
        MODELS.build(dict(cfg.model, data_preprocessor=cfg.data_preprocessor))
