"""A distiller that is wired by itself: what it trains, saves, resumes and refuses."""

import re

import pytest
import torch
from helpers.detection import detector, distillation, images
from helpers.networks import resnet
from helpers.tiny_pictures import Pictures, wired
from helpers.tiny_training import config, train
from mmengine.hooks import Hook
from mmengine.hub import get_config
from mmengine.registry import HOOKS, MODELS, init_default_scope
from torch.optim import SGD

from kd_plugins.algorithms import single_teacher_distill


def built(seed=0, **changes):
    torch.manual_seed(seed)
    model = MODELS.build(wired(**changes)).train()
    model.init_weights()
    return model


def steps(model, number=3):
    samples = [Pictures(8)[i] for i in range(8)]
    inputs = torch.stack([sample['inputs'] for sample in samples])
    labels = [sample['data_samples'] for sample in samples]
    optimizer = SGD(model.parameters(), lr=0.05)
    for _ in range(number):
        losses = model(inputs, labels, mode='loss')
        total, _ = model.parse_losses(losses)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    return model.state_dict()


def test_it_trains_the_student_and_every_layer_between_both():
    model = built()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    steps(model)
    assert all(p.grad is not None for p in model.parameters())
    still = [name for name, p in model.named_parameters() if torch.equal(before[name], p)]
    assert still == []


def test_checkpoints_are_the_students_and_the_distillers():
    alone = set(MODELS.build(dict(resnet(), _scope_='mmpretrain')).state_dict())
    keys = set(built().state_dict())
    assert alone <= keys and all(key.startswith('distiller.') for key in keys - alone)
    other = built(seed=1)
    other.load_state_dict(built().state_dict(), strict=True)


@pytest.mark.parametrize('term', [None, dict(type='kd_plugins.CWDLoss', loss_weight=0.0)])
def test_weight_0_is_the_student_alone_bit_for_bit(term):
    torch.manual_seed(0)
    alone = MODELS.build(dict(resnet(norm_eval=True), _scope_='mmpretrain'))
    alone.train().init_weights()
    expected = steps(alone)
    found = steps(built(term=term, loss_weight=0.0))
    assert all(torch.equal(expected[key], found[key]) for key in expected)


class Stopped(Exception):
    """What stands for a kill."""


@HOOKS.register_module(force=True)
class StopBeforeTheSecondEpoch(Hook):
    """Ends the training once the first epoch's checkpoint is written."""

    priority = 'LOWEST'

    def after_train_epoch(self, runner):
        if runner.epoch == 0:
            raise Stopped


def training(work_dir, term, **options):
    """A training of three epochs with an average, of batch statistics in both places."""
    model = wired(term=term)
    model['architecture']['backbone']['norm_eval'] = False
    model['data_preprocessor'] = dict(type='kd_plugins.ClsDataPreprocessor', mean=[0.5], std=[2.0])
    cfg = config(work_dir, 3, model=model)
    cfg.train_dataloader.dataset.type = 'Pictures'
    cfg.train_dataloader.collate_fn.type = 'pseudo_collate'
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    cfg.default_hooks.checkpoint.update(save_best=None)
    cfg.custom_hooks.append(dict(type='EMAHook'))
    cfg.merge_from_dict(options)
    return cfg


@pytest.mark.parametrize(
    ('term', 'learns'),
    [
        # A connector of a convolution and a norm; layers of the term, with masks that are drawn.
        ('cwd', 'connectors.projector.'),
        (dict(type='kd_plugins.MGDLoss', loss_weight=1e-3), 'distill_losses.loss_mgd.'),
    ],
)
def test_an_interrupted_run_resumes_to_the_same_weights(tmp_path, term, learns):
    whole = train(training(tmp_path / 'whole', term))
    broken = training(tmp_path / 'broken', term)
    broken.custom_hooks.append(dict(type='StopBeforeTheSecondEpoch'))
    with pytest.raises(Stopped):
        train(broken)
    saved = torch.load(tmp_path / 'broken' / 'epoch_1.pth', weights_only=False)['state_dict']
    own = [name for name in saved if name.startswith('distiller.')]
    assert own and all(name.startswith(f'distiller.{learns}') for name in own)
    assert all(not torch.equal(saved[name], whole[name]) for name in own)
    resumed = train(training(tmp_path / 'broken', term, resume=True))
    assert whole.keys() == resumed.keys()
    assert [name for name, value in whole.items() if not torch.equal(value, resumed[name])] == []
    alone = MODELS.build(dict(resnet(), _scope_='mmpretrain'))
    alone.load_state_dict({k: v for k, v in saved.items() if k not in own}, strict=True)


def test_layers_to_another_teacher_are_said_to_be_left_out():
    """Beginning with the student of a distillation, beside a teacher of other channels."""
    wide = dict(resnet(base_channels=12), _scope_='mmpretrain')
    wide['head']['in_channels'] = 48
    before = MODELS.build(wired(term='cwd')).state_dict()
    changes = dict(teacher=wide, load_from_except=())
    with pytest.raises(ValueError, match=r"may lack, such as \['distiller\.\*'\]"):
        MODELS.build(dict(wired(term='cwd'), **changes)).load_state_dict(before)
    changes['load_from_except'] = ['distiller.*']
    model = MODELS.build(dict(wired(term='cwd'), **changes))
    model.init_weights()
    own = model.state_dict()['distiller.connectors.projector.levels.0.conv.weight'].clone()
    model.load_state_dict(before)
    after = model.state_dict()
    assert torch.equal(after['backbone.conv1.weight'], before['backbone.conv1.weight'])
    assert torch.equal(after['distiller.connectors.projector.levels.0.conv.weight'], own)


def test_stages_that_are_frozen_are_left_out():
    """As the first of every ResNet in mmdet's own configs."""
    cfg = detector()
    cfg['backbone']['frozen_stages'] = 1
    auto = dict(type='kd_plugins.AutoDistiller', term='mse', where='backbone')
    model = MODELS.build(distillation(cfg, whole=auto)).train()
    data = model.data_preprocessor(images(), True)
    total, _ = model.parse_losses(
        {k: v for k, v in model(**data, mode='loss').items() if 'distill' in k}
    )
    total.backward()
    recorders = (model.distiller.student_recorders, model.distiller.teacher_recorders)
    names = [each.recorders['maps'].level_names for each in recorders]
    assert names == [['backbone[1]', 'backbone[2]', 'backbone[3]']] * 2
    stages = [getattr(model.student.backbone, f'layer{i}') for i in range(1, 5)]
    learn = [any(p.grad is not None for p in stage.parameters()) for stage in stages]
    assert learn == [False, True, True, True]


def test_what_stands_beside_is_kept_and_may_not_have_its_names():
    cfg = wired()
    logits = dict(type='mmrazor.ModuleOutputs', source='head.fc')
    cfg['distiller'].update(
        student_recorders=dict(logits=logits),
        teacher_recorders=dict(logits=logits),
        distill_losses=dict(loss_kd=dict(type='kd_plugins.KDLoss', tau=2.0)),
        loss_forward_mappings=dict(
            loss_kd=dict(
                preds_S=dict(recorder='logits', from_student=True),
                preds_T=dict(recorder='logits', from_student=False),
            )
        ),
    )
    assert {*MODELS.build(cfg).distiller.distill_losses} == {'loss_mgd', 'loss_kd'}
    cfg['distiller']['student_recorders']['maps'] = logits
    with pytest.raises(ValueError, match=r'student_recorders\.maps is what AutoDistiller calls'):
        MODELS.build(cfg)


@pytest.mark.parametrize(
    ('change', 'says'),
    [
        (dict(distiller=dict(type='kd_plugins.AutoDistiller')), 'has no term'),
        (
            dict(distiller=dict(type='kd_plugins.AutoDistiller', term='cwd', were='neck')),
            'has were',
        ),
        *(
            (
                dict(distiller=dict(type='kd_plugins.AutoDistiller', term='cwd', size=size)),
                rf'model\.distiller\.size={re.escape(repr(size))} is wrong: give a number of pix',
            )
            for size in ('32', 0, [32], (32, 32, 3), (32, 1.5))
        ),
        (dict(teacher=None), 'there is no teacher to run'),
        (dict(teacher_cache=dict(dir='nowhere')), r'model\.teacher_cache'),
    ],
)
def test_what_cannot_be_wired_is_refused(change, says):
    with pytest.raises(ValueError, match=says):
        MODELS.build(dict(wired(), **change))


def taught_by(path, where):
    """A small detector, taught by the maps of one of mmdet's; its loss, and which parts ran."""
    torch.manual_seed(0)
    init_default_scope('mmdet')
    network = get_config(f'mmdet::{path}').model
    network.backbone.update(init_cfg=None, depth=18)
    network.neck.in_channels = [512] if len(network.neck.in_channels) == 1 else [64, 128, 256, 512]
    auto = dict(type='kd_plugins.AutoDistiller', term='mse', where=where)
    model = MODELS.build(distillation(teacher=network, whole=auto)).train()
    ran = set()
    for name, part in model.teacher.network.named_children():
        part.register_forward_pre_hook(lambda *_, name=name: ran.add(name))
        # Detectors call heads' forward by its name.
        forward = part.forward
        part.forward = lambda *a, name=name, forward=forward, **k: ran.add(name) or forward(*a, **k)
    losses = model(**model.data_preprocessor(images(size=128), True), mode='loss')
    return losses['distill.loss_mse'], ran


@pytest.mark.parametrize('where', ['neck', 'backbone'])
@pytest.mark.parametrize(
    'path',
    ['gfl/gfl_r50_fpn_1x_coco.py', 'detr/detr_r50_8xb2-150e_coco.py',
     'faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py'],
)  # fmt: skip
def test_a_teachers_heads_do_not_run_for_nobody(path, where, monkeypatch):
    found, ran = taught_by(path, where)
    assert found > 0 and ran == {'backbone', 'neck'}
    monkeypatch.setattr(single_teacher_distill, 'features_suffice', lambda *_: False)
    expected, ran = taught_by(path, where)
    assert torch.equal(found, expected) and ran > {'backbone', 'neck'}


@pytest.mark.parametrize('where', ['neck', 'backbone'])
def test_guided_anchoring_teaches_by_its_maps(where):
    """In eval mode upstream's head takes one picture at a time, and the batch has two."""
    found, ran = taught_by('guided_anchoring/ga-retinanet_r50_fpn_1x_coco.py', where)
    assert found > 0 and ran == {'backbone', 'neck'}


class Brightened:
    """Sees pictures twice as bright."""

    def forward(self, inputs, *args, **kwargs):
        return super().forward(2 * inputs, *args, **kwargs)


@pytest.mark.parametrize('how', ['class', 'object'])
def test_a_teacher_with_a_forward_of_its_own_is_asked_by_it(how):
    """Nobody knows what stands before its features."""
    torch.manual_seed(0)
    init_default_scope('mmdet')
    teacher = MODELS.build(detector('GFL', width=16))
    plain = teacher.forward
    if how == 'object':
        teacher.forward = lambda inputs, *a, **k: plain(2 * inputs, *a, **k)
    else:
        teacher.__class__ = type('GFL', (Brightened, type(teacher)), {})
    auto = dict(type='kd_plugins.AutoDistiller', term='mse', where='neck')
    model = MODELS.build(distillation(teacher=teacher, whole=auto)).train()
    data = model.data_preprocessor(images(), True)
    with model.distiller.teacher_recorders:
        model.teacher.look(**data)
    found = model.distiller.teacher_recorders.get_recorder('maps').get_record_data()
    expected = teacher.extract_feat(2 * data['inputs'])
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))


@pytest.mark.parametrize(('term', 'missed'), [(None, ''), ('cwd', "'bbox_head.cls_convs.0.conv.")])
def test_a_detectors_head_without_any_loss_is_told(term, missed, monkeypatch):
    """As on pictures without labels, where only maps of the neck are compared."""
    heard = []
    monkeypatch.setattr(single_teacher_distill, 'print_log', lambda said, **_: heard.append(said))
    whole = term and dict(type='kd_plugins.AutoDistiller', term=term, where='neck')
    changes = dict(calculate_student_loss=False, pseudo_boxes=None if term else dict(score=0.1))
    torch.manual_seed(0)
    model = MODELS.build(distillation(whole=whole, changes=changes)).train()
    model(**model.data_preprocessor(images(), True), mode='loss')
    said = [x for x in heard if "of the student's head" in x]
    assert len(said) == bool(missed)
    assert all(f"leaves 15 parameters of the student's head, such as {missed}" in x for x in said)
