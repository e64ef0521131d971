"""CTKD's global temperature."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from kd_plugins.losses import DKDLoss, KDLoss
from kd_plugins.registry import MODELS
from kd_plugins.structures import Progress
from kd_plugins.temperatures import GlobalTemperature

LABELS = torch.tensor([0, 3, 6, 2, 2, 5, 1, 4])


def wave(rows, columns, scale, frequency, phase, function):
    """The same numbers on every machine."""
    i = torch.arange(rows * columns, dtype=torch.float64).view(rows, columns)
    return scale * function(frequency * i + phase)


def set_progress(module, epoch, max_epochs=10):
    progress = Progress(iter=0, max_iters=10_000, epoch=epoch, max_epochs=max_epochs)
    for part in module.modules():
        if hasattr(part, 'set_progress'):
            part.set_progress(progress)


def train(loss, ce_weight, steps=20):
    """Two linear networks, two batches an epoch; theta, its gradient and both losses a step."""
    inputs = wave(8, 6, 2.0, 0.9, 0.3, torch.sin)
    student = nn.Parameter(wave(7, 6, 1.0, 1.7, 0.1, torch.sin))
    teacher = wave(7, 6, 2.0, 0.6, 0.8, torch.cos)
    theta = loss.tau.theta
    optimizer = torch.optim.SGD([student, theta], lr=0.05, momentum=0.9, weight_decay=5e-4)
    log = []
    for step in range(steps):
        set_progress(loss, epoch=step // 2)
        part = slice(4 * (step % 2), 4 * (step % 2) + 4)
        logits = inputs[part] @ student.t()
        distill = loss(logits, inputs[part] @ teacher.t(), LABELS[part])
        total = ce_weight * F.cross_entropy(logits, LABELS[part]) + distill
        optimizer.zero_grad()
        total.backward()
        gradient = theta.grad.item()
        optimizer.step()
        log.append((theta.item(), gradient, distill.item(), total.item()))
    return log, student


# Printed by train_distill of helper/loops.py with Global_T, DistillKL and CosineDecay,
# zhengli97/CTKD at 7d5252241259ae70d38a832371fed9697d15fc14, in float64 on the
# networks of train(): --distill kd -r 0.1 -a 0.9 --decay_min -1 --decay_loops 10, and
# SGD with its lr 0.05, momentum 0.9 and weight decay 5e-4. Theta after every step:
PUBLISHED_THETA = [
    1.0014475532829137, 1.0039968444360308, 1.011030840804002, 1.0209227642947027,
    1.036054815092176, 1.0534437735153168, 1.0727487553920463, 1.0914407911663582,
    1.1087152776112965, 1.1246205868528623, 1.1413180957511955, 1.160963828311975,
    1.1884103499335172, 1.2249220394254614, 1.2741413751163326, 1.334029600432716,
    1.4043209324146892, 1.4806134594783928, 1.5601791093382265, 1.6390695793502765,
]  # fmt: skip
# The gradient at theta in the first three steps,
PUBLISHED_GRADIENT = [-0.029451065658272386, -0.02543058774653913, -0.09529468502553468]
# and the total loss and the KD loss (times 0.9 in the total) in the first and the last.
PUBLISHED_TOTAL = (26.00162816522291, 4.13782759868017)
PUBLISHED_KD = (28.56205185548386, 2.7330956726707196)


def test_twenty_steps_agree_with_the_published_code():
    loss = KDLoss(GlobalTemperature().double(), loss_weight=0.9)
    log, student = train(loss, ce_weight=0.1)
    theta, gradient, distill, total = (list(column) for column in zip(*log, strict=True))
    assert theta == pytest.approx(PUBLISHED_THETA, rel=1e-12)
    assert gradient[:3] == pytest.approx(PUBLISHED_GRADIENT, rel=1e-11)
    assert (total[0], total[-1]) == pytest.approx(PUBLISHED_TOTAL, rel=1e-12)
    assert [distill[0], distill[-1]] == pytest.approx([0.9 * x for x in PUBLISHED_KD], rel=1e-12)
    # The temperature that the authors report after the last step was used before it.
    assert loss.tau.last.item() == pytest.approx(17.52758105005136, rel=1e-12)
    assert student[1, 0].item() == pytest.approx(-2.2423209807852045, rel=1e-12)


def test_dkd_stays_finite_where_the_published_pair_does_not():
    # --distill dkd -r 1 -a 0 -b 1 --dkd_beta 2: the published first loss is right and
    # the gradient at theta nan, so that everything is nan from the second step on.
    loss = DKDLoss(GlobalTemperature().double(), alpha=1.0, beta=2.0)
    log, student = train(loss, ce_weight=1.0)
    assert log[0][3] == pytest.approx(66.0004921499462, rel=1e-12)
    assert all(math.isfinite(value) for row in log for value in row)
    assert torch.isfinite(student).all()
    # Against the student: theta has left 1 for where the loss is larger.
    assert abs(log[-1][0] - 1) > 0.1


@pytest.mark.parametrize(
    ('epoch', 'strength'), [(0, -0.02447174185242318), (4, -0.5), (9, -1.0), (200, -1.0)]
)
@pytest.mark.parametrize('kind', [KDLoss, DKDLoss])
def test_gradient_is_the_slope_of_the_loss_times_the_strength(kind, epoch, strength):
    logits = wave(8, 7, 3.0, 1.3, 0.2, torch.sin), wave(8, 7, 4.0, 0.7, 0.5, torch.cos)
    loss = kind(GlobalTemperature().double())
    set_progress(loss, epoch, max_epochs=240)
    loss(*logits, LABELS).backward()

    def value(theta):
        return kind(1 + 20 / (1 + math.exp(-theta)))(*logits, LABELS).item()

    slope = (value(1 + 1e-5) - value(1 - 1e-5)) / 2e-5
    assert loss.tau.theta.grad.item() == pytest.approx(strength * slope, rel=1e-6)


def test_lies_in_its_open_range():
    tau = GlobalTemperature()
    set_progress(tau, 0)
    for raw, value in ((1.0, 15.621171572600098), (0.0, 11.0), (-50.0, 1.0), (50.0, 21.0)):
        tau.theta.data.fill_(raw)
        assert tau(None, None).item() == pytest.approx(value, rel=1e-6)
    narrow = GlobalTemperature(start=2.0, end=3.0, init=-1.5)
    set_progress(narrow, 0)
    assert narrow(None, None).item() == pytest.approx(2 + 3 / (1 + math.exp(1.5)), rel=1e-6)
    assert narrow(None, None).shape == ()


def test_remembers_its_last_value_without_a_graph():
    tau = GlobalTemperature()
    assert tau.last is None
    set_progress(tau, 0)
    assert tau.last is not tau(None, None) and not tau.last.requires_grad


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_is_float32_where_everything_is_half(dtype):
    tau = GlobalTemperature().to(dtype)
    loss = KDLoss(tau)
    set_progress(loss, 9)
    with torch.autocast('cpu', torch.bfloat16):
        value = loss(torch.randn(4, 7).to(dtype) * 50, torch.randn(4, 7).to(dtype) * 50)
    value.backward()
    assert tau.last.dtype == torch.float32
    assert tau.last.item() == pytest.approx(15.6211716, rel=1e-6)
    assert torch.isfinite(value) and torch.isfinite(tau.theta.grad).all() and tau.theta.grad.any()


def test_is_built_by_config_in_every_loss():
    cfg = dict(type='kd_plugins.GlobalTemperature', init=0.0)
    for kind in ('KDLoss', 'DKDLoss'):
        loss = MODELS.build(dict(type=f'kd_plugins.{kind}', tau=dict(cfg)))
        assert [name for name, _ in loss.named_parameters()] == ['tau.theta']
        assert loss.tau.theta.item() == 0.0


def test_is_refused_where_nobody_tells_the_progress():
    loss = KDLoss(GlobalTemperature())
    with pytest.raises(
        RuntimeError, match=r'default curriculum.* needs to know.*SingleTeacherDistill'
    ):
        loss(torch.zeros(2, 3), torch.zeros(2, 3))


def test_default_curriculum_is_refused_where_it_cannot_move():
    loss = KDLoss(GlobalTemperature())
    set_progress(loss, 0, max_epochs=1)
    with pytest.raises(ValueError, match='default curriculum.*counts epochs'):
        loss(torch.zeros(2, 3), torch.zeros(2, 3))
    set_progress(loss, 0, max_epochs=5)
    with pytest.raises(ValueError, match='default curriculum.*longer than the training'):
        loss(torch.zeros(2, 3), torch.zeros(2, 3))


@pytest.mark.parametrize('key', ['start', 'end', 'init'])
@pytest.mark.parametrize('value', [0, -1.0, math.nan, math.inf, '1', True, None])
def test_bad_range_is_refused_by_name(key, value):
    if key == 'init' and isinstance(value, (int, float)) and value in (0, -1.0):
        assert GlobalTemperature(init=value).theta.item() == value
        return
    with pytest.raises(ValueError, match=rf'GlobalTemperature\.{key}='):
        GlobalTemperature(**{key: value})
