"""Kill trainings with SIGKILL and see whether they lose anything.

    python tests/faults/kill.py --kills 120

Every training is killed up to three times, restarted with ``--resume`` each
time, and must end in the weights of an undisturbed one, bit for bit, with one
last and one best checkpoint beside it (``max_keep_ckpts=1``, ``save_best``). The
kills strike at a random time, at a random step of writing a checkpoint, or one
of two processes. Finished cases are kept in ``--out`` and not run again, so that
the same command goes on where it was interrupted.
"""

import argparse
import json
import os
import random
import runpy
import shutil
import signal
import socket
import sys
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / 'tests')]

# Imported once: every training is a fork of this process, which takes no time to start.
import mmdet.evaluation  # noqa: E402
import mmdet.models  # noqa: E402, F401
import mmpretrain.models  # noqa: E402, F401
import torch  # noqa: E402
from faults.moments import Moments  # noqa: E402
from helpers.few_scenes import few_scenes  # noqa: E402
from mmengine.config import Config  # noqa: E402
from mmengine.runner import EpochBasedTrainLoop  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

import kd_plugins  # noqa: E402, F401
from kd_plugins.files import reading  # noqa: E402

#: What few epochs on little data take, of either kind.
DIGITS = ('train_dataloader.dataset.indices=96', 'val_dataloader.dataset.indices=64')
SCENES: list[str] = []  # once they are drawn
#: A method more is a line more: its config, its data, and what else so few epochs need changed.
METHODS = {
    'KD': ('configs/kd/kd_digits.py', DIGITS),
    'DKD': ('configs/dkd/dkd_digits.py', DIGITS),
    'CTKD': (
        'configs/ctkd/ctkd_kd_digits.py', DIGITS, 'default_hooks.curriculum_temperature.length=4'
    ),
    'DOT': ('configs/dot/dot_kd_digits.py', DIGITS),
    'EEKD': ('configs/eekd/eekd_digits.py', DIGITS),
    'CTC': (
        'configs/ctc/ctc_digits.py', DIGITS, 'default_hooks.ctc.stage_two_epoch=4',
        'model.distiller.distill_losses.loss_ctc.samples=96',
    ),
    'CSKD': ('configs/cskd/cskd_digits.py', DIGITS),
    'Zipf': ('configs/zipf/zipf_digits.py', DIGITS),
    'RecursiveMix': ('configs/recursive_mix/recursive-mix_digits.py', DIGITS),
    'BCKD': ('configs/bckd/bckd_scenes.py', SCENES),
}  # fmt: skip
KINDS = {'at a random time': 1, 'while writing': 1, 'one process of two': 2}
EPOCHS = 8
OPTIONS = [
    'model.teacher_ckpt=None', 'model.allow_random_teacher=True',
    f'train_cfg.max_epochs={EPOCHS}', 'train_cfg.val_interval=1',
    'default_hooks.checkpoint.interval=1', 'default_hooks.checkpoint.max_keep_ckpts=1',
    'default_hooks.checkpoint.save_best=auto',
]  # fmt: skip
LIVES = 3  # kills of one training, before it may finish


def main() -> int:
    """Kill, restart, compare, print."""
    parser = argparse.ArgumentParser(description='Kill trainings and compare where they end.')
    parser.add_argument('--kills', type=int, default=120, help='at least so many in all')
    parser.add_argument('--methods', nargs='+', default=list(METHODS), choices=list(METHODS))
    parser.add_argument('--out', type=Path, default=Path('work_dirs/faults'))
    parser.add_argument('--seconds', type=float, help='stop after so many; go on another time')
    args = parser.parse_args()
    start = time.monotonic()
    args.out.mkdir(parents=True, exist_ok=True)
    SCENES.extend(f'{key}={value}' for key, value in few_scenes(args.out).items())
    log = args.out / 'cases.jsonl'
    cases = [json.loads(line) for line in log.read_text().splitlines()] if log.is_file() else []
    number = 0
    while sum(case['kills'] for case in cases) < args.kills:
        if args.seconds and time.monotonic() - start > args.seconds:
            print(f'{sum(case["kills"] for case in cases)} kills so far')
            return 0
        method = args.methods[number % len(args.methods)]
        kind = list(KINDS)[number // len(args.methods) % len(KINDS)]
        if number >= len(cases):
            cases.append(run_case(method, kind, number, args.out))
            with log.open('a') as file:
                file.write(json.dumps(cases[-1]) + '\n')
        number += 1
        if 'error' in cases[-1]:
            break  # it would go on for ever where no training lives long enough to be killed
    return report(cases)


def run_case(method: str, kind: str, number: int, out: Path) -> dict:
    """Kill one training up to LIVES times, let it end, and say how it went."""
    world = KINDS[kind]
    reference = undisturbed(method, world, out)
    draw = random.Random(f'{method} {kind} {number}')
    work_dir = out / f'case{number}'
    shutil.rmtree(work_dir, ignore_errors=True)
    case = dict(method=method, kind=kind, kills=0, parts=0, from_epochs=[], orphans=0)
    for life in range(LIVES + 1):
        after = at = None
        left = 1 - epoch(work_dir) / EPOCHS  # of what the undisturbed training did
        if life < LIVES and kind == 'while writing':
            at = draw.randint(1, max(round(left * reference['steps']), 1))
        elif life < LIVES:
            after = draw.uniform(0, left * reference['seconds'])
        codes, orphan = start(method, work_dir, world, life > 0, after, at, draw.randrange(world))
        case['orphans'] += orphan
        if all(code == 0 for code in codes):
            break
        if -signal.SIGKILL not in codes:
            case['error'] = f'exit codes {codes}, see {work_dir}/output.log'
            break
        case['kills'] += 1
        case['parts'] += len(list(work_dir.glob('*.part')))
        case['from_epochs'].append(epoch(work_dir))
    case['same'] = 'error' not in case and same(reference['dir'], work_dir)
    if case['same']:
        shutil.rmtree(work_dir)
    return case


def undisturbed(method: str, world: int, out: Path) -> dict:
    """Train once without a kill; return its directory, duration and steps of writing."""
    work_dir = out / f'undisturbed_{method}_{world}'
    kept = work_dir / 'kept.json'
    if not kept.is_file():
        shutil.rmtree(work_dir, ignore_errors=True)
        codes, _ = start(method, work_dir, world, False, None, 0, 0)
        assert codes == [0] * world, (work_dir / 'output.log').read_text()[-3000:]
        steps = int((work_dir / 'steps').read_text())
        seconds = (work_dir / 'steps').stat().st_mtime - (work_dir / 'began').stat().st_mtime
        kept.write_text(json.dumps(dict(dir=str(work_dir), seconds=seconds, steps=steps)))
    return json.loads(kept.read_text())


def start(method, work_dir, world, resume, after, at, victim):
    """Run the training in processes of its own.

    Args:
        after: Seconds until the victim is killed, once the training has begun, or None.
        at: The step of writing at which rank 0 kills itself, 0 to count, or None.

    Returns:
        The exit codes, negative for signals, and whether a process had to be
        ended because it outlived the victim (torchrun would do that).
    """
    work_dir.mkdir(parents=True, exist_ok=True)
    (work_dir / 'began').unlink(missing_ok=True)
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        port = probe.getsockname()[1]
    pids = [fork(method, work_dir, world, rank, port, resume, at) for rank in range(world)]
    codes: list = [None] * world
    began, died, orphan = None, None, False
    while None in codes:
        for rank, pid in enumerate(pids):
            if codes[rank] is None:
                done, status = os.waitpid(pid, os.WNOHANG)
                if done:
                    codes[rank] = os.waitstatus_to_exitcode(status)
                    died = died or (time.monotonic() if codes[rank] else None)
        now = time.monotonic()
        if began is None and (work_dir / 'began').exists():
            began = now
        if began and after is not None and now - began > after and codes[victim] is None:
            os.kill(pids[victim], signal.SIGKILL)
            after = None
        if died and now - died > 20 and None in codes:
            orphan = True
            os.kill(pids[codes.index(None)], signal.SIGTERM)
            died = now
        time.sleep(0.002)
    return codes, orphan


def fork(method, work_dir, world, rank, port, resume, at):
    """Start one process of a training by the tool that users start."""
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        output = os.open(work_dir / 'output.log', os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        torch.set_num_threads(1)
        # Formatting the config, for every checkpoint, would be most of what there is to kill.
        Config.pretty_text = property(lambda cfg: cfg.text)
        run = EpochBasedTrainLoop.run
        EpochBasedTrainLoop.run = lambda loop: ((work_dir / 'began').touch(), run(loop))[1]
        moments = None
        if at is not None and rank == 0:
            moments = Moments(at, lambda: os.kill(os.getpid(), signal.SIGKILL))
        if world > 1:
            os.environ.update(
                RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world),
                MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port),
            )  # fmt: skip
        tool = str(ROOT / 'tools/train.py')
        config, data, *more = METHODS[method]
        sys.argv = [tool, str(ROOT / config), '--work-dir', str(work_dir)]
        sys.argv += ['--launcher', 'pytorch'] * (world > 1) + ['--resume'] * resume
        sys.argv += ['--cfg-options', *OPTIONS, *data, *more]
        runpy.run_path(tool, run_name='__main__')
        if moments is not None:
            (work_dir / 'steps').write_text(str(moments.count))
        code = 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


def epoch(work_dir: Path) -> int:
    """Return the epoch that last_checkpoint names, 0 without one."""
    pointer = work_dir / 'last_checkpoint'
    name = Path(pointer.read_text()).stem if pointer.is_file() else ''
    return int(name.split('_')[-1] or 0) if name else 0


def same(reference: str, work_dir: Path) -> bool:
    """Whether a training ended as the undisturbed one, in weights and in files."""
    name = f'epoch_{EPOCHS}.pth'
    expected, found = (reading.load(Path(d) / name) for d in (reference, work_dir))
    one = [path.name for path in work_dir.glob('epoch_*.pth')] == [name]
    best = list(work_dir.glob('best_*.pth'))
    whole = all('state_dict' in reading.load(path) for path in best)
    weights = expected['state_dict'].keys() == found['state_dict'].keys() and all(
        torch.equal(value, found['state_dict'][key])
        for key, value in expected['state_dict'].items()
    )
    return bool(weights and one and best and whole and epoch(work_dir) == EPOCHS)


def report(cases: list[dict]) -> int:
    """Print the table; return 1 if anything was lost."""
    table = Table(title=f'{sum(c["kills"] for c in cases)} kills of {len(cases)} trainings')
    columns = ('method', 'killed', 'trainings', 'kills', 'half-written files left')
    for column in (*columns, 'resumed from epoch 0 1 ... 8', 'as undisturbed'):
        table.add_column(column)
    for method in METHODS:
        for kind in KINDS:
            some = [case for case in cases if (case['method'], case['kind']) == (method, kind)]
            if not some:
                continue
            epochs = Counter(epoch for case in some for epoch in case['from_epochs'])
            table.add_row(
                method, kind, str(len(some)), str(sum(case['kills'] for case in some)),
                str(sum(case['parts'] for case in some)),
                ' '.join(str(epochs[i]) for i in range(EPOCHS + 1)),
                f'{sum(case["same"] for case in some)} of {len(some)}',
            )  # fmt: skip
    Console(width=110).print(table)
    for case in cases:
        if not case['same']:
            print('differs:', case)
    return int(not all(case['same'] for case in cases))


if __name__ == '__main__':
    sys.exit(main())
