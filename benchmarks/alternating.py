"""Timing steps of several kinds in turns, so that what else the machine does falls on all alike."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Mapping, Sequence

from kd_plugins.experiments.timing import now

#: Steps of each kind that are not timed.
WARM_UP = 3


def detectors_arguments(doc: str | None) -> argparse.Namespace:
    """Read the command line of a benchmark of detectors' steps.

    Args:
        doc: The benchmark's docstring, whose first line describes it.
    """
    parser = argparse.ArgumentParser(description=(doc or '').splitlines()[0])
    parser.add_argument('--steps', type=int, default=15, help='timed steps of each kind')
    parser.add_argument('--batch-size', type=int, default=2)
    parser.add_argument('--size', type=int, default=320, help='height and width in pixels')
    parser.add_argument('--device', default='cpu')
    parser.add_argument('--threads', type=int, default=1, help="torch's threads")
    return parser.parse_args()


def alternate(
    steps: Mapping[str, Callable[[], object]],
    number: int,
    before: Callable[[int], object] = lambda i: None,
) -> dict[str, list[float]]:
    """Return the seconds of each step of every kind, in an order that changes.

    Args:
        steps: The kinds.
        number: How many timed steps of each.
        before: Called with the number of the turn before every step, which is not timed.
    """
    names = list(steps)
    times: dict[str, list[float]] = {name: [] for name in names}
    for i in range(number + WARM_UP):
        turn = i % len(names)
        for name in names[turn:] + names[:turn]:
            before(i)
            start = now()
            steps[name]()
            seconds = now() - start
            if i >= WARM_UP:
                times[name].append(seconds)
    return times


def print_ratios(times: Mapping[str, Sequence[float]], *bases: str) -> None:
    """Print the median of every kind, and that of its ratios to the bases, turn by turn.

    Neighbours in time share the machine's load.
    """
    for name, values in times.items():
        line = f'{name:14}{1e3 * statistics.median(values):9.1f} ms'
        for base in bases:
            ratios = [a / b for a, b in zip(values, times[base], strict=True)]
            line += f'   {statistics.median(ratios):.4f} of {base}'
        print(line, flush=True)
