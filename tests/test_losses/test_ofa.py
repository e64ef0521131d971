"""OFA-KD's loss."""

import math

import pytest
import torch
import torch.nn.functional as F
from helpers.maps import wave
from helpers.ofa import CLASSES, labels

from kd_plugins.losses import KDLoss, OFALoss, ofa_loss
from kd_plugins.structures import Progress

# The loss, and two sums of its gradient, by eps and temperature: github.com/Hao840/OFAKD at
# f7bb896, distillers/ofa.py, ofa_loss in float64.
PUBLISHED = {
    (0.8, 1.0): (3.4187280687816988, (0.26972963870204986, 1.339303072781913)),
    (0.8, 2.0): (2.5102846206539913, (0.09613758360599314, 0.5020516040094045)),
    (1.0, 1.0): (2.98062911541057, (0.2452520310308522, 1.209721636396348)),
    (1.0, 2.0): (2.0724399385392194, (0.08694131134236371, 0.4277091968535968)),
    (1.5, 1.0): (2.60081654159579, (0.21507590890825085, 1.0953477429924285)),
    (1.5, 2.0): (1.5888589242873514, (0.07137347134226918, 0.39026343802688046)),
}


def logits(number=6, dtype=torch.float64):
    student, teacher = wave((number, CLASSES), 3, 1.3, 0.2), wave((number, CLASSES), 2.5, 0.7, 0.5)
    return student.to(dtype).requires_grad_(), teacher.to(dtype)


@pytest.mark.parametrize(('eps', 'tau'), PUBLISHED)
def test_loss_and_gradient_are_the_published_codes(eps, tau):
    student, teacher = logits()
    value = OFALoss(eps, tau)(student, teacher, labels(6))
    (grad,) = torch.autograd.grad(value, student)
    expected, (summed, magnitude) = PUBLISHED[eps, tau]
    assert value.item() == pytest.approx(expected, rel=1e-12)
    weighted = (grad * wave(grad.shape, 1, 0.61, 0.2)).sum().item()
    assert (weighted, grad.abs().sum().item()) == pytest.approx((summed, magnitude), rel=1e-12)


def test_loss_is_the_formula():
    student, teacher = logits()
    found = ofa_loss(student, teacher, labels(6), 1.5)
    for i, (z_S, z_T) in enumerate(zip(student.tolist(), teacher.tolist(), strict=True)):
        p_S, p_T = ([math.exp(z) / sum(map(math.exp, row)) for z in row] for row in (z_S, z_T))
        y = [float(c == labels(6)[i]) for c in range(CLASSES)]
        rows = zip(p_S, p_T, y, strict=True)
        expected = -sum(((t + g) ** 1.5 - g) * math.log(s) for s, t, g in rows)
        assert found[i].item() == pytest.approx(expected, rel=1e-12)
    assert torch.autograd.gradcheck(lambda x: ofa_loss(x, teacher, labels(6), 1.5), student)


def test_exponent_1_is_kd_up_to_the_teachers_entropy():
    student, teacher = logits()
    ours = OFALoss(1.0)(student, teacher, labels(6))
    entropy = -(teacher.softmax(1) * teacher.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(ours - entropy, KDLoss(1.0)(student, teacher))
    # Whatever the label says.
    torch.testing.assert_close(ours, OFALoss(1.0)(student, teacher, labels(6).flip(0)))


def test_the_label_counts_more_with_a_larger_exponent():
    student, teacher = logits()
    shares = []
    for eps in (1.0, 1.5, 2.0):
        value = ofa_loss(student, teacher, labels(6), eps).sum()
        (grad,) = torch.autograd.grad(value, student)
        at_label = grad.gather(1, labels(6)[:, None]).sum()
        shares.append(float(at_label / grad.abs().sum()))
    assert shares[0] > shares[1] > shares[2]


def test_mixed_labels_are_their_largest_class():
    student, teacher = logits()
    mixed = 0.7 * F.one_hot(labels(6), CLASSES) + 0.3 * F.one_hot(labels(6).flip(0), CLASSES)
    loss = OFALoss(1.5, loss_weight=2.0)
    torch.testing.assert_close(
        loss(student, teacher, mixed), 2 * OFALoss(1.5)(student, teacher, labels(6))
    )


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16, torch.float32])
def test_confident_students_have_finite_losses(dtype):
    """Published: the logarithm of a softmax, infinite where that is 0."""
    student = (torch.eye(CLASSES) * 200).to(dtype).requires_grad_()
    teacher = torch.eye(CLASSES).flip(0).to(dtype) * 200
    with torch.autocast('cpu', dtype=torch.bfloat16):
        value = OFALoss(1.5)(student, teacher, torch.arange(CLASSES))
    value.backward()
    assert value.dtype == torch.float32 and torch.isfinite(value) and value > 50
    assert torch.isfinite(student.grad).all() and student.grad.any()


def test_the_teacher_takes_no_gradient_and_no_picture_loses_0():
    student, teacher = logits()
    teacher.requires_grad_()
    OFALoss()(student, teacher, labels(6)).backward()
    assert teacher.grad is None and student.grad.any()
    student, teacher = logits(0)
    value = OFALoss()(student, teacher, labels(0))
    value.backward()
    assert value.item() == 0


def test_a_learned_temperature_learns():
    student, teacher = logits()
    loss = OFALoss(1.5, dict(type='kd_plugins.GlobalTemperature')).double()
    loss.tau.set_progress(Progress(iter=9, max_iters=10, epoch=9, max_epochs=10))
    loss(student, teacher, labels(6)).backward()
    assert all(p.grad is not None and p.grad.any() for p in loss.parameters())


def test_a_picture_of_several_classes_has_no_largest():
    """The first of them would be its label."""
    student, teacher = logits()
    mixed = F.one_hot(labels(6), student.shape[1]).float()
    assert torch.isfinite(OFALoss()(student, teacher, mixed * 0.7 + mixed.roll(1, 1) * 0.3))
    for wrong in (mixed + mixed.roll(1, 1), mixed * 0):
        assert torch.isnan(OFALoss()(student, teacher, wrong))


def test_bad_input_is_refused():
    for eps in (0, -1, math.inf, '1'):
        with pytest.raises(ValueError, match=r'OFALoss\.eps=.* is wrong: give a finite exponent'):
            OFALoss(eps)
    student, teacher = logits()
    for wrong in (torch.zeros(5).long(), torch.zeros(6), torch.zeros(6, 3)):
        with pytest.raises(
            ValueError, match=r'OFALoss\.gt_labels has shape .* give integer classes'
        ):
            OFALoss()(student, teacher, wrong)
