"""SP, PKT, VID and SRRL: losses on features."""

import math

import pytest
import torch
from torch import nn

from kd_plugins.hooks.term_watch import TermWatch
from kd_plugins.losses import (
    PKTLoss,
    SPLoss,
    SRRLLoss,
    VIDLoss,
    Weighted,
    pkt_loss,
    sp_loss,
    srrl_loss,
)
from kd_plugins.registry import MODELS


def wave(shape, scale, frequency, phase, function=torch.sin):
    """The same numbers on every machine."""
    steps = torch.arange(math.prod(shape), dtype=torch.float64)
    return (scale * function(frequency * steps + phase)).view(shape)


def maps(dtype=torch.float64):
    """Feature maps of 5 samples: 3 channels of 2 x 2, and 6 of 4 x 4."""
    student, teacher = wave((5, 3, 2, 2), 2, 1.3, 0.2), wave((5, 6, 4, 4), 1.5, 0.7, 0.5, torch.cos)
    return student.to(dtype).requires_grad_(), teacher.to(dtype)


def vectors(dtype=torch.float64):
    """Pooled features of 5 samples: 3 and 6 channels."""
    student, teacher = wave((5, 3), 2, 1.3, 0.2), wave((5, 6), 1.5, 0.7, 0.5, torch.cos)
    return student.to(dtype).requires_grad_(), teacher.to(dtype)


def classifier(dtype=torch.float64):
    return wave((4, 6), 1, 0.9, 0.4).to(dtype), wave((4,), 1, 2, 0.4).to(dtype)


def vid():
    loss = VIDLoss(3, 6).double()
    for i, parameter in enumerate(loss.regressor.parameters()):
        parameter.data = wave(parameter.shape, 0.7, 1.1, 0.3 * i)
    loss.raw_variance.data += wave((6,), 0.5, 1, 0)
    return loss


def srrl():
    loss = SRRLLoss(3, 6).double()
    linear, norm, _ = loss.transfer
    linear.weight.data = wave((6, 3), 0.7, 1.1, 0.3)
    norm.weight.data, norm.bias.data = 1 + wave((6,), 0.5, 1, 0.1), wave((6,), 0.5, 1, 0.9)
    return loss


CASES = {
    'SP': (lambda: SPLoss(1.0), maps, tuple),
    'PKT': (lambda: PKTLoss(1.0), vectors, tuple),
    'VID': (vid, maps, tuple),
    'SRRL': (srrl, vectors, classifier),
}
EVERY = pytest.mark.parametrize('case', CASES)

# Printed by Similarity, PKT, VIDLoss (distiller_zoo) and SRRL with two MSELoss
# (models/util.py, helper/loops.py) of zhengli97/CTKD at
# 7d5252241259ae70d38a832371fed9697d15fc14 on these inputs and weights: the loss, and
# the first of its gradients at the second sample's features.
PUBLISHED = {
    'SP': (0.3943454536017689, [0.0016961779965416757, 0.0003678241755006664,
                                -0.0014993929243692398, -0.0011699958773342032]),
    'PKT': (0.05092250648419292, [-0.0026623898397024545, 0.005855109244160352,
                                  0.0057948595682662425]),
    'VID': (0.8125840827221894, [7.671372715646867e-06, -0.00013308987323221486,
                                 -3.6186996199228444e-05, -0.00038246911124446733]),
    'SRRL': (8.191736776958708, [0.026659982861596095, 0.07603217806088976,
                                 0.04231581928232104]),
}  # fmt: skip
# PKT's published code adds 1e-7 to probabilities, the smallest of which are below 0.01.
TOLERANCE = {'PKT': 2e-5}


@EVERY
def test_agrees_with_the_published_code(case):
    build, features, more = CASES[case]
    student, teacher = features()
    value = build()(student, teacher, *more())
    (gradient,) = torch.autograd.grad(value, student)
    loss, expected = PUBLISHED[case]
    assert value.item() == pytest.approx(loss, rel=TOLERANCE.get(case, 1e-11))
    assert gradient[1].flatten()[: len(expected)].tolist() == pytest.approx(
        expected, rel=10 * TOLERANCE.get(case, 1e-11)
    )


def test_vid_trains_its_variances_as_published():
    loss = vid()
    loss(*maps()).backward()
    # From the same run; so is the initial raw value.
    assert loss.raw_variance.grad.tolist() == pytest.approx(
        [0.016128651163488206, 0.015013464636274787, 0.01499265583242879,
         0.016140356158853494, 0.017666693739590053, 0.018040363783993436], rel=1e-11,
    )  # fmt: skip
    fresh = VIDLoss(3, 6)
    assert fresh.raw_variance.tolist() == pytest.approx([4.993229389190674] * 6, rel=1e-6)
    assert fresh.variance.tolist() == pytest.approx([5.0] * 6, rel=1e-6)
    assert all(p.grad is not None and p.grad.any() for p in loss.parameters())


def rows_of(features):
    return [row.flatten().tolist() for row in features]


def inner(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True))


def test_sp_is_the_naive_loop():
    student, teacher = maps()
    matrices = []
    for features in map(rows_of, (student, teacher)):
        rows = [[inner(a, b) for b in features] for a in features]
        matrices.append([[v / math.sqrt(inner(row, row)) for v in row] for row in rows])
    pairs = zip(*(sum(matrix, []) for matrix in matrices), strict=True)
    expected = sum((a - b) ** 2 for a, b in pairs) / 25
    assert sp_loss(student, teacher).item() == pytest.approx(expected, rel=1e-12)


def test_pkt_is_the_naive_loop():
    student, teacher = vectors()
    probabilities = []
    for features in map(rows_of, (student, teacher)):
        lengths = [math.sqrt(inner(a, a)) for a in features]
        rows = [
            [(1 + inner(a, b) / m / n) / 2 for b, n in zip(features, lengths, strict=True)]
            for a, m in zip(features, lengths, strict=True)
        ]
        probabilities.append([v / sum(row) for row in rows for v in row])
    expected = sum(t * math.log(t / s) for s, t in zip(*probabilities, strict=True)) / 25
    assert pkt_loss(student, teacher).item() == pytest.approx(expected, rel=1e-12)


@EVERY
def test_gradient_is_the_slope(case):
    build, features, more = CASES[case]
    loss, (student, teacher) = build(), features()
    assert torch.autograd.gradcheck(lambda s: loss(s, teacher, *more()), student)


@EVERY
def test_teacher_gets_no_gradient_and_the_weight_is_a_factor(case):
    build, features, more = CASES[case]
    loss, (student, teacher) = build(), features()
    frozen = [x.requires_grad_() for x in (teacher, *more())]
    value = loss(student, *frozen)
    value.backward()
    assert student.grad.any() and all(x.grad is None for x in frozen)
    loss.loss_weight = 2.5
    assert loss(student, *frozen).item() == pytest.approx(2.5 * value.item(), rel=1e-12)
    loss.loss_weight = 0.0
    nothing = loss(student, *frozen)
    assert nothing.item() == 0 and nothing.requires_grad


@EVERY
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float32])
def test_autocast_and_half_inputs_are_computed_in_float32(case, dtype):
    build, features, more = CASES[case]
    loss = build().float()
    student, teacher = features(dtype)
    exact = loss(student.float(), teacher.float(), *(x.to(dtype) for x in more()))
    with torch.autocast('cpu', torch.bfloat16):
        value = loss(student, teacher, *(x.to(dtype) for x in more()))
    value.backward()
    assert value.dtype == torch.float32
    # The layers of VID and SRRL run in half precision, nothing else does.
    tolerance = 0.05 if case in ('VID', 'SRRL') else 1e-6
    assert value.item() == pytest.approx(exact.item(), rel=tolerance)
    if case == 'SRRL':
        with torch.autocast('cpu', torch.bfloat16):
            mapped = loss.transfer(student)
        weights = (x.to(dtype).float() for x in more())
        exact = srrl_loss(mapped.float(), teacher.float(), *weights)
        assert value.item() == pytest.approx(exact.item(), rel=1e-6)
    assert torch.isfinite(student.grad).all()


@pytest.mark.parametrize('case', ['SP', 'PKT', 'VID'])
@pytest.mark.parametrize('scale', [0.0, 1e-4, 1e4])
def test_extreme_features_give_finite_gradients(case, scale):
    build, features, _ = CASES[case]
    student, teacher = features(torch.float32)
    student = (scale * student).detach().half().requires_grad_()
    with torch.autocast('cpu', torch.bfloat16):
        value = build().float()(student, teacher)
    value.backward()
    assert torch.isfinite(value) and torch.isfinite(student.grad).all()


def test_pkt_of_opposite_features_is_finite():
    student = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], requires_grad=True)
    value = pkt_loss(student, torch.tensor([[1.0], [1.0]]))
    value.backward()
    assert torch.isfinite(value) and value > 1 and torch.isfinite(student.grad).all()


@pytest.mark.parametrize('case', ['SP', 'PKT', 'VID'])
def test_empty_batch_gives_zero_with_a_gradient(case):
    build, features, _ = CASES[case]
    student, teacher = (x[:0].detach() for x in features())
    student.requires_grad_()
    value = build()(student, teacher)
    value.backward()
    assert value.item() == 0 and student.grad.shape == student.shape


@EVERY
def test_is_built_by_config(case):
    sizes = {} if case in ('SP', 'PKT') else dict(channels_S=3, channels_T=6)
    loss = MODELS.build(dict(type=f'kd_plugins.{case}Loss', **sizes))
    assert loss.loss_weight == {'SP': 3000.0, 'PKT': 30000.0}.get(case, 1.0)


@EVERY
def test_bad_features_are_refused(case):
    build, features, more = CASES[case]
    student, teacher = features()
    with pytest.raises(ValueError, match=rf'{case}Loss needs features of shape \(N, .*\(4, '):
        build()(student[:4], teacher, *more())
    if case in ('VID', 'SRRL'):
        with pytest.raises(ValueError, match='channels_S=3, channels_T=6.* do not fit'):
            build()(student[:, :2], teacher, *more())
        with pytest.raises(ValueError, match=rf'{case}Loss needs features of shape \(N, C'):
            build()(student.flatten(), teacher, *more())


@pytest.mark.parametrize('kind', [VIDLoss, SRRLLoss])
@pytest.mark.parametrize('key', ['channels_S', 'channels_T'])
@pytest.mark.parametrize('value', [0, 2.0, True])
def test_bad_settings_are_refused_by_name(kind, key, value):
    with pytest.raises(ValueError, match=rf'{kind.__name__}\.{key}='):
        kind(**{'channels_S': 3, 'channels_T': 6, key: value})


@pytest.mark.parametrize(
    ('bad', 'says'),
    [
        (dict(eps=0.0), r'VIDLoss\.eps=0\.0 is wrong: give .* above 0'),
        (dict(eps=math.inf), r'VIDLoss\.eps=inf is wrong'),
        (dict(init_variance=1e-6), r'VIDLoss\.init_variance=1e-06 .* above eps=1e-05'),
        (dict(init_variance='5'), r"VIDLoss\.init_variance='5' is wrong"),
    ],
)
def test_bad_variances_are_refused(bad, says):
    with pytest.raises(ValueError, match=says):
        VIDLoss(3, 6, **bad)


class Difference(nn.Module):
    """A loss without a weight."""

    def forward(self, mine, other=None):
        return (mine - other).sum()


def test_weighted_multiplies_and_shows_the_arguments():
    import inspect

    loss = Weighted(Difference(), loss_weight=0.8)
    assert loss(torch.tensor(3.0), other=torch.tensor(1.0)).item() == pytest.approx(1.6)
    assert list(inspect.signature(loss.forward).parameters) == ['mine', 'other']
    with pytest.raises(ValueError, match=r'Weighted\.loss_weight=-1'):
        Weighted(Difference(), loss_weight=-1)


def test_weighted_is_as_low_as_its_loss():
    vid = VIDLoss(4, 4, eps=1e-5, loss_weight=2.0)
    # The lower bound of the whole is its weight times this one.
    assert Weighted(vid, loss_weight=0.5).lower_bound == pytest.approx(math.log(1e-5))
    assert Weighted(Difference(), loss_weight=0.8).lower_bound == 0
    with torch.no_grad():
        vid.raw_variance.fill_(-30.0)
        for parameter in vid.regressor.parameters():
            parameter.zero_()
    loss = Weighted(vid, loss_weight=0.5)
    value = loss(torch.zeros(1, 4, 2, 2), torch.zeros(1, 4, 2, 2)).item()
    assert 0 > value >= 0.5 * loss.lower_bound - 1e-4
    watch = TermWatch('loss_vid', loss, None, skip=False)
    assert watch.least <= value
    watch.remove()


def test_weighted_gives_mmrazors_crd_the_weight_that_it_ignores():
    crd = dict(type='mmrazor.CRDLoss', neg_num=3, sample_n=10, dim_out=4)
    values = []
    for cfg in (
        crd,
        dict(crd, loss_weight=0.8),
        dict(type='kd_plugins.Weighted', loss=crd, loss_weight=0.8),
    ):
        torch.manual_seed(0)
        loss = MODELS.build(dict(cfg))
        features = torch.nn.functional.normalize(torch.randn(2, 5, 4), dim=2)
        samples = []
        for i in range(5):
            from mmpretrain.structures import DataSample

            sample = DataSample()
            sample.set_field(torch.tensor(i), 'sample_idx')
            sample.set_field(torch.tensor([i, 9, 8, 7]), 'contrast_sample_idxs')
            samples.append(sample)
        values.append(loss(*features, samples).item())
    assert values[0] == values[1] > 0
    assert values[2] == pytest.approx(0.8 * values[0], rel=1e-6)
