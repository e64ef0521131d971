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
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

import kd_plugins  # noqa: F401  (makes mmrazor importable)
from kd_plugins import launch
from kd_plugins.files.records import said
from kd_plugins.inspect.quiet import quiet
from kd_plugins.teachers import StoredTeacher
from kd_plugins.teachers.filling import fill


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description='Store the answers of a teacher.',
        epilog='example: python tools/cache_teacher.py configs/kd/kd-stored_digits.py',
    )
    launch.add_common_arguments(parser)
    parser.add_argument(
        '--verify',
        action='store_true',
        help='compare every picture that is stored already, and every record with its checksum',
    )
    return parser.parse_args()


def main() -> None:
    """Fill the store and say what it holds."""
    args = parse_args()
    cfg = launch.load_config(args)
    launcher = cfg.launcher
    cfg = quiet(cfg, cfg.work_dir)
    cfg.launcher = launcher
    columns = (TextColumn('pictures'), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    progress = Progress(*columns, disable=not is_main_process())
    task = progress.add_task('pictures', total=None)

    def tell(teacher: StoredTeacher, done: int, of: int) -> None:
        if progress.tasks[task].total is None and teacher.store.told:
            progress.console.print(teacher.store.told, soft_wrap=True, highlight=False)
        progress.update(task, completed=done, total=of)

    try:
        with progress:
            filled = fill(launch.build_runner(cfg), tell, args.verify)
    except (ValueError, OSError) as error:
        raise SystemExit(str(error)) from None
    if is_main_process():
        folder = cfg.model.teacher_cache.dir
        size = sum(path.stat().st_size for path in Path(folder).iterdir())
        print(
            f'{folder!r} is complete: {said(size)}, {filled.written} records by this process now; '
            f'{filled.looked_at} pictures of earlier ones are still the same.'
        )


if __name__ == '__main__':
    main()
