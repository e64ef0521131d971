"""A student takes a whole checkpoint of its own, or says what is amiss."""

import copy

import pytest
import torch
from helpers import STUDENT, algorithm_cfg, build, distiller, networks
from helpers.tiny_training import config
from mmengine.hooks import EMAHook
from mmengine.model import BaseModel, BaseModule
from mmengine.registry import MODELS
from mmengine.runner import Runner
from mmengine.runner.checkpoint import load_checkpoint, load_state_dict
from torch import nn

from kd_plugins.algorithms.student import StudentModel
from kd_plugins.files import matching
from kd_plugins.files.matching import compare

FITS = dict(STUDENT)
WIDER = dict(STUDENT, width=5)
FEWER = dict(STUDENT, classes=3)


def weights(cfg, seed=3):
    torch.manual_seed(seed)
    return MODELS.build(dict(cfg)).state_dict()


def file_of(cfg, path, **more):
    torch.save(dict(state_dict=dict(weights(cfg), **more), meta={}), path)
    return str(path)


def learning():
    cfg = distiller(
        connectors=dict(join=dict(type='TorchNNConnector', module_name='Linear',
                                  module_args=dict(in_features=4, out_features=4))),
    )  # fmt: skip
    mapping = cfg['loss_forward_mappings']['loss_kd']
    mapping['preds_S'] = dict(mapping['preds_S'], connector='join')
    return cfg


@pytest.fixture
def log(monkeypatch):
    """What is logged of weights that are not loaded."""
    said = []
    monkeypatch.setattr(matching, 'print_log', lambda message, *_: said.append(message))
    return said


LOADERS = {
    'torch': lambda model, state: model.load_state_dict(state),
    'torch, not strict': lambda model, state: model.load_state_dict(state, strict=False),
    'mmengine': lambda model, state: load_state_dict(model, state),
    'mmengine, strict': lambda model, state: load_state_dict(model, state, strict=True),
}
LESS = {key: value for key, value in weights(FITS).items() if key != 'fc.bias'}
OTHERS = {
    'body.0.weight.*torch.Size': (weights(WIDER), 'of another shape'),
    'fc.bias': (LESS, '1 weights are missing'),
    'more': (dict(weights(FITS), more=torch.ones(1)), '1 weights are unknown to it'),
}


@pytest.mark.parametrize('first', OTHERS)
@pytest.mark.parametrize('loader', LOADERS)
@pytest.mark.parametrize('of', ['distillation', 'student'])
def test_weights_of_another_model_are_refused(loader, first, of):
    state, said = OTHERS[first]
    model = build()
    with pytest.raises(ValueError, match=rf'of this TinyClassifier: .*{said} \(.*{first}') as error:
        LOADERS[loader](model if of == 'distillation' else model.student, state)
    assert len(str(error.value).splitlines()) == 1 and 'load_from_except' in str(error.value)


@pytest.mark.parametrize('hook', ['CheckpointHook', 'kd_plugins.SafeCheckpointHook'])
@pytest.mark.parametrize('verb', ['train', 'test'])
@pytest.mark.parametrize('ema', [False, True])
def test_load_from_and_test_refuse_another_models_file(tmp_path, hook, verb, ema):
    cfg = config(tmp_path, load_from=file_of(WIDER, tmp_path / 'other.pth'))
    cfg.default_hooks.checkpoint = dict(type=hook)
    cfg.update(
        test_dataloader=cfg.val_dataloader, test_evaluator=cfg.val_evaluator, test_cfg=dict()
    )
    cfg.custom_hooks = [dict(type='EMAHook')] if ema else []
    runner = Runner.from_cfg(cfg)
    with pytest.raises(ValueError, match="another model's"):
        getattr(runner, verb)()


@pytest.mark.parametrize('ema', [False, True])
def test_a_head_of_other_classes_is_left_out_of_a_training_when_asked_for(tmp_path, log, ema):
    path = file_of(FEWER, tmp_path / 'three.pth')
    model = algorithm_cfg(load_from_except=['fc.*'], data_preprocessor=None)
    cfg = config(tmp_path, model=model, load_from=path, epochs=1)
    cfg.custom_hooks = [dict(type='EMAHook')] if ema else []
    cfg.optim_wrapper.optimizer.lr = 0.0
    trained = Runner.from_cfg(copy.deepcopy(cfg)).train()
    given = weights(FEWER)
    assert torch.equal(trained.student.body[0].weight, given['body.0.weight'])
    torch.manual_seed(0)
    assert trained.fc.weight.shape == (4, 4) and trained.fc.weight.any()
    assert {line.split()[0] for line in log} == {'fc.weight', 'fc.bias'}
    # A test needs every weight.
    cfg.update(
        test_dataloader=cfg.val_dataloader, test_evaluator=cfg.val_evaluator, test_cfg=dict(),
        experiment_name='test', custom_hooks=[],
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"another model's.*fc\.weight"):
        Runner.from_cfg(cfg).test()


def test_left_out_parts_that_fit_are_loaded_all_the_same():
    model = build(load_from_except=['fc.*'])
    model.init_weights()
    model.load_state_dict(weights(FITS))
    assert torch.equal(model.fc.weight, weights(FITS)['fc.weight'])


def test_left_out_parts_may_be_missing_or_too_many(log):
    model = build(load_from_except=['fc.*', 'ema_*'])
    model.init_weights()
    start = model.fc.bias.detach().clone()
    load_state_dict(model, dict(LESS, ema_fc=torch.ones(1)), strict=True)
    assert torch.equal(model.fc.weight, LESS['fc.weight'])
    assert torch.equal(model.fc.bias, start)
    assert [line.split()[0] for line in log] == ['fc.bias', 'ema_fc']
    with pytest.raises(ValueError, match=r'missing \(first: body'):
        load_state_dict(model, {k: v for k, v in LESS.items() if 'body' not in k})


@pytest.mark.parametrize('value', ['fc.*', [1]])
def test_patterns_are_a_list_of_names(value):
    with pytest.raises(ValueError, match=r'model\.load_from_except=.*list of patterns'):
        build(load_from_except=value)


@pytest.mark.parametrize('loader', LOADERS)
def test_what_terms_learn_may_be_missing_or_left_over(loader, log):
    learns, plain = build(distiller=learning()), build()
    start = learns.distiller.state_dict()
    LOADERS[loader](learns, weights(FITS))
    assert torch.equal(learns.fc.weight, weights(FITS)['fc.weight'])
    for key, value in start.items():
        assert torch.equal(learns.distiller.state_dict()[key], value)
    name = 'distiller.connectors.join.func.weight'
    assert name in {line.split()[0] for line in log}
    log.clear()
    LOADERS[loader](plain, learns.state_dict())
    assert name in {line.split()[0] for line in log}
    LOADERS[loader](plain.student, learns.state_dict())


def test_what_terms_learn_in_another_shape_is_refused():
    state = build(distiller=learning()).state_dict()
    state['distiller.connectors.join.func.weight'] = torch.ones(2, 2)
    with pytest.raises(ValueError, match=r'another shape.*distiller\.connectors'):
        build(distiller=learning()).load_state_dict(state)


def test_old_counts_of_batch_norms_and_published_preprocessors_are_no_obstacle():
    student = MODELS.build(STUDENT)
    student.body.add_module('norm', nn.BatchNorm1d(4))
    state = student.state_dict()
    del state['body.norm.num_batches_tracked']
    del state._metadata
    model = build(architecture=student)
    state['data_preprocessor.mean'] = torch.ones(3)
    state['fc.bias'] = state['fc.bias'] + 1
    load_state_dict(model, state, strict=True)
    assert torch.equal(model.fc.bias, state['fc.bias'])


def test_mmrazors_checkpoint_gives_its_student():
    state = {f'architecture.{key}': value for key, value in weights(FITS).items()}
    state['teacher.fc.weight'] = torch.ones(1)
    model = build()
    load_state_dict(model, state, strict=True)
    assert torch.equal(model.fc.weight, weights(FITS)['fc.weight'])


def test_ema_and_plain_hooks_resume_to_the_same_weights(tmp_path):
    def cfg(folder, epochs):
        cfg = config(tmp_path / folder, epochs=epochs, model=algorithm_cfg(distiller=learning()))
        cfg.default_hooks.checkpoint = dict(type='CheckpointHook', interval=1)
        cfg.custom_hooks.append(dict(type='EMAHook', momentum=0.2))
        cfg.param_scheduler = None
        return cfg

    def ended(runner):
        ema = next(hook for hook in runner.hooks if isinstance(hook, EMAHook))
        return {**runner.model.state_dict(), **ema.ema_model.state_dict()}

    whole = Runner.from_cfg(cfg('whole', 3))
    whole.train()
    Runner.from_cfg(cfg('cut', 2)).train()
    later = cfg('cut', 3)
    later.resume = True
    resumed = Runner.from_cfg(later)
    resumed.train()
    got = ended(resumed)
    for key, value in ended(whole).items():
        assert torch.equal(value, got[key]), key
    # What was saved is the average, by the student's own names.
    saved = torch.load(tmp_path / 'whole/epoch_3.pth', weights_only=False)['state_dict']
    assert list(saved) == list(whole.model.state_dict())


INIT = {
    'dict': lambda path: dict(type='Pretrained', checkpoint=path),
    'list': lambda path: [
        dict(type='Constant', layer='Linear', val=7.0),
        dict(type='Pretrained', checkpoint=path),
    ],
    'prefix': lambda path: dict(type='Pretrained', checkpoint=path, prefix='net.'),
}


@MODELS.register_module(force=True)
class WithInit(type(MODELS.build(STUDENT))):
    """A tiny classifier that takes an init_cfg."""

    def __init__(self, *args, init_cfg=None, **kwargs):
        super().__init__(*args, **kwargs)
        self.init_cfg = init_cfg


def started(**changes):
    model = build(**changes)
    model.init_weights()
    return model.student.state_dict()


@pytest.mark.parametrize('form', INIT)
def test_init_cfg_is_the_students(form, tmp_path):
    path = tmp_path / 'student.pth'
    given = weights(FITS)
    prefix = 'net.' if form == 'prefix' else ''
    torch.save(dict(state_dict={prefix + k: v for k, v in given.items()}), path)
    init_cfg = INIT[form](str(path))
    got = started(init_cfg=init_cfg)
    alone = MODELS.build(dict(type='WithInit', width=4, init_cfg=init_cfg))
    alone.init_weights()
    for key, value in given.items():
        assert torch.equal(got[key], value) and torch.equal(alone.state_dict()[key], value)


def test_a_student_of_another_input_size_computes_its_tables_anew(tmp_path):
    """BEiT takes them out of what it loads, so that they look as if they were missing."""

    def beit(size):
        settings = dict(use_abs_pos_emb=False, use_rel_pos_bias=True, out_type='avg_featmap')
        return networks.build(
            networks.vit('BEiTViT', 3, 'LinearClsHead', img_size=size, **settings)
        )

    small, alone, model = beit(32), beit(64), StudentModel(beit(64))
    path = str(tmp_path / 'small.pth')
    torch.save(small.state_dict(), path)
    index = 'backbone.layers.0.attn.relative_position_index'
    assert small.state_dict()[index].shape != alone.state_dict()[index].shape
    for each in (alone, model):
        load_checkpoint(each, path, map_location='cpu', logger='silent')
    expected, got = alone.state_dict(), model.state_dict()
    assert list(expected) == list(got)
    assert all(torch.equal(value, got[key]) for key, value in expected.items())
    torch.save({k: v for k, v in small.state_dict().items() if k != index}, path)
    with pytest.raises(ValueError, match=rf'1 weights are missing \(first: {index}\)'):
        load_checkpoint(model, path, map_location='cpu', logger='silent')


class Layered(BaseModel):
    """A classifier whose layers initialise themselves, as upstream's do."""

    def __init__(self, init_cfg=None, data_preprocessor=None):
        super().__init__(data_preprocessor, init_cfg)
        self.fc = Linear(6, 4, init_cfg=dict(type='Constant', layer='Linear', val=7.0))

    def forward(self, inputs, data_samples=None, mode='tensor'):
        return self.fc(inputs)


class Linear(BaseModule):
    def __init__(self, ins, outs, init_cfg):
        super().__init__(init_cfg)
        self.layer = torch.nn.Linear(ins, outs)

    def forward(self, x):
        return self.layer(x)


@pytest.mark.parametrize('inside', [False, True])
def test_pretrained_with_a_scope_is_not_initialised_over(inside, tmp_path):
    path = str(tmp_path / 'student.pth')
    torch.save({'fc.layer.weight': torch.ones(4, 6), 'fc.layer.bias': torch.ones(4)}, path)
    init_cfg = dict(type='mmengine.Pretrained', checkpoint=path)
    model = StudentModel(Layered(init_cfg)) if inside else StudentModel(Layered(), init_cfg)
    model.init_weights()
    assert (model.fc.layer.weight == 1).all()


def test_init_cfg_without_a_file_and_beside_the_students_own(tmp_path):
    constant = dict(type='Constant', layer='Linear', val=7.0)
    assert (started(init_cfg=constant)['fc.weight'] == 7).all()
    path = file_of(FITS, tmp_path / 'student.pth')
    pretrained = dict(type='Pretrained', checkpoint=path)
    inside = dict(type='WithInit', width=4, init_cfg=pretrained)
    # As in mmengine, pretrained weights come last, and inner ones after outer ones.
    assert torch.equal(
        started(architecture=inside, init_cfg=constant)['fc.weight'], weights(FITS)['fc.weight']
    )
    inner = dict(type='WithInit', width=4, init_cfg=dict(constant, val=3.0))
    assert (started(architecture=inner, init_cfg=[constant])['fc.weight'] == 3).all()
    with pytest.raises(ValueError, match=r'model\.init_cfg=.*both give the student pretrained'):
        build(architecture=inside, init_cfg=pretrained)


def test_init_cfg_of_another_model_is_refused(tmp_path):
    path = file_of(WIDER, tmp_path / 'other.pth')
    pretrained = dict(type='Pretrained', checkpoint=path)
    for changes in (
        dict(init_cfg=pretrained),
        dict(architecture=dict(type='WithInit', width=4, init_cfg=pretrained)),
    ):
        model = build(**changes)
        with pytest.raises(ValueError, match="another model's"):
            model.init_weights()
    got = started(init_cfg=dict(type='Pretrained', checkpoint=file_of(FEWER, path)),
                  load_from_except=['fc.*'])  # fmt: skip
    assert torch.equal(got['body.0.weight'], weights(FEWER)['body.0.weight'])


def test_init_cfg_comes_too_late_for_a_student_that_is_initialised():
    student = MODELS.build(STUDENT)
    student.init_weights()
    with pytest.raises(ValueError, match=r'model\.init_cfg=.*too late'):
        build(architecture=student, init_cfg=dict(type='Constant', layer='Linear', val=7.0))


def test_comparing_without_loading():
    model = build(distiller=learning())
    learnt = tuple(key for key in model.state_dict() if key.startswith('distiller.'))
    assert learnt
    assert not compare({f'module.{k}': v for k, v in model.state_dict().items()}, model)
    # A student's checkpoint lacks what the terms learn, and nothing else.
    assert compare(weights(FITS), model).missing == learnt
    theirs = {f'architecture.{k}': v for k, v in weights(FITS).items()}
    assert compare(theirs, model).missing == learnt
    wrong = compare(weights(WIDER), model)
    assert len(wrong.reshaped) == 3 and wrong.missing == learnt and not wrong.unexpected
    assert 'body.0.weight is (5, 6) in the file and (4, 6) here' in str(wrong)
    assert compare(LESS, model).missing == ('fc.bias', *learnt)
    assert compare(dict(weights(FITS), x=torch.ones(1)), model).unexpected == ('x',)
