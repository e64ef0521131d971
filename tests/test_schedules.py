import math

import pytest

from kd_plugins.schedules import CosineDescent, Decay, LinearDescent
from kd_plugins.structures import Progress


def at(epoch, iter=0, max_epochs=240, max_iters=10_000):
    return Progress(iter=iter, max_iters=max_iters, epoch=epoch, max_epochs=max_epochs)


# Printed by CosineDecay(0, -1, 10).get_value of zhengli97/CTKD, train_student.py at
# 7d5252241259ae70d38a832371fed9697d15fc14, for its epochs 1, 2, 5, 9, 10 and 200.
PUBLISHED = {
    1: -0.02447174185242318,
    2: -0.09549150281252627,
    5: -0.5,
    9: -0.9755282581475768,
    10: -1.0,
    200: -1.0,
}


@pytest.mark.parametrize('epoch', sorted(PUBLISHED))
def test_cosine_is_the_published_curriculum(epoch):
    value = CosineDescent(0.0, -1.0, 10)(at(epoch - 1))
    assert value == pytest.approx(PUBLISHED[epoch], rel=1e-14)


def test_linear_is_a_line_to_the_minimum():
    schedule = LinearDescent(-0.2, -1.0, 4)
    values = [schedule(at(epoch)) for epoch in range(6)]
    assert values == pytest.approx([-0.4, -0.6, -0.8, -1.0, -1.0, -1.0], rel=1e-14)


@pytest.mark.parametrize('kind', [CosineDescent, LinearDescent])
def test_never_rises_and_ends_at_the_minimum(kind):
    values = [kind(3.0, 0.5, 17)(at(epoch)) for epoch in range(40)]
    assert all(a >= b for a, b in zip(values, values[1:], strict=False))
    assert values[0] < 3.0 and values[15] > 0.5
    assert values[16:] == [0.5] * 24


def test_iterations_count_where_there_are_no_epochs():
    schedule = CosineDescent(0.0, -1.0, 100, by_epoch=False)
    for iter in (0, 49, 99, 5000):
        expected = (math.cos(math.pi * min(iter + 1, 100) / 100) + 1) / 2 - 1
        assert schedule(at(0, iter, max_epochs=1)) == pytest.approx(expected, rel=1e-12)


def test_epochs_in_a_loop_without_them_are_refused():
    with pytest.raises(ValueError, match=r'hook\.length=10 counts epochs.*by_epoch=False'):
        CosineDescent(0.0, -1.0, 10, name='hook')(at(0, max_epochs=1))


def test_longer_than_the_training_is_refused():
    LinearDescent(0.0, -1.0, 10)(at(0, max_epochs=10))
    with pytest.raises(ValueError, match=r'hook\.length=10 is longer.*9 epochs.*at most 9'):
        LinearDescent(0.0, -1.0, 10, name='hook')(at(0, max_epochs=9))
    with pytest.raises(ValueError, match=r'length=51 is longer.*50 iterations'):
        LinearDescent(0.0, -1.0, 51, by_epoch=False)(at(0, max_iters=50))


def test_without_progress_is_refused():
    with pytest.raises(RuntimeError, match=r'hook needs to know.*SingleTeacherDistill'):
        CosineDescent(0.0, -1.0, 10, name='hook')(None)


@pytest.mark.parametrize(
    ('settings', 'says'),
    [
        ((math.nan, -1.0, 10), r'schedule\.max=nan'),
        ((0.0, '-1', 10), r"schedule\.min='-1'"),
        ((-1.0, 0.0, 10), r'schedule\.min=0\.0 is above max=-1\.0'),
        ((0.0, -1.0, 0), r'schedule\.length=0'),
        ((0.0, -1.0, 2.5), r'schedule\.length=2\.5'),
        ((0.0, -1.0, True), r'schedule\.length=True'),
    ],
)
def test_bad_settings_are_refused_by_name(settings, says):
    with pytest.raises(ValueError, match=says):
        CosineDescent(*settings)


@pytest.mark.parametrize(
    'form, middle', [('linear', 0.75), ('quadratic', 0.5625), ('cosine', math.cos(math.pi / 8))]
)
def test_a_decay_starts_whole_falls_and_would_end_at_nothing(form, middle):
    decay = Decay(form)
    values = [decay(at(epoch)) for epoch in range(240)]
    assert values[0] == 1 and values[60] == pytest.approx(middle, rel=1e-12)
    assert all(a > b > 0 for a, b in zip(values, values[1:], strict=False))
    assert decay.at(1.0) == pytest.approx(0, abs=1e-15)
    # In iterations it moves inside of an epoch.
    steps = Decay(form, by_epoch=False)
    assert steps(at(0, 0)) == 1 and 1 > steps(at(0, 1)) > steps(at(0, 2))
    assert steps(at(60, 2500)) == pytest.approx(middle, rel=1e-12)
    # The first epoch is 0, not 1, as in the published code.
    assert values[1] == pytest.approx(decay.at(1 / 240), rel=1e-15)
