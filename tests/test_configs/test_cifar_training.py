"""A CIFAR-100 config from the authors' teacher to a checkpoint, on made-up pictures."""

import pickle

import numpy as np
import torch
from helpers import ROOT
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner
from mmpretrain.datasets import CIFAR100
from published_networks import published_key, weight


def write_pictures(folder):
    """Files as CIFAR-100's, with 96 and 32 pictures."""
    random = np.random.RandomState(0)
    (folder / 'cifar-100-python').mkdir(parents=True)
    for name, number in (('train', 96), ('test', 32)):
        entry = dict(
            data=random.randint(0, 256, (number, 3072), dtype=np.uint8),
            fine_labels=random.randint(0, 100, number).tolist(),
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


def test_a_pair_trains_validates_and_leaves_the_student(tmp_path, monkeypatch):
    write_pictures(tmp_path / 'cifar100')
    monkeypatch.setattr(CIFAR100, '_check_integrity', lambda self: True)
    cfg = Config.fromfile(ROOT / 'configs/kd/kd_resnet56_resnet20_1xb64_cifar100.py')
    init_default_scope('mmpretrain')
    write_teacher(cfg.model.teacher, tmp_path / 'ckpt_epoch_240.pth')
    cfg.model.teacher_ckpt = str(tmp_path / 'ckpt_epoch_240.pth')
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.dataset.data_root = str(tmp_path / 'cifar100')
    cfg.train_cfg.max_epochs = 1
    cfg.work_dir = str(tmp_path / 'work')
    cfg.experiment_name = tmp_path.name
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
