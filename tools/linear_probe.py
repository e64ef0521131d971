"""Train a linear classifier of other classes on the features of a trained student.

    python tools/linear_probe.py CONFIG CHECKPOINT --data FOLDER

FOLDER has ``train`` and ``val`` (or ``valid``, ``test``), and in each a folder of pictures
for every class: CINIC-10, for example. The student is fixed. It is the transfer
evaluation of CTC, with its published defaults.
"""

import argparse
from dataclasses import asdict

from rich.console import Console

import kd_plugins  # noqa: F401  (makes mmrazor importable)
from kd_plugins import command_line, launch
from kd_plugins.experiments.linear_probe import linear_probe
from kd_plugins.experiments.progress import Progress
from kd_plugins.files.configs import read_config


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = command_line.Parser(
        description='Measure features on other classes.',
        epilog='example: python tools/linear_probe.py configs/ctc/ctc_digits.py '
        'work_dirs/ctc_digits/epoch_30.pth --data pictures',
    )
    parser.add_argument('config', help='config that the student was trained with')
    parser.add_argument('checkpoint', help="the student's checkpoint")
    parser.add_argument('--data', required=True, help='folder with train and val')
    parser.add_argument('--size', type=int, help='pixels to bring the pictures to')
    parser.add_argument('--epochs', type=int, default=30, help='by default %(default)s')
    parser.add_argument('--lr', type=float, default=0.4, help='by default %(default)s')
    parser.add_argument('--batch-size', type=int, default=512, help='by default %(default)s')
    parser.add_argument('--seed', type=int, default=0, help='by default %(default)s')
    parser.add_argument('--out', help='write what was found to this JSON file')
    args = parser.parse()
    return args


def main() -> None:
    """Probe, print, write."""
    args = parse_args()
    with command_line.refusing(FileNotFoundError), Progress(Console(stderr=True)) as progress:
        found = linear_probe(
            read_config(args.config), args.checkpoint, args.data, args.size, args.epochs,
            args.lr, batch_size=args.batch_size, seed=args.seed, tell=progress.count,
        )  # fmt: skip
    print(
        f'top-1 {found.last:.2f} after the last epoch, {found.best:.2f} at best, on {found.test} '
        f'pictures of {found.classes} classes ({found.train} to learn from)'
    )
    if args.out:
        launch.write_json(args.out, asdict(found))
        print(f'wrote {args.out}')


if __name__ == '__main__':
    main()
