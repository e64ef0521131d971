"""One training step of every method on an accelerator, beside the same step on the CPU.

    python tests/gpu/every_method.py

The smallest config of every method, in float32 and, where there is an accelerator,
in bfloat16 and float16 with a scaler, as users switch them on. The same weights and
the same batch of the config's own data. Prints how far the losses and the student's
step are from the CPU's in float32, and the time and memory of a step; returns 1 if
one is not finite, never taken, or further away than its precision explains.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from helpers import SMALLEST
from helpers.few_scenes import few_scenes
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.logging import MMLogger
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner, set_random_seed

from kd_plugins.losses.ctc import CTCLoss
from kd_plugins.structures import Progress

#: How far a loss may be from the CPU's, as a share of it. In float32 the divergence of two nearly
#: equal answers at CTKD's temperatures, around 11, keeps three digits.
MOST = {'float32': 1e-3, 'bfloat16': 0.02, 'float16': 0.005}
#: Losses below this share of the largest are taken as shares of that.
SMALL = 0.01
#: A scaler starts so high that it skips steps until it finds its scale.
ATTEMPTS = 20


@dataclass
class Step:
    """What a step left.

    Args:
        losses: Every loss by its name.
        change: The change of all the student's weights, flat, in float64.
        skipped: Steps that a scaler skipped before it.
        milliseconds: Median time of the steps after it.
        mebibytes: Most memory that they took; 0 on a CPU.
    """

    losses: dict[str, float]
    change: torch.Tensor
    skipped: int
    milliseconds: float
    mebibytes: float


def main() -> int:
    """Print the table; return 1 if a step is wrong."""
    parser = argparse.ArgumentParser(description='Train every method for one step.')
    parser.add_argument('configs', nargs='*', type=Path, help='by default the smallest ones')
    parser.add_argument('--steps', type=int, default=20, help='timed steps of each')
    args = parser.parse_args()
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    MMLogger.get_instance('mmengine', log_level='ERROR')
    device = get_device()
    name = torch.cuda.get_device_name() if device == 'cuda' else device
    precisions = ['float32'] if device == 'cpu' else list(MOST)
    print(f'{name}, torch {torch.__version__}; losses and step: distance from the CPU in float32')
    print(f'{"config":22} {"precision":9} {"losses":>8} {"step":>8} skipped       ms      MiB')
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        for path in args.configs or SMALLEST:
            # Time on an accelerator is dear: the others are worth knowing all the same.
            try:
                wrong += rows(path, folder, device, precisions, args.steps)
            except Exception:
                traceback.print_exc()
                print(f'{path.stem:22} WRONG: it cannot take a step', flush=True)
                wrong += 1
    return int(wrong > 0)


def rows(path: Path, folder: str, device: str, precisions: Sequence[str], steps: int) -> int:
    """Print the rows of a config; return how many are wrong."""
    wrong = 0
    cfg = config(path, folder)
    loader = Runner.build_dataloader(cfg.train_dataloader, seed=0)
    batch = next(iter(loader))
    # What CTC's hook tells its loss.
    classes = getattr(loader.dataset, 'get_gt_labels', list)()
    expected = step(cfg, batch, classes, 'cpu', 'float32', 0)
    for precision in precisions:
        found = step(cfg, batch, classes, device, precision, steps)
        losses, change = distances(found, expected)
        # Written so that NaN is wrong, and a step that a scaler never let through.
        moved = bool(found.change.isfinite().all() and found.change.any())
        right = losses <= MOST[precision] and moved
        wrong += not right
        print(
            f'{path.stem:22} {precision:9} {losses:8.1e} {change:8.1e} {found.skipped:7} '
            f'{found.milliseconds:8.1f} {found.mebibytes:8.0f}{"" if right else "  WRONG"}',
            flush=True,
        )
    return wrong


def config(path: Path, folder: str) -> Config:
    """Return a config that needs no teacher's checkpoint, on its own data."""
    cfg = Config.fromfile(path)
    init_default_scope(cfg.default_scope)
    cfg.model.update(teacher_ckpt=None, allow_random_teacher=True)
    if 'scenes' in path.stem:
        cfg.merge_from_dict(few_scenes(folder, batch_size=8))
    return cfg


def step(
    cfg: Config, batch: dict, classes: Sequence[int], device: str, precision: str, steps: int
) -> Step:
    """Take one step from the same weights; time some more."""
    set_random_seed(0)
    model_cfg = dict(cfg.model)
    model_cfg.setdefault('data_preprocessor', cfg.get('data_preprocessor'))
    model = MODELS.build(model_cfg)
    model.init_weights()
    for module in model.modules():
        if isinstance(module, CTCLoss):
            module.set_classes(classes, seed=0)
    model.to(device).train()
    # Amid a curriculum.
    model.set_progress(Progress(iter=20, max_iters=300, epoch=2, max_epochs=30))
    wrapper = build_optim_wrapper(model, wrapper_of(cfg, precision))
    wrapper.initialize_count_status(model, 0, ATTEMPTS + steps)
    before = weights(model)
    losses: dict[str, float] = {}
    for skipped in range(ATTEMPTS):
        set_random_seed(0)
        logged = model.train_step(batch, wrapper)
        if not skipped:
            losses = {key: float(value) for key, value in logged.items() if 'loss' in key}
        if not torch.equal(weights(model), before):
            break
    change = weights(model) - before
    if device == 'cuda':
        torch.cuda.reset_peak_memory_stats()
    times = []
    for _ in range(steps):
        start = time.perf_counter()
        model.train_step(batch, wrapper)
        if device == 'cuda':
            torch.cuda.synchronize()
        times.append(1e3 * (time.perf_counter() - start))
    peak = torch.cuda.max_memory_allocated() / 2**20 if device == 'cuda' else 0.0
    return Step(losses, change, skipped, statistics.median(times or [0.0]), peak)


def wrapper_of(cfg: Config, precision: str) -> dict:
    """Return the optimizer wrapper in this precision, as a user writes it."""
    wrapper = cfg.optim_wrapper.to_dict()
    if precision == 'float32':
        return wrapper
    if wrapper.get('type') != 'kd_plugins.DOTOptimWrapper':
        wrapper['type'] = 'AmpOptimWrapper'
    return dict(wrapper, dtype=precision, loss_scale='dynamic')


def weights(model: torch.nn.Module) -> torch.Tensor:
    """Return the student's weights, flat, on the CPU."""
    return torch.cat([p.detach().double().flatten().cpu() for p in model.student.parameters()])


def distances(found: Step, expected: Step) -> tuple[float, float]:
    """Return the largest difference of a loss, and that of the steps, as shares."""
    assert found.losses.keys() == expected.losses.keys()
    least = SMALL * max(abs(value) for value in expected.losses.values())
    apart = [
        abs(found.losses[key] - value) / max(abs(value), least)
        for key, value in expected.losses.items()
    ]
    # max() would pass over NaN.
    losses = float(torch.tensor(apart).max())
    change = (found.change - expected.change).norm() / expected.change.norm()
    return losses, float(change)


if __name__ == '__main__':
    sys.exit(main())
