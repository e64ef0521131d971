"""How far long work is, and what is left of it at the pace so far."""

from __future__ import annotations

import heapq
import os
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.markup import escape

from kd_plugins.experiments.logs import last_logged, log_files
from kd_plugins.experiments.repeat import RunsFailedError, run_all
from kd_plugins.experiments.results import (
    Failure,
    Result,
    Run,
    length,
    load_config,
    other_versions,
    steps_done,
)
from kd_plugins.experiments.timing import duration

#: What an estimate is called: whoever reads it knows how it was made.
AT_THIS_PACE = 'left at the pace so far'


class Progress:
    """Says how far work is: in place on a terminal, elsewhere in a line twice a minute.

    Args:
        console: Where to.
        every: Seconds between two lines.
    """

    def __init__(self, console: Console, every: float = 30.0) -> None:
        self.console = console
        self.every = every
        self.began = self.last = time.monotonic()
        self._status = console.status('')
        self._what, self._first = '', (0.0, 0)

    def __enter__(self) -> Progress:
        self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._status.stop()

    @property
    def used(self) -> str:
        """The time since the work began, in words."""
        return duration(time.monotonic() - self.began)

    def say(self, line: str) -> None:
        """Say where the work is, if it is time to."""
        self._status.update(escape(line))
        now = time.monotonic()
        if not self.console.is_terminal and now - self.last >= self.every:
            self.last = now
            self.console.print(escape(line), soft_wrap=True, highlight=False)

    def count(self, done: int, total: int, what: str) -> None:
        """Say how many are done; from the second call on, what is left at the pace since.

        What was done, and waited for, before the first call tells nothing of the pace.

        Args:
            done, total: How many are done, and will be in the end.
            what: What they are.
        """
        now, left = time.monotonic(), ''
        if what != self._what:
            self._what, self._first = what, (now, done)
        began, before = self._first
        if before < done < total:
            seconds = (now - began) / (done - before) * (total - done)
            left = f'; about {duration(seconds)} {AT_THIS_PACE}'
        self.say(f'{done:,} of {total:,} {what} after {self.used}{left}')


class RunsProgress:
    """What many trainings have done, and how long the rest takes at the pace so far.

    The pace of a config is measured between steps that its trainings completed while
    this looked on, so that nothing is estimated before every config that is left has
    completed two. Those that begin after all others have ended count at the pace of all
    together until then. What is left is laid out over as many trainings at a time.

    Args:
        runs: All of them, in the order in which they begin.
        jobs: How many at a time.
        later: Further ones, which begin when these have ended.
    """

    def __init__(self, runs: Sequence[Run], jobs: int, later: Sequence[Run] = ()) -> None:
        runs, self._later = [*runs, *later], {run.name for run in later}
        # The seeds of a config have one length, and to read it takes its time.
        firsts = {(run.config, str(run.options)): run for run in reversed(runs)}
        of = {config: length(load_config(run)) for config, run in firsts.items()}
        self.lengths = {run: of[run.config, str(run.options)][0] for run in runs}
        self.unit = next(iter(of.values()))[1]
        self.jobs = jobs
        self.done = dict.fromkeys(runs, 0)
        self.ended: set[Run] = set()
        #: Logs of starts before this one, which may have gone on beyond what is resumed from.
        self._old = {run: frozenset(log_files(Path(run.work_dir))) for run in runs}
        #: When a running training completed a step: the first time that was seen, and the last.
        self._seen: dict[Run, list[tuple[float, int]]] = {}
        #: Seconds and steps of finished trainings by name.
        self._finished: dict[str, tuple[float, int]] = {}
        self._several = len({run.name for run in runs}) > 1

    def name(self, run: Run) -> str:
        """Return what to call a run: its seed, with the config's name where there are several."""
        return f'{run.name}, seed {run.seed}' if self._several else f'seed {run.seed}'

    def look(self, running: Sequence[Run]) -> None:
        """Read how far the running trainings are."""
        now = time.monotonic()
        for run in running:
            done = max(steps_done(run, self.unit), self._logged(run))
            done = min(done, self.lengths[run])
            if run not in self._seen:
                self._seen[run] = []
            elif done > self.done[run]:
                self._seen[run] = [*self._seen[run][:1], (now, done)]
            self.done[run] = done

    def _logged(self, run: Run) -> int:
        """Return how many steps the log of this start tells of."""
        logs = [log for log in log_files(Path(run.work_dir)) if log not in self._old[run]]
        row = last_logged(logs[-1]) if logs else {}
        # An epoch that is logged has begun.
        return row.get('iter', 0) if self.unit == 'iterations' else row.get('epoch', 1) - 1

    def end(self, run: Run, outcome: Result | Failure) -> bool:
        """Note that a run has ended; return whether it was seen running."""
        self.ended.add(run)
        trained = run in self._seen
        if isinstance(outcome, Failure):
            self.lengths[run] = self.done[run] = 0
        else:
            self.done[run] = self.lengths[run]
            if trained:
                seconds, steps = self._finished.get(run.name, (0.0, 0))
                self._finished[run.name] = (
                    seconds + outcome.seconds,
                    steps + self.lengths[run],
                )
        return trained

    def line(self, running: Sequence[Run], used: str) -> str:
        """Say how far all are, and each that runs."""
        if not running:
            return f"the teacher's answers are being stored, {used} so far"
        each = '; '.join(
            f'{self.name(run)}: {self.done[run]:,} of {self.lengths[run]:,}' for run in running
        )
        left = self.seconds_left(running)
        said = 'no estimate yet' if left is None else f'about {duration(left)} {AT_THIS_PACE}'
        done, total = sum(self.done.values()), sum(self.lengths.values())
        return f'{done:,} of {total:,} {self.unit} after {used} ({each}); {said}'

    def seconds_left(self, running: Sequence[Run]) -> float | None:
        """Return the seconds that are left; None before there is a basis to say it."""
        now = time.monotonic()
        waiting = [run for run in self.lengths if run not in self.ended and run not in running]
        paces = {name: self._pace(name) for name in {run.name for run in (*running, *waiting)}}
        on_average = self._pace(*{run.name for run in self.lengths})
        free = [0.0] * self.jobs
        for run in (*running, *waiting):
            pace = paces[run.name]
            if pace is None and run.name in self._later:
                pace = on_average
            if pace is None:
                return None
            seconds = (self.lengths[run] - self.done[run]) * pace
            if self._seen.get(run):
                # The step that it is in began then.
                seconds -= min(pace, now - self._seen[run][-1][0])
            heapq.heapreplace(free, free[0] + max(0.0, seconds))
        return max(free)

    def _pace(self, *names: str) -> float | None:
        """Return the seconds of a step of trainings of these names."""
        seconds, steps = 0.0, 0.0
        for name in names:
            ended, of = self._finished.get(name, (0.0, 0))
            seconds, steps = seconds + ended, steps + of
        for run, seen in self._seen.items():
            if run.name in names and run not in self.ended and len(seen) > 1:
                seconds += seen[1][0] - seen[0][0]
                steps += seen[1][1] - seen[0][1]
        return seconds / steps if steps else None


def train(
    runs: Sequence[Run],
    jobs: int | None,
    log: Path,
    console: Console,
    later: Sequence[Run] = (),
) -> tuple[dict[Run, Result], dict[Run, Failure]]:
    """Train what is not there yet, and say what is done and how far it is.

    Args:
        runs: What to train.
        jobs: How many at a time; None for one for each GPU, or for each core.
        log: Where the processes' own output goes.
        console: Where to say it.
        later: What to train when these have ended, and none of them has failed.

    Returns:
        The results, and the failures.
    """
    gpus = list(range(torch.cuda.device_count()))
    jobs = jobs or len(gpus) or os.cpu_count() or 1
    seen = RunsProgress(runs, jobs, later)

    def say(line: str) -> None:
        console.print(escape(line), soft_wrap=True, highlight=False)

    with Progress(console) as progress:

        def report(run: Run, outcome: Result | Failure) -> None:
            trained = seen.end(run, outcome)
            if isinstance(outcome, Failure):
                say(f'{seen.name(run)}: failed: {outcome.reason}')
                return
            say(
                f'{seen.name(run)}: last {outcome.last:.2f}, best {outcome.best:.2f}, '
                f'{duration(outcome.seconds)}{"" if trained else " (kept)"}'
            )
            for difference in other_versions(outcome):
                say(f'  kept, but it was trained with {difference}')

        def tick(running: Sequence[Run]) -> None:
            seen.look(running)
            progress.say(seen.line(running, progress.used))

        try:
            done = run_all(runs, jobs, log, report, tick, gpus, say)
            if later:
                done |= run_all(later, jobs, log, report, tick, gpus, say)
            return done, {}
        except RunsFailedError as error:
            return dict(error.results), dict(error.failures)
