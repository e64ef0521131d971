"""A loss on logits over the RoIs of two-stage detectors."""

import warnings

import pytest
import torch
from helpers import oracles
from helpers.waves import wave
from mmengine.registry import MODELS

from kd_plugins.losses import DKDLoss, KDLoss, RoILoss, dkd_loss
from kd_plugins.structures import Progress, RoIOutputs, RoISpec

DKD = dict(type='kd_plugins.DKDLoss', tau=1.0, alpha=1.0, beta=0.25)
#: Of two pictures, objects first, the rest background.
LABELS = torch.tensor([17, 3, 80, 80, 80, 80, 62, 80, 80, 80, 80, 80])


def record(logits, labels=None, stage=0):
    counts = (len(logits) // 2, len(logits) - len(logits) // 2)
    rois = torch.zeros(len(logits), 5)
    return RoIOutputs('StandardRoIHead', stage, (96, 96), rois, logits, None, labels, counts)


def of(*stages):
    """Records of both sides, the logits of the teacher taking a gradient, too."""
    student = tuple(record(s, labels, i) for i, (s, _, labels) in enumerate(stages))
    return student, tuple(record(t, None, i) for i, (_, t, _) in enumerate(stages))


def logits():
    return wave((12, 81), 3.0, 1.3, 0.2).requires_grad_(), wave((12, 81), 4.0, 0.7, 0.5)


# Printed by rcnn_dkd_loss of detection/model/rcnn.py, megvii-research/mdistiller at
# a08d46f10d6102bd6e3f258ca5ac880b020ea259, with alpha 1, beta 0.25 and temperature 1: the
# loss, its gradient at four classes of the second RoI and at the last four of the ninth,
# and the sum of the squared gradient.
PUBLISHED = (
    0.699552745361033,
    [-0.00025616334052726546, -0.0010876536641733702, 0.00011304293618991023,
     0.0005928928483466885],
    [0.0001169868834674735, 0.0012092941764537209, 1.6315063439929124e-05,
     -0.003519214502321483],
    0.0003489254676313994,
)  # fmt: skip


def test_agrees_with_the_published_code():
    preds_S, preds_T = logits()
    loss = RoILoss(DKD)(*of((preds_S, preds_T, LABELS)))
    loss.backward()
    value, second, ninth, squares = PUBLISHED
    assert loss.item() == pytest.approx(value, rel=1e-12)
    assert preds_S.grad[1, :4].tolist() == pytest.approx(second, rel=1e-9)
    assert preds_S.grad[8, 77:].tolist() == pytest.approx(ninth, rel=1e-9)
    assert preds_S.grad.square().sum().item() == pytest.approx(squares, rel=1e-9)


def test_background_is_a_class_like_any_other():
    preds_S, preds_T = logits()
    rows = zip(preds_S.tolist(), preds_T.tolist(), LABELS.tolist(), strict=True)
    parts = [oracles.tckd_nckd(s, t, label, 1.0) for s, t, label in rows]
    expected = oracles.batch_of([tckd + 0.25 * nckd for tckd, nckd in parts])
    assert RoILoss(DKD)(*of((preds_S, preds_T, LABELS))).item() == pytest.approx(expected)
    kd = oracles.batch_of(
        [oracles.kd(s, t, 2.0) for s, t in zip(preds_S.tolist(), preds_T.tolist(), strict=True)]
    )
    loss = RoILoss(KDLoss(tau=2.0))(*of((preds_S, preds_T, LABELS)))
    assert loss.item() == pytest.approx(kd)


def test_stages_add_up():
    preds_S, preds_T = logits()
    first, second = slice(0, 5), slice(5, 12)
    stages = [(preds_S[rows], preds_T[rows], LABELS[rows]) for rows in (first, second)]
    loss = RoILoss(DKD)
    alone = [loss(*of(stage)) for stage in stages]
    assert loss(*of(*stages)).item() == pytest.approx((alone[0] + alone[1]).item(), rel=1e-12)
    said = loss.diagnose(*of(*stages))
    assert sorted(said) == [f'{n}.s{i}' for n in ('agreement', 'nckd', 'tckd') for i in (0, 1)]
    tckd, _ = dkd_loss(preds_S[second], preds_T[second], LABELS[second], 1.0)
    torch.testing.assert_close(said['tckd.s1'], tckd.mean())
    assert sorted(loss.diagnose(*of(stages[0]))) == ['agreement', 'nckd', 'tckd']


@pytest.mark.parametrize(
    'loss',
    [
        DKD,
        dict(type='kd_plugins.KDLoss', tau=4.0),
        dict(type='mmrazor.KLDivergence', tau=1.0),
        dict(type='mmrazor.DISTLoss'),
        dict(type='kd_plugins.WithTemperature', loss=dict(type='mmrazor.KLDivergence'),
             tau=dict(type='kd_plugins.GlobalTemperature')),
    ],
)  # fmt: skip
def test_no_roi_gives_0_with_a_gradient_of_0(loss):
    loss = RoILoss(loss).double()
    for module in loss.modules():
        if hasattr(module, 'set_progress'):
            module.set_progress(Progress(5, 10, 5, 10))
    source = wave((3, 81), 3.0, 1.3, 0.2).requires_grad_()
    nothing = source[:0], wave((0, 81), 1.0, 1.0, 0.0), LABELS[:0]
    value = loss(*of(nothing))
    value.backward()
    assert value.item() == 0 and torch.equal(source.grad, torch.zeros_like(source))
    for p in loss.parameters():
        assert torch.equal(p.grad, torch.zeros_like(p))
    # A stage without RoIs beside one with some changes nothing, either.
    some = (source, wave((3, 81), 4.0, 0.7, 0.5), LABELS[:3])
    assert loss(*of(some, nothing)).item() == pytest.approx(loss(*of(some)).item())
    assert loss(*of(some)).item() > 0


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize('opposed', [False, True])
def test_extreme_logits_stay_finite(dtype, opposed):
    # 130 apart, where the published code is NaN in float32.
    preds_S = torch.full((4, 3), -65.0)
    preds_S[:, 0] = 65
    preds_T = preds_S.roll(1, dims=1) if opposed else preds_S * 0.5
    preds_S = preds_S.to(dtype).requires_grad_()
    loss = RoILoss(DKD)(*of((preds_S, preds_T.to(dtype), torch.tensor([0, 1, 2, 2]))))
    loss.backward()
    assert loss.dtype == torch.float32 and torch.isfinite(loss)
    assert torch.isfinite(preds_S.grad).all()
    assert loss.item() > 50 if opposed else loss.item() < 50


def test_gradients_are_finite_differences_of_the_values():
    preds_S, preds_T = wave((5, 4), 3.0, 1.3, 0.2), wave((5, 4), 4.0, 0.7, 0.5)
    labels = torch.tensor([0, 2, 3, 3, 3])
    loss = RoILoss(DKD)
    assert torch.autograd.gradcheck(
        lambda s: loss(*of((s[:3], preds_T[:3], labels[:3]), (s[3:], preds_T[3:], labels[3:]))),
        [preds_S.requires_grad_()],
    )


def test_one_class_of_objects_has_no_nckd_and_says_so_once():
    loss = RoILoss(DKD)
    preds_S, preds_T = wave((6, 2), 3.0, 1.3, 0.2), wave((6, 2), 4.0, 0.7, 0.5)
    labels = torch.tensor([0, 1, 1, 0, 1, 1])
    stages = [(preds_S[:3], preds_T[:3], labels[:3]), (preds_S[3:], preds_T[3:], labels[3:])]
    with pytest.warns(UserWarning, match='NCKD is always 0') as caught:
        value = loss(*of(*stages))
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert loss(*of(*stages)) == value
        plain = RoILoss(DKDLoss(tau=1.0, alpha=1.0, beta=0.0))
        assert plain(*of(*stages)).item() == pytest.approx(value.item(), rel=1e-12)


def spec(classes=3, stages=1):
    return RoISpec('StandardRoIHead', classes, stages)


def test_other_records_are_refused():
    with pytest.raises(ValueError, match=r"model\.x reads records of .*'kd_plugins\.RoIHead'"):
        RoILoss(DKD).check_specs('model.x', preds_S=spec(), preds_T=None)


def test_an_instance_temperature_counts_the_background():
    def loss(classes):
        tau = dict(type='kd_plugins.InstanceTemperature', num_classes=classes)
        return RoILoss(dict(DKD, tau=tau))

    loss(4).check_specs('model.x', preds_S=spec(), preds_T=spec())
    says = r'model\.x: InstanceTemperature\.num_classes=3 .* 4 columns .* teacher: give 4'
    with pytest.raises(ValueError, match=says):
        loss(3).check_specs('model.x', preds_S=spec(), preds_T=spec())


def test_its_weight_is_that_of_the_loss():
    assert (
        MODELS.build(dict(type='kd_plugins.RoILoss', loss=dict(DKD, loss_weight=3.0))).loss_weight
        == 3
    )
