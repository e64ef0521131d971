"""DOTOptimWrapper in the hands of ``train_step``, against the same by hand."""

import copy

import pytest
import torch
from helpers.scaler import cpu_scaler
from helpers.two_losses import TwoLosses, by_hand, data, network, train, weights
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.registry import MODEL_WRAPPERS
from torch import nn

from kd_plugins import launch
from kd_plugins.optim import DOTSGD, DOTOptimWrapper, two_gradients

SGD = dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=0.01)


def wrapper(model, steps=100, **settings):
    """Build as a Runner would, and bind."""
    cfg = dict(type='kd_plugins.DOTOptimWrapper', optimizer=dict(SGD), delta=0.075)
    cfg['optimizer'].update(settings.pop('optimizer', {}))
    built = build_optim_wrapper(model, {**cfg, **settings})
    built.initialize_count_status(model, 0, steps)
    return built


def plain(model, steps=100, **settings):
    built = build_optim_wrapper(model, dict(optimizer=dict(SGD), **settings))
    built.initialize_count_status(model, 0, steps)
    return built


def assert_close(a, b, tolerance=1e-12):
    assert list(a) == list(b)
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=tolerance, atol=tolerance, msg=name)


def apart(a, b):
    return max((a[name] - b[name]).abs().max().item() for name in a)


def test_training_is_the_formulas():
    model = network()
    start = weights(model)
    expected = by_hand(model, 20)
    trained = train(model, wrapper(model), 20)
    assert_close(trained, expected)
    # Every parameter but the frozen one has moved, and delta matters.
    still = [name for name in start if torch.equal(start[name], trained[name])]
    assert still == ['frozen']
    assert apart(by_hand(network(), 20, delta=0.0), expected) > 1e-3


@pytest.mark.parametrize('reentrant', [True, False])
def test_gradient_checkpointing_changes_nothing(reentrant):
    model = network(reentrant=reentrant)
    assert_close(train(model, wrapper(model), 10), by_hand(network(), 10))


def test_delta_zero_is_the_plain_wrapper_for_shared_parameters():
    ours, theirs = network(), network()
    dot, sgd = wrapper(ours, delta=0.0), plain(theirs)
    for _ in range(10):
        # Only the shared ones: DOT decays one that only distillation reaches later.
        for model, each in ((ours, dot), (theirs, sgd)):
            for name, p in model.named_parameters():
                p.requires_grad_(name.split('.')[0] in ('stem', 'body'))
            train(model, each, 1)
    assert_close(weights(ours), weights(theirs))


@pytest.mark.parametrize('count', [2, 3])
def test_accumulated_steps_are_one_step_on_the_joined_batch(count):
    """Seven batches: with 3, the last update has one batch, which counts fully."""
    model = network()
    dot = wrapper(model, steps=7, accumulative_counts=count)
    pieces = [data(step, 4) for step in range(7)]
    moved = []
    for piece in pieces:
        before = weights(model)
        model.train_step(piece, dot)
        moved.append(apart(before, weights(model)) > 0)
    assert moved == [(i + 1) % count == 0 or i == 6 for i in range(7)]
    joined = network()
    single = wrapper(joined)
    for i in range(0, 7, count):
        part = pieces[i : i + count]
        merged = {key: torch.cat([piece[key] for piece in part]) for key in part[0]}
        joined.train_step(merged, single)
    assert_close(weights(model), weights(joined))


def sum_norm_factor(limit):
    def factor(task, distill):
        squares = [
            sum(g for g in pair if g is not None).square().sum()
            for pair in zip(task, distill, strict=True)
            if any(g is not None for g in pair)
        ]
        return min(1.0, limit / (sum(squares).sqrt().item() + 1e-6))

    return factor


def test_clipping_by_norm_scales_both_sets_by_the_norm_of_their_sum():
    model = network()
    dot = wrapper(model, clip_grad=dict(max_norm=0.3))
    expected = by_hand(model, 10, factor=sum_norm_factor(0.3))
    assert_close(train(model, dot, 10), expected)
    assert apart(by_hand(network(), 10), expected) > 1e-3
    assert MessageHub.get_current_instance().get_scalar('train/grad_norm').current() > 0.3


@pytest.mark.parametrize(
    'clip', [dict(max_norm=0.2), dict(max_norm=0.05, norm_type='inf'), dict(type='value',
     clip_value=0.02)]
)  # fmt: skip
def test_clipping_at_delta_zero_is_the_plain_wrappers(clip):
    ours, theirs = network(), network()
    dot = wrapper(ours, delta=0.0, clip_grad=dict(clip), optimizer=dict(weight_decay=0.0))
    sgd = plain(theirs, clip_grad=dict(clip))
    for group in sgd.param_groups:
        group['weight_decay'] = 0.0
    assert_close(train(ours, dot, 10), train(theirs, sgd, 10))
    unclipped = network()
    free = wrapper(unclipped, delta=0.0, optimizer=dict(weight_decay=0.0))
    assert apart(train(unclipped, free, 10), weights(ours)) > 1e-3


def test_clipping_does_not_depend_on_the_order_in_which_gradients_came():
    """Ranks get them in different orders, and must not round differently."""
    for _ in range(20):
        params = [nn.Parameter(torch.ones(7)) for _ in range(9)]
        grads = [torch.randn(7) for _ in params]
        norms = []
        for order in (range(9), reversed(range(9))):
            own = DOTSGD(params, lr=0.1, momentum=0.9, delta=0.05)
            own.distill_grads.update((params[i], grads[i].clone()) for i in order)
            norms.append(two_gradients.clip(own, nn.utils.clip_grad_norm_, dict(max_norm=1.0)))
        assert torch.equal(*norms)


def scaled(model, scale=1024.0, **settings):
    dot = wrapper(model, **settings)
    dot.loss_scaler = cpu_scaler(scale)
    return dot


def test_one_scaler_unscales_both_sets():
    model = network()
    dot = scaled(model)
    assert_close(train(model, dot, 10), by_hand(network(), 10), 1e-10)
    assert dot.skipped_steps == 0


def make_infinite(model, side):
    """Give the task or the distillation loss infinite gradients; return what was."""
    infinite = model.keys[side]
    forward = model.forward

    def broken(*args, **kwargs):
        losses = forward(*args, **kwargs)
        losses[infinite] = losses[infinite] * torch.inf
        return losses

    model.forward = broken
    return forward


@pytest.mark.parametrize('side', [0, 1])
def test_a_gradient_that_is_not_finite_skips_the_step_and_is_reported(side, caplog):
    model = network()
    dot = scaled(model, clip_grad=dict(max_norm=10.0))
    train(model, dot, 3)
    before, state = weights(model), copy.deepcopy(dot.optimizer.state_dict()['state'])
    forward = make_infinite(model, side)
    train(model, dot, 1, first=3)
    assert_close(before, weights(model), 0)
    after = dot.optimizer.state_dict()['state']
    for i, buffers in state.items():
        assert all(torch.equal(buffers[key], after[i][key]) for key in buffers)
    assert dot.skipped_steps == 1
    assert MessageHub.get_current_instance().get_scalar('train/skipped_steps').current() == 1
    assert dot.loss_scaler.get_scale() == 512.0
    model.forward = forward
    train(model, dot, 1, first=4)
    assert apart(before, weights(model)) > 0
    assert all(torch.isfinite(value).all() for value in weights(model).values())


def test_the_scaler_is_saved_and_resumed():
    model = network()
    dot = scaled(model, scale=64.0)
    train(model, dot, 2)
    again = scaled(network(), scale=2.0)
    again.load_state_dict(copy.deepcopy(dot.state_dict()))
    assert again.loss_scaler.get_scale() == 64.0
    # A training in full precision goes on from it, and the other way round.
    wrapper(network()).load_state_dict(copy.deepcopy(dot.state_dict()))
    full = wrapper(network())
    again.load_state_dict(copy.deepcopy(full.state_dict()))
    assert again.loss_scaler.get_scale() == 64.0


def test_bfloat16_reaches_the_forward_pass_and_no_further():
    model = TwoLosses()
    dot = wrapper(model, dtype='bfloat16')
    seen = []
    model.body.register_forward_hook(lambda module, args, output: seen.append(output.dtype))
    start = weights(model)
    single = [
        {key: value.float() if value.is_floating_point() else value for key, value in d.items()}
        for d in map(data, range(10))
    ]
    for each in single:
        model.train_step(each, dot)
    assert set(seen) == {torch.bfloat16}
    assert all(value.dtype == torch.float32 for value in dot.optimizer.distill_grads.values())
    exact = TwoLosses()
    exact.load_state_dict(start)
    full = wrapper(exact)
    for each in single:
        exact.train_step(each, full)
    assert 0 < apart(weights(model), weights(exact)) < 0.1


def test_resumed_in_the_middle_it_ends_in_the_same_weights():
    whole = network()
    dot = wrapper(whole, clip_grad=dict(max_norm=0.5))
    train(whole, dot, 5)
    saved = copy.deepcopy((whole.state_dict(), dot.state_dict()))
    train(whole, dot, 5, first=5)
    again = network()
    again.load_state_dict(saved[0])
    resumed = wrapper(again, clip_grad=dict(max_norm=0.5))
    resumed.load_state_dict(saved[1])
    assert_close(train(again, resumed, 5, first=5), weights(whole), 0)


def test_a_copy_steps_its_own_network():
    model = network()
    dot = wrapper(model)
    train(model, dot, 3)
    copied, other = copy.deepcopy((model, dot))
    # As a process group, which cannot be copied.
    dot._process_group = other._process_group = (_ for _ in ())
    assert copy.deepcopy(dot)._process_group is dot._process_group
    dot._process_group = other._process_group = None
    before = weights(model)
    expected = by_hand(network(), 8)
    assert_close(train(copied, other, 5, first=3), expected)
    assert_close(weights(model), before, 0.0)
    assert_close(train(model, dot, 5, first=3), expected)


def test_paramwise_groups_differ():
    model = network()
    custom = dict(head=dict(lr_mult=0.0), stem=dict(decay_mult=3.0), distill_head=dict(delta=0.0))
    dot = wrapper(model, paramwise_cfg=dict(custom_keys=custom))
    start = weights(model)
    after = train(model, dot, 5)
    assert torch.equal(start['head.weight'], after['head.weight'])
    expected = by_hand(network(), 1)
    one = network()
    first = train(
        one, wrapper(one, paramwise_cfg=dict(custom_keys=dict(head=dict(lr_mult=0.0)))), 1
    )
    assert torch.allclose(first['stem.weight'], expected['stem.weight'])
    deltas = {group['delta'] for group in dot.optimizer.param_groups}
    decays = {round(group['weight_decay'], 6) for group in dot.optimizer.param_groups}
    assert deltas == {0.075, 0.0} and decays == {0.01, 0.03}
    assert dot.get_lr()['base_lr'] == [0.1]


def test_the_cosine_is_logged_when_asked_for_and_only_then():
    model = network()
    dot = wrapper(model)
    hub = MessageHub.get_current_instance()
    train(model, dot, 1)
    assert 'train/grad_cosine' not in hub.log_scalars
    params = [p for n, p in model.named_parameters() if n.split('.')[0] in ('stem', 'body')]
    vectors = []
    for key in model.keys:
        loss = model(**data(1), mode='loss')[key]
        vectors.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, params)]))
    dot.cosine_wanted = True
    train(model, dot, 2, first=1)
    history, count = hub.get_scalar('train/grad_cosine').data
    assert len(history) == 1
    expected = torch.cosine_similarity(*vectors, dim=0).item()
    assert history[0] == pytest.approx(expected, abs=1e-6) and abs(expected) > 1e-3


def test_a_cosine_of_no_gradient_is_finite():
    p, q = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = DOTSGD([p, q], lr=0.1, momentum=0.9, delta=0.05)
    p.grad, optimizer.distill_grads[q] = torch.ones(2), torch.ones(2)
    assert two_gradients.cosine(optimizer) is None
    optimizer.distill_grads[p] = torch.zeros(2)
    assert two_gradients.cosine(optimizer) == 0
    tiny = torch.full((2,), 1e-25)
    p.grad, optimizer.distill_grads[p] = tiny, -tiny
    assert two_gradients.cosine(optimizer) == 0
    optimizer.distill_grads[p] = p.grad = torch.full((2,), 1e-15)
    assert two_gradients.cosine(optimizer) == pytest.approx(1.0)


def test_a_loss_without_a_graph_counts_as_none():
    model = network()
    dot = wrapper(model)
    train(model, dot, 2)
    forward = model.forward

    def constant(*args, **kwargs):
        return dict(forward(*args, **kwargs), **{'distill.loss_kd': torch.zeros(())})

    model.forward = constant
    before = copy.deepcopy(dot.optimizer.state_dict()['state'])
    start = weights(model)
    train(model, dot, 1, first=2)
    after = dot.optimizer.state_dict()['state']
    distill = 'distill_momentum_buffer'
    assert all(
        torch.equal(before[i][distill], s[distill]) for i, s in after.items() if distill in s
    )
    assert torch.equal(start['distill_head.weight'], weights(model)['distill_head.weight'])
    assert not torch.equal(start['head.weight'], weights(model)['head.weight'])


def test_memory_of_the_graph_is_let_go():
    """What only the distillation needs is not freed by the task's backward pass."""
    model = network()
    dot = wrapper(model)
    log = model.train_step(data(0), dot)
    assert all(value.grad_fn is None for value in log.values())
    assert not dot.optimizer.distill_grads and model.stem.weight.grad is None


def test_a_plain_wrapper_sees_no_difference():
    bound, free = network(), network()
    wrapper(bound)
    assert_close(train(bound, plain(bound), 5), train(free, plain(free), 5), 0)


def optimizer(kind=torch.optim.SGD, **settings):
    return kind([nn.Parameter(torch.ones(1))], lr=0.1, **settings)


def test_what_cannot_be_done_is_refused():
    sgd = dict(momentum=0.9)
    with pytest.raises(TypeError, match=r"optim_wrapper\.optimizer\.type='Adam' has no momentum"):
        DOTOptimWrapper(optimizer(torch.optim.Adam), delta=0.05)
    with pytest.raises(ValueError, match='nesterov=True is not supported'):
        DOTOptimWrapper(optimizer(nesterov=True, **sgd), delta=0.05)
    with pytest.raises(ValueError, match=r'delta=0\.2 beside optim_wrapper\.optimizer\.momentum'):
        DOTOptimWrapper(optimizer(**sgd), delta=0.2)
    with pytest.raises(TypeError, match='delta'):
        DOTOptimWrapper(optimizer(**sgd))
    with pytest.raises(ValueError, match=r"distill_keys='distill\.\*' is not a list of patterns"):
        DOTOptimWrapper(optimizer(**sgd), delta=0.05, distill_keys='distill.*')
    with pytest.raises(ValueError, match=r"optim_wrapper\.dtype='int8' is no mixed precision"):
        DOTOptimWrapper(optimizer(**sgd), delta=0.05, dtype='int8')


def test_precision_of_accelerators_is_refused_on_a_cpu(monkeypatch):
    monkeypatch.setattr('kd_plugins.optim.precision.get_device', lambda: 'cpu')
    with pytest.raises(ValueError, match=r"dtype='float16' needs an accelerator"):
        DOTOptimWrapper(optimizer(momentum=0.9), delta=0.05, dtype='float16')
    with pytest.raises(ValueError, match=r"loss_scale='dynamic' needs an accelerator"):
        DOTOptimWrapper(optimizer(momentum=0.9), delta=0.05, loss_scale='dynamic')


@pytest.mark.parametrize(
    ('given', 'settings', 'static'),
    [
        ('dynamic', dict(), None),
        (512, dict(init_scale=512.0), 512.0),
        (dict(init_scale=2.0, growth_interval=9), dict(init_scale=2.0, growth_interval=9), None),
    ],
)
def test_loss_scale_is_amp_optim_wrappers(monkeypatch, given, settings, static):
    monkeypatch.setattr('kd_plugins.optim.precision.get_device', lambda: 'cuda')
    monkeypatch.setattr('kd_plugins.optim.precision.GradScaler', dict)
    built = DOTOptimWrapper(optimizer(momentum=0.9), delta=0.05, loss_scale=given)
    assert built.loss_scaler == settings and built._static_scale == static
    assert built.cast_dtype is None
    half = DOTOptimWrapper(optimizer(momentum=0.9), delta=0.05, dtype='float16')
    assert half.loss_scaler == {} and half.cast_dtype is torch.float16
    with pytest.raises(ValueError, match=r"optim_wrapper\.loss_scale='static' is none"):
        DOTOptimWrapper(optimizer(momentum=0.9), delta=0.05, loss_scale='static')


def test_a_static_scale_stays_where_it_is():
    model = network()
    dot = scaled(model, scale=256.0)
    dot._static_scale = 256.0
    make_infinite(model, 1)
    train(model, dot, 3)
    assert dot.skipped_steps == 3 and dot.loss_scaler.get_scale() == 256.0


def test_the_amp_switch_of_our_tools_sets_its_precision(monkeypatch):
    monkeypatch.setattr(launch, 'get_device', lambda: 'cuda')
    for given, expected in ((dict(), 'float16'), (dict(dtype='bfloat16'), 'bfloat16')):
        kind = 'kd_plugins.DOTOptimWrapper'
        cfg = Config(dict(optim_wrapper=dict(type=kind, delta=0.05, **given)))
        launch.enable_amp(cfg)
        assert dict(cfg.optim_wrapper) == dict(type=kind, delta=0.05, dtype=expected)


@pytest.mark.filterwarnings('ignore:.*GradScaler')
def test_the_amp_switch_of_upstreams_tools_does_not_drop_it_silently(monkeypatch):
    upstream = 'mmengine.optim.optimizer.amp_optimizer_wrapper.is_cuda_available'
    monkeypatch.setattr(upstream, lambda: True)
    with pytest.raises(TypeError, match="unexpected keyword argument 'delta'"):
        plain(network(), type='AmpOptimWrapper', delta=0.05)
    # Without delta it builds: the test can fail.
    assert plain(network(), type='AmpOptimWrapper')


def test_its_own_optimizer_is_taken_with_the_same_delta():
    own = optimizer(DOTSGD, momentum=0.9, delta=0.05)
    assert DOTOptimWrapper(own, delta=0.05).optimizer is own
    with pytest.raises(ValueError, match=r'optim_wrapper\.delta=0\.01 is not the optimizer\.delta'):
        DOTOptimWrapper(own, delta=0.01)


def test_a_wrapper_that_keeps_gradients_is_refused():
    @MODEL_WRAPPERS.register_module(name='Sharded', force=True)
    class Sharded(nn.Module):
        def __init__(self, module):
            super().__init__()
            self.module = module

    model = network()
    dot = wrapper(model)
    with pytest.raises(TypeError, match='cannot train a model inside Sharded'):
        dot.initialize_count_status(Sharded(model), 0, 10)


def test_an_unbound_wrapper_says_what_is_missing():
    model = network()
    dot = build_optim_wrapper(
        model, dict(type='kd_plugins.DOTOptimWrapper', optimizer=dict(SGD), delta=0.05)
    )
    with pytest.raises(RuntimeError, match='initialize_count_status'):
        model.train_step(data(0), dot)


def test_a_plain_wrapper_around_its_optimizer_is_refused():
    model = network()
    dot = OptimWrapper(DOTSGD(model.parameters(), lr=0.1, momentum=0.9, delta=0.05))
    with pytest.raises(RuntimeError, match='DOTOptimWrapper'):
        train(model, dot, 1)
