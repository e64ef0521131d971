"""EEKD's and CheckpointKD's configs against the published settings."""

import pytest
from helpers import ROOT
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from kd_plugins.networks import classifier, resolve_network

CHECKPOINTKD = [
    ('wrn40_2', 'wrn40_1'), ('resnet110', 'resnet32'), ('wrn40_2', 'mobilenetv2-x075'),
]  # fmt: skip
EEKD = [('resnet34', 'resnet18'), ('resnet50', 'mobilenetv1'), ('resnet50', 'mobilenetv2')]


def load(name):
    init_default_scope('mmpretrain')
    return Config.fromfile(ROOT / f'configs/eekd/{name}.py')


def files_of(teacher_name):
    """The files that the teacher's training leaves."""
    from kd_plugins.hooks.even_checkpoint import moments

    cfg = load(teacher_name)
    steps = moments(cfg.default_hooks.even.number, cfg.train_cfg.max_epochs)
    return [f'work_dirs/{teacher_name}/even/epoch_{step}.pth' for step in steps]


# LeapLabTHU/CheckpointKD at bf735d6d6880, args.py and student.py: T 5, alpha 0.5, SGD 0.1,
# momentum 0.9, Nesterov, weight decay 5e-4, x0.1 every 60 of 200 epochs, batch 128, a
# checkpoint every 20 epochs, the logits of two of them averaged.
@pytest.mark.parametrize(('teacher', 'student'), CHECKPOINTKD)
def test_checkpointkd_is_as_published(teacher, student):
    cfg = load(f'checkpointkd_{teacher}_{student}_1xb128_cifar100')
    of_teacher = load(f'even_{teacher}_1xb128_cifar100')
    for one in (cfg, of_teacher):
        assert dict(one.optim_wrapper.optimizer) == dict(
            type='SGD', lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True
        )
        assert one.param_scheduler.milestones == [60, 120, 180]
        assert one.param_scheduler.gamma == 0.1
        assert (one.train_cfg.max_epochs, one.train_dataloader.batch_size) == (200, 128)
    loss = dict(type='kd_plugins.EEKDLoss', mode='equal', mix='logits', tau=5.0, loss_weight=0.5)
    assert dict(cfg.model.distiller.distill_losses.loss_kd) == loss
    assert cfg.model.architecture.head.loss.loss_weight == 0.5
    files = files_of(f'even_{teacher}_1xb128_cifar100')
    assert len(files) == 10 and {*cfg.model.teacher_ckpt} < {*files}
    assert len(cfg.model.teacher_ckpt) == 2 and cfg.model.teacher_ckpt[-1] == files[-1]
    assert cfg.model.teacher == of_teacher.model


def test_the_mobilenet_has_three_quarters_of_the_widths():
    cfg = load('checkpointkd_wrn40_2_mobilenetv2-x075_1xb128_cifar100')
    network = MODELS.build(cfg.model.architecture)
    assert network.backbone.conv1[0].out_channels == 24 and network.head.fc.in_features == 1280


# arXiv 2202.12488: alpha 0.5, M 5, tau 5.
@pytest.mark.parametrize(('teacher', 'student'), EEKD)
def test_eekd_is_as_published(teacher, student):
    cfg = load(f'eekd_{teacher}_{student}_8xb64_in1k')
    loss = cfg.model.distiller.distill_losses.loss_kd
    assert (loss.type, loss.tau, loss.loss_weight) == ('kd_plugins.EEKDLoss', 5.0, 0.5)
    assert loss.get('mode', 'attention') == 'attention' and 'mix' not in loss
    assert cfg.model.architecture.head.loss.loss_weight == 0.5
    assert cfg.model.teacher_ckpt == files_of(f'even_{teacher}_8xb64_in1k')
    assert len(cfg.model.teacher_ckpt) == 5
    for side, key in (('architecture', 'channels_S'), ('teacher', 'channels_T')):
        network = MODELS.build(resolve_network(cfg.model[side], side)[0])
        assert network.get_submodule(classifier(network).name).in_features == loss[key]
    teacher_cfg, _ = resolve_network(cfg.model.teacher, 'model.teacher')
    alone = load(f'even_{teacher}_8xb64_in1k').model
    assert teacher_cfg.backbone == alone.backbone and teacher_cfg.head == alone.head


def test_the_digits_take_what_their_teacher_leaves():
    files = files_of('even_digits_teacher')
    assert load('eekd_digits').model.teacher_ckpt == files
    assert {*load('checkpointkd_digits').model.teacher_ckpt} < {*files}
