"""EEKD and CheckpointKD."""

import math

import pytest
import torch
from helpers import TinyClassifier, build, distiller, oracles
from mmengine.registry import MODELS
from torch import nn

from kd_plugins.losses import EEKDLoss, KDLoss, eekd_loss

WIDTHS = dict(channels_S=3, channels_T=6, embed_dims=4)


def wave(shape, scale, frequency, phase):
    """The same numbers on every machine."""
    steps = torch.arange(math.prod(shape), dtype=torch.float64)
    return (scale * torch.sin(frequency * steps + phase)).view(shape)


def records(dtype=torch.float64, teachers=3):
    """Of 5 samples: logits of 7 classes, and features of 3 and 6 channels."""
    return dict(
        preds_S=wave((5, 7), 3, 1.3, 0.2).to(dtype).requires_grad_(),
        preds_T=wave((5, teachers, 7), 4, 0.7, 0.5).to(dtype),
        features_S=wave((5, 3), 1, 1.1, 0.4).to(dtype).requires_grad_(),
        features_T=wave((5, teachers, 6), 1, 0.9, 1.4).to(dtype),
    )


def attentive(**changes):
    loss = EEKDLoss(**dict(dict(tau=2.0, **WIDTHS), **changes)).double()
    if loss.mode == 'attention':
        loss.embed_S.weight.data = wave((4, 3), 0.8, 1.7, 0.1)
        loss.embed_T.weight.data = wave((4, 6), 0.7, 1.9, 0.6)
    return loss


def naive_weights(loss, i, r):
    """Weights of one sample: plain loops over the formula."""
    E_S, E_T = loss.embed_S.weight.tolist(), loss.embed_T.weight.tolist()
    v = [sum(a * b for a, b in zip(row, r['features_S'][i].tolist(), strict=True)) for row in E_S]
    scores = []
    for teacher in r['features_T'][i].tolist():
        u = [sum(a * b for a, b in zip(row, teacher, strict=True)) for row in E_T]
        scores.append(sum(a * b for a, b in zip(u, v, strict=True)))
    return oracles.softmax(scores, 1)


def naive(i, r, weights, tau, mix):
    teachers = r['preds_T'][i].tolist()
    classes = range(len(teachers[0]))
    if mix == 'logits':
        mean = [sum(w * z[c] for w, z in zip(weights, teachers, strict=True)) for c in classes]
        target = oracles.softmax(mean, tau)
    else:
        each = [oracles.softmax(z, tau) for z in teachers]
        target = [sum(w * p[c] for w, p in zip(weights, each, strict=True)) for c in classes]
    return oracles.kl(target, oracles.softmax(r['preds_S'][i].tolist(), tau))


FIXED = dict(equal=[1 / 3] * 3, linear=[1 / 6, 2 / 6, 3 / 6])


@pytest.mark.parametrize('square', [True, False])
@pytest.mark.parametrize('mix', ['probabilities', 'logits'])
@pytest.mark.parametrize('mode', ['attention', 'equal', 'linear'])
def test_value_is_the_naive_loop(mode, mix, square):
    widths = WIDTHS if mode == 'attention' else dict(channels_S=None, channels_T=None)
    loss, r = attentive(mode=mode, mix=mix, square_tau=square, **widths), records()
    each = [naive(i, r, FIXED.get(mode) or naive_weights(loss, i, r), 2.0, mix) for i in range(5)]
    expected = oracles.batch_of(each) * (4 if square else 1)
    assert loss(**r).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize('mix', ['probabilities', 'logits'])
def test_gradients_are_finite_differences_of_the_value(mix):
    """Those of the weights come through the target, whose entropy counts."""
    r = records()
    log_weights = wave((5, 3), 1, 0.8, 0.3).log_softmax(1).requires_grad_()
    tau = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda *given: eekd_loss(*given, mix), (r['preds_S'], r['preds_T'], log_weights, tau)
    )
    loss = attentive(mix=mix)
    parameters = [loss.embed_S.weight, loss.embed_T.weight, r['features_S']]
    assert torch.autograd.gradcheck(lambda *_: loss(**r), parameters)


def test_one_teacher_is_plain_kd_and_the_maps_get_no_gradient():
    loss, r = attentive(tau=4.0), records(teachers=1)
    value = loss(**r)
    plain = KDLoss(4.0)(r['preds_S'], r['preds_T'][:, 0])
    assert value.item() == pytest.approx(plain.item(), rel=1e-12)
    got, expected = (torch.autograd.grad(x, r['preds_S'], retain_graph=True)[0]
                     for x in (value, plain))  # fmt: skip
    torch.testing.assert_close(got, expected)
    value.backward()
    for parameter in loss.parameters():
        assert parameter.grad is not None and not parameter.grad.any()
    # Without the axis of the teachers, too, as a plain recorder gives it.
    r['preds_T'], r['features_T'] = r['preds_T'][:, 0], r['features_T'][:, 0]
    assert loss(**r).item() == value.item()


@pytest.mark.parametrize('mix', ['probabilities', 'logits'])
def test_equal_teachers_make_the_weights_irrelevant(mix):
    loss, r = attentive(mix=mix), records()
    r['preds_T'] = r['preds_T'][:, :1].expand(-1, 3, -1)
    value = loss(**r)
    plain = KDLoss(2.0)(r['preds_S'], r['preds_T'][:, 0])
    assert value.item() == pytest.approx(plain.item(), rel=1e-12)
    gradients = torch.autograd.grad(value, [*loss.parameters(), r['features_S']])
    assert all(gradient.abs().max() < 1e-12 for gradient in gradients)


def test_fixed_weights_are_as_named():
    like = torch.zeros(2, 4, dtype=torch.float64)
    assert EEKDLoss(mode='equal').log_weights(4, like).exp().tolist() == pytest.approx([0.25] * 4)
    got = EEKDLoss(mode='linear').log_weights(4, like).exp().tolist()
    assert got == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert not [*EEKDLoss(mode='linear').parameters()]


def test_maps_of_features_are_averaged_over_the_places():
    loss, r = attentive(), records()
    expected = loss(**r).item()
    ripple = torch.tensor([[1.0, -1.0], [-3.0, 3.0]], dtype=torch.float64)
    for key in ('features_S', 'features_T'):
        r[key] = r[key][..., None, None] + ripple
    assert loss(**r).item() == pytest.approx(expected, rel=1e-12)


def test_detached_features_leave_the_weights_to_the_maps():
    loss, r = attentive(detach_features=True), records()
    loss(**r).backward()
    assert r['features_S'].grad is None and r['preds_S'].grad.any()
    assert loss.embed_S.weight.grad.any() and loss.embed_T.weight.grad.any()
    loss, r = attentive(), records()
    loss(**r).backward()
    assert r['features_S'].grad.any()


def test_a_temperature_per_sample_is_a_loss_per_sample():
    from test_kd import Learned

    loss, r = attentive(tau=Learned(1.5, per_sample=True)), records()
    each = [
        (1.5 * (i + 1)) ** 2
        * naive(i, r, naive_weights(loss, i, r), 1.5 * (i + 1), 'probabilities')
        for i in range(5)
    ]
    assert loss(**r).item() == pytest.approx(oracles.batch_of(each), rel=1e-12)


@pytest.mark.parametrize('mix', ['probabilities', 'logits'])
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32])
def test_extreme_records_stay_finite(dtype, mix):
    """Softmaxes that underflow: in probability space, weights would get NaN."""
    loss = EEKDLoss(1.0, mix=mix, **WIDTHS)
    preds_S = torch.full((3, 5), -80.0)
    preds_S[:, 0] = 80
    preds_T = torch.stack([preds_S.roll(1, 1), preds_S.roll(2, 1)], dim=1).to(dtype)
    preds_S = preds_S.to(dtype).requires_grad_()
    features_S = (200 * wave((3, 3), 1, 1.1, 0.4)).to(dtype).requires_grad_()
    features_T = (200 * wave((3, 2, 6), 1, 0.9, 1.4)).to(dtype)
    value = loss(preds_S, preds_T, features_S, features_T)
    value.backward()
    assert value.dtype == torch.float32 and torch.isfinite(value) and value > 1
    for x in (preds_S, features_S, *loss.parameters()):
        assert torch.isfinite(x.grad).all()


def test_half_precision_loses_only_the_rounding_of_its_inputs():
    r = records(torch.bfloat16)
    expected = attentive()(**{key: x.double() for key, x in r.items()}).item()
    loss = attentive().float()
    with torch.autocast('cpu', torch.bfloat16):
        value = loss(**r)
    assert value.dtype == torch.float32 and value.item() == pytest.approx(expected, rel=1e-5)


def test_an_empty_batch_is_zero_with_a_gradient():
    r = {key: x.detach()[:0].requires_grad_(key.endswith('S')) for key, x in records().items()}
    loss = attentive()
    value = loss(**r)
    value.backward()
    assert value.item() == 0 and r['preds_S'].grad.shape == (0, 7)
    assert all(not p.grad.any() for p in loss.parameters())
    assert all(torch.isfinite(x).all() for x in loss.diagnose(**r).values())


def test_the_log_shows_a_collapse():
    loss, r = attentive(), records()
    weights = torch.tensor([naive_weights(loss, i, r) for i in range(5)])
    said = loss.diagnose(**r)
    got = [said[f'teacher_weight_{i}'].item() for i in range(3)]
    assert got == pytest.approx(weights.mean(0).tolist())
    assert said['teacher_entropy'].item() == pytest.approx(-(weights * weights.log()).sum(1).mean())
    r['features_T'][:, 1] = (
        500
        * r['features_S'].detach()
        @ loss.embed_S.weight.detach().T
        @ (loss.embed_T.weight.detach())
    )
    said = loss.diagnose(**r)
    assert said['teacher_weight_1'].item() == pytest.approx(1, abs=1e-6)
    assert said['teacher_entropy'].item() == pytest.approx(0, abs=1e-4)
    assert EEKDLoss(mode='equal').diagnose(r['preds_S'], r['preds_T'])[
        'teacher_entropy'
    ].item() == pytest.approx(math.log(3))


# Printed by Trainer.train_one_epoch of student.py, LeapLabTHU/CheckpointKD at bf735d6d6880,
# in float64 with its defaults (T 5, alpha 0.5, SGD 0.1, momentum 0.9, Nesterov, weight decay
# 5e-4) and its two teachers in eval mode: three steps of a linear student on the batches
# below. By what is mixed: the mean of the three losses, the first weights and the biases.
# Its mean of KLs has the gradient of mixed probabilities, and another value.
PUBLISHED = {
    'logits': (
        1.5866270540197533,
        [0.5487530203032011, 1.4084214826573205, 0.7063382886565119, -0.9583988064678026,
         -1.8449780757163048, -0.936361460560815],
        [0.05159849215079849, 0.5050839134889177, 0.4427577237636977, 0.11932120620059668],
    ),
    'probabilities': (
        None,
        [0.5425597994832909, 1.4040677363887455, 0.7058716518385447, -0.9547588672482707,
         -1.8389434807498386, -0.9307703741532911],
        [0.058370197154355964, 0.4965551073589055, 0.43198533922143084, 0.13185069186931825],
    ),
}  # fmt: skip


@MODELS.register_module(force=True)
class LinearClassifier(TinyClassifier):
    def __init__(self, data_preprocessor=None):
        super().__init__(data_preprocessor=data_preprocessor)
        self.body, self.fc = nn.Identity(), nn.Linear(6, 4)


def set_wave(network, phase):
    network.fc.weight.data = wave((4, 6), 1.5, 1.1, phase)
    network.fc.bias.data = wave((4,), 0.5, 0.9, phase)


@pytest.mark.parametrize('mix', PUBLISHED)
def test_a_small_training_is_the_published_one(mix, tmp_path):
    paths = []
    for phase in (1.3, 2.9):
        network = LinearClassifier()
        set_wave(network, phase)
        paths.append(str(tmp_path / f'{phase}.pth'))
        torch.save(network.state_dict(), paths[-1])
    loss = dict(type='kd_plugins.EEKDLoss', mode='equal', mix=mix, loss_weight=0.5)
    reads = dict(logits=dict(type='kd_plugins.EveryCheckpoint', source='fc'))
    model = build(
        architecture=dict(type='LinearClassifier'),
        teacher=dict(type='LinearClassifier'),
        teacher_ckpt=paths,
        allow_random_teacher=False,
        distiller=distiller(loss, teacher_recorders=reads),
    ).double()
    set_wave(model.student, 0.2)
    for network, phase in zip(model.teacher.network.networks, (1.3, 2.9), strict=True):
        set_wave(network, phase)  # past the float32 that it was loaded into
        network.requires_grad_(False)
    sgd = torch.optim.SGD(
        model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True
    )
    totals = []
    for k in range(3):
        labels = torch.tensor([0, 3, 1, 2, 1])
        losses = model(wave((5, 6), 2, 0.7, float(k)), labels, mode='loss')
        total = 0.5 * losses['student.loss'] + losses['distill.loss_kd']
        sgd.zero_grad()
        total.backward()
        sgd.step()
        totals.append(total.item())
    value, weights, biases = PUBLISHED[mix]
    if value is not None:
        assert sum(totals) / 3 == pytest.approx(value, rel=1e-11)
    got = model.student.fc.weight.flatten()[:6].tolist()
    assert got == pytest.approx(weights, rel=1e-11)
    assert model.student.fc.bias.tolist() == pytest.approx(biases, rel=1e-11)


@pytest.mark.parametrize(
    ('settings', 'says'),
    [
        (dict(mode='mean'), r"EEKDLoss\.mode='mean'"),
        (dict(mix='losses'), r"EEKDLoss\.mix='losses'"),
        (dict(), r'EEKDLoss\.channels_S=None'),
        (dict(WIDTHS, embed_dims=0), r'EEKDLoss\.embed_dims=0'),
        (dict(mode='equal', channels_T=6), r'EEKDLoss\.channels_T=6 has no effect with mode'),
        (dict(WIDTHS, square_tau='yes'), r"EEKDLoss\.square_tau='yes'"),
        (dict(WIDTHS, tau=0), r'EEKDLoss\.tau=0'),
    ],
)
def test_bad_settings_are_refused_by_name(settings, says):
    with pytest.raises(ValueError, match=says):
        EEKDLoss(**settings)


@pytest.mark.parametrize(
    ('changes', 'says'),
    [
        (dict(preds_T=torch.zeros(5, 3, 8)), r'\(5, 7\).*\(5, 3, 8\)'),
        (dict(preds_T=torch.zeros(5)), r'preds_T has \(5,\)'),
        (dict(features_S=torch.zeros(5, 4)), r'channels_S=3.*\(5, 4\)'),
        (dict(features_T=torch.zeros(5, 2, 6)), r'channels_T=6.*\(5, 2, 6\)'),
        (dict(features_T=None), 'needs features_S and features_T'),
    ],
)
def test_other_records_are_refused_with_their_shapes(changes, says):
    with pytest.raises(ValueError, match=says):
        attentive()(**dict(records(), **changes))


def test_a_mapping_without_features_is_refused_before_training():
    cfg = distiller(dict(type='kd_plugins.EEKDLoss', channels_S=4, channels_T=16))
    with pytest.raises(ValueError, match=r'loss_kd\.mode=.attention.*has no features_S'):
        build(distiller=cfg)
