"""To the outside a distillation is its student: names, attributes, modes, weights."""

import copy
import pickle

import pytest
import torch
from helpers import STUDENT, TinyClassifier, algorithm_cfg, batch, build, distiller
from mmengine.model import BaseModel, convert_sync_batchnorm, revert_sync_batchnorm
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.registry import MODELS
from mmengine.runner.checkpoint import get_state_dict, load_state_dict
from torch import nn


@MODELS.register_module(force=True)
class Named(TinyClassifier):
    """A student with weights of its own, a batch norm at the top, and attributes."""

    _version = 3

    def __init__(self, data_preprocessor=None):
        super().__init__(width=4, data_preprocessor=data_preprocessor)
        self.token = nn.Parameter(torch.ones(6))
        self.register_buffer('scale', torch.full((6,), 2.0))
        self.register_buffer('secret', torch.zeros(1), persistent=False)
        self.norm = nn.BatchNorm1d(6)
        self.loss_lambda = 0.5
        self.calls = []

    def forward(self, inputs, data_samples=None, mode='tensor'):
        return super().forward(self.norm(inputs * self.scale) + self.token, data_samples, mode)

    def train(self, mode=True):
        self.calls = [*getattr(self, 'calls', []), mode]
        super().train(mode)
        self.norm.eval()
        return self

    def set_epoch(self, epoch):
        self.epoch = epoch


def named(**changes):
    return build(architecture=dict(type='Named'), **changes)


def learning(**more):
    """A distiller with weights of its own."""
    cfg = distiller(
        connectors=dict(join=dict(type='TorchNNConnector', module_name='Linear',
                                  module_args=dict(in_features=4, out_features=4))),
        **more,
    )  # fmt: skip
    mapping = cfg['loss_forward_mappings']['loss_kd']
    mapping['preds_S'] = dict(mapping['preds_S'], connector='join')
    return cfg


def assert_shared(model):
    """The model's children, parameters and buffers are the student's own objects."""
    student = model.student
    for name, child in student._modules.items():
        assert model._modules[name] is child
    assert [*model._modules][: len(student._modules)] == [*student._modules]
    assert [*model._modules][-1] == 'distiller'
    assert model._parameters is student._parameters and model._buffers is student._buffers
    ours, theirs = dict(model.named_parameters()), dict(student.named_parameters())
    assert all(ours[name] is parameter for name, parameter in theirs.items())


def test_names_are_the_students_and_the_distillers_come_last():
    model, alone = named(distiller=learning()), MODELS.build(dict(type='Named'))
    for names in (
        lambda m: [name for name, _ in m.named_parameters()],
        lambda m: [name for name, _ in m.named_buffers()],
        lambda m: list(m.state_dict()),
        lambda m: list(get_state_dict(m)),
        lambda m: [name for name, _ in m.named_children()],
        lambda m: [name for name, _ in m.named_modules()],
    ):
        expected, got = names(alone), names(model)
        assert got[: len(expected)] == expected
        assert all(name.startswith('distiller') for name in got[len(expected) :])
    assert 'token' in model.state_dict() and 'secret' not in model.state_dict()
    assert_shared(model)
    # What torch notes beside the weights.
    metadata = model.state_dict()._metadata
    for name, noted in alone.state_dict()._metadata.items():
        assert metadata[name] == noted


def test_the_mode_is_set_once_and_as_the_student_sets_it():
    model = named()
    model.student.calls = []
    model.train()
    assert model.student.calls == [True]
    assert model.training and model.body.training and not model.norm.training
    assert model.distiller.training
    model.eval()
    assert model.student.calls == [True, False]
    assert not any(module.training for module in (model, model.student, *model.modules()))


def test_a_batch_norm_at_the_top_is_exchanged_in_both():
    model = convert_sync_batchnorm(named())
    assert isinstance(model.norm, nn.SyncBatchNorm) and isinstance(
        model.student.norm, type(model.norm)
    )
    assert_shared(model)
    model = revert_sync_batchnorm(model)
    assert type(model.student.norm).__name__ == '_BatchNormXd'
    assert_shared(model)
    model.eval()(batch()[0])


def test_attributes_that_hooks_set_reach_the_student():
    model = named()
    model.loss_lambda = 0.0
    assert model.student.loss_lambda == 0.0 and 'loss_lambda' not in vars(model)
    model.set_epoch(7)
    assert model.student.epoch == 7 == model.epoch
    model.never_seen = 'new'
    assert model.student.never_seen == 'new' == model.never_seen
    del model.never_seen
    assert not hasattr(model, 'never_seen') and not hasattr(model.student, 'never_seen')


@pytest.mark.parametrize(
    'name', ['forward', 'train_step', 'parse_losses', 'distillation_stopped', '_is_init']
)
def test_what_is_the_models_own_stays_its_own(name):
    model = named()
    before = getattr(model.student, name, None)
    setattr(model, name, 'mine')
    assert vars(model)[name] == 'mine' and getattr(model.student, name, None) == before


def test_what_the_constructor_of_a_subclass_sets_is_its_own():
    @MODELS.register_module(force=True)
    class More(type(build())):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.mine = 1
            self.extra = nn.Linear(2, 2)

    model = MODELS.build(algorithm_cfg(type='More'))
    model.mine = 2
    assert model.mine == 2 and not hasattr(model.student, 'mine')
    assert 'extra.weight' in model.state_dict() and 'extra' not in model.student._modules
    model.eval()
    assert not model.extra.training
    other = MODELS.build(algorithm_cfg(type='More'))
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.extra.weight, model.extra.weight)


def test_modules_and_parameters_that_are_set_reach_both():
    model = named()
    model.body = nn.Sequential(nn.Linear(6, 4))
    model.token = nn.Parameter(torch.zeros(6))
    model.more = nn.Linear(2, 2)
    model.scale = torch.ones(6)
    model.register_buffer('another', torch.ones(1), persistent=False)
    model.register_parameter('weight', nn.Parameter(torch.ones(1)))
    assert_shared(model)
    assert model.student.body is model.body and len(model.student.body) == 1
    assert (
        {'more.weight', 'weight'} < model.student.state_dict().keys() == model.state_dict().keys()
    )
    assert 'another' not in model.state_dict() and model.student.another is model.another
    del model.more
    assert_shared(model)
    # Past the model as well, from the next epoch or checkpoint on.
    model.student.body = nn.Sequential(nn.Linear(6, 4), nn.ReLU())
    model.state_dict()
    assert_shared(model)
    model.student.last = nn.Linear(1, 1)
    model.train()
    assert_shared(model)


def test_another_student_is_refused():
    model = named()
    with pytest.raises(AttributeError, match='cannot be exchanged'):
        model.architecture = MODELS.build(STUDENT)


@pytest.mark.parametrize('name', ['distiller', 'teacher', 'architecture', 'student'])
@pytest.mark.parametrize('part', [nn.Linear(1, 1), nn.Parameter(torch.ones(1))])
def test_a_student_whose_part_has_a_taken_name_is_refused(name, part):
    student = MODELS.build(STUDENT)
    setattr(student, name, part)
    with pytest.raises(ValueError, match=rf"TinyClassifier has a part called '{name}'"):
        build(architecture=student)


@pytest.mark.parametrize('copied', [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_share_with_themselves_and_not_with_the_original(copied):
    model = named(distiller=learning())
    clone = copied(model)
    assert_shared(model)
    assert_shared(clone)
    with torch.no_grad():
        for parameter in clone.parameters():
            parameter.add_(1)
    start = dict(model.student.named_parameters())
    for name, parameter in clone.student.named_parameters():
        torch.testing.assert_close(parameter, start[name] + 1)
    clone.loss_lambda = 9.0
    assert model.student.loss_lambda == 0.5 and clone.student.loss_lambda == 9.0
    assert torch.isfinite(clone(*batch(), mode='loss')['distill.loss_kd'])


@pytest.mark.parametrize(
    ('convert', 'dtype'),
    [
        (lambda m: m.double(), torch.float64),
        (lambda m: m.half(), torch.float16),
        (lambda m: m.to(torch.bfloat16), torch.bfloat16),
    ],
)
def test_conversion_reaches_all_once(convert, dtype):
    model = convert(named(distiller=learning()))
    assert_shared(model)
    tensors = [*model.parameters(), model.scale, model.norm.running_mean]
    assert {tensor.dtype for tensor in tensors} == {dtype}
    assert model.norm.num_batches_tracked.dtype == torch.int64


def test_gradients_are_switched_and_cleared_once():
    model = named()
    model(*batch(), mode='loss')['student.loss'].backward()
    assert model.student.token.grad is not None
    model.zero_grad()
    assert all(p.grad is None for p in model.student.parameters())
    model.requires_grad_(False)
    assert not any(p.requires_grad for p in model.student.parameters())


@pytest.fixture
def process_group(tmp_path):
    store = torch.distributed.FileStore(str(tmp_path / 'store'), 1)
    torch.distributed.init_process_group('gloo', store=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def stepped(model, step):
    inputs, labels = batch(size=8)
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1))
    step(dict(inputs=inputs, data_samples=labels), optim_wrapper=wrapper)
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize('unused', [False, True])
def test_ddp_trains_what_one_process_trains(process_group, unused):
    from mmengine.model import MMDistributedDataParallel

    torch.manual_seed(0)
    model = named(distiller=learning())
    other = copy.deepcopy(model)
    wrapped = MMDistributedDataParallel(other, find_unused_parameters=unused)
    expected, got = stepped(model, model.train_step), stepped(other, wrapped.train_step)
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value, msg=name)
    assert_shared(other)


def test_a_compiled_step_trains_what_the_plain_one_trains():
    torch.manual_seed(0)
    model = named(distiller=learning())
    other = copy.deepcopy(model)
    # As the Runner does it.
    other.train_step = torch.compile(other.train_step, backend='eager')
    assert 'train_step' not in vars(other.student)
    expected, got = stepped(model, model.train_step), stepped(other, other.train_step)
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value, msg=name)


def test_the_students_own_loading_and_saving_are_used():
    @MODELS.register_module(force=True)
    class Renaming(Named):
        """Its checkpoints call one weight otherwise."""

        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self._register_state_dict_hook(
                lambda m, state, prefix, _: state.update(
                    {prefix + 'mark': state.pop(prefix + 'token')}
                )
            )

        def _load_from_state_dict(self, state_dict, prefix, *args):
            state_dict[prefix + 'token'] = state_dict.pop(prefix + 'mark')
            super()._load_from_state_dict(state_dict, prefix, *args)

    torch.manual_seed(0)
    model, other = (build(architecture=dict(type='Renaming')) for _ in range(2))
    with torch.no_grad():
        model.token.mul_(7)
    for state in (model.state_dict(), get_state_dict(model)):
        assert 'mark' in state and 'token' not in state
        other.token.data.zero_()
        other.load_state_dict(state)
        assert torch.equal(other.student.token, model.token)
        other.token.data.zero_()
        load_state_dict(other, state, strict=True)
        assert torch.equal(other.student.token, model.token)


def groups(model, cfg):
    """The names and rates of an optimizer's groups."""
    names = {id(p): name for name, p in model.named_parameters()}
    optimizer = build_optim_wrapper(model, cfg).optimizer
    return [([names[id(p)] for p in g['params']], g['lr']) for g in optimizer.param_groups]


def test_custom_keys_find_the_distiller_and_the_student():
    keys = {'distiller': dict(lr_mult=10.0), 'fc': dict(lr_mult=0.5)}
    cfg = dict(
        type='OptimWrapper', optimizer=dict(type='SGD', lr=1.0),
        paramwise_cfg=dict(custom_keys=keys),
    )  # fmt: skip
    model = named(distiller=learning())
    found = groups(model, cfg)
    assert found[: len(found) - 2] == groups(MODELS.build(dict(type='Named')), cfg)
    assert [rate for _, rate in found[-2:]] == [10.0, 10.0]


def test_predictions_are_the_students_own():
    class Steps(BaseModel):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(6, 4)
            self.loss_module = nn.Identity()

        def forward(self, inputs, data_samples=None, mode='tensor'):
            return self.fc(inputs)

        def test_step(self, data):
            return ['tested']

        def val_step(self, data):
            return ['validated']

    model = build(architecture=Steps())
    assert model.test_step({}) == ['tested'] and model.val_step({}) == ['validated']
