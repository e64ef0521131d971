"""Take the student out of a checkpoint, for the stock tools.

    python tools/export_student.py CONFIG CHECKPOINT --out student.pth
    python tools/export_student.py CONFIG CHECKPOINT --onnx
    python tools/export_student.py CONFIG CHECKPOINT --onnx --int8 --alone STUDENT_ALONE

CONFIG is the distillation's, or the student's own. What kd_plugins writes is the
student's already; this leaves out the optimizer and whatever else is only for
training, and takes the student out of mmrazor's distillation checkpoints. ``--onnx``
writes the student as ONNX besides: a classifier, or a detector with decoding and
suppression. It is compared with torch first, a detector on pictures of the config's
validation set. ``--int8`` writes an int8 file, too, and measures both on that set.
"""

import argparse
import sys
from pathlib import Path

from mmengine.config import Config
from rich.console import Console

import kd_plugins  # noqa: F401  (makes mmrazor importable)
from kd_plugins import command_line
from kd_plugins.compat import chatter
from kd_plugins.experiments.progress import Progress
from kd_plugins.files.configs import read_config
from kd_plugins.files.export_student import export_student, save
from kd_plugins.inspect.quiet import silence
from kd_plugins.shipping import Shipment, table


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = command_line.Parser(
        description='Take the student out of a checkpoint.',
        epilog='example: python tools/export_student.py configs/dkd/dkd_digits.py '
        'work_dirs/dkd_digits/epoch_30.pth --out student.pth',
    )
    parser.add_argument('config', help='config of the distillation, or of the student')
    parser.add_argument('checkpoint', help='what the training wrote')
    parser.add_argument(
        '--out', type=Path, help='file to write, by default CHECKPOINT with _student appended'
    )
    parser.add_argument(
        '--publish', action='store_true', help="append 8 digits of the file's SHA-256 to its name"
    )
    parser.add_argument(
        '--raw', action='store_true', help='the weights themselves where an EMAHook averaged them'
    )
    parser.add_argument(
        '--onnx',
        nargs='*',
        type=int,
        metavar='SIDE',
        help='write ONNX besides, for pictures of this height and width; without them for '
        'pictures of any size (detectors), or of the validation pictures (classifiers)',
    )
    parser.add_argument(
        '--raw-outputs',
        action='store_true',
        help="with --onnx, a detector's outputs without decoding and suppression",
    )
    parser.add_argument(
        '--int8',
        type=int,
        nargs='?',
        const=100,
        metavar='COUNT',
        help='with --onnx, write an int8 file too, calibrated on so many training pictures '
        '(by default %(const)s), and measure both on the validation set',
    )
    parser.add_argument(
        '--alone',
        metavar='CHECKPOINT',
        help='with --int8, checkpoint of the student trained alone, to measure beside it',
    )
    command_line.add_cfg_options(parser)
    chatter.add_argument(parser)
    args = parser.parse()
    if args.onnx is not None and (len(args.onnx) not in (0, 2) or min(args.onnx, default=1) < 1):
        parser.error(f'--onnx {" ".join(map(str, args.onnx))}: give a height and a width, or none.')
    if args.onnx is None and (args.raw_outputs or args.int8 is not None):
        parser.error('--raw-outputs and --int8 are of the file that --onnx writes: give it, too.')
    if args.int8 is not None and (args.int8 < 1 or args.raw_outputs):
        parser.error('--int8 needs a picture or more, and detections, which --raw-outputs has not.')
    if args.alone and args.int8 is None:
        parser.error('--alone is measured beside --int8: give it, too.')
    if args.out is None:
        source = Path(args.checkpoint)
        args.out = source.with_name(source.stem + '_student.pth')
    if args.out.resolve() == Path(args.checkpoint).resolve():
        parser.error(f'--out {str(args.out)!r} would overwrite the checkpoint: give another name.')
    return args


def main() -> None:
    """Export."""
    args = parse_args()
    chatter.hush(unless=args.verbose)
    try:
        cfg = read_config(args.config, args.cfg_options)
        checkpoint = export_student(cfg, args.checkpoint, args.raw)
    except (FileNotFoundError, ValueError) as error:
        sys.exit(str(error))
    path = save(checkpoint, args.out, args.publish)
    weights = checkpoint['state_dict']
    print(
        f'wrote {path}: {len(weights)} tensors, {size(path)} MB (the checkpoint has '
        f'{size(Path(args.checkpoint))} MB)\n'
        f'test it: {command_line.call_of("test.py")} {args.config} {path}'
    )
    if args.onnx is not None:
        try:
            with Progress(Console(stderr=True)) as progress:
                ship(args, cfg, checkpoint, path.with_suffix('.onnx'), progress)
        except ImportError as error:
            sys.exit(f'--onnx needs onnx and onnxruntime ({error}): pip install onnx onnxruntime')
        except (FileNotFoundError, ValueError) as error:
            sys.exit(str(error))


def ship(
    args: argparse.Namespace, cfg: Config, checkpoint: dict, path: Path, progress: Progress
) -> None:
    """Write ONNX and int8 files, and print what they are worth."""
    sides = tuple(args.onnx) or None
    # Read before anything that takes its time.
    alone = export_student(cfg, args.alone, args.raw) if args.alone else None
    student = Shipment(cfg, checkpoint, sides, args.raw_outputs, progress.count)
    with silence():
        said = student.write(path)
    print(f'wrote {path}: {size(path)} MB, {said}')
    if args.int8 is None:
        return
    out = path.with_name(f'{path.stem}_int8.onnx')
    with silence():
        number = student.quantise(path, out, args.int8)
    print(f'wrote {out}: {size(out)} MB, calibrated on {number} training pictures\n')
    metrics = {'student': [student.measure(path), student.measure(out)]}
    if alone is not None:
        with silence():
            alone_too = Shipment(cfg, alone, student.size, tell=progress.count)
            metrics['alone'] = alone_too.measure_both(args.int8)
    print(table(metrics))


def size(path: Path) -> str:
    """Size of a file in MB."""
    return f'{path.stat().st_size / 1e6:.2f}' if path.is_file() else '?'


if __name__ == '__main__':
    main()
