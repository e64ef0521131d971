"""ReviewKD's loss, HCL."""

import math

import pytest
import torch

from kd_plugins.losses import ReviewKDLoss, hcl_loss
from kd_plugins.structures import Progress


def wave(shape, scale, frequency, phase):
    """The same numbers on every machine."""
    steps = torch.arange(math.prod(shape), dtype=torch.float64)
    return (scale * torch.sin(frequency * steps + phase)).view(shape)


def digest(gradient):
    """One number that depends on every element."""
    return (gradient * wave(gradient.shape, 1, 0.37, 0.1)).sum().item()


def pair(shape):
    return wave(shape, 2, 1.3, 0.2).requires_grad_(), wave(shape, 1.5, 0.7, 0.5)


# Printed by hcl of detection/model/reviewkd.py of megvii-research/mdistiller at
# a08d46f10d6102bd6e3f258ca5ac880b020ea259: the loss, and a digest of its gradient.
PUBLISHED = {
    (2, 3, 1, 7): (3.1195386957791604, -0.0236646339833409),
    (2, 3, 2, 2): (2.0477334915417305, -0.03187423582678245),
    (2, 3, 3, 1): (2.401683978098344, 0.1336246848772713),
    (2, 3, 4, 9): (1.9518640984863593, -0.019247560173806674),
    (2, 3, 5, 2): (1.9446272281461525, -0.028189641088896884),
    (2, 3, 7, 7): (1.7712066350493632, -0.000883972564739776),
}


@pytest.mark.parametrize('shape', PUBLISHED, ids=str)
def test_equals_the_published_code(shape):
    x_S, x_T = pair(shape)
    loss = hcl_loss([x_S], [x_T])
    loss.backward()
    value, gradient = PUBLISHED[shape]
    assert loss.item() == pytest.approx(value, rel=1e-9)
    assert digest(x_S.grad) == pytest.approx(gradient, rel=1e-9)


def by_hand(x_S, x_T):
    """The weighted mean over scales, cell by cell."""
    n, c, height, width = x_S.shape
    total, weights = ((x_S - x_T) ** 2).mean(), [1.0]
    for size in (4, 2, 1):
        if size >= height:
            continue
        squares = []
        for i in range(size):
            for j in range(size):
                rows = slice(i * height // size, -(-(i + 1) * height // size))
                columns = slice(j * width // size, -(-(j + 1) * width // size))
                cell_S, cell_T = (x[:, :, rows, columns].mean(dim=(2, 3)) for x in (x_S, x_T))
                squares.append(((cell_S - cell_T) ** 2).mean())
        weights.append(weights[-1] / 2)
        total = total + weights[-1] * sum(squares) / len(squares)
    return total / sum(weights)


def test_is_the_sum_of_every_levels_weighted_mean():
    levels = [pair(shape) for shape in [(2, 3, 9, 6), (2, 5, 4, 4), (2, 2, 1, 1)]]
    loss = ReviewKDLoss(loss_weight=1.2)([s for s, _ in levels], [t for _, t in levels])
    loss.backward()
    gradients = [s.grad.clone() for s, _ in levels]
    for s, _ in levels:
        s.grad = None
    expected = 1.2 * sum(by_hand(*level) for level in levels)
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    for (s, _), gradient in zip(levels, gradients, strict=True):
        assert torch.allclose(gradient, s.grad, rtol=1e-10, atol=1e-14)


def test_a_vector_is_a_map_of_one_position():
    x_S, x_T = pair((4, 6))
    loss = ReviewKDLoss()([x_S], (x_T,))
    assert loss.item() == pytest.approx(((x_S - x_T) ** 2).mean().item(), rel=1e-12)
    assert ReviewKDLoss()(x_S, x_T).item() == loss.item()


def test_the_teacher_gets_no_gradient():
    x_S, x_T = pair((2, 3, 4, 4))
    x_T.requires_grad_()
    ReviewKDLoss()([x_S], [x_T]).backward()
    assert x_T.grad is None and x_S.grad.abs().sum() > 0


def test_without_pictures_it_is_zero_with_a_gradient():
    maps = [torch.zeros(0, 3, side, side, requires_grad=True) for side in (8, 4, 1)]
    loss = ReviewKDLoss()(maps, [torch.zeros_like(x) for x in maps])
    loss.backward()
    assert loss.item() == 0 and all(x.grad.shape == x.shape for x in maps)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_half_precision_is_left(dtype):
    x_S, x_T = pair((2, 3, 8, 8))
    # 400 squared is more than float16 has.
    half_S, half_T = ((200 * x).detach().to(dtype) for x in (x_S, x_T))
    half_S.requires_grad_()
    with torch.autocast('cpu', torch.bfloat16):
        loss = ReviewKDLoss()([half_S], [half_T])
    loss.backward()
    expected = hcl_loss([half_S.double()], [half_T.double()])
    assert loss.dtype == torch.float32 and torch.isfinite(half_S.grad).all()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_warm_up_counts_epochs_from_one():
    x_S, x_T = pair((2, 3, 4, 4))
    whole = ReviewKDLoss()([x_S], [x_T]).item()
    loss = ReviewKDLoss(warmup=20)
    for epoch, factor in ((0, 1 / 20), (9, 0.5), (19, 1), (200, 1)):
        loss.set_progress(Progress(iter=epoch, max_iters=240, epoch=epoch, max_epochs=240))
        assert loss([x_S], [x_T]).item() == pytest.approx(factor * whole, rel=1e-12)
    loss.set_progress(Progress(iter=0, max_iters=10, epoch=0, max_epochs=10))
    with pytest.raises(ValueError, match=r'ReviewKDLoss\.warmup=20 is longer than the training'):
        loss([x_S], [x_T])


@pytest.mark.parametrize(
    'shapes_T',
    [[(2, 3, 4, 4)], [(2, 3, 4, 4), (2, 3, 2, 3)], [(2, 3, 4, 4), (2, 4, 2, 2)], []],
    ids=['levels', 'size', 'channels', 'none'],
)
def test_other_shapes_are_refused_with_both(shapes_T):
    maps_S = [torch.ones(2, 3, 4, 4), torch.ones(2, 3, 2, 2)]
    with pytest.raises(ValueError, match='same shapes') as error:
        ReviewKDLoss()(maps_S, [torch.zeros(shape) for shape in shapes_T])
    assert '[(2, 3, 4, 4), (2, 3, 2, 2)]' in str(error.value) and str(shapes_T) in str(error.value)


@pytest.mark.parametrize('setting', [dict(loss_weight=-1.0), dict(warmup=0)])
def test_settings_out_of_range_are_refused(setting):
    with pytest.raises(ValueError, match=rf'ReviewKDLoss\.{next(iter(setting))}'):
        ReviewKDLoss(**setting)
