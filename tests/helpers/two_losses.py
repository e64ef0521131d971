"""A network that two losses reach in every way, and its training by hand."""

import copy

import torch
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from torch import nn
from torch.utils.checkpoint import checkpoint

from helpers import batch


class Through(torch.autograd.Function):
    """Like mmcv's operators: autograd hands it zeros for a gradient that is none."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return grad


@MODELS.register_module(force=True)
class TwoLosses(BaseModel):
    """A task head and a distillation head, without batch statistics.

    ``rare`` and ``rare_distill`` are reached where the data have a label 0.
    """

    def __init__(self, reentrant=None, keys=('loss_task', 'distill.loss_kd')):
        super().__init__()
        self.stem = nn.Linear(6, 8)
        self.body = nn.Sequential(nn.Tanh(), nn.Linear(8, 8), nn.Tanh())
        self.head = nn.Linear(8, 4)
        self.distill_head = nn.Linear(8, 4)
        self.rare = nn.Parameter(torch.full((4,), 0.5))
        self.rare_distill = nn.Parameter(torch.full((4,), 0.5))
        self.frozen = nn.Parameter(torch.ones(2), requires_grad=False)
        self.reentrant, self.keys = reentrant, keys

    def forward(self, inputs, data_samples=None, mode='tensor'):
        features = self.stem(inputs)
        if self.reentrant is None:
            features = self.body(features)
        else:
            features = checkpoint(self.body, features, use_reentrant=self.reentrant)
        logits, distilled = self.head(features), self.distill_head(Through.apply(features))
        distilled = Through.apply(distilled)
        is_rare = (data_samples == 0)[:, None]
        if is_rare.any():
            logits = torch.where(is_rare, logits * self.rare, logits)
            distilled = torch.where(is_rare, distilled * self.rare_distill, distilled)
        task = nn.functional.cross_entropy(logits, data_samples)
        distill = (distilled - inputs[:, :4]).square().mean()
        return dict(zip(self.keys, (task, distill), strict=True), accuracy=torch.zeros(()))


def network(**settings):
    torch.manual_seed(0)
    return TwoLosses(**settings).double()


def data(step, size=8):
    inputs, labels = batch(seed=1000 + step, size=size)
    return dict(inputs=inputs.double(), data_samples=labels)


def weights(model):
    model = getattr(model, 'module', model)
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def train(model, wrapper, steps, first=0, size=8):
    """Steps as a Runner drives them; return the weights."""
    for step in range(first, first + steps):
        model.train_step(data(step, size), wrapper)
    return weights(model)


def by_hand(model, steps, lr=0.1, mu=0.9, delta=0.075, decay=0.01, factor=None):
    """DOT from its formulas, each loss with a forward pass of its own.

    Args:
        factor: Given the two lists of gradients, what to multiply them with.
    """
    model = copy.deepcopy(model)
    params = [p for p in model.parameters() if p.requires_grad]
    buffers = [{}, {}]
    for step in range(steps):
        both = []
        for key in model.keys:
            loss = model(**data(step), mode='loss')[key]
            both.append(list(torch.autograd.grad(loss, params, allow_unused=True)))
        scale = 1.0 if factor is None else factor(*both)
        for i, p in enumerate(params):
            pair = [None if grads[i] is None else grads[i] * scale for grads in both]
            momenta = [mu, mu] if None in pair else [mu - delta, mu + delta]
            applied = torch.zeros_like(p)
            for side, (grad, momentum) in enumerate(zip(pair, momenta, strict=True)):
                if grad is None:
                    continue
                begun = i in buffers[side]
                if side == 0 or (pair[0] is None and begun):
                    grad = grad + decay * p.detach()
                buffers[side][i] = momentum * buffers[side][i] + grad if begun else grad
                applied = applied + buffers[side][i]
            p.data -= lr * applied
    return weights(model)
