"""What float16 does to a loss and its gradient, for each term that is stored for."""

import pytest
import torch

import kd_plugins  # noqa: F401  (makes mmrazor importable)
from kd_plugins.losses.cskd import CSKDLoss
from kd_plugins.losses.deit import DeiTLoss
from kd_plugins.losses.dist_kd import DISTLoss
from kd_plugins.losses.dkd import DKDLoss
from kd_plugins.losses.kd import KDLoss
from kd_plugins.losses.wttm import WTTMLoss
from kd_plugins.structures import Progress
from kd_plugins.temperatures import GlobalTemperature, LSKDTemperature


def logits(seed, *shape, scale=5.0):
    generator = torch.Generator().manual_seed(seed)
    return (scale * torch.randn(*shape, generator=generator)).float()


def stepped(term, preds_S, preds_T, labels):
    """The loss and its gradients, also that of a temperature that is learned."""
    for part in term.modules():
        if hasattr(part, 'set_progress'):
            part.set_progress(Progress(iter=40, max_iters=100, epoch=4, max_epochs=10))
    preds_S = preds_S.clone().requires_grad_()
    arguments = (preds_S, preds_T) if preds_S.dim() == 4 else (preds_S, preds_T, labels)
    loss = term(*arguments)
    learned = [p for p in term.parameters() if p.requires_grad]
    gradient, *others = torch.autograd.grad(loss, [preds_S, *learned])
    return loss.detach(), gradient, others


@pytest.mark.parametrize(
    'term',
    [
        KDLoss(tau=4.0),
        KDLoss(tau=1.0),
        KDLoss(tau=GlobalTemperature()),
        DKDLoss(tau=4.0, beta=8.0),
        DeiTLoss(form='soft', tau=3.0),
        DeiTLoss(form='hard'),
        CSKDLoss(form='soft', tau=3.0),
        DISTLoss(),
        WTTMLoss(),
        KDLoss(tau=LSKDTemperature()),
    ],
    ids=['KD', 'KD at 1', 'CTKD', 'DKD', 'DeiT soft', 'DeiT hard', 'CSKD', 'DIST', 'WTTM', 'LSKD'],
)
def test_the_loss_and_its_gradient_move_by_two_thousandths(term, request):
    shape = (64, 100, 3, 3) if isinstance(term, CSKDLoss) else (64, 100)
    preds_S, preds_T = logits(0, *shape, scale=2.0), logits(1, *shape)
    labels = torch.arange(64) % 100
    loss, gradient, others = stepped(term, preds_S, preds_T, labels)
    half = stepped(term, preds_S, preds_T.half().float(), labels)
    assert (half[0] - loss).abs() <= 2e-3 * loss
    assert (half[1] - gradient).norm() <= 2e-3 * gradient.norm()
    for mine, theirs in zip(half[2], others, strict=True):
        assert (mine - theirs).abs() <= 2e-3 * theirs.abs()
    if 'hard' not in request.node.name:
        assert not torch.equal(half[1], gradient)


@pytest.mark.parametrize('tau', [1.0, 2.0, 4.0])
def test_the_gradient_of_kd_moves_by_no_more_than_its_bound(tau):
    """By the teacher's probability times its largest logit, over 1024, in every logit."""
    preds_S, preds_T = logits(2, 32, 10, scale=2.0), logits(3, 32, 10, scale=8.0)
    labels = torch.arange(32) % 10
    term = KDLoss(tau=tau)
    gradient = 32 * stepped(term, preds_S, preds_T, labels)[1]
    half = 32 * stepped(term, preds_S, preds_T.half().float(), labels)[1]
    largest = preds_T.abs().amax(dim=1, keepdim=True)
    bound = (preds_T / tau).softmax(dim=1) * largest / 1024
    moved = (half - gradient).abs()
    assert (moved <= 1.01 * bound + 1e-6).all()
    # The bound is not idle.
    assert (moved > bound / 20).any()
