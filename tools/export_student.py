"""Take the student out of a checkpoint, for the stock tools.

    python tools/export_student.py CONFIG CHECKPOINT --out student.pth
    python tools/export_student.py CONFIG CHECKPOINT --onnx 224 224

CONFIG is the distillation's, or the student's own. What kd_plugins writes is the
student's already; this leaves out the optimizer and whatever else is only for
training, and takes the student out of mmrazor's distillation checkpoints. ``--onnx``
writes a classifier as ONNX besides, for pictures of the height and width given.
"""

import argparse
import sys
from pathlib import Path

from mmengine.config import Config, DictAction

import kd_plugins  # noqa: F401  (makes mmrazor importable)
from kd_plugins.compat import chatter
from kd_plugins.files.export_student import build_student, export_onnx, export_student, save


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
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
        nargs=2,
        type=int,
        metavar=('HEIGHT', 'WIDTH'),
        help='write a classifier for pictures of this size as ONNX besides',
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        metavar='KEY=VALUE',
        help='settings of the config to override, for example model.teacher_ckpt=teacher.pth',
    )
    chatter.add_argument(parser)
    args = parser.parse_args()
    if not Path(args.config).is_file():
        parser.error(f'config {args.config!r} is not a file: give the path of a config.')
    if args.out is None:
        source = Path(args.checkpoint)
        args.out = source.with_name(source.stem + '_student.pth')
    if args.out.resolve() == Path(args.checkpoint).resolve():
        parser.error(f'--out {str(args.out)!r} would overwrite the checkpoint: give another name.')
    return args


def how_to_test(cfg: Config, path: Path) -> str:
    """Return the command that tests the student alone."""
    if cfg.get('default_scope') == 'mmdet':
        # mim imports mmdet before anybody can give it operators.
        return f'python tools/test.py STUDENT_CONFIG {path}'
    return f'mim test {cfg.get("default_scope")} STUDENT_CONFIG --checkpoint {path}'


def main() -> None:
    """Export."""
    args = parse_args()
    chatter.hush(unless=args.verbose)
    cfg = Config.fromfile(args.config)
    cfg.merge_from_dict(args.cfg_options or {})
    try:
        checkpoint = export_student(cfg, args.checkpoint, args.raw)
    except (FileNotFoundError, ValueError) as error:
        sys.exit(str(error))
    path = save(checkpoint, args.out, args.publish)
    weights = checkpoint['state_dict']
    print(
        f'wrote {path}: {len(weights)} tensors, {size(path)} MB (the checkpoint has '
        f'{size(Path(args.checkpoint))} MB)\n'
        f'test it: {how_to_test(cfg, path)}'
    )
    if args.onnx is not None:
        student = build_student(cfg)
        student.load_state_dict(weights)
        out = path.with_suffix('.onnx')
        try:
            difference, free = export_onnx(student, out, tuple(args.onnx))
        except ImportError as error:
            sys.exit(f'--onnx needs onnx and onnxruntime ({error}): pip install onnx onnxruntime')
        except ValueError as error:
            sys.exit(str(error))
        batch = 'any number of' if free else 'one at a time of the'
        print(
            f'wrote {out}: {size(out)} MB, {batch} normalised pictures of {args.onnx[0]} x '
            f'{args.onnx[1]}; onnxruntime and torch agree to {difference:.1g} of the largest logit'
        )


def size(path: Path) -> str:
    """Size of a file in MB."""
    return f'{path.stat().st_size / 1e6:.2f}' if path.is_file() else '?'


if __name__ == '__main__':
    main()
