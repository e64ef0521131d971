"""Train every method for 2,000 iterations and see whether its memory grows.

    python tests/faults/memory.py

Resident memory and live tensors are read after a warm-up and at the end, on the
digits and a few scenes of them, with a validation every ten epochs. Every method
runs in a process of its own.
"""

import argparse
import ctypes
import gc
import json
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from helpers import SMALLEST

ITERATIONS, WARM_UP = 2000, 500
MOST = 8.0  # MiB


def main() -> int:
    """Run each in a process of its own; return 1 if any grows."""
    parser = argparse.ArgumentParser(description='Look for memory that grows.')
    parser.add_argument('configs', nargs='*', type=Path, help='by default the smallest ones')
    parser.add_argument('--one', action='store_true', help=argparse.SUPPRESS)
    args = parser.parse_args()
    configs = args.configs or SMALLEST
    if args.one:
        print(json.dumps(measure(configs[0])))
        return 0
    print(f'{"config":24} {"RSS at 500":>10} {"at 2000":>8} {"growth":>7} MiB, tensors')
    grows = False
    for config in configs:
        command = [sys.executable, __file__, '--one', str(config)]
        reply = subprocess.run(command, capture_output=True, text=True)
        if reply.returncode:
            print(f'{config.stem}: {reply.stderr[-2000:]}')
            grows = True
            continue
        first, last = json.loads(reply.stdout.splitlines()[-1])
        growth = last['rss'] - first['rss']
        grows |= growth > MOST or last['tensors'] > first['tensors']
        print(
            f'{config.stem:24} {first["rss"]:10.1f} {last["rss"]:8.1f} {growth:7.1f}      '
            f'{first["tensors"]} {last["tensors"]}',
            flush=True,
        )
    return int(grows)


def measure(config: Path) -> list[dict]:
    """Train; return what was read after the warm-up and at the end."""
    import psutil
    import torch
    from mmengine.config import Config
    from mmengine.hooks import Hook
    from mmengine.registry import init_default_scope
    from mmengine.runner import Runner

    class Read(Hook):
        priority = 'LOWEST'
        seen: list = []

        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            if runner.iter + 1 in (WARM_UP, ITERATIONS):
                gc.collect()
                ctypes.CDLL('libc.so.6').malloc_trim(0)
                live = sum(isinstance(x, torch.Tensor) for x in gc.get_objects())
                rss = psutil.Process().memory_info().rss / 2**20
                self.seen.append(dict(rss=rss, tensors=live))

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        cfg = Config.fromfile(config)
        cfg.model.update(teacher_ckpt=None, allow_random_teacher=True)
        cfg.work_dir, cfg.log_level = folder, 'ERROR'
        cfg.default_hooks.checkpoint = None
        if 'scenes' in config.stem:
            from helpers.few_scenes import few_scenes

            cfg.merge_from_dict(few_scenes(folder, train=14, batch_size=2))
            # Its cosine would come back after the eight epochs that it is made for.
            cfg.param_scheduler = None
            cfg.optim_wrapper.optimizer.lr = 1e-4
        init_default_scope(cfg.default_scope)
        epoch = len(Runner.build_dataloader(cfg.train_dataloader))
        cfg.train_cfg.update(max_epochs=ITERATIONS // epoch + 1, val_interval=10)
        runner = Runner.from_cfg(cfg)
        hook = Read()
        runner.register_hook(hook)
        runner.train()
    return hook.seen


if __name__ == '__main__':
    sys.exit(main())
