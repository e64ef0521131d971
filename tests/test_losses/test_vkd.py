"""VkD: the projection stays orthogonal, whatever an optimizer does."""

import pytest
import torch
import torch.nn.functional as F
from helpers.maps import wave
from helpers.strategies import PATCHES, Method, dot, sgd
from helpers.tiny_pictures import from_cnn
from torch import nn

from kd_plugins.losses import VkDLoss, vkd_loss
from kd_plugins.losses.vkd import OrthogonalProjection

#: Beside OFA-KD.
STRATEGIES = {
    'VkD, OFA-KD': Method(from_cnn, sgd(0.05), stored=True, **PATCHES),
    'VkD, OFA-KD + DOT': Method(from_cnn, dot(0.05), stored=True, **PATCHES),
}


def features(c_s=3, c_t=5, number=4, dtype=torch.float64):
    student, teacher = wave((number, c_s), 2, 1.3, 0.2), wave((number, c_t), 1.5, 0.7, 0.5)
    return student.to(dtype).requires_grad_(), teacher.to(dtype)


def smooth_l1(projected, preds_T):
    """The formula, number by number."""
    total = 0.0
    for row, target in zip(projected.tolist(), preds_T.tolist(), strict=True):
        mean = sum(target) / len(target)
        std = (sum((t - mean) ** 2 for t in target) / len(target) + 1e-5) ** 0.5
        for s, t in zip(row, target, strict=True):
            d = abs(s - (t - mean) / std)
            total += d - 0.5 if d >= 1 else 0.5 * d * d
    return total / projected.numel()


def test_loss_is_the_formula():
    projected, teacher = features(5, 5)
    assert vkd_loss(projected, teacher).item() == pytest.approx(smooth_l1(projected, teacher))
    # Both halves of the smooth L1 are met.
    distance = (projected - F.layer_norm(teacher, (5,))).abs()
    assert (distance < 1).any() and (distance > 1).any()
    assert torch.autograd.gradcheck(lambda x: vkd_loss(x, teacher), projected)


def test_loss_and_gradient_are_the_published_codes():
    # github.com/roymiles/VkD at 6f8a507, engine.py, train_one_epoch's feature term in float64,
    # with the projection replaced by the matrix of an isometry.
    tokens = wave((2, 4, 3), 2, 1.3, 0.2).requires_grad_()
    maps = wave((2, 5, 2, 3), 1.5, 0.7, 0.5, torch.cos)
    loss = VkDLoss(3, 5, extra_tokens=1).double()
    loss.projection.weight.data = torch.eye(5, 3, dtype=torch.float64) * 7
    found = loss(tokens, maps)
    (grad,) = torch.autograd.grad(found, tokens)
    assert found.item() == pytest.approx(0.4953928491503949, abs=1e-12)
    assert (grad * wave(grad.shape, 1, 0.37)).sum().item() == pytest.approx(
        -0.0012399857257628516, abs=1e-12
    )


@pytest.mark.parametrize(('c_s', 'c_t'), [(3, 7), (7, 3), (4, 4)])
def test_projection_is_orthogonal_and_stays_so(c_s, c_t):
    loss = VkDLoss(c_s, c_t).double()
    # It starts orthogonal, and is then itself, with its signs.
    weight = loss.projection.weight.detach()
    torch.testing.assert_close(loss.projection.matrix(), weight, rtol=0, atol=1e-6)
    torch.testing.assert_close(loss.projection(weight), weight @ weight.T, rtol=0, atol=1e-6)
    student, teacher = features(c_s, c_t, 6)
    optimizer = torch.optim.AdamW(loss.parameters(), lr=0.05, weight_decay=0.5)
    values = []
    for _ in range(30):
        p = loss.projection.matrix()
        gram = p.T @ p if c_t >= c_s else p @ p.T
        torch.testing.assert_close(gram, torch.eye(min(c_s, c_t), dtype=p.dtype))
        value = loss(student.detach(), teacher)
        values.append(value.item())
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    assert values[-1] < values[0]


def test_decay_alone_never_changes_the_map():
    """Where torch's own parametrisation, which the published code has, becomes 0."""
    student, teacher = features()
    published = nn.utils.parametrizations.orthogonal(nn.Linear(3, 5, bias=False).double())
    ours = VkDLoss(3, 5).double()
    before = ours.projection.matrix().detach()
    for parameters in (published.parameters(), ours.parameters()):
        parameters = list(parameters)
        optimizer = torch.optim.AdamW(parameters, lr=5e-4, weight_decay=0.05)
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
    assert not published.weight.any()
    torch.testing.assert_close(ours.projection.matrix(), before, rtol=0, atol=1e-14)
    assert not torch.equal(ours.projection.weight, before)


@pytest.mark.parametrize(('c_s', 'c_t'), [(3, 5), (5, 3), (4, 4)])
def test_gradients_of_the_projection(c_s, c_t):
    projection = OrthogonalProjection(c_s, c_t).double()
    # Two waves alone have rank 2.
    projection.weight.data = wave((c_t, c_s), 1, 0.9, 0.3) + torch.eye(c_t, c_s).double()
    student, teacher = features(c_s, c_t)

    def value(weight, x):
        return vkd_loss(torch.func.functional_call(projection, dict(weight=weight), x), teacher)

    weight = projection.weight.detach().clone().requires_grad_()
    assert torch.autograd.gradcheck(value, (weight, student))
    (grad,) = torch.autograd.grad(value(weight, student), weight)
    # Its length changes nothing.
    assert abs((grad * weight).sum()) < 1e-12


def test_tokens_and_maps_are_pooled():
    loss = VkDLoss(3, 5, extra_tokens=2).double()
    tokens, maps = wave((2, 8, 3), 1, 1.1), wave((2, 5, 3, 4), 1, 0.7)
    expected = loss(tokens[:, 2:].mean(1), maps.mean((2, 3)))
    torch.testing.assert_close(loss(tokens, maps), expected)
    grid = tokens[:, 2:].transpose(1, 2).unflatten(2, (2, 3))
    torch.testing.assert_close(loss(grid, maps), expected)


def test_a_teachers_tokens_are_pooled_without_its_class_token_or_refused():
    tokens, teacher = wave((2, 8, 3), 1, 1.1), wave((2, 7, 5), 1, 0.7)
    loss = VkDLoss(3, 5, extra_tokens=2, extra_tokens_T=1).double()
    torch.testing.assert_close(loss(tokens, teacher), loss(tokens, teacher[:, 1:].mean(1)))
    assert loss(tokens, teacher) != loss(tokens, teacher.mean(1))
    with pytest.raises(ValueError, match=r'extra_tokens_T=None, and the teacher gives tokens'):
        VkDLoss(3, 5, extra_tokens=2).double()(tokens, teacher)
    with pytest.raises(ValueError, match=r'VkDLoss\.extra_tokens_T=-1 is wrong'):
        VkDLoss(3, 5, extra_tokens_T=-1)


def test_the_teacher_takes_no_gradient():
    student, teacher = features()
    teacher.requires_grad_()
    loss = VkDLoss(3, 5, loss_weight=2.0).double()
    value = loss(student, teacher)
    value.backward()
    assert teacher.grad is None and student.grad.any() and loss.projection.weight.grad.any()
    half = VkDLoss(3, 5, loss_weight=1.0).double()
    half.load_state_dict(loss.state_dict())
    assert value.item() == pytest.approx(2 * half(student, teacher).item())


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype):
    loss = VkDLoss(3, 5)
    student, teacher = features(dtype=dtype)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        value = loss(student, teacher)
    assert value.dtype == torch.float32
    full = loss(student.detach().float(), teacher.float())
    torch.testing.assert_close(value, full)
    value.backward()
    assert torch.isfinite(student.grad).all()
    # Weights that a whole model was converted to are orthogonal in float32, too.
    p = loss.to(dtype).projection.matrix()
    torch.testing.assert_close(p.T @ p, torch.eye(3))


@pytest.mark.parametrize('number', [0, 1])
@pytest.mark.parametrize('scale', [0.0, 1e4])
def test_few_pictures_and_extreme_features(number, scale):
    student, teacher = features(number=number)
    value = VkDLoss(3, 5).double()(student * scale, teacher * scale)
    value.backward()
    assert torch.isfinite(value) and torch.isfinite(student.grad).all()


def test_bad_input_is_refused():
    for key in ('channels_S', 'channels_T'):
        with pytest.raises(ValueError, match=rf'VkDLoss\.{key}=0 is wrong'):
            VkDLoss(**{'channels_S': 3, 'channels_T': 5, key: 0})
    with pytest.raises(ValueError, match=r'VkDLoss\.extra_tokens=-1 is wrong'):
        VkDLoss(3, 5, extra_tokens=-1)
    loss = VkDLoss(3, 5)
    for student, teacher in (
        (torch.zeros(2, 4), torch.zeros(2, 5)),
        (torch.zeros(2, 3), torch.zeros(1, 5)),
        (torch.zeros(2, 3), torch.zeros(2, 7, 1, 1)),
    ):
        with pytest.raises(ValueError, match=r'channels_S=3, channels_T=5 do not fit features of'):
            loss(student, teacher)
    with pytest.raises(ValueError, match=r'preds_T is a tuple of 1, not a tensor: add data_idx=0'):
        loss(torch.zeros(2, 3), (torch.zeros(2, 5),))
