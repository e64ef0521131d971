"""Cosine and Gram: directions of features, and the angles between them."""

import math

import pytest
import torch
import torch.nn.functional as F
from helpers.maps import maps
from helpers.strategies import STAGES, Method, dot, sgd
from helpers.tiny_pictures import wired

from kd_plugins.losses import CosineLoss, GramLoss, cosine_loss, gram_loss

GRAM = dict(type='kd_plugins.GramLoss')
PLAIN = dict(data_preprocessor=dict(type='kd_plugins.ClsDataPreprocessor'))
STRATEGIES = {
    'Cosine': Method(lambda: wired('cosine') | PLAIN, sgd(), **STAGES),
    'Gram + DOT': Method(lambda: wired(GRAM) | PLAIN, dot(), **STAGES),
}


def cosine(a, b):
    """Of two lists of numbers."""
    lengths = [math.sqrt(sum(x * x for x in each)) for each in (a, b)]
    return sum(x * y for x, y in zip(a, b, strict=True)) / (lengths[0] * lengths[1])


def rows(x):
    """The features of a picture's positions as lists."""
    return [x[n].flatten(1).T.tolist() for n in range(len(x))]


def test_cosine_is_the_naive_loop():
    student, teacher = maps()
    found = [
        1 - cosine(s, t)
        for of_student, of_teacher in zip(rows(student), rows(teacher), strict=True)
        for s, t in zip(of_student, of_teacher, strict=True)
    ]
    assert cosine_loss(student, teacher).item() == pytest.approx(sum(found) / len(found), rel=1e-10)
    assert max(found) > 1 > min(found)


def test_gram_is_the_naive_loop_over_pairs_of_positions():
    student, teacher = maps(c_t=7)
    found = [
        (cosine(s[i], s[j]) - cosine(t[i], t[j])) ** 2
        for s, t in zip(rows(student), rows(teacher), strict=True)
        for i in range(len(s))
        for j in range(len(s))
    ]
    assert gram_loss(student, teacher).item() == pytest.approx(sum(found) / len(found), rel=1e-10)


@pytest.mark.parametrize('loss', [CosineLoss, GramLoss])
def test_lengths_do_not_count_and_the_teacher_itself_is_0(loss):
    student, teacher = maps()
    lengths = 1 + torch.arange(40, dtype=torch.float64).view(2, 1, 4, 5)
    value = loss()(student, teacher).item()
    assert loss()(3 * student, teacher * lengths).item() == pytest.approx(value, rel=1e-10)
    assert loss()(2 * teacher, teacher).item() == pytest.approx(0, abs=1e-12)
    assert value > 0.1


def test_cosine_sees_a_rotation_of_the_features_and_gram_does_not():
    student, teacher = maps()
    turn = torch.linalg.qr(torch.arange(9.0).view(3, 3).double().sin())[0]
    turned = torch.einsum('ij,njhw->nihw', turn, student)
    assert gram_loss(turned, teacher).item() == pytest.approx(
        gram_loss(student, teacher).item(), rel=1e-9
    )
    assert abs(cosine_loss(turned, teacher) - cosine_loss(student, teacher)) > 0.03


@pytest.mark.parametrize('loss', [cosine_loss, gram_loss])
def test_a_dead_feature_has_a_bounded_gradient(loss):
    student, teacher = maps()
    student = student.detach().clone()
    student[0, :, 1, 2] = 0
    student.requires_grad_()
    loss(student, teacher).backward()
    others = student.grad.abs().amax()
    assert torch.isfinite(student.grad).all() and others < 1e3
    # torch's own has a floor of 1e-12 or 1e-8, and passes on its inverse.
    theirs = student.detach().clone().requires_grad_()
    (1 - (F.normalize(theirs, dim=1) * F.normalize(teacher, dim=1)).sum(1)).mean().backward()
    assert theirs.grad.abs().amax() > 1e8
