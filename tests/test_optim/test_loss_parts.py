import copy
import gc
import weakref

import pytest
import torch
from helpers import batch, build
from mmengine.model import BaseModel
from mmengine.optim import build_optim_wrapper
from torch import nn

from kd_plugins.optim.loss_parts import SplitLosses, parts_of
from kd_plugins.structures import Progress


class Model(BaseModel):
    """What parse_losses needs of a model."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(2.0))

    def forward(self, inputs=None, data_samples=None, mode='tensor'):
        return {}


def losses(**values):
    """Some with several elements or levels, as detectors return them."""
    w = values.pop('w', torch.tensor(2.0, requires_grad=True))
    named = {
        'loss_cls': [1.0 * w, 2.0 * w],
        'loss_bbox': torch.stack([3.0 * w, 5.0 * w]),
        'distill.loss_kd': 10.0 * w,
        'distill.loss_at': [20.0 * w, torch.stack([30.0 * w, 50.0 * w])],
        'acc': torch.tensor(0.5),
        'distill.agreement': torch.tensor(0.7),
    }
    return {**named, **values}


def test_the_total_is_upstreams_and_knows_its_parts():
    expected, _ = Model().parse_losses(losses())
    total, log = SplitLosses(Model())(losses())
    assert torch.equal(total, expected) and total.requires_grad
    task, distill = parts_of(total)
    assert task.item() == 2 * (1 + 2 + 4) and distill.item() == 2 * (10 + 20 + 40)
    assert task.requires_grad and distill.requires_grad
    assert log['task_loss'] == task and log['distill_loss'] == distill and log['loss'] == total
    assert log['acc'] == 0.5 and log['loss_cls'] == 6.0
    assert not any(value.requires_grad for value in log.values())


@pytest.mark.parametrize(
    ('patterns', 'distill'),
    [(['loss_cls'], 6), (['*_kd', 'loss_b*'], 20 + 8), (['distill.loss_?t'], 2 * (20 + 40))],
)
def test_patterns_say_what_is_distillation(patterns, distill):
    total, _ = SplitLosses(Model(), patterns)(losses())
    assert parts_of(total).distill.item() == distill
    assert parts_of(total).task.item() == total.item() - distill


def test_mmdets_ld_head_is_known():
    w = torch.tensor(1.0, requires_grad=True)
    total, _ = SplitLosses(Model())(dict(loss_cls=w * 1, loss_dfl=w * 2, loss_ld=[w * 4, w * 8]))
    assert parts_of(total).distill == 12 and parts_of(total).task == 3


@pytest.mark.parametrize(
    ('patterns', 'named', 'says'),
    [
        (['loss_kl'], losses(), r"the pattern 'loss_kl' matches none of the losses \['loss_cls',"),
        (['*loss_kd', '*agreement'], losses(), "the pattern '.agreement' matches none"),
        (None, dict(loss_cls=torch.ones(())), 'finds no distillation loss among .*loss_cls'),
        (['*'], losses(), 'leaves none to the task'),
        (None, {'distill.loss_kd': torch.ones(())}, 'leaves none to the task'),
        (None, {'Distill.loss_kd': torch.ones(())}, 'finds no distillation loss'),
        (None, {'distillXloss_kd': torch.ones(())}, 'finds no distillation loss'),
    ],
)
def test_patterns_that_split_nothing_are_refused_at_once(patterns, named, says):
    with pytest.raises(ValueError, match=rf'optim_wrapper\.distill_keys.*{says}'):
        SplitLosses(Model(), patterns)(named)


def test_later_steps_may_lack_a_part():
    """mmrazor's StopDistillHook ends the distillation at an epoch."""
    split = SplitLosses(Model())
    split(losses())
    total, log = split(dict(loss_cls=torch.ones(())))
    assert parts_of(total).distill is None and 'distill_loss' not in log


def test_resuming_after_distillation_was_stopped():
    model = Model()
    model.distillation_stopped = True
    total, _ = SplitLosses(model)(dict(loss_cls=torch.ones(())))
    assert parts_of(total).distill is None


def test_a_total_from_elsewhere_is_refused():
    with pytest.raises(RuntimeError, match='does not know its task and distillation parts'):
        parts_of(torch.ones(()))


def test_a_model_is_bound_once_however_often_it_is_asked():
    model = Model()
    for patterns in (None, ['loss_cls']):
        model.parse_losses = SplitLosses(model, patterns)
    total, _ = model.parse_losses(losses())
    assert parts_of(total).distill == 6
    # Two bindings, one inside the other, would have lost the graph.
    assert parts_of(total).task.requires_grad


def test_a_copy_of_the_model_has_a_binding_of_its_own():
    model = Model()
    model.parse_losses = SplitLosses(model)
    copied = copy.deepcopy(model)
    assert copied.parse_losses.model is copied
    assert copied.parse_losses.parse.__self__ is copied
    assert 'parse_losses' not in dict(copied.named_modules()) and not copied.state_dict().keys() - {
        'weight'
    }


def test_our_algorithm_logs_the_parts_as_it_does_without():
    model = build()
    inputs, labels = batch()
    model.set_progress(Progress(iter=0, max_iters=9, epoch=0, max_epochs=3))
    torch.manual_seed(0)
    expected, log_before = model.parse_losses(model(inputs, labels, mode='loss'))
    model.parse_losses = SplitLosses(model)
    torch.manual_seed(0)
    total, log = model.parse_losses(model(inputs, labels, mode='loss'))
    assert total == expected and set(log) == set(log_before)
    assert all(torch.equal(log[key], log_before[key]) for key in log)


class Holder:
    """Lives as long as the node of the graph that holds it."""


class Held(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, holder):
        ctx.holder = holder
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return grad, None


def test_the_graph_is_gone_after_the_step():
    """mmengine keeps what is logged until the next step has run its forward pass."""
    model = build()
    cfg = dict(type='kd_plugins.DOTOptimWrapper', optimizer=dict(type='SGD', lr=0.1, momentum=0.9))
    wrapper = build_optim_wrapper(model, dict(cfg, delta=0.05))
    wrapper.initialize_count_status(model, 0, 10)
    nodes = []

    def hold(module, args, output):
        holder = Holder()
        nodes.append(weakref.ref(holder))
        return Held.apply(output, holder)

    model.distiller.distill_losses['loss_kd'].register_forward_hook(hold)
    inputs, labels = batch()
    log = model.train_step(dict(inputs=inputs, data_samples=labels), wrapper)
    gc.collect()
    assert log and nodes and nodes[0]() is None
