"""Find out before training whether a config would do what it says.

    python tools/check.py configs/dkd/dkd_digits.py

Builds everything, trains a few iterations in a temporary directory, evaluates
the teacher on a few batches, and prints one page, worst findings first. The exit
code is 1 where the training would be wrong.
"""

import argparse
import json
import sys

from rich.console import Console

import kd_plugins  # noqa: F401  (makes mmrazor importable)
from kd_plugins import launch
from kd_plugins.inspect.check import check
from kd_plugins.inspect.check.show import show


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description='Check a config before training with it.')
    launch.add_common_arguments(parser)
    parser.add_argument('--iterations', type=int, default=3, help='iterations to train')
    parser.add_argument(
        '--teacher-batches',
        type=int,
        default=4,
        help='batches of the validation set to evaluate the teacher on, 0 for none',
    )
    parser.add_argument('--json', action='store_true', help='print JSON, for machines')
    parser.add_argument(
        '--debug', action='store_true', help='stop at the first error, with its traceback'
    )
    args = parser.parse_args()
    if args.iterations < 1 or args.teacher_batches < 0:
        parser.error('--iterations must be at least 1, and --teacher-batches at least 0')
    return args


def main() -> None:
    """Check, print, exit."""
    args = parse_args()
    cfg = launch.load_config(args)
    report = check(cfg, args.iterations, args.teacher_batches, args.debug)
    if args.json:
        print(json.dumps(report.to_dict(), indent=2))
    else:
        show(report, Console(width=None if sys.stdout.isatty() else 120, highlight=False))
    sys.exit(0 if report.ok else 1)


if __name__ == '__main__':
    main()
