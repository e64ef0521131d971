"""Fill the store of a teacher's answers, which trainings then read.

    python tools/cache_teacher.py configs/kd/kd-stored_digits.py

The config is that of a training with model.teacher_cache. What is there already is not asked
again, so that an interrupted run goes on; some of its pictures, all with --verify, are compared
with those that the teacher has seen. Several processes share the work:

    torchrun --nproc_per_node=4 tools/cache_teacher.py CONFIG --launcher pytorch
"""

import argparse
from pathlib import Path

from mmengine.dist import is_main_process
from rich.console import Console

import kd_plugins  # noqa: F401  (makes mmrazor importable)
from kd_plugins import command_line, launch
from kd_plugins.experiments.progress import Progress
from kd_plugins.files.records import said
from kd_plugins.inspect.quiet import quiet
from kd_plugins.teachers import StoredTeacher
from kd_plugins.teachers.filling import fill


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = command_line.Parser(
        description='Store the answers of a teacher.',
        epilog='example: python tools/cache_teacher.py configs/kd/kd-stored_digits.py',
    )
    launch.add_common_arguments(parser)
    parser.add_argument(
        '--verify',
        action='store_true',
        help='compare every picture that is stored already, and every record with its checksum',
    )
    return parser.parse()


def main() -> None:
    """Fill the store and say what it holds."""
    args = parse_args()
    cfg = launch.load_config(args)
    launcher = cfg.launcher
    cfg = quiet(cfg, cfg.work_dir)
    cfg.launcher = launcher
    progress, told = Progress(Console(stderr=True)), False

    def tell(teacher: StoredTeacher, done: int, of: int) -> None:
        nonlocal told
        if not is_main_process():
            return
        if not told and teacher.store.told:
            print(teacher.store.told)
        told = True
        progress.count(done, of, 'pictures')

    with command_line.refusing(ValueError, OSError):
        runner = launch.build_runner(cfg)
    with command_line.refusing(), progress:
        filled = fill(runner, tell, args.verify)
    if is_main_process():
        folder = cfg.model.teacher_cache.dir
        size = sum(path.stat().st_size for path in Path(folder).iterdir())
        print(
            f'{folder!r} is complete: {said(size)}, {filled.written} records by this process now; '
            f'{filled.looked_at} pictures of earlier ones are still the same.'
        )


if __name__ == '__main__':
    main()
