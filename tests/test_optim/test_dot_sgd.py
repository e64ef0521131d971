"""DOTSGD against the published optimizer, a loop over python floats, and SGD."""

import copy
import math
import pickle
import warnings

import pytest
import torch
from helpers.scripted_gradients import REACHED, SETTINGS, gradients, rate, start
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from kd_plugins.optim import DOTSGD

#: The four parameters, two elements each, after 12 and 30 steps of
#: DistillationOrientedTrainer, driven by the same script with momentum 0.825 and
#: momentum_kd 0.975: mdistiller/engine/dot.py of megvii-research/mdistiller at
#: a08d46f10d6102bd6e3f258ca5ac880b020ea259, in float64.
PUBLISHED = {
    'plain': {
        12: [
            -0.08234389227286389,
            0.9919965209294647,
            0.13625895088659432,
            -0.2464982466417556,
            0.2369156483013004,
            -0.1743616465241099,
            2.196401763032562,
            -0.29960945954948026,
        ],
        30: [
            0.5272847121986896,
            0.09357024322124229,
            -0.2869837336598551,
            0.057539741297171466,
            -0.7275942221324232,
            0.4572160992838888,
            -0.7789496084658784,
            -0.13586593747002612,
        ],
    },
    'no weight decay': {
        12: [
            -0.09017655881958446,
            0.9843159234214737,
            0.18123790069240803,
            -0.2734890411710886,
            0.3211251590616681,
            -0.20381173468469396,
            2.2648972177411717,
            -0.3047360863158163,
        ],
        30: [
            0.5271066449336023,
            0.12335961412633344,
            -0.2989487621141654,
            0.06198825426190947,
            -0.6905946189305908,
            0.43323662890639486,
            -0.6554113083481014,
            -0.15344847421443977,
        ],
    },
    'dampening': {
        12: [
            -0.12643769561322762,
            0.868649113509841,
            0.20556026476666095,
            -0.3011589622627011,
            0.43677775280996206,
            -0.23446780119967806,
            2.3199926562058386,
            -0.2865152276354315,
        ],
        30: [
            0.45147960829377687,
            0.22389236407938767,
            -0.3033335499436692,
            0.07326584651240724,
            -0.6458705318290086,
            0.38629372517948024,
            -0.5201991372124145,
            -0.15814295716130858,
        ],
    },
    'falling rate': {
        12: [
            -0.3494218381577992,
            1.0102409012649527,
            0.42962737956967006,
            -0.23116566822806386,
            0.6232701545069591,
            -0.49555745543963386,
            2.719053449976002,
            -0.41021786768157414,
        ],
        30: [
            -0.3027842712879132,
            0.9401544482950119,
            0.3577350505150186,
            -0.1845892723412459,
            0.5761420774414762,
            -0.46674933778335226,
            2.5243882671867572,
            -0.3938394381020728,
        ],
    },
}


def dot(params, **settings):
    return DOTSGD(params, **{**dict(lr=0.05, momentum=0.9, delta=0.075), **settings})


def give(optimizer, p, task, distill):
    """Hand over gradients as backward passes would."""
    with optimizer.distillation():
        p.grad = distill
    p.grad = task


def run(params, optimizer, steps, setting=None, first=0):
    for step in range(first, first + steps):
        for group in optimizer.param_groups:
            group['lr'] = rate(setting or {}, step)
        for name, p in params.items():
            give(optimizer, p, *gradients(name, p.detach(), step))
        optimizer.step()
        optimizer.zero_grad()


def parameters():
    return {name: nn.Parameter(value) for name, value in start().items()}


def flat(params):
    return torch.cat([p.detach().flatten() for p in params.values()])


@pytest.mark.parametrize('label', SETTINGS)
@pytest.mark.parametrize('groups', ['one', 'each'])
def test_trajectories_are_the_published_ones(label, groups):
    setting = SETTINGS[label]
    params = parameters()
    grouped = params.values() if groups == 'one' else [dict(params=[p]) for p in params.values()]
    keys = {key: setting[key] for key in ('weight_decay', 'dampening') if key in setting}
    optimizer = dot(grouped, **keys)
    run(params, optimizer, 12, setting)
    twelve = torch.tensor(PUBLISHED[label][12], dtype=torch.float64)
    torch.testing.assert_close(flat(params), twelve, rtol=0, atol=1e-10)
    run(params, optimizer, 18, setting, first=12)
    thirty = torch.tensor(PUBLISHED[label][30], dtype=torch.float64)
    torch.testing.assert_close(flat(params), thirty, rtol=0, atol=1e-10)


class Loop:
    """The update of one number, in python floats, from METHODS alone."""

    def __init__(self, p, mu, delta, decay, dampening):
        self.p, self.mu, self.delta, self.decay, self.dampening = p, mu, delta, decay, dampening
        self.task = self.distill = None

    def step(self, lr, task, distill):
        p, keep = self.p, 1 - self.dampening
        both = task is not None and distill is not None
        applied = 0.0
        if task is not None:
            task += self.decay * p
            old = self.task
            momentum = self.mu - self.delta if both else self.mu
            self.task = task if old is None else momentum * old + keep * task
            applied += self.task
        if distill is not None:
            if self.distill is None:
                self.distill = distill
            elif both:
                self.distill = (self.mu + self.delta) * self.distill + keep * distill
            else:
                self.distill = self.mu * self.distill + keep * (distill + self.decay * p)
            applied += self.distill
        self.p = p - lr * applied


def test_settings_of_each_group_and_momentum_that_changes():
    """Values apart from the published constants: many groups, other deltas."""
    settings = [
        dict(lr=0.1, momentum=0.9, delta=0.09, weight_decay=0.1, dampening=0.0),
        dict(lr=0.02, momentum=0.5, delta=0.3, weight_decay=0.0, dampening=0.2),
        dict(lr=0.02, momentum=0.5, delta=-0.3, weight_decay=0.05, dampening=0.2),
        dict(lr=0.07, momentum=0.8, delta=0.0, weight_decay=0.2, dampening=0.0),
    ]
    params = parameters()
    loops = {}
    for (name, p), s in zip(params.items(), settings, strict=True):
        loops[name] = [
            Loop(x, s['momentum'], s['delta'], s['weight_decay'], s['dampening'])
            for x in p.tolist()
        ]
    optimizer = dot([dict(s, params=[p]) for p, s in zip(params.values(), settings, strict=True)])
    for step in range(25):
        for group, (name, p) in zip(optimizer.param_groups, params.items(), strict=True):
            group['momentum'] -= 0.005
            pair = gradients(name, p.detach(), step)
            give(optimizer, p, *pair)
            for i, loop in enumerate(loops[name]):
                loop.mu -= 0.005
                numbers = [None if g is None else g[i].item() for g in pair]
                loop.step(group['lr'], *numbers)
        optimizer.step()
        optimizer.zero_grad()
    expected = [loop.p for name in params for loop in loops[name]]
    torch.testing.assert_close(
        flat(params), torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12
    )


@pytest.mark.parametrize('momentum', [0.9, 0.0])
@pytest.mark.parametrize('dampening', [0.0, 0.3])
def test_delta_zero_is_sgd_on_the_sum(momentum, dampening):
    ours = {'both': nn.Parameter(start()['both'])}
    theirs = nn.Parameter(start()['both'])
    keys = dict(lr=0.05, momentum=momentum, weight_decay=0.03, dampening=dampening)
    optimizer = DOTSGD(ours.values(), delta=0.0, **keys)
    sgd = torch.optim.SGD([theirs], **keys)
    for step in range(30):
        run(ours, optimizer, 1, first=step)
        theirs.grad = sum(gradients('both', theirs.detach(), step))
        sgd.step()
    torch.testing.assert_close(ours['both'], theirs, rtol=1e-13, atol=1e-13)
    # With a delta it is another training.
    other = {'both': nn.Parameter(start()['both'])}
    if momentum:
        run(other, dot(other.values(), weight_decay=0.03), 30)
        assert not torch.allclose(other['both'], theirs, atol=1e-2)


def test_backward_passes_go_to_the_set_that_is_open():
    p, q = nn.Parameter(torch.tensor([2.0])), nn.Parameter(torch.tensor([3.0]))
    optimizer = dot([p, q])
    loss_kd, loss_task = 5 * p.sum(), (p * q).sum()
    for _ in range(2):
        with optimizer.distillation():
            loss_kd.backward(retain_graph=True)
        loss_task.backward(retain_graph=True)
    assert (p.grad, q.grad) == (torch.tensor([6.0]), torch.tensor([4.0]))
    assert optimizer.distill_grads == {p: torch.tensor([10.0])}
    optimizer.zero_grad()
    assert p.grad is None and q.grad is None and not optimizer.distill_grads


def test_an_error_inside_leaves_the_sets_apart():
    p = nn.Parameter(torch.tensor([2.0]))
    optimizer = dot([p])
    p.grad = torch.tensor([1.0])
    with pytest.raises(KeyError), optimizer.distillation():
        assert p.grad is None
        raise KeyError
    assert p.grad == 1.0


def test_state_goes_through_a_checkpoint(tmp_path):
    params = parameters()
    optimizer = dot(params.values(), weight_decay=0.02)
    run(params, optimizer, 13)
    torch.save(
        dict(params={k: p.detach() for k, p in params.items()}, optimizer=optimizer.state_dict()),
        tmp_path / 'state.pth',
    )
    saved = torch.load(tmp_path / 'state.pth')
    again = {name: nn.Parameter(value) for name, value in saved['params'].items()}
    resumed = dot(again.values(), lr=1.0, delta=0.01)
    resumed.load_state_dict(copy.deepcopy(saved['optimizer']))
    assert resumed.param_groups[0]['delta'] == 0.075
    run(params, optimizer, 9, first=13)
    run(again, resumed, 9, first=13)
    assert torch.equal(flat(params), flat(again))
    # Without the state it would not be so.
    fresh = {name: nn.Parameter(value.clone()) for name, value in saved['params'].items()}
    run(fresh, dot(fresh.values(), weight_decay=0.02), 9, first=13)
    assert not torch.allclose(flat(params), flat(fresh), atol=1e-3)


def test_other_optimizers_states_are_refused():
    p = nn.Parameter(torch.ones(1))
    for other in (torch.optim.SGD([p], lr=0.1, momentum=0.9), torch.optim.AdamW([p])):
        p.grad = torch.ones(1)
        other.step()
        # Some optimizers have a delta of their own (SGDP).
        other.param_groups[0]['delta'] = 0.1
        with pytest.raises(ValueError, match='resume=True: .* no momentum of the distillation'):
            dot([p]).load_state_dict(other.state_dict())


@pytest.mark.parametrize('steps', [0, 3])
@pytest.mark.parametrize('groups', ['one', 'each'])
def test_no_other_optimizer_takes_its_state(steps, groups):
    """SGD would use the task's buffers and forget the distillation's."""
    params = parameters()
    grouped = [*params.values()]
    if groups == 'each':
        grouped = [dict(params=[p]) for p in params.values()]
    optimizer = dot(copy.copy(grouped))
    run(params, optimizer, steps)
    for other in (torch.optim.SGD(grouped, lr=0.1, momentum=0.9), torch.optim.AdamW(grouped)):
        before = copy.deepcopy(other.state_dict())
        with pytest.raises(ValueError, match='different number of parameter groups'):
            other.load_state_dict(optimizer.state_dict())
        assert other.state_dict() == before


def test_a_state_of_an_earlier_release_is_taken_over():
    params = parameters()
    optimizer = dot(params.values())
    run(params, optimizer, 5)
    earlier = torch.optim.Optimizer.state_dict(optimizer)
    assert len(earlier['param_groups']) == 1
    resumed = dot(params.values(), delta=0.01)
    resumed.load_state_dict(earlier)
    for p in params.values():
        assert resumed.state[p].keys() == optimizer.state[p].keys()
    assert resumed.param_groups[0]['delta'] == 0.075


def by_pickle(things):
    return pickle.loads(pickle.dumps(things))


@pytest.mark.parametrize('copied', [copy.deepcopy, by_pickle])
def test_a_copy_goes_on_as_the_original_would_and_leaves_it_alone(copied):
    params = parameters()
    optimizer = dot(params.values(), weight_decay=0.02)
    run(params, optimizer, 5)
    # Between a backward pass and the step, as a copy may be made at any time.
    give(optimizer, params['both'], *gradients('both', params['both'].detach(), 5))
    theirs, other = copied((params, optimizer))
    ends = {name: p.detach().clone() for name, p in params.items()}
    assert all(torch.equal(theirs[name], value) for name, value in ends.items())
    # Gradients are no part of a copy, as everywhere in torch.
    assert all(p.grad is None for p in theirs.values()) and not other.distill_grads
    assert other.params[0] is theirs['both']
    with pytest.raises(RuntimeError, match='without a backward pass'):
        other.step()
    run(theirs, other, 9, first=5)
    assert all(torch.equal(params[name], value) for name, value in ends.items())
    assert set(optimizer.distill_grads) == {params['both']}
    optimizer.zero_grad()
    run(params, optimizer, 9, first=5)
    assert torch.equal(flat(params), flat(theirs))
    # Without the buffers it would not be so.
    fresh = {name: nn.Parameter(value) for name, value in ends.items()}
    run(fresh, dot(fresh.values(), weight_decay=0.02), 9, first=5)
    assert not torch.allclose(flat(fresh), flat(theirs), atol=1e-3)


@pytest.mark.parametrize('delta', [0.0, 1e-20, 0.075])
@pytest.mark.parametrize('decay', [0.0, 0.1])
def test_no_call_changes_a_tensor_twice(delta, decay, monkeypatch):
    """On a GPU such a call may lose one of the changes."""
    in_place = [name for name in dir(torch) if name.startswith('_foreach_') and name[-1] == '_']
    called = []
    for name in in_place:
        kernel = getattr(torch, name)

        def checked(tensors, *args, kernel=kernel, **kwargs):
            places = [t.data_ptr() for t in tensors]
            assert len(set(places)) == len(places)
            called.append(kernel)
            return kernel(tensors, *args, **kwargs)

        monkeypatch.setattr(torch, name, checked)
    params = parameters()
    run(params, dot(params.values(), delta=delta, weight_decay=decay), 5)
    assert len(called) >= 5


def test_a_parameter_is_taken_once():
    p, q = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    shares = nn.Parameter(p.data)
    for params in ([p, p], [p, shares], [dict(params=[p]), dict(params=[q, shares])]):
        with (
            warnings.catch_warnings(),
            pytest.raises(ValueError, match=r'parameter of shape \(2,\) twice, or two'),
        ):
            warnings.simplefilter('ignore')  # torch's own, about the first case
            dot(params)
    with pytest.raises(ValueError, match='more than one parameter group'):
        dot([dict(params=[p]), dict(params=[p])])
    optimizer = dot([p, q])
    with pytest.raises(ValueError, match='twice, or two'):
        optimizer.add_param_group(dict(params=[shares]))
    # Neighbours in one piece of memory are apart, and what is empty has none.
    whole = torch.zeros(4)
    dot([nn.Parameter(whole[:2]), nn.Parameter(whole[2:])])
    dot([nn.Parameter(torch.ones(0)), nn.Parameter(torch.ones(0))])


def test_a_group_that_is_added_later_is_checked():
    optimizer = dot([nn.Parameter(torch.ones(1))])
    with pytest.raises(ValueError, match='momentum of the task 0.8 and of the distillation 1,'):
        optimizer.add_param_group(dict(params=[nn.Parameter(torch.ones(1))], delta=0.1))
    with pytest.raises(ValueError, match='nesterov=True is not supported by DOT'):
        optimizer.add_param_group(dict(params=[nn.Parameter(torch.ones(1))], nesterov=True))


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_parameters(dtype):
    params = {name: nn.Parameter(value.to(dtype)) for name, value in start().items()}
    run(params, dot(params.values(), weight_decay=0.02), 12)
    exact = torch.tensor(PUBLISHED['plain'][12], dtype=torch.float64)
    # The formulas of the gradients round as well.
    torch.testing.assert_close(flat(params).double(), exact, rtol=0.05, atol=0.15)


def test_parameters_of_several_types_and_layouts_and_without_elements():
    values = [torch.ones(2, 3).t(), torch.ones(2, dtype=torch.float64), torch.ones(0)]
    params = [nn.Parameter(value) for value in values]
    optimizer = dot(params, lr=1.0)
    for _ in range(2):
        for p in params:
            give(optimizer, p, torch.ones_like(p), torch.full_like(p, 2.0))
        optimizer.step()
    # 1 - (1 + 2) - (0.825 + 1 + 2 * 0.975 + 2)
    for p in params:
        torch.testing.assert_close(p.detach(), torch.full_like(p, -7.775))


def test_a_step_without_gradients_changes_nothing():
    p = nn.Parameter(torch.ones(2))
    optimizer = dot([p], weight_decay=0.1)
    give(optimizer, p, torch.ones(2), torch.ones(2))
    optimizer.step()
    before, state = p.detach().clone(), copy.deepcopy(optimizer.state_dict())
    give(optimizer, p, None, None)
    optimizer.step()
    assert torch.equal(p, before)
    for key, buffer in optimizer.state_dict()['state'][0].items():
        assert torch.equal(buffer, state['state'][0][key])


def test_gradients_are_left_as_they_are():
    """Hooks of other packages read them after the step."""
    p = nn.Parameter(torch.ones(2))
    optimizer = dot([p], weight_decay=0.1)
    for _ in range(2):
        give(optimizer, p, torch.ones(2), torch.full((2,), 3.0))
        optimizer.step()
        assert torch.equal(p.grad, torch.ones(2))
        assert torch.equal(optimizer.distill_grads[p], torch.full((2,), 3.0))


@pytest.mark.parametrize('groups', [1, 150])
def test_kernel_calls_do_not_grow_with_the_groups(groups, monkeypatch):
    """``paramwise_cfg`` makes a group of every parameter."""
    params = [nn.Parameter(torch.ones(2)) for _ in range(150)]
    grouped = params if groups == 1 else [dict(params=[p]) for p in params]
    optimizer = dot(grouped, weight_decay=0.1)
    calls = []
    for name in ('_foreach_mul_', '_foreach_add_'):
        kernel = getattr(torch, name)
        monkeypatch.setattr(
            torch, name, lambda *a, kernel=kernel, **k: (calls.append(len(a[0])), kernel(*a, **k))
        )
    for _ in range(2):
        calls.clear()
        for p in params:
            give(optimizer, p, torch.ones(2), torch.ones(2))
        optimizer.step()
    # Two for every buffer, the weight decay, and applying both.
    assert calls == [150] * 7


class Allocations(TorchDispatchMode):
    """Counts the elements that operations have made."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = {t.untyped_storage().data_ptr() for t in tree_flatten((args, kwargs))[0]
                 if isinstance(t, torch.Tensor)}  # fmt: skip
        result = func(*args, **(kwargs or {}))
        for t in tree_flatten(result)[0]:
            if isinstance(t, torch.Tensor) and t.untyped_storage().data_ptr() not in given:
                self.elements += t.numel()
        return result


def test_memory_is_one_gradient_and_one_buffer_more_than_sgds():
    params = [nn.Parameter(torch.ones(100)) for _ in range(3)]
    optimizer = dot(params, weight_decay=0.1)
    made = []
    for _ in range(3):
        for p in params:
            give(optimizer, p, torch.ones(100), torch.ones(100))
        with Allocations() as allocations:
            optimizer.step()
        made.append(allocations.elements)
    # The two buffers in the first step, and nothing afterwards.
    assert made == [600, 0, 0]
    buffers = [b for state in optimizer.state.values() for b in state.values()]
    assert sum(b.numel() for b in buffers) == 600


@pytest.mark.parametrize(
    ('settings', 'says'),
    [
        (dict(delta=0.1), 'momentum of the task 0.8 and of the distillation 1,'),
        (dict(momentum=0.05), 'the momentum of the task -0.025 and of the distillation 0.125'),
        (dict(momentum=0.0), r'delta=0\.075 beside optim_wrapper\.optimizer\.momentum=0\.0 makes'),
        (dict(momentum=1.0, delta=0.0), 'must be at least 0 and below 1'),
        (dict(delta=-0.2), 'the momentum of the task 1.1'),
        (dict(delta=math.nan), r'optim_wrapper\.delta=nan is wrong: give a finite number'),
        (dict(delta='0.075'), r"optim_wrapper\.delta='0\.075' is wrong: give a fin"),
        (dict(momentum=None), r'optim_wrapper\.optimizer\.momentum=None is wrong'),
    ],
)
def test_momenta_out_of_range_are_refused(settings, says):
    with pytest.raises(ValueError, match=says):
        dot([nn.Parameter(torch.ones(1))], **settings)
    group = dict(params=[nn.Parameter(torch.ones(1))], **settings)
    with pytest.raises(ValueError, match=says):
        dot([group])


def test_a_momentum_scheduled_out_of_range_is_refused():
    p = nn.Parameter(torch.ones(1))
    optimizer = dot([p])
    optimizer.param_groups[0]['momentum'] = 0.95
    give(optimizer, p, torch.ones(1), None)
    with pytest.raises(ValueError, match='the distillation 1.025'):
        optimizer.step()


@pytest.mark.parametrize('key', ['nesterov', 'maximize'])
def test_what_sgd_can_and_dot_cannot_is_refused(key):
    sgd = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1, momentum=0.9, **{key: True})
    with pytest.raises(ValueError, match=rf'optim_wrapper\.optimizer\.{key}=True is not supported'):
        DOTSGD.from_sgd(sgd, delta=0.05)


def test_sgds_groups_are_taken_over():
    p, q = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    groups = [dict(params=[p], lr=0.5, delta=0.01), dict(params=[q], weight_decay=0.0)]
    sgd = torch.optim.SGD(groups, lr=0.1, momentum=0.9, weight_decay=0.2, dampening=0.3)
    first, second = DOTSGD.from_sgd(sgd, delta=0.05).param_groups
    assert (first['lr'], first['delta'], first['weight_decay']) == (0.5, 0.01, 0.2)
    assert (second['lr'], second['delta'], second['weight_decay']) == (0.1, 0.05, 0.0)
    assert first['dampening'] == second['dampening'] == 0.3 and first['momentum'] == 0.9


def test_stepping_without_taking_the_losses_apart_is_refused():
    """As a plain OptimWrapper would."""
    p = nn.Parameter(torch.ones(1))
    optimizer = dot([p])
    p.grad = torch.ones(1)
    with pytest.raises(RuntimeError, match=r"optim_wrapper\.type='kd_plugins\.DOTOptimWrapper'"):
        optimizer.step()
    give(optimizer, p, torch.ones(1), None)
    optimizer.step()
    with pytest.raises(RuntimeError):
        optimizer.step()


def test_gradients_of_zeros_are_not_none():
    optimizer = dot([nn.Parameter(torch.ones(1))])
    with pytest.raises(ValueError, match='leave set_to_none at True'):
        optimizer.zero_grad(set_to_none=False)


def test_a_closure_may_do_both_passes():
    p = nn.Parameter(torch.tensor([1.0]))
    optimizer = dot([p], lr=1.0)

    def closure():
        with optimizer.distillation():
            (2 * p).sum().backward()
        loss = (3 * p).sum()
        loss.backward()
        return loss

    assert optimizer.step(closure) == 3.0
    assert p == 1.0 - 5.0


def test_every_kind_of_step_occurs_in_the_script():
    seen = {(name, reached(step)) for name, reached in REACHED.items() for step in range(12)}
    assert len({pair for name, pair in seen if name == 'sometimes'}) == 4
    assert {name for name, _ in seen} == {'both', 'task', 'distill', 'sometimes'}
