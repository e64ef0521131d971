"""A CIFAR-100 config from the authors' teacher to a checkpoint, on made-up pictures."""

import pickle

import numpy as np
import pytest
import torch
from helpers import ROOT
from helpers.published_networks import published_key, weight
from mmengine.config import Config
from mmengine.registry import DATASETS, MODELS, init_default_scope
from mmengine.runner import Runner
from mmpretrain.datasets import CIFAR100


def write_pictures(folder):
    """Files as CIFAR-100's, with 96 and 32 pictures of 12 classes."""
    random = np.random.RandomState(0)
    (folder / 'cifar-100-python').mkdir(parents=True)
    for name, number in (('train', 96), ('test', 32)):
        entry = dict(
            data=random.randint(0, 256, (number, 3072), dtype=np.uint8),
            fine_labels=(np.arange(number) % 12).tolist(),
        )
        (folder / 'cifar-100-python' / name).write_bytes(pickle.dumps(entry))


def write_teacher(cfg, path):
    """A checkpoint as RepDistiller writes it."""
    shapes = {
        published_key(key, 'resnet56'): value.shape
        for key, value in MODELS.build(cfg).state_dict().items()
    }
    weights = {key: weight(key, shape).float() for key, shape in shapes.items()}
    torch.save(dict(model=weights, epoch=240), path)


def load(name, tmp_path, monkeypatch):
    """The config of a pair, to train an epoch on such pictures."""
    write_pictures(tmp_path / 'cifar100')
    monkeypatch.setattr(CIFAR100, '_check_integrity', lambda self: True)
    cfg = Config.fromfile(ROOT / 'configs' / name)
    init_default_scope('mmpretrain')
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        # mmrazor's CRDDataset holds another.
        loader.dataset.get('dataset', loader.dataset).data_root = str(tmp_path / 'cifar100')
    cfg.train_cfg.max_epochs = 1
    cfg.work_dir = str(tmp_path / 'work')
    cfg.experiment_name = tmp_path.name
    return cfg


def test_a_pair_trains_validates_and_leaves_the_student(tmp_path, monkeypatch):
    cfg = load('kd/kd_resnet56_resnet20_1xb64_cifar100.py', tmp_path, monkeypatch)
    write_teacher(cfg.model.teacher, tmp_path / 'ckpt_epoch_240.pth')
    cfg.model.teacher_ckpt = str(tmp_path / 'ckpt_epoch_240.pth')
    runner = Runner.from_cfg(cfg)
    runner.train()
    # 96 pictures are a batch of 64 and one of 32, as in the published code.
    assert runner.iter == 2
    hub = runner.message_hub
    for name in ('accuracy/top1', 'accuracy/top5'):
        assert 0 <= hub.get_scalar(f'val/{name}').current() <= 100
    assert hub.get_scalar('train/lr').current() == 0.05
    student = MODELS.build(
        Config.fromfile(ROOT / 'configs/vanilla/resnet20_1xb64_cifar100.py').model
    )
    saved = torch.load(tmp_path / 'work/epoch_1.pth', weights_only=False)['state_dict']
    student.load_state_dict(saved, strict=True)


@pytest.mark.parametrize('method', ['sp', 'pkt', 'vid', 'srrl', 'crd'])
def test_ctkd_trains_beside_a_feature_method(method, tmp_path, monkeypatch):
    name = f'ctkd/ctkd_kd_{method}_resnet56_resnet20_1xb64_cifar100.py'
    cfg = load(name, tmp_path, monkeypatch)
    cfg.model.update(teacher_ckpt=None, allow_random_teacher=True)
    cfg.train_cfg.max_epochs = cfg.default_hooks.curriculum_temperature.length = 2
    if method == 'crd':
        cfg.train_dataloader.dataset.update(neg_num=8, num_classes=12)
        cfg.model.distiller.distill_losses.loss_crd.loss.update(neg_num=8, sample_n=96)
    runner = Runner.from_cfg(cfg)
    before = {name: p.detach().clone() for name, p in runner.model.named_parameters()}
    runner.train()
    hub = runner.message_hub
    logged = {key for key in hub.log_scalars if key.startswith('train/distill.')}
    assert {'train/distill.loss_kd'} < logged
    assert all(np.isfinite(hub.get_scalar(key).current()) for key in logged)
    assert np.isfinite(hub.get_scalar('train/tau').current())
    # What a term learns of its own, the temperature included, is trained with the student.
    after = dict(runner.model.named_parameters())
    still = [name for name in before if torch.equal(before[name], after[name])]
    assert not still and 'distiller.distill_losses.loss_kd.tau.theta' in after


def test_contrast_packing_names_what_is_missing(tmp_path, monkeypatch):
    name = 'ctkd/ctkd_kd_crd_resnet56_resnet20_1xb64_cifar100.py'
    cfg = load(name, tmp_path, monkeypatch)
    inner = cfg.train_dataloader.dataset.dataset
    with pytest.raises(KeyError, match='finds no contrast_sample_idxs.*CRDDataset'):
        DATASETS.build(inner)[0]
    wrapped = DATASETS.build(dict(cfg.train_dataloader.dataset, neg_num=8, num_classes=12))
    sample = wrapped[5]['data_samples']
    assert sample.sample_idx.item() == 5 and sample.sample_idx.shape == ()
    assert sample.contrast_sample_idxs[0] == 5 and sample.contrast_sample_idxs.shape == (9,)
    # Negatives are of other classes; every twelfth picture is of the fifth.
    assert all(i % 12 != 5 for i in sample.contrast_sample_idxs[1:].tolist())
