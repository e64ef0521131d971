"""Many trainings, several at a time.

A finished run leaves ``result.json`` in its work directory and is not run again
while what it depends on stays the same; an interrupted one goes on.
"""

from __future__ import annotations

import logging
import multiprocessing.connection
import os
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

import torch

from kd_plugins import checks
from kd_plugins.experiments.identity import config_hash
from kd_plugins.experiments.results import Failure, Result, Run, finished, load_config
from kd_plugins.experiments.run import run_once
from kd_plugins.experiments.stores import fill_store, runs_by_store

Report = Callable[[Run, Result | Failure], None]
Tick = Callable[[Sequence[Run]], None]
#: Forked processes would inherit mmengine's registries and torch's threads.
CONTEXT: BaseContext = multiprocessing.get_context('spawn')


class RunsFailedError(RuntimeError):
    """Some runs gave no result; those of the others are here, and kept.

    Args:
        results: Of the runs that are finished.
        failures: Of those that are not, and why.
        log: Where the processes' output is.
    """

    def __init__(
        self, results: Mapping[Run, Result], failures: Mapping[Run, Failure], log: Path
    ) -> None:
        said = '; '.join(
            f'{run.name}, seed {run.seed}: {failure.reason}' for run, failure in failures.items()
        )
        super().__init__(
            f'{len(failures)} of {len(failures) + len(results)} runs failed ({said}); see {log}. '
            'The same command keeps the others and goes on with these.'
        )
        self.results = results
        self.failures = failures


def run_all(
    runs: Sequence[Run],
    jobs: int,
    log: Path,
    report: Report,
    tick: Tick = lambda running: None,
    devices: Sequence[int] = (),
    tell: Callable[[str], None] = lambda said: None,
) -> dict[Run, Result]:
    """Run what is not finished, ``jobs`` at a time with one thread each.

    A store of a teacher's answers that runs read (``model.teacher_cache``) is filled once,
    before any of them begins.

    Args:
        runs: What to run.
        jobs: How many at a time.
        log: Where the processes' own output goes.
        report: Called with every result, kept ones included, and every failure.
        tick: Called about twice a second with the runs that are being trained; with none while
            a store is filled.
        devices: GPUs to spread the runs over; without, all use the default device.
        tell: Called with what a store is going to save.

    Raises:
        RunsFailedError: At the end, if a run gave no result.
    """
    results: dict[Run, Result] = {}
    failures: dict[Run, Failure] = {}

    def note(run: Run, outcome: Result | Failure) -> None:
        if isinstance(outcome, Result):
            results[run] = outcome
        else:
            failures[run] = outcome
        report(run, outcome)

    todo: list[tuple[Run, str]] = []
    for run in runs:
        try:
            identity = config_hash(load_config(run))
        except Exception as error:
            note(run, Failure(_one_line(error)))
            continue
        kept = finished(run, identity)
        if kept is None:
            todo.append((run, identity))
        else:
            note(run, kept)
    if todo:
        log.parent.mkdir(parents=True, exist_ok=True)
        without = _fill_stores([run for run, _ in todo], log, note, tick, devices, tell)
        todo = [(run, identity) for run, identity in todo if run not in without]
        _run_side_by_side(todo, jobs, log, note, tick, devices)
    results = {run: results[run] for run in runs if run in results}
    if failures:
        failed = {run: failures[run] for run in runs if run in failures}
        raise RunsFailedError(results, failed, log)
    return results


def _fill_stores(
    runs: Sequence[Run],
    log: Path,
    note: Report,
    tick: Tick,
    devices: Sequence[int],
    tell: Callable[[str], None],
) -> set[Run]:
    """Fill the stores that runs read, one after the other; return the runs of those that failed."""
    without: set[Run] = set()
    for readers in runs_by_store(runs).values():
        executor = _executor(log, devices[0] if devices else None)
        filling = executor.submit(_try, fill_store, readers)
        try:
            while not wait([filling], timeout=0.5).done:
                tick([])
        finally:
            executor.shutdown(cancel_futures=True)
        died = filling.exception()
        outcome = Failure(_one_line(died)) if died else filling.result()
        if isinstance(outcome, Failure):
            for run in readers:
                note(run, outcome)
            without.update(readers)
        else:
            tell(outcome.saved(readers))
    return without


def _run_side_by_side(
    todo: list[tuple[Run, str]],
    jobs: int,
    log: Path,
    note: Report,
    tick: Tick,
    devices: Sequence[int],
) -> None:
    # An executor for each process: one that dies takes no other run along.
    free = [
        (_executor(log, device), device)
        for device in (devices[job % len(devices)] if devices else None for job in range(jobs))
    ][: len(todo)]
    busy: dict[Future, tuple[Run, ProcessPoolExecutor, int | None]] = {}
    waiting = list(reversed(todo))
    try:
        while waiting or busy:
            while waiting and free:
                (run, identity), (executor, device) = waiting.pop(), free.pop(0)
                busy[executor.submit(_try, run_once, run, identity)] = run, executor, device
            tick([run for run, _, _ in busy.values()])
            done, _ = wait(busy, timeout=0.5, return_when=FIRST_COMPLETED)
            for future in done:
                run, executor, device = busy.pop(future)
                died = future.exception()
                outcome = Failure(_one_line(died)) if died else future.result()
                if isinstance(outcome, Failure):
                    # After an error a process may be of no use, or hold memory of the GPU.
                    executor.shutdown(wait=False)
                    executor = _executor(log, device)
                free.append((executor, device))
                note(run, outcome)
    finally:
        for future in busy:
            future.cancel()
        for executor in [*(e for e, _ in free), *(e for _, e, _ in busy.values())]:
            executor.shutdown(cancel_futures=True)


def _executor(log: Path, device: int | None) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(
        1, mp_context=CONTEXT, initializer=_start_process, initargs=(str(log), device)
    )


def _start_process(log: str, device: int | None) -> None:
    if device is not None:
        torch.cuda.set_device(device)
    # Threads of several runs would wait for each other's cores at every operation.
    torch.set_num_threads(1)
    with open(log, 'a', encoding='utf-8') as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    logging.captureWarnings(True)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Do not train on, with the directory in use, when who asked for it was killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)


def _try(work: Callable[..., Any], *args: Any) -> Any:
    """Work; an error becomes an answer, since not every exception survives the way back."""
    try:
        return work(*args)
    except (Exception, SystemExit) as error:
        traceback.print_exc()
        return Failure(_one_line(error))


def _one_line(error: BaseException) -> str:
    # Of a worker of a loader the whole traceback would come first.
    text = checks.sentence_of(error) or str(error)
    return f'{type(error).__name__}: {" ".join(text.split())[:500]}'
