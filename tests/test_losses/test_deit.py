"""DeiT."""

import math

import pytest
import torch
from helpers import oracles
from helpers.waves import wave

from kd_plugins.losses import DeiTLoss, KDLoss
from kd_plugins.registry import MODELS
from kd_plugins.structures import Progress


def token_logits():
    """3 samples, 5 classes."""
    return wave((3, 5), 3, 1.3, 0.2), wave((3, 5), 4, 0.7, 0.5)


def cross_entropy(logits, label):
    return -math.log(oracles.softmax(logits, 1)[label])


# Printed by CSKDLoss.get_loss_deit of cskd/cskd.py, Zzzzz1/CSKD at
# fa0d8b8d922f4914d7d82feaded69845d21e47b4, with deit_tau 2 for the soft form: the
# loss, and the gradient at the second sample's logits.
PUBLISHED = {
    'hard': (
        2.535394844315526,
        [0.04584281340935743, 0.2647387321122272, 0.019767357255074267, 0.0008541422058943311,
         -0.3312030449825532],
    ),
    'soft': (
        0.5670166493873247,
        [0.022791353496058306, 0.06805693624463777, 0.012648387017624203, -0.019324555560829224,
         -0.08417212119749108],
    ),
}  # fmt: skip


@pytest.mark.parametrize('form', ['hard', 'soft'])
def test_agrees_with_the_published_code(form):
    preds_S, preds_T = token_logits()
    preds_S.requires_grad_()
    loss = DeiTLoss(form, tau=1.0 if form == 'hard' else 2.0)(preds_S, preds_T)
    loss.backward()
    value, gradient = PUBLISHED[form]
    assert loss.item() == pytest.approx(value, rel=1e-10)
    assert preds_S.grad[1].tolist() == pytest.approx(gradient, rel=1e-9)


def test_hard_is_the_naive_loop_over_the_teachers_classes():
    preds_S, preds_T = token_logits()
    expected = oracles.batch_of(
        [
            cross_entropy(s, max(range(5), key=t.__getitem__))
            for s, t in zip(preds_S.tolist(), preds_T.tolist(), strict=True)
        ]
    )
    for normalizer in ('published', 'mean'):
        loss = DeiTLoss(normalizer=normalizer, loss_weight=0.5)(preds_S, preds_T)
        assert loss.item() == pytest.approx(0.5 * expected, rel=1e-12)


def test_soft_is_kd_divided_by_the_classes_or_not():
    preds_S, preds_T = token_logits()
    kd = KDLoss(3.0)(preds_S, preds_T).item()
    assert DeiTLoss('soft', 3.0, normalizer='mean')(preds_S, preds_T).item() == kd
    assert DeiTLoss('soft', 3.0)(preds_S, preds_T).item() == pytest.approx(kd / 5, rel=1e-12)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize('form', ['hard', 'soft'])
def test_extreme_logits_and_an_empty_batch_stay_finite(form, dtype):
    preds_S = torch.full((3, 4), -80.0, dtype=dtype)
    preds_S[:, 0] = 80
    preds_T = preds_S.roll(1, dims=1).requires_grad_()
    preds_S.requires_grad_()
    loss = DeiTLoss(form)(preds_S, preds_T)
    loss.backward()
    assert loss.dtype == torch.float32 and loss.item() == pytest.approx(
        160 / (1, 4)[form == 'soft']
    )
    assert torch.isfinite(preds_S.grad).all() and preds_S.grad.any() and preds_T.grad is None
    empty = torch.zeros(0, 4, dtype=dtype, requires_grad=True)
    loss = DeiTLoss(form)(empty, torch.zeros(0, 4, dtype=dtype))
    loss.backward()
    assert loss.item() == 0 and empty.grad.shape == (0, 4)


@pytest.mark.parametrize(
    'arguments, says',
    [
        (dict(form='Hard'), r"DeiTLoss.form='Hard' is wrong: give 'hard' or 'soft'"),
        (dict(normalizer='sum'), r"DeiTLoss.normalizer='sum' is wrong: give 'published' or 'mean'"),
        (dict(tau=3.0), r"DeiTLoss.tau=3.0 has no effect with form='hard'"),
        (dict(tau=dict(type='kd_plugins.GlobalTemperature')), 'has no effect with'),
        (dict(form='soft', tau=0.0), r'DeiTLoss.tau=0.0 is wrong: give a temperature'),
        (dict(loss_weight=-1.0), r'DeiTLoss.loss_weight=-1.0 is wrong: give a finite weight'),
    ],
)
def test_bad_settings_are_named(arguments, says):
    with pytest.raises(ValueError, match=says) as caught:
        DeiTLoss(**arguments)
    assert len(str(caught.value).splitlines()) == 1


def test_other_shapes_are_named():
    with pytest.raises(ValueError, match=r'DeiTLoss needs logits of the same shape .*\(2, 3\)'):
        DeiTLoss()(torch.zeros(2, 3), torch.zeros(2, 4))


def test_a_learned_temperature_fits_the_soft_form():
    loss = MODELS.build(
        dict(
            type='kd_plugins.DeiTLoss',
            form='soft',
            tau=dict(type='kd_plugins.GlobalTemperature'),
        )
    )
    loss.tau.set_progress(Progress(iter=0, max_iters=100, epoch=3, max_epochs=20))
    preds_S, preds_T = token_logits()
    loss(preds_S, preds_T).backward()
    (parameter,) = loss.tau.parameters()
    assert parameter.grad is not None and parameter.grad.any()
