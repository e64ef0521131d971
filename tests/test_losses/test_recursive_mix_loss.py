"""RecursiveMix's consistency term; the part that mixes is in tests/test_batch_parts."""

import pytest
import torch
from helpers import oracles
from helpers.waves import wave
from torchvision.ops import roi_align

from kd_plugins.losses import RecursiveMixLoss, consistency_loss, pool_region
from kd_plugins.structures import PastedRegion

SIZE = (32, 48)


def maps():
    return wave((3, 6, 4, 6), 2, 0.7, 0.3)


def before():
    return wave((3, 5), 2, 1.3, 0.2)


def pasted(box=(3, 5, 20, 30), preds=None):
    x1, y1, x2, y2 = box
    share = (x2 - x1) * (y2 - y1) / (SIZE[0] * SIZE[1])
    return PastedRegion(box, SIZE, share, before() if preds is None else preds)


def shared():
    return wave((5, 6), 1, 0.31, 0.7), wave((5,), 1, 0.9, 0.1)


@pytest.mark.parametrize('size, grid', [((32, 32), (8, 8)), ((224, 224), (7, 7)), (SIZE, (4, 6))])
def test_regions_are_pooled_as_torchvision_aligns_them(size, grid):
    generator = torch.Generator().manual_seed(1)
    feature_map = torch.randn(2, 3, *grid, dtype=torch.float64, generator=generator)
    draw = torch.rand(40, 4, generator=generator)
    for x, y, width, height in (draw * torch.tensor([size[1], size[0]] * 2)).long().tolist():
        box = (x, y, min(x + width + 1, size[1]), min(y + height + 1, size[0]))
        ours, theirs = (feature_map.clone().requires_grad_() for _ in range(2))
        rows = torch.tensor([[i, *box] for i in range(2)], dtype=torch.float64)
        wanted = roi_align(theirs, rows, 1, grid[1] / size[1], -1, aligned=True).flatten(1)
        got = pool_region(ours, box, size)
        torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)
        weights = wave(got.shape, 1, 0.9, 0.1)
        (got * weights).sum().backward()
        (wanted * weights).sum().backward()
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-12, atol=1e-12)


def test_the_whole_picture_is_the_mean():
    got = pool_region(maps(), (0, 0, SIZE[1], SIZE[0]), SIZE)
    torch.testing.assert_close(got, maps().mean(dim=(2, 3)))


@pytest.mark.parametrize('own', [True, False])
def test_is_the_cross_entropy_of_the_region_with_what_was_said_before(own):
    weight, bias = shared()
    record = pasted()
    region = pool_region(maps(), record.box, SIZE).tolist()
    losses = []
    for features, target in zip(region, before().tolist(), strict=True):
        z = [
            sum(w * f for w, f in zip(row, features, strict=True)) + b
            for row, b in zip(weight.tolist(), bias.tolist(), strict=True)
        ]
        p, q = oracles.softmax(target, 1), oracles.softmax(z, 1)
        losses.append(oracles.kl(p, q) + oracles.kl(p, [1.0] * 5) * -1)
    wanted = 0.7 * record.share * oracles.batch_of(losses)
    if own:
        loss = RecursiveMixLoss(0.7, channels=6, num_classes=5).double()
        loss.classifier.weight.data, loss.classifier.bias.data = weight, bias
        got = loss((maps() * 2, maps()), record)
    else:
        got = RecursiveMixLoss(0.7)(maps(), record, weight, bias)
        no_bias = RecursiveMixLoss(0.7)(maps(), record, weight)
        assert no_bias == RecursiveMixLoss(0.7)(maps(), record, weight, torch.zeros(5).double())
    assert got.item() == pytest.approx(wanted, rel=1e-12)


def test_gradients_are_the_slopes():
    weight, bias = shared()
    args = [t.clone().requires_grad_() for t in (maps(), weight, bias)]
    assert torch.autograd.gradcheck(lambda m, w, b: RecursiveMixLoss()(m, pasted(), w, b), args)
    # Who says the same again has no gradient.
    again = before().requires_grad_()
    consistency_loss(again, before()).sum().backward()
    assert again.grad.abs().max() < 1e-12


def test_a_plain_step_has_a_gradient_of_zero_everywhere():
    loss, feature_map = (
        RecursiveMixLoss(channels=6, num_classes=5).double(),
        maps().requires_grad_(),
    )
    result = loss(feature_map, PastedRegion((0, 0, 0, 0), SIZE, 0.0, None))
    result.backward()
    assert result == 0
    for each in (feature_map, *loss.parameters()):
        assert each.grad is not None and not each.grad.any()


def test_half_precision_and_extremes_stay_finite():
    weight, bias = shared()
    exact = RecursiveMixLoss()(maps(), pasted(), weight, bias)
    for dtype in (torch.bfloat16, torch.float16):
        args = [t.to(dtype).requires_grad_() for t in (maps(), weight, bias)]
        with torch.autocast('cpu', torch.bfloat16):
            loss = RecursiveMixLoss()(args[0], pasted(preds=before().to(dtype)), *args[1:])
        loss.backward()
        assert loss.dtype == torch.float32
        assert loss.item() == pytest.approx(exact.item(), rel=0.05)
        assert all(torch.isfinite(arg.grad).all() for arg in args)
    feature_map = (1e4 * maps().float()).requires_grad_()
    record = pasted(preds=1e4 * before().float())
    loss = RecursiveMixLoss()(feature_map, record, weight.float(), bias.float())
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(feature_map.grad).all()
    empty = torch.zeros(0, 6, 4, 6, requires_grad=True)
    loss = RecursiveMixLoss(channels=6, num_classes=5)(empty, pasted(preds=torch.zeros(0, 5)))
    loss.backward()
    assert loss == 0


@pytest.mark.parametrize(
    'settings, says',
    [
        (dict(channels=6), r'RecursiveMixLoss\.num_classes=None is wrong: .* leave both out'),
        (dict(num_classes=5), r'RecursiveMixLoss\.channels=None is wrong'),
        (dict(channels=0, num_classes=5), r'RecursiveMixLoss\.channels=0 is wrong'),
        (dict(loss_weight=-1), r'RecursiveMixLoss\.loss_weight=-1 is wrong'),
    ],
)
def test_bad_settings_are_named(settings, says):
    with pytest.raises(ValueError, match=says):
        RecursiveMixLoss(**settings)


def test_classifiers_and_maps_that_do_not_fit_are_named():
    weight, bias = shared()
    with pytest.raises(ValueError, match=r'no classifier: give channels and num_classes'):
        RecursiveMixLoss()(maps(), pasted())
    with pytest.raises(ValueError, match=r'a classifier of its own beside weight_S'):
        RecursiveMixLoss(channels=6, num_classes=5).double()(maps(), pasted(), weight, bias)
    for wrong in (maps()[:, :5], maps().mean(dim=(2, 3))):
        with pytest.raises(ValueError, match=r'classifier of 6 features: record the map'):
            RecursiveMixLoss()(wrong, pasted(), weight, bias)
