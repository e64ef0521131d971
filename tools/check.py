"""Find out before training whether a config would do what it says.

    python tools/check.py configs/dkd/dkd_digits.py
    python tools/check.py configs/dkd/dkd_digits.py --calibrate 1
    python tools/check.py configs/bckd/bckd_scenes.py --pictures page.png
    python tools/check.py configs/dkd/dkd_digits.py --alone work_dirs/alone/epoch_100.pth

Builds everything, trains a few iterations in a temporary directory, evaluates
the teacher on a few batches, and prints one page, worst findings first. The exit
code is 1 where the training would be wrong.

``--calibrate`` measures, over some iterations, the gradient of every term beside
that of the student's own loss, and proposes weights for a wanted ratio, as a line of
a config. ``--alone`` compares the teacher with a student that was trained alone.
``--pictures`` draws what the training is fed.
"""

import argparse
import json
import sys
from pathlib import Path

from rich.console import Console

import kd_plugins  # noqa: F401  (makes mmrazor importable)
from kd_plugins import command_line, launch
from kd_plugins.experiments.progress import Progress
from kd_plugins.inspect.check import check
from kd_plugins.inspect.check.pictures import Pictures
from kd_plugins.inspect.check.report import Calibration
from kd_plugins.inspect.check.show import show


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = command_line.Parser(
        description='Check a config before training with it.',
        epilog='example: python tools/check.py configs/dkd/dkd_digits.py',
    )
    launch.add_common_arguments(parser)
    parser.add_argument(
        '--iterations', type=int, help='iterations to train; by default 3, and 20 to calibrate over'
    )
    parser.add_argument(
        '--teacher-batches',
        type=int,
        default=4,
        help='batches of the validation set to evaluate the teacher on, 0 for none',
    )
    parser.add_argument(
        '--calibrate',
        type=float,
        nargs='?',
        const=1.0,
        metavar='RATIO',
        help="propose weights with which each term's gradient is so many times the task's; "
        'by default %(const)s',
    )
    parser.add_argument(
        '--alone',
        metavar='CHECKPOINT',
        help='checkpoint of the student trained alone, to compare the teacher with',
    )
    parser.add_argument(
        '--pictures', metavar='PNG', help='draw the first training pictures, with boxes, to a file'
    )
    parser.add_argument('--json', action='store_true', help='print JSON, for machines')
    parser.add_argument(
        '--debug', action='store_true', help='stop at the first error, with its traceback'
    )
    args = parser.parse()
    if args.pictures and Path(args.pictures).suffix.lower() not in ('.png', '.pdf', '.svg'):
        parser.error(f'--pictures {args.pictures!r} is no picture: give a name that ends in .png.')
    if (args.iterations is not None and args.iterations < 1) or args.teacher_batches < 0:
        parser.error('--iterations must be at least 1, and --teacher-batches at least 0')
    if args.calibrate is not None and not 0 < args.calibrate < float('inf'):
        parser.error(f'--calibrate {args.calibrate} is no ratio: give a number above 0.')
    if args.alone and not args.teacher_batches:
        parser.error('--alone needs --teacher-batches of 1 or more to be measured on')
    return args


def main() -> None:
    """Check, print, exit."""
    args = parse_args()
    cfg = launch.load_config(args)
    calibration, pictures = None, Pictures() if args.pictures else None
    if args.calibrate is not None:
        calibration = Calibration(args.calibrate, args.iterations or 20)
    # What is printed may be JSON.
    with Progress(Console(stderr=True)) as progress:
        report = check(
            cfg,
            3 if calibration else args.iterations or 3,
            args.teacher_batches,
            args.debug,
            calibration,
            args.alone,
            pictures,
            progress.count,
        )
    if pictures is not None and pictures.shown:
        Path(args.pictures).parent.mkdir(parents=True, exist_ok=True)
        pictures.draw().savefig(args.pictures, dpi=120)
    if args.json:
        print(json.dumps(report.to_dict(), indent=2))
    else:
        show(report, command_line.console())
    if pictures is not None and not args.json:
        print(f'wrote {args.pictures}' if pictures.shown else 'there was no picture to draw')
    sys.exit(0 if report.ok else 1)


if __name__ == '__main__':
    main()
