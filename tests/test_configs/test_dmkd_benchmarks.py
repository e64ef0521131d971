"""The configs of DM-KD against what its authors publish."""

import numpy as np
import pytest
import torch
import yaml
from helpers import ROOT
from mmengine.config import Config
from mmengine.registry import DATASETS, MODELS, init_default_scope
from PIL import Image

from kd_plugins.networks import resolve_network

# Teacher, student, pictures in thousands and top-1: README.md of zhengli97/DM-KD (bbab9ce).
# Of the stronger teachers it gives no figure.
IMAGENET = [
    (18, 50, 200, 68.63),
    (18, 18, 200, 61.61),
    (18, 50, 1280, 72.43),
    (18, 18, 1280, 68.25),
    (34, 18, 200, None),
    (50, 18, 200, None),
    (50, 50, 200, None),
]
# torchvision's parameters.
RESNETS = {18: 11689512, 34: 21797672, 50: 25557032}
CIFAR = [
    ('resnet34', 'resnet18', 76.58),
    ('vgg11', 'resnet18', 70.83),
    ('wrn40_2', 'wrn16_1', 56.29),
    ('wrn40_2', 'wrn40_1', 65.01),
    ('wrn40_2', 'wrn16_2', 66.89),
]
# Parameters with 100 classes, recorded from the models of zhengli97/DM-KD (bbab9ce), which
# has no VGG-11.
NETWORKS = {
    'resnet18': 11220132, 'resnet34': 21328292, 'wrn16_1': 180916, 'wrn16_2': 703284,
    'wrn40_1': 569780, 'wrn40_2': 2255156,
}  # fmt: skip


@pytest.fixture(autouse=True)
def scope():
    init_default_scope('mmpretrain')


def figures():
    index = yaml.safe_load((ROOT / 'configs/dmkd/metafile.yml').read_text())
    found = {}
    for model in index['Models']:
        results = model.get('Results')
        found[model['Name']] = results and results[0]['Metrics']['Top 1 Accuracy']
    return found


def load(name):
    cfg = Config.fromfile(ROOT / f'configs/dmkd/{name}.py')
    (loss,) = cfg.model.distiller.distill_losses.values()
    assert dict(loss) == dict(type='kd_plugins.KDLoss', tau=10.0)
    assert cfg.model.calculate_student_loss is False
    dataset = cfg.train_dataloader.dataset
    assert dataset.type == 'kd_plugins.GeneratedPictures'
    assert dataset.num_classes == cfg.data_preprocessor.num_classes
    return cfg, dataset


def sgd(decay):
    return dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=decay)


@pytest.mark.parametrize('row', IMAGENET, ids=str)
def test_imagenet_is_as_published(row):
    teacher, student, thousands, top1 = row
    name = f'dmkd_resnet{teacher}_resnet{student}_8xb32_in1k-generated-{thousands}k'
    cfg, dataset = load(name)
    assert figures()[name] == top1
    assert dataset.ann_file == f's2_st100_{thousands}k.txt' and dataset.num_classes == 1000
    kinds = [step.type for step in dataset.pipeline]
    assert kinds == ['LoadImageFromFile', 'RandomResizedCrop', 'RandomFlip', 'PackInputs']
    assert dict(cfg.optim_wrapper.optimizer) == sgd(1e-4)
    assert 8 * cfg.train_dataloader.batch_size == 256 == cfg.auto_scale_lr.base_batch_size
    assert cfg.train_cfg.max_epochs == 200 and cfg.param_scheduler.milestones == [60, 120, 180]
    assert cfg.model.teacher_ckpt == f'torchvision://resnet{teacher}'
    for part, depth in (('teacher', teacher), ('architecture', student)):
        network, _ = resolve_network(cfg.model[part], part)
        assert sum(p.numel() for p in MODELS.build(network).parameters()) == RESNETS[depth]
    assert network.backbone.zero_init_residual is False and network.head.init_cfg is None
    assert (cfg.val_dataloader.dataset.type, cfg.val_dataloader.dataset.split) == (
        'ImageNet',
        'val',
    )


@pytest.mark.parametrize('row', CIFAR, ids=str)
def test_cifar_is_as_published(row):
    teacher, student, top1 = row
    name = f'dmkd_{teacher}_{student}_1xb128_cifar100-generated-50k'
    cfg, dataset = load(name)
    assert figures()[name] == top1 and dataset.ann_file == 's2_st100_50k.txt'
    assert dict(cfg.optim_wrapper.optimizer) == sgd(5e-4)
    assert cfg.train_dataloader.batch_size == 128 == cfg.auto_scale_lr.base_batch_size
    assert (cfg.train_cfg.max_epochs, cfg.param_scheduler.milestones) == (240, [150, 180, 210])
    alone = Config.fromfile(ROOT / f'configs/vanilla/{teacher}_1xb64_cifar100.py')
    assert cfg.model.teacher == alone.model
    assert cfg.model.teacher_ckpt == f'work_dirs/{teacher}_1xb64_cifar100/epoch_240.pth'
    for part, depth in (('teacher', teacher), ('architecture', student)):
        parameters = sum(p.numel() for p in MODELS.build(cfg.model[part]).parameters())
        assert parameters == NETWORKS.get(depth, parameters), part
    assert cfg.val_dataloader.dataset.type == 'CIFAR100'


def test_drawn_pictures_of_cifar_come_as_the_real_ones_lie_in_memory(tmp_path):
    """RGB, 32 x 32, and each pixel a mean of those that it stands for."""
    _, dataset = load('dmkd_vgg11_resnet18_1xb128_cifar100-generated-50k')
    name = 'class_7_seed_0_num_3.png'
    fine = np.zeros((256, 256, 3), np.uint8)
    fine[:, ::2, 0] = 200  # red stripes of one pixel
    Image.fromarray(fine).save(tmp_path / name)
    (tmp_path / 's2_st100_50k.txt').write_text(f'{name}\n')
    dataset.data_root = str(tmp_path)
    sample = DATASETS.build(dataset)[0]
    assert sample['inputs'].shape == (3, 32, 32) and int(sample['data_samples'].gt_label) == 7
    red = sample['inputs'][0][sample['inputs'][0] > 0].float()
    # Crops leave black borders; inside the stripes have become even.
    assert len(red) > 700 and 80 < red.median() < 120
    assert sample['inputs'][1:].max() == 0


def test_the_loss_is_that_of_the_authors_code():
    """Recorded from DistillKL of distiller_zoo/KD.py in zhengli97/DM-KD (bbab9ce)."""
    cfg, _ = load('dmkd_resnet18_resnet50_8xb32_in1k-generated-200k')
    i = torch.arange(28, dtype=torch.float64).reshape(4, 7)
    preds_S, preds_T = torch.sin(i).requires_grad_(), 6 * torch.cos(3 * i)
    loss = MODELS.build(cfg.model.distiller.distill_losses.loss_kd)(preds_S, preds_T)
    loss.backward()
    assert loss.item() == pytest.approx(8.82965171507653, rel=1e-12)
    assert preds_S.grad.abs().sum().item() == pytest.approx(3.7183578476896653, rel=1e-12)
    assert preds_S.grad[2, 3].item() == pytest.approx(-0.21516416440928898, rel=1e-12)


def test_every_config_of_the_folder_is_listed():
    names = {path.stem for path in (ROOT / 'configs/dmkd').glob('*.py')}
    assert names == {*figures(), 'dmkd_digits'}


def test_the_answers_of_the_teacher_alone_teach(tmp_path):
    """Labels of the training set are shuffled, and the student trains the same bits."""
    from helpers.short import shorten
    from mmengine.runner import Runner

    def weights(name, shuffled):
        cfg = Config.fromfile(ROOT / 'configs/dmkd/dmkd_digits.py')
        cfg.model.update(teacher_ckpt=None, allow_random_teacher=True)
        cfg.work_dir, cfg.experiment_name = str(tmp_path / name), f'{name}_{tmp_path.name}'
        cfg.train_dataloader.dataset.indices = 64
        shorten(cfg, 1)
        runner = Runner.from_cfg(cfg)
        runner._train_dataloader = runner.build_dataloader(cfg.train_dataloader)
        dataset = runner._train_dataloader.dataset
        if shuffled:
            get = dataset.get_data_info
            dataset.get_data_info = lambda i: dict(get(i), gt_label=(7 * i) % 10)
        return runner.train().state_dict()

    one, other = weights('one', False), weights('other', True)
    assert all(torch.equal(one[key], other[key]) for key in one)
