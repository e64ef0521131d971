"""Running long commands so that one can see that, and how far, they go on."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

NINJA_STEP = re.compile(r'^\s*\[(\d+)/(\d+)\]')
PIP_STEP = re.compile(
    r'^\s*(Collecting|Downloading|Using cached|Building wheel|Preparing metadata)'
)

# They would lead the environment's Python to modules outside of it.
FOREIGN_VARIABLES = ('PYTHONPATH', 'PYTHONHOME', 'PIP_USER', 'PIP_TARGET')


class Failure(Exception):
    """Something the user must know: one sentence, and the log if there is one."""

    def __init__(self, sentence: str, log: Path | None = None) -> None:
        super().__init__(sentence)
        self.log = log


def say(text: str) -> None:
    """Print at once, also into a pipe."""
    print(text, flush=True)


def duration(seconds: float) -> str:
    """Return ``45 s``, ``3 min 05 s`` or ``1 h 02 min``."""
    minutes, secs = divmod(round(seconds), 60)
    if minutes == 0:
        return f'{secs} s'
    if minutes < 60:
        return f'{minutes} min {secs:02d} s'
    return f'{minutes // 60} h {minutes % 60:02d} min'


def tail(log: Path, lines: int = 15) -> str:
    """Return the last lines of a log without pip's warnings."""
    text = log.read_text(encoding='utf-8', errors='replace')
    kept = [
        line
        for line in text.splitlines()
        if line.strip() and not line.startswith(('WARNING:', '[notice]'))
    ]
    return '\n'.join('    ' + line[:300] for line in kept[-lines:])


class PipReader:
    """Reads from pip's output what it is busy with."""

    def __init__(self) -> None:
        self.step = 'working'

    def feed(self, line: str) -> None:
        """Take one line of output."""
        if line.startswith('Installing collected packages:'):
            self.step = f'installing {line.count(",") + 1} packages'
        elif PIP_STEP.match(line):
            self.step = line.strip()

    def status(self, elapsed: float) -> str:
        """Say how it stands after ``elapsed`` seconds."""
        step = self.step if len(self.step) < 72 else self.step[:69] + '...'
        return f'{duration(elapsed)}: {step}'


class NinjaReader:
    """Reads ninja's ``[k/N]`` lines; estimates by the rate so far, no sooner."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.done = 0
        self.total = 0
        self._clock = clock
        self._begun: float | None = None

    def feed(self, line: str) -> None:
        """Take one line of output."""
        match = NINJA_STEP.match(line)
        if match:
            self.done, self.total = int(match.group(1)), int(match.group(2))
        elif self._begun is None and 'build.ninja' in line:
            self._begun = self._clock()

    def remaining(self, elapsed: float) -> float | None:
        """Return the seconds left, or None while too little is known."""
        if self.done < 3 or elapsed <= 0:
            return None
        if self._begun is not None:  # do not count what came before ninja
            elapsed = min(elapsed, self._clock() - self._begun)
        return elapsed / self.done * (self.total - self.done)

    def status(self, elapsed: float) -> str:
        """Say how it stands after ``elapsed`` seconds."""
        if self.total == 0:
            return f'{duration(elapsed)}: preparing'
        files = f'{duration(elapsed)}: file {self.done} of {self.total}'
        left = self.remaining(elapsed)
        return files if left is None else f'{files}, about {duration(left)} left'


class Progress:
    """Shows a reader's status: one changing line on a terminal, else now and then."""

    def __init__(
        self,
        reader: PipReader | NinjaReader,
        every: float = 15.0,
        stream: IO[str] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.reader = reader
        self._stream = sys.stdout if stream is None else stream
        self._terminal = self._stream.isatty()
        self._every = 1.0 if self._terminal else every
        self._clock = clock
        self._begun = self._shown = clock()

    def tick(self) -> None:
        """Show the status if it is time to."""
        now = self._clock()
        if now - self._shown < self._every:
            return
        self._shown = now
        text = '      ' + self.reader.status(now - self._begun)
        self._stream.write(f'\r\x1b[K{text[:100]}' if self._terminal else text + '\n')
        self._stream.flush()

    def finish(self) -> None:
        """Leave a clean line behind."""
        if self._terminal:
            self._stream.write('\r\x1b[K')
            self._stream.flush()


def run_logged(
    command: Sequence[object],
    log: Path,
    progress: Progress,
    *,
    env: dict[str, str] | None = None,
    cwd: Path | None = None,
    held: Sequence[int] = (),
) -> int:
    """Run a command with its output in ``log``; return its exit status.

    The command inherits the file descriptors ``held`` (locks): should this
    process be killed, the lock lives as long as the command does. An interrupt
    stops the command with all that it started.
    """
    words = [str(word) for word in command]
    with log.open('ab') as out:
        out.write(f'$ {" ".join(words)}\n'.encode())
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=env,
            cwd=cwd,
            start_new_session=True,
            pass_fds=tuple(held),
        )
        try:
            _follow(process, out, progress)
            return process.wait()
        except BaseException:
            _stop(process)
            raise
        finally:
            progress.finish()
            assert process.stdout is not None
            process.stdout.close()


def _follow(process: subprocess.Popen[bytes], out: IO[bytes], progress: Progress) -> None:
    """Copy the output to the log and feed it to the progress, line by line."""
    assert process.stdout is not None
    source = process.stdout.fileno()
    rest = b''
    while True:
        if select.select([source], [], [], 1.0)[0]:
            chunk = os.read(source, 1 << 16)
            if not chunk:
                return
            out.write(chunk)
            out.flush()
            *lines, rest = (rest + chunk).split(b'\n')
            for line in lines:
                progress.reader.feed(line.decode(errors='replace'))
        progress.tick()


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Stop a command and its children, gently first."""
    for number in (signal.SIGINT, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(timeout=10)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue
        return


@dataclass(frozen=True)
class Runner:
    """Runs the Python of an environment.

    Args:
        python (Path): The environment's Python.
        log (Path): Receives the output.
        held (tuple[int, ...]): Locks that the commands keep, see :func:`run_logged`.
    """

    python: Path
    log: Path
    held: tuple[int, ...] = ()

    def run(
        self,
        *arguments: object,
        progress: Progress | None = None,
        cwd: Path | None = None,
        **variables: str,
    ) -> int:
        """Run Python with these arguments and environment variables."""
        env = {k: v for k, v in os.environ.items() if k not in FOREIGN_VARIABLES}
        env.update(PYTHONUNBUFFERED='1', PIP_DISABLE_PIP_VERSION_CHECK='1', PIP_NO_INPUT='1')
        env.update(variables)
        return run_logged(
            [self.python, *arguments],
            self.log,
            progress or Progress(PipReader()),
            env=env,
            cwd=cwd,
            held=self.held,
        )

    def pip(self, *arguments: object, failure: str) -> None:
        """Run pip; raise :class:`Failure` with this sentence if it fails."""
        command = ('-m', 'pip', *arguments)
        if self.run(*command) != 0:
            raise Failure(failure, self.log)
