"""Write what a detector finds in pictures as a COCO file.

    python tools/label_pictures.py CONFIG CHECKPOINT FOLDER --out labels.json

CONFIG is that of a detector of mmdet, or of a distillation, whose teacher is taken. FOLDER holds
pictures at any depth, or is a COCO file, whose pictures are labelled anew. Every annotation has
its ``score``; pictures that cannot be read are named and left out. The same command goes
on after a kill. mmdet's ``CocoDataset`` reads the file, with ``data_prefix=dict(img=FOLDER)``. It
numbers classes as the categories stand in the file, in the detector's order: ``metainfo.classes``
has to be in the same.
"""

import argparse
import sys
from functools import partial
from pathlib import Path

import torch
from rich.console import Console

import kd_plugins  # noqa: F401  (makes mmrazor importable)
from kd_plugins import checks, command_line
from kd_plugins.compat import chatter
from kd_plugins.datasets.labelling import (
    Labelled,
    Labeller,
    label_pictures,
    pictures_of,
    settings_of,
)
from kd_plugins.experiments.progress import Progress
from kd_plugins.files.configs import read_config

#: How many unreadable pictures are named.
NAMED = 5


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = command_line.Parser(
        description='Write what a detector finds in pictures as a COCO file.',
        epilog='example: python tools/label_pictures.py configs/bckd/bckd_scenes.py '
        'work_dirs/gfl_scenes_teacher/epoch_12.pth photographs --out labels.json --score 0.4',
    )
    parser.add_argument('config', help='config of a detector, or of a distillation with a teacher')
    parser.add_argument('checkpoint', help="the detector's, or the teacher's")
    parser.add_argument('folder', type=Path, help='folder of pictures, or a COCO file')
    parser.add_argument('--out', type=Path, required=True, help='COCO file to write')
    parser.add_argument(
        '--score', type=float, default=0.3, help='least score of a box; by default %(default)s'
    )
    parser.add_argument(
        '--pictures', type=Path, help='where the pictures of a COCO file are; default: beside it'
    )
    parser.add_argument(
        '--batch-size', type=int, default=4, help='pictures at once; by default %(default)s'
    )
    parser.add_argument('--device', help='where to compute; by default a GPU if there is one')
    command_line.add_cfg_options(parser)
    chatter.add_argument(parser)
    args = parser.parse()
    if args.out.exists():
        parser.error(f'--out {str(args.out)!r} exists: give another name, or remove it.')
    return args


def describe(found: Labelled, out: Path) -> None:
    """Say what was found."""
    print(
        f'wrote {out}: {found.boxes:,} boxes in {found.pictures:,} pictures '
        f'({found.boxes / found.pictures:.3g} each; none in {found.empty:,})'
    )
    if found.unreadable:
        print(f'{len(found.unreadable):,} pictures could not be read and are left out:')
        for why in [*found.unreadable.values()][:NAMED]:
            print(f'  {why}')
        if len(found.unreadable) > NAMED:
            print(f'  and {len(found.unreadable) - NAMED:,} others')


def main() -> None:
    """Label."""
    args = parse_args()
    chatter.hush(unless=args.verbose)
    device = args.device or ('cuda' if torch.cuda.is_available() else 'cpu')
    progress, started = Progress(Console(stderr=True)), False

    def tell(done: int, total: int) -> None:
        nonlocal started
        if started:
            progress.count(done, total, 'pictures')
        else:
            print(f'{total:,} pictures; to label: {total - done:,}', flush=True)
        started = True

    try:
        cfg = read_config(args.config, args.cfg_options)
        score = checks.number('--score', args.score, 'a score, 0 or above', least=0)
        size = checks.whole_number('--batch-size', args.batch_size)
        with progress:
            found = label_pictures(
                partial(Labeller, cfg, args.checkpoint, device),
                pictures_of(args.folder, args.pictures),
                args.out,
                score,
                size,
                dict(
                    config=args.config,
                    checkpoint=args.checkpoint,
                    settings=settings_of(cfg),
                ),
                tell,
            )
    except (ValueError, OSError) as error:
        sys.exit(str(error))
    describe(found, args.out)


if __name__ == '__main__':
    main()
