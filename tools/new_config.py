"""Write the config of a distillation from an upstream student and teacher.

    python tools/new_config.py --student mmpretrain::resnet/resnet18_8xb32_in1k.py \
        --teacher mmpretrain::resnet/resnet34_8xb32_in1k.py --method dkd --out my_dkd.py

``--method alone`` is for the teacher's own training, or to compare with. Without
``--teacher-ckpt`` the teacher gets the weights that its package lists for
its config. ``--data FOLDER`` trains on data of your own: for classifiers a folder with
``train/CLASS/`` and ``val/CLASS/``, for detectors a COCO, VOC or YOLO folder, of which
the last two are written as COCO files beside the config. It sets the classes of both
heads, the evaluator and, for detectors, the learning rate and the warm-up that follow
from ``--batch-size``. ``--unlabelled FOLDER`` adds pictures without labels to every batch, of
a classifier for methods that need none, or is all of the training set where ``--data`` has no
``train/``. Both networks are built, to find out what to read of them, and so is
the model of what is written. Relative paths are written as counted from the new
file, so that it works from any working directory. It is meant to be read, changed,
and checked by ``tools/check.py``.
"""

import argparse
import sys
from pathlib import Path

import kd_plugins  # noqa: F401  (makes mmrazor importable)
from kd_plugins import command_line
from kd_plugins.compat import chatter
from kd_plugins.datasets.boxes import Boxes, faults
from kd_plugins.new_config.methods import methods
from kd_plugins.new_config.request import ALONE, Request
from kd_plugins.new_config.writing import write_config
from kd_plugins.wiring import WHERE


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = command_line.Parser(
        description='Write the config of a distillation.',
        epilog='example: python tools/new_config.py --student my_student.py '
        '--teacher my_teacher.py --method dkd --out my_dkd.py',
    )
    where = 'config file, or PACKAGE::PATH of an upstream config'
    parser.add_argument('--student', required=True, help=f"the student's {where}")
    parser.add_argument('--teacher', help=f"the teacher's {where}; none with --method alone")
    parser.add_argument('--teacher-ckpt', help="the teacher's checkpoint, a path or an address")
    parser.add_argument(
        '--method',
        choices=[ALONE, *methods()],
        required=True,
        help=f'what the student learns by; {ALONE}: without a teacher',
    )
    parser.add_argument(
        '--where',
        choices=WHERE,
        help='whose maps are compared by a term on maps (cosine, cwd, mgd, mse, pkd, sl2); by '
        'default the necks of two detectors that have one, else the backbones',
    )
    for side in ('student', 'teacher'):
        parser.add_argument(
            f'--{side}-logits',
            metavar='MODULE',
            help=f'the module whose output are the logits of the {side}, where it has several '
            'classifiers',
        )
    parser.add_argument(
        '--data',
        type=Path,
        help='a folder with train/CLASS/ and val/CLASS/; for detectors a COCO, VOC or YOLO folder',
    )
    parser.add_argument(
        '--batch-size',
        type=int,
        help='pictures of a batch on one process, for --data of detectors; by default those of '
        'the student',
    )
    parser.add_argument(
        '--unlabelled', type=Path, help='a folder of pictures without labels, at any depth'
    )
    parser.add_argument(
        '--unlabelled-ratio',
        type=lambda text: text if text == 'all' else int(text),
        default=1,
        metavar='R',
        help='how many of them a batch has for each labelled picture, by default %(default)s; all: '
        'no labels',
    )
    parser.add_argument('--out', type=Path, required=True, help='config file to write')
    chatter.add_argument(parser)
    args = parser.parse()
    for option in ('student', 'teacher'):
        path = getattr(args, option)
        if path and '::' not in path and not Path(path).is_file():
            parser.error(f'--{option} {path!r} is no file: give a config file, or PACKAGE::PATH.')
    if args.batch_size is not None and args.batch_size < 1:
        parser.error(f'--batch-size {args.batch_size} is no number of pictures: give 1 or more.')
    if args.out.exists():
        parser.error(f'--out {str(args.out)!r} exists: give another name, or remove it.')
    return args


def describe(boxes: Boxes) -> None:
    """Say what was found in the data, and what is wrong with it."""
    for name, part in (('train', boxes.train), ('val', boxes.val)):
        images, things = part.content['images'], part.content['annotations']
        print(f'{boxes.form}, {name}: {len(images)} pictures, {len(things)} boxes')
    print(f'{len(boxes.classes)} classes: {", ".join(boxes.classes)}')
    for note in boxes.notes:
        print(note)
    for fault in faults(boxes):
        print(f'{fault.level}: {fault.what} {fault.change}')


def main() -> None:
    """Write."""
    args = parse_args()
    chatter.hush(unless=args.verbose)
    request = {name: value for name, value in vars(args).items() if name != 'verbose'}
    try:
        asked = Request(**request)
        write_config(asked)
    except (ValueError, OSError) as error:
        sys.exit(str(error))
    if asked.boxes is not None:
        describe(asked.boxes)
    print(f'wrote {args.out}; next: {command_line.call_of("check.py")} {args.out}')


if __name__ == '__main__':
    main()
