"""Evaluate a checkpoint of the student, or the teacher of a config.

python tools/test.py CONFIG CHECKPOINT
python tools/test.py CONFIG --teacher
"""

import argparse
from typing import Any

import kd_plugins  # noqa: F401  (makes mmrazor importable)
from kd_plugins import command_line, launch
from kd_plugins.algorithms import SingleTeacherDistill
from kd_plugins.files.weights import need_checkpoint
from kd_plugins.registry import name_of
from kd_plugins.teachers import measure_teacher, teacher_of


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = command_line.Parser(
        description='Evaluate the student, or the teacher.',
        epilog='example: python tools/test.py configs/dkd/dkd_digits.py '
        'work_dirs/dkd_digits/epoch_30.pth',
    )
    launch.add_common_arguments(parser)
    parser.add_argument('checkpoint', nargs='?', help="the student's checkpoint")
    parser.add_argument(
        '--teacher', action='store_true', help="evaluate the config's teacher instead"
    )
    parser.add_argument('--out', help='write the metrics to this JSON file')
    args = parser.parse()
    if args.teacher == (args.checkpoint is not None):
        parser.error("give either the student's checkpoint or --teacher")
    return args


def leave_out_teacher(model: dict[str, Any]) -> None:
    """Leave of a distillation's config what is the student's: a test needs nothing else."""
    if model['type'] not in ('kd_plugins.SingleTeacherDistill', SingleTeacherDistill):
        return
    of_student = ('type', 'architecture', 'data_preprocessor', 'init_cfg', 'module_inplace')
    for key in [*model]:
        if key not in of_student:
            del model[key]
    model.update(teacher=None, distiller={})


def main() -> None:
    """Evaluate."""
    args = parse_args()
    cfg = launch.load_config(args)
    if args.teacher:
        # It is asked itself, of pictures that no store knows.
        cfg.model.pop('teacher_cache', None)
        cfg.load_from, cfg.resume = None, False
        # An average of the student's weights has no place in a test of the teacher.
        hooks = cfg.get('custom_hooks') or []
        cfg.custom_hooks = [hook for hook in hooks if name_of(hook['type']) != 'EMAHook']
    else:
        cfg.load_from = args.checkpoint
        leave_out_teacher(cfg.model)
    with command_line.refusing(ValueError, FileNotFoundError):
        if not args.teacher:
            need_checkpoint(args.checkpoint, 'checkpoint', 'student')
        runner = launch.build_runner(cfg)
        if args.teacher:
            teacher_of(runner.model)
    with command_line.refusing():
        metrics = measure_teacher(runner) if args.teacher else runner.test()
    if args.out and runner.rank == 0:
        launch.write_json(args.out, metrics)
        print(f'wrote {args.out}')


if __name__ == '__main__':
    main()
