"""Show what a trained student and its teacher make of the same pictures.

    python tools/compare.py CONFIG CHECKPOINT --view answers --images a.png b.png
    python tools/compare.py CONFIG CHECKPOINT --view correlation
    python tools/compare.py CONFIG CHECKPOINT --view tsne
    python tools/compare.py CONFIG CHECKPOINT --view boxes
    python tools/compare.py CONFIG CHECKPOINT --view patches --images 3 250 871

``answers``: both networks' first classes for some pictures, and the value of
every distillation term for each alone. ``correlation``: how differently both
relate the classes, the matrix that the DKD paper shows. ``tsne``: both networks'
penultimate features, by class. ``boxes``, for dense detectors: what both find, and
how much every place tells them apart, which is what BCKD weighs boxes with.
``patches``, for CSKD: what the teacher answers at every position, the target at
some moments of the training, and the answers of the student's patches.
The teacher sees each picture as in training. Without ``--images``, pictures of the
validation set.
"""

import argparse
import sys
from pathlib import Path

from matplotlib.figure import Figure
from rich.console import Console

import kd_plugins  # noqa: F401  (makes mmrazor importable)
from kd_plugins import command_line
from kd_plugins.compat import chatter
from kd_plugins.experiments.progress import Progress
from kd_plugins.files.configs import read_config
from kd_plugins.inspect.compare import VIEWS, Choice, compare


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = command_line.Parser(
        description='Compare a student with its teacher.',
        epilog='example: python tools/compare.py configs/dkd/dkd_digits.py '
        'work_dirs/dkd_digits/epoch_30.pth --view tsne',
    )
    parser.add_argument('config', help='config of the distillation')
    parser.add_argument('checkpoint', help="the student's checkpoint")
    parser.add_argument(
        '--view', choices=VIEWS, default='answers', help='what to draw; by default %(default)s'
    )
    parser.add_argument(
        '--images',
        nargs='+',
        default=(),
        metavar='IMAGE',
        help='pictures for --view answers, boxes or patches: files, or numbers of validation '
        'pictures',
    )
    parser.add_argument(
        '--samples',
        type=int,
        help='how many validation pictures; by default 6, 5 (patches) or 1000 (correlation, tsne)',
    )
    parser.add_argument(
        '--moments', type=float, nargs='+', default=Choice.moments,
        help='parts of the training that are over, 0 to 1, for --view patches',
    )  # fmt: skip
    parser.add_argument('--out', type=Path, help='picture to write, by default VIEW.png')
    command_line.add_cfg_options(parser)
    chatter.add_argument(parser)
    args = parser.parse()
    if args.images and args.view in ('correlation', 'tsne'):
        parser.error(f'--view {args.view} is of the validation set: give --samples, not --images.')
    if args.samples is not None and args.samples < 1:
        parser.error(f'--samples {args.samples} is no number of pictures: give 1 or more.')
    known = sorted(Figure().canvas.get_supported_filetypes())
    if args.out is not None and args.out.suffix.lstrip('.').lower() not in known:
        parser.error(
            f'--out {str(args.out)!r} is no kind of picture that can be written: end it with one '
            f'of .{", .".join(known)}.'
        )
    if any(not 0 <= moment <= 1 for moment in args.moments):
        parser.error(f'--moments {args.moments} are parts of a training: give numbers from 0 to 1.')
    return args


def main() -> None:
    """Compare, print, write."""
    args = parse_args()
    chatter.hush(unless=args.verbose)
    try:
        cfg = read_config(args.config, args.cfg_options)
        with Progress(Console(stderr=True)) as progress:
            choice = Choice(args.images, args.samples, args.moments, progress.count)
            figure, said = compare(cfg, args.checkpoint, args.view, choice)
    except (FileNotFoundError, ValueError) as error:
        sys.exit(str(error))
    out = args.out or Path(f'{args.view}.png')
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=150)
    print('\n'.join([*said, f'wrote {out}']))


if __name__ == '__main__':
    main()
