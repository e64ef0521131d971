"""Whole trainings with CrossKD."""

import copy
from copy import deepcopy

import pytest
import torch
from helpers.detection import HEADS, build, detector, images, losses
from helpers.strategies import BOXES, Method, dot, sgd
from helpers.tiny_pictures import crossed
from helpers.tiny_training import config, train
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper
from mmengine.registry import HOOKS, MODELS, init_default_scope

IOU = dict(type='mmdet.GIoULoss')
WIDER = dict(type='kd_plugins.CrossKDConnector', in_channels=12, out_channels=16)

STRATEGIES = {
    'CrossKD': Method(crossed, sgd(0.01), **BOXES),
    'CrossKD + DOT': Method(crossed, dot(0.01), **BOXES),
}


def terms(kind, weights=(1.0, 4.0)):
    """The distiller after the one convolution of a branch."""
    cfg = crossed()['distiller']
    for name, weight in zip(('cls', 'loc'), weights, strict=True):
        cfg.distill_losses[f'loss_crosskd_{name}'].loss_weight = weight
    if kind != 'GFL':
        cfg.distill_losses.loss_crosskd_loc.loss_iou = IOU
    return cfg


@pytest.mark.parametrize('kind', HEADS)
def test_with_weights_of_0_a_student_trains_bit_for_bit_like_the_stock_one(kind):
    model = build(
        detector(kind), detector(kind, width=16), spread=False, whole=terms(kind, (0.0, 0.0))
    )
    torch.manual_seed(0)
    stock = MODELS.build(detector(kind))
    stock.init_weights()
    start = copy.deepcopy(stock.state_dict())
    for network in (model, stock):
        torch.manual_seed(1)
        network.train()
        wrapper = OptimWrapper(torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9))
        for step in range(3):
            network.train_step(images(step), wrapper)
    ours, theirs = model.state_dict(), stock.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert sum(not torch.equal(start[name], theirs[name]) for name in theirs) > len(theirs) / 2


@pytest.mark.parametrize('kind', HEADS)
def test_the_terms_alone_bring_the_students_maps_closer_to_the_teachers(kind):
    model = build(detector(kind), detector(kind, width=16), whole=terms(kind)).train()
    optimizer = torch.optim.Adam(model.student.parameters(), lr=0.01)
    history = []
    for _ in range(12):
        found = losses(model, images())
        values = [found[f'distill.loss_crosskd_{name}'] for name in ('cls', 'loc')]
        history.append([value.item() for value in values])
        optimizer.zero_grad()
        sum(values).backward()
        optimizer.step()
    assert all(0 < last < 0.8 * first for first, last in zip(history[0], history[-1], strict=True))


@pytest.mark.parametrize(('student', 'teacher'), [('ATSS', 'GFL'), ('GFL', 'ATSS')])
def test_a_head_of_another_kind_reads_the_students_maps(student, teacher):
    model = build(detector(student), detector(teacher, width=16), whole=terms('ATSS')).train()
    found = losses(model, images())
    assert all(v > 0 for name, v in found.items() if name.startswith('distill.loss'))


@pytest.mark.parametrize(('dtype', 'near'), [('bfloat16', 0.1), ('float32', 0.0)])
def test_a_teacher_of_another_precision_gives_losses_near_the_students(dtype, near):
    plain = build(detector(), detector(width=16), whole=terms('GFL')).train()
    mixed = build(
        detector(), detector(width=16), changes=dict(teacher_dtype=dtype), whole=terms('GFL')
    ).train()
    for name in ('distill.loss_crosskd_cls', 'distill.loss_crosskd_loc'):
        a, b = (losses(model, images())[name] for model in (plain, mixed))
        assert b.dtype == torch.float32
        torch.testing.assert_close(a, b, rtol=near, atol=0)


class Stopped(Exception):
    """What stands for a kill."""


@HOOKS.register_module(force=True)
class StopAfterOneEpoch(Hook):
    """Ends the process's training once an epoch's checkpoint is written."""

    priority = 'LOWEST'

    def after_train_epoch(self, runner):
        if runner.epoch == 0:
            raise Stopped


def of(work_dir, **options):
    """A training of two epochs, with an average, of a narrower student."""
    model = crossed()
    model['architecture']['bbox_head']['feat_channels'] = 12
    model['distiller'].teacher_recorders.cross.connector = 'wider'
    model['distiller'].connectors = dict(wider=dict(WIDER))
    cfg = config(work_dir, 2, model=model)
    cfg.train_dataloader.dataset.type = 'Boxes'
    cfg.train_dataloader.collate_fn.type = 'pseudo_collate'
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    cfg.default_hooks.checkpoint.update(save_best=None, max_keep_ckpts=2)
    cfg.optim_wrapper.optimizer = dict(type='SGD', lr=0.01, momentum=0.9)
    cfg.custom_hooks.append(dict(type='EMAHook'))
    cfg.merge_from_dict(options)
    return cfg


def test_an_interrupted_run_resumes_to_the_same_weights(tmp_path):
    whole = train(of(tmp_path / 'whole'))
    broken = of(tmp_path / 'broken')
    broken.custom_hooks.append(dict(type='StopAfterOneEpoch'))
    with pytest.raises(Stopped):
        train(broken)
    resumed = train(of(tmp_path / 'broken', resume=True))
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())
    saved = torch.load(tmp_path / 'broken' / 'epoch_1.pth', weights_only=False)['state_dict']
    own = {name for name in saved if name.startswith('distiller.')}
    assert {name.split('.')[2] for name in own} == {'wider'} and len(own) == 2
    assert all(not torch.equal(saved[name], whole[name]) for name in own)
    student = MODELS.build(deepcopy(of(tmp_path).model['architecture']))
    student.load_state_dict({k: v for k, v in saved.items() if k not in own}, strict=True)


def test_stock_rtmdets_of_two_sizes():
    init_default_scope('mmdet')
    wider = dict(WIDER, in_channels=96, out_channels=128)
    distiller = terms('RTMDet')
    distiller.student_recorders.inside.after = 2
    distiller.teacher_recorders.cross.connector = 'wider'
    model = MODELS.build(
        dict(
            type='kd_plugins.SingleTeacherDistill',
            architecture=dict(
                cfg_path='mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py',
                backbone=dict(init_cfg=None),
            ),
            teacher=dict(
                cfg_path='mmdet::rtmdet/rtmdet_s_8xb32-300e_coco.py', backbone=dict(init_cfg=None)
            ),
            allow_random_teacher=True,
            distiller=dict(distiller, connectors=dict(wider=wider)),
        )
    ).train()
    found = losses(model, images(classes=80))
    values = [v for name, v in found.items() if name.startswith('distill.loss')]
    assert len(values) == 2 and all(torch.isfinite(v) and v > 0 for v in values)
    sum(values).backward()
    grads = [p.grad for p in model.student.backbone.parameters()]
    assert all(g is not None and torch.isfinite(g).all() for g in grads)
    assert all(not m.training for m in model.teacher.network.modules())
