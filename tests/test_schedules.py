import dataclasses
import math
import re

import pytest

from kd_plugins.schedules import decay, descent, warmup
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
    value = descent('cosine', 0.0, -1.0, 10)(at(epoch - 1))
    assert value == pytest.approx(PUBLISHED[epoch], rel=1e-14)


def test_linear_is_a_line_to_the_minimum():
    schedule = descent('linear', -0.2, -1.0, 4)
    values = [schedule(at(epoch)) for epoch in range(6)]
    assert values == pytest.approx([-0.4, -0.6, -0.8, -1.0, -1.0, -1.0], rel=1e-14)


@pytest.mark.parametrize('form', ['cosine', 'linear'])
def test_never_rises_and_ends_at_the_minimum(form):
    schedule = descent(form, 3.0, 0.5, 17)
    values = [schedule(at(epoch)) for epoch in range(40)]
    assert all(a >= b for a, b in zip(values, values[1:], strict=False))
    assert values[0] < 3.0 and values[15] > 0.5
    assert values[16:] == [0.5] * 24


def test_a_warm_up_is_the_epoch_over_its_length_and_then_1():
    schedule = warmup(20)
    # To the last bit: it multiplies the loss.
    assert [schedule(at(epoch)) for epoch in range(30)] == [
        min((epoch + 1) / 20, 1.0) for epoch in range(30)
    ]
    iterations = warmup(dict(length=7, by_epoch=False))
    assert [iterations(at(0, i)) for i in (0, 2, 6, 7, 900)] == [1 / 7, 3 / 7, 1.0, 1.0, 1.0]


def test_iterations_count_where_there_are_no_epochs():
    schedule = descent('cosine', 0.0, -1.0, 100, by_epoch=False)
    for iter in (0, 49, 99, 5000):
        expected = (math.cos(math.pi * min(iter + 1, 100) / 100) + 1) / 2 - 1
        assert schedule(at(0, iter, max_epochs=1)) == pytest.approx(expected, rel=1e-12)


#: One of every kind, by a length or form: its name in messages, and how it is written.
KINDS = {
    'warmup=10': (
        lambda by_epoch: warmup(dict(length=10, by_epoch=by_epoch)),
        r'warmup=dict\(length=<iterations>, by_epoch=False\)',
    ),
    'hook.length=10': (
        lambda by_epoch: descent('cosine', 0.0, -1.0, 10, by_epoch, 'hook'),
        'by_epoch=False and length=<iterations>',
    ),
    "decay='cosine'": (
        lambda by_epoch: decay(dict(form='cosine', by_epoch=by_epoch)),
        r"decay=dict\(form='cosine', by_epoch=False\)",
    ),
}


@pytest.mark.parametrize('said', KINDS)
def test_epochs_in_a_loop_without_them_are_refused(said):
    make, instead = KINDS[said]
    for use in (make(True), make(True).check):
        with pytest.raises(ValueError, match=f'{said} counts epochs.*: give {instead}'):
            use(at(0, max_epochs=1))
    make(False)(at(0, max_epochs=1))


@pytest.mark.parametrize('said', [*KINDS][:2])
def test_longer_than_the_training_is_refused(said):
    """It would never reach its end: a factor of 1 in the case of the warm-up."""
    make, _ = KINDS[said]
    end = {'warmup=10': '1', 'hook.length=10': '-1'}[said]
    make(True)(at(0, max_epochs=10))
    make(False)(at(0, max_epochs=1, max_iters=10))
    for use in (make(True), make(True).check):
        with pytest.raises(ValueError, match=f'{said} is longer.*9 epochs.*reach {end}: .*most 9'):
            use(at(0, max_epochs=9))
    for use in (make(False), make(False).check):
        with pytest.raises(ValueError, match=r'length=10.* is longer.*, which has 9 iterations'):
            use(at(3, max_iters=9))


@pytest.mark.parametrize('said', KINDS)
def test_without_progress_is_refused(said):
    make, _ = KINDS[said]
    with pytest.raises(RuntimeError, match=f'{said} needs to know.*SingleTeacherDistill'):
        make(True)(None)


def test_a_length_of_one_is_at_its_end_and_needs_no_progress():
    for progress in (None, at(0, max_epochs=1)):
        assert warmup(1)(progress) == 1.0
        assert descent('cosine', 0.0, -1.0, 1)(progress) == -1.0
    warmup(1).check(at(0, max_epochs=1))


@pytest.mark.parametrize(
    ('settings', 'says'),
    [
        (('step', 0.0, -1.0, 10), r"schedule='step' is wrong: give 'cosine' or 'linear'"),
        (('cosine', math.nan, -1.0, 10), r'schedule\.max=nan'),
        (('cosine', 0.0, '-1', 10), r"schedule\.min='-1'"),
        (('cosine', -1.0, 0.0, 10), r'schedule\.min=0\.0 is above max=-1\.0'),
        (('cosine', 0.0, -1.0, 0), r'schedule\.length=0'),
        (('cosine', 0.0, -1.0, 2.5), r'schedule\.length=2\.5'),
        (('cosine', 0.0, -1.0, True), r'schedule\.length=True'),
    ],
)
def test_bad_settings_are_refused_by_name(settings, says):
    with pytest.raises(ValueError, match=says):
        descent(*settings)


@pytest.mark.parametrize('cfg', [0, -1, 2.5, True, None, dict(by_epoch=False), dict(length=2, x=1)])
def test_bad_warm_ups_are_refused_by_name(cfg):
    with pytest.raises(ValueError, match=r'warmup=.* is wrong: give .*length'):
        warmup(cfg)


@pytest.mark.parametrize('cfg', ['x2', 3, None, ['linear'], dict(by_epoch=False), dict(form='x2')])
def test_bad_decays_are_refused_by_name(cfg):
    with pytest.raises(ValueError, match=r'decay=.* is wrong: give .*form'):
        decay(cfg)


@pytest.mark.parametrize('by_epoch', ['False', 'no', 0, 1, None])
def test_what_is_neither_true_nor_false_is_refused(by_epoch):
    # The text 'False' would count epochs.
    said = re.escape(f'.by_epoch={by_epoch!r} is wrong: give True or False.')
    with pytest.raises(ValueError, match='warmup' + said):
        warmup(dict(length=2, by_epoch=by_epoch))
    with pytest.raises(ValueError, match='decay' + said):
        decay(dict(form='linear', by_epoch=by_epoch))
    with pytest.raises(ValueError, match='schedule' + said):
        descent('linear', 0, -1, 4, by_epoch)


def test_schedules_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        warmup(3).length = 2


@pytest.mark.parametrize(
    'form, middle', [('linear', 0.75), ('quadratic', 0.5625), ('cosine', math.cos(math.pi / 8))]
)
def test_a_decay_starts_whole_falls_and_would_end_at_nothing(form, middle):
    schedule = decay(form)
    values = [schedule(at(epoch)) for epoch in range(240)]
    assert values[0] == 1 and values[60] == pytest.approx(middle, rel=1e-12)
    assert all(a > b > 0 for a, b in zip(values, values[1:], strict=False))
    assert schedule.at(1.0) == pytest.approx(0, abs=1e-15)
    # In iterations it moves inside of an epoch.
    steps = decay(dict(form=form, by_epoch=False))
    assert steps(at(0, 0)) == 1 and 1 > steps(at(0, 1)) > steps(at(0, 2))
    assert steps(at(60, 2500)) == pytest.approx(middle, rel=1e-12)
    # The first epoch is 0, not 1, as in the published code.
    assert values[1] == pytest.approx(schedule.at(1 / 240), rel=1e-15)
