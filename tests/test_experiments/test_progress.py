"""What tools say of long work, on a clock of the test's own."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from kd_plugins.experiments import progress
from kd_plugins.experiments.results import Failure, Result, Run


@pytest.fixture
def clock(monkeypatch):
    """The time in seconds, which the test moves."""
    now = [1000.0]
    monkeypatch.setattr(progress.time, 'monotonic', lambda: now[0])

    def wait(seconds):
        now[0] += seconds

    return wait


def said(run, every=30.0):
    """Return the lines that a file of output gets from ``run(progress)``."""
    file = io.StringIO()
    with progress.Progress(Console(file=file, width=40), every) as started:
        run(started)
    return file.getvalue().splitlines()


def test_what_is_left_is_at_the_pace_since_the_first_call(clock):
    def work(started):
        clock(100)  # reading, building
        started.count(10, 1000, 'pictures')
        clock(29)
        started.count(500, 1000, 'pictures')
        clock(1)
        started.count(110, 1000, 'pictures')
        clock(31)
        started.count(1000, 1000, 'pictures')

    assert said(work) == [
        '10 of 1,000 pictures after 100 s',
        # 100 in 30 s, and 890 are left.
        '110 of 1,000 pictures after 2 min; about 4 min left at the pace so far',
        '1,000 of 1,000 pictures after 3 min',
    ]


def test_another_thing_has_a_pace_of_its_own(clock):
    def work(started):
        started.count(0, 10, 'plates')
        clock(50)
        started.count(5, 10, 'plates')
        clock(50)
        started.count(1, 10, 'cups')
        clock(60)
        started.count(2, 10, 'cups')

    assert said(work)[-2:] == [
        '1 of 10 cups after 100 s',
        '2 of 10 cups after 3 min; about 8 min left at the pace so far',
    ]


# --- many trainings

LONG = (
    "train_cfg = dict(by_epoch=True, max_epochs={})\ncustom_imports = dict(imports=['kd_plugins'])"
)


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Two seeds each of a training of ten epochs and of one of four."""
    monkeypatch.chdir(tmp_path)
    for name, epochs in (('slow', 10), ('fast', 4)):
        Path(f'{name}.py').write_text(LONG.format(epochs))
    return [
        Run(name, f'{name}.py', seed, f'{name}/{seed}')
        for seed in (0, 1)
        for name in ('slow', 'fast')
    ]


def complete(run, epoch):
    """Leave what a run leaves that has completed so many epochs."""
    Path(run.work_dir).mkdir(parents=True, exist_ok=True)
    Path(run.work_dir, 'metrics.json').write_text(json.dumps({epoch: {}}))


def test_the_rest_is_laid_out_over_the_trainings_at_a_time(clock, runs):
    slow, fast, slow_too, fast_too = runs
    seen, two = progress.RunsProgress(runs, 2), [slow, fast]
    complete(slow, 2)  # before it was interrupted
    seen.look(two)
    assert seen.line(two, '0 s') == (
        '2 of 28 epochs after 0 s (slow, seed 0: 2 of 10; fast, seed 0: 0 of 4); no estimate yet'
    )
    # The first epochs come with starting up.
    clock(1000)
    complete(slow, 3), complete(fast, 1)
    seen.look(two)
    assert seen.seconds_left(two) is None
    clock(10)
    complete(fast, 2)
    seen.look(two)
    assert seen.seconds_left(two) is None  # of the slow one nothing is known
    clock(10)
    complete(slow, 4)
    seen.look(two)
    # An epoch takes 20 s and 10 s. One after the other: the fast one 2 x 10 - 10 s, then the second
    # slow one; the first slow one 6 x 20 s, then the second fast one.
    assert seen.seconds_left(two) == max(10 + 10 * 20, 6 * 20 + 4 * 10)
    assert seen.line(two, '17 min').endswith('; about 4 min left at the pace so far')
    # Time goes by within an epoch, but no epoch is over before it was seen to be.
    clock(15)
    assert seen.seconds_left(two) == max(10 + 10 * 20, 6 * 20 - 15 + 4 * 10)
    assert seen.end(fast, Result('hash', [4], [50.0], [], 7, 80.0))
    # Its own figure counts now: 80 s for four epochs.
    seen.look([slow, slow_too])
    assert seen.seconds_left([slow, slow_too]) == 10 * 20
    assert not seen.end(fast_too, Result('hash', [4], [50.0], [], 7, 80.0))
    seen.end(slow_too, Failure('no'))
    # What has failed is no work any more.
    assert seen.line([slow], '1 h').startswith('12 of 18 epochs after 1 h (slow, seed 0: 4 of 10)')
    # As everywhere else.
    seen.lengths[slow] = 12_000
    said = seen.line([slow], '1 h')
    assert said.startswith('12 of 12,008 epochs after 1 h (slow, seed 0: 4 of 12,000)')


def log(run, start, *rows):
    """Append to what a start of a run has logged."""
    file = Path(run.work_dir, start, 'vis_data', 'scalars.json')
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open('a') as lines:
        lines.writelines(row if isinstance(row, str) else json.dumps(row) + '\n' for row in rows)


def test_a_training_of_rare_validations_is_followed_by_its_log(clock, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path('long.py').write_text("train_cfg = dict(type='IterBasedTrainLoop', max_iters=1000)")
    run = Run('long', 'long.py', 0, 'long/0')
    # A start before that was killed: what it did since its last checkpoint is done again.
    log(run, '20260101_000000', dict(loss=1.0, iter=400, step=400))
    complete(run, 100)
    seen = progress.RunsProgress([run], 1)
    seen.look([run])
    assert seen.line([run], '0 s') == (
        '100 of 1,000 iterations after 0 s (seed 0: 100 of 1,000); no estimate yet'
    )
    log(run, '20260101_010000', dict(loss=1.0, iter=150, step=150))
    clock(50)
    seen.look([run])
    # A validation, and a line that is being written.
    log(run, '20260101_010000', dict(loss=1.0, iter=250, step=250), dict(top1=50.0, step=900))
    log(run, '20260101_010000', dict(note='x' * 2000), '{"loss": 1.0, "iter": 2')
    clock(10)
    seen.look([run])
    assert seen.line([run], '60 s') == (
        '250 of 1,000 iterations after 60 s (seed 0: 250 of 1,000); '
        'about 75.0 s left at the pace so far'
    )


def test_an_epoch_that_is_logged_has_begun_and_is_not_over(runs):
    slow = runs[0]
    seen = progress.RunsProgress([slow], 1)
    log(slow, '20260101_000000', dict(loss=1.0, epoch=3, iter=250, step=250))
    seen.look([slow])
    assert seen.done[slow] == 2


def test_what_begins_later_is_counted_from_the_beginning(clock, runs):
    slow, fast, slow_too, fast_too = runs
    seen = progress.RunsProgress([slow, slow_too], 1, [fast, fast_too])
    seen.look([slow])
    complete(slow, 1)
    clock(100)
    seen.look([slow])
    assert seen.line([slow], '1 min').startswith('1 of 28 epochs after 1 min (slow, seed 0: ')
    assert seen.seconds_left([slow]) is None
    clock(20)
    complete(slow, 2)
    seen.look([slow])
    # Of the fast ones nothing is known: 20 s an epoch as of all that was seen.
    assert seen.seconds_left([slow]) == 20 * (8 + 10 + 4 + 4)
    for run in (slow, slow_too):
        seen.end(run, Result('hash', [10], [50.0], [], 7, 200.0))
    seen.look([fast])
    complete(fast, 1)
    seen.look([fast])
    clock(5)
    complete(fast, 2)
    seen.look([fast])
    assert seen.seconds_left([fast]) == 5 * (2 + 4)


def test_what_begins_later_does_not_where_a_run_has_failed(runs, monkeypatch, tmp_path):
    slow, fast, *_ = runs
    begun = []

    def run_all(runs, jobs, log, *_):
        begun.extend(runs)
        if len(begun) == 3:
            raise progress.RunsFailedError({}, {slow: Failure('no')}, log)
        return {run: Result('hash', [4], [50.0], [], 7, 80.0) for run in runs}

    monkeypatch.setattr(progress, 'run_all', run_all)
    console = Console(file=io.StringIO())
    done, failed = progress.train([slow], 1, tmp_path / 'log', console, [fast])
    assert [*done] == [slow, fast] == begun and not failed
    done, failed = progress.train([slow], 1, tmp_path / 'log', console, [fast])
    assert begun == [slow, fast, slow] and (done, [*failed]) == ({}, [slow])


def test_one_config_is_told_by_its_seeds_and_a_store_by_itself(runs):
    seen = progress.RunsProgress(runs[::2], 1)
    assert seen.name(runs[2]) == 'seed 1'
    assert seen.line([], '3 min') == "the teacher's answers are being stored, 3 min so far"


def test_a_file_of_output_gets_the_seeds_the_time_and_an_estimate(
    clock, runs, monkeypatch, tmp_path
):
    slow, slow_too = runs[::2]

    def run_all(runs, jobs, log, report, tick, devices, tell):
        assert (jobs, log) == (1, tmp_path / 'log')
        report(slow, Result('hash', [10], [40.0, 30.0], [], 7, 95.0))
        for epoch in (0, 1, 2):
            complete(slow_too, epoch)
            tick([slow_too])
            clock(40)
        report(slow_too, Result('hash', [10], [50.0], [], 7, 400.0))
        return {}

    monkeypatch.setattr(progress, 'run_all', run_all)
    file = io.StringIO()
    progress.train([slow, slow_too], 1, tmp_path / 'log', Console(file=file, width=40))
    assert file.getvalue().splitlines() == [
        'seed 0: last 30.00, best 40.00, 95 s (kept)',
        '11 of 20 epochs after 40 s (seed 1: 1 of 10); no estimate yet',
        '12 of 20 epochs after 80 s (seed 1: 2 of 10); about 5 min left at the pace so far',
        'seed 1: last 50.00, best 50.00, 7 min',
    ]
