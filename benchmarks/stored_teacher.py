"""Time of a step and of an epoch with a stored teacher, over those alone and with a live one.

    python benchmarks/stored_teacher.py                  # ResNet-32x4 to 8x4, 32 x 32, KD
    python benchmarks/stored_teacher.py --pair gfl       # GFL-R101 to R18, 320 x 320, BCKD

The student alone, beside the live teacher and beside a complete store of the same answers
train in one process on the same pictures, step by step and epoch by epoch in changing
order, so that whatever else the machine does falls on all alike. A step begins with a
batch in memory; an epoch loads it as well, the stored teacher's in views. The networks and
terms are those of the configs, with random weights. ``--compile`` adds a live teacher in
bfloat16 that is compiled, ``--device cuda`` times a GPU.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bckd_step import batch as boxes
from bckd_step import networks
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.logging import MMLogger
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DATASETS, MODELS, init_default_scope
from torch.utils.data import DataLoader, Dataset

import kd_plugins  # noqa: F401  (makes mmrazor importable)
from kd_plugins.experiments.timing import now
from kd_plugins.views import RepeatableViews, number_views

CONFIGS = Path(__file__).resolve().parent.parent / 'configs'
PAIRS = dict(
    cifar='kd/kd_resnet32x4_resnet8x4_1xb64_cifar100.py',
    gfl='bckd/bckd_gfl_r101_r18_fpn_1x_coco.py',
)


@DATASETS.register_module()
class NoisyPictures(Dataset):
    """Pictures of noise in memory, through the pipeline of CIFAR's configs."""

    def __init__(self, size: int, pipeline: list) -> None:
        from mmcv.transforms import Compose

        generator = np.random.default_rng(0)
        self.pictures = generator.integers(0, 256, (size, 32, 32, 3), np.uint8)
        self.pipeline = Compose(copy.deepcopy(pipeline))

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> dict:
        return self.pipeline(dict(img=self.pictures[index], gt_label=int(index) % 100))


@DATASETS.register_module()
class NoisyBoxes(Dataset):
    """Pictures of noise in memory, with boxes."""

    def __init__(self, size: int, side: int) -> None:
        self.batch = boxes(side, size)

    def __len__(self) -> int:
        return len(self.batch['inputs'])

    def __getitem__(self, index: int) -> dict:
        return {key: copy.deepcopy(values[int(index)]) for key, values in self.batch.items()}


def parts_of(args: argparse.Namespace) -> tuple[Config, dict, dict]:
    """Return the algorithm's config, the student's and the training set's."""
    cfg = Config.fromfile(CONFIGS / PAIRS[args.pair])
    size = args.batches * args.batch_size
    if args.pair == 'gfl':
        init_default_scope('mmdet')
        student, teacher = networks(cfg.model)
        return (
            Config(dict(cfg.model, architecture=student, teacher=teacher)),
            student,
            dict(type='NoisyBoxes', size=size, side=args.size),
        )
    init_default_scope('mmpretrain')
    cfg.model.data_preprocessor = cfg.data_preprocessor
    student = dict(cfg.model.architecture, data_preprocessor=cfg.data_preprocessor)
    pipeline = cfg.train_dataloader.dataset.pipeline
    return Config(cfg.model), student, dict(type='NoisyPictures', size=size, pipeline=pipeline)


def loader(dataset: Any, size: int) -> DataLoader:
    """Return what loads it in the process itself, without an order of its own."""
    return DataLoader(dataset, size, collate_fn=pseudo_collate)


def trained(model: torch.nn.Module, device: str) -> Callable[[Any], None]:
    """Return a step as the Runner does it."""
    model.to(device).train()
    sgd = dict(type='SGD', lr=1e-4, momentum=0.9, weight_decay=1e-4)
    wrapper = build_optim_wrapper(model, dict(optimizer=sgd))
    return lambda data: model.train_step(data, wrapper)


def in_turns(work: dict[str, Callable[[], None]], times: int) -> dict[str, list[float]]:
    """Time every kind of work so many times, after once without."""
    seconds: dict[str, list[float]] = {name: [] for name in work}
    names = list(work)
    for i in range(times + 1):
        for name in names[i % len(names) :] + names[: i % len(names)]:
            start = now()
            work[name]()
            if i:
                seconds[name].append(now() - start)
    return seconds


def show(what: str, seconds: dict[str, list[float]]) -> None:
    """Print the medians and their ratios."""
    for name, values in seconds.items():
        line = f'{what:6}{name:14}{1e3 * statistics.median(values):9.1f} ms'
        for other in ('alone', 'live'):
            # Turn by turn, since neighbours in time share the machine's load.
            ratios = [a / b for a, b in zip(values, seconds[other], strict=True)]
            line += f'   {statistics.median(ratios):.3f} of {other}'
        print(line, flush=True)


def main() -> None:
    """Print the times of steps and epochs."""
    parser = argparse.ArgumentParser(description=(__doc__ or '').splitlines()[0])
    parser.add_argument('--pair', choices=PAIRS, default='cifar')
    parser.add_argument('--steps', type=int, default=15, help='timed steps of each kind')
    parser.add_argument('--epochs', type=int, default=3, help='timed epochs of each kind')
    parser.add_argument('--batches', type=int, default=4, help='batches an epoch')
    parser.add_argument('--batch-size', type=int)
    parser.add_argument('--size', type=int, default=320, help="pixels of the detectors' pictures")
    parser.add_argument('--compile', action='store_true', help='add a compiled live teacher')
    parser.add_argument('--device', default='cpu')
    parser.add_argument('--threads', type=int, default=1, help="torch's threads")
    args = parser.parse_args()
    args.batch_size = args.batch_size or dict(cifar=64, gfl=2)[args.pair]
    torch.set_num_threads(args.threads)
    MMLogger.get_current_instance().setLevel('ERROR')
    cfg, alone, data_cfg = parts_of(args)
    live = MODELS.build(dict(cfg, teacher_ckpt=None, allow_random_teacher=True))
    network = live.teacher.network
    plain, views = DATASETS.build(data_cfg), RepeatableViews(data_cfg, views=1)
    viewed = number_views(loader(views, args.batch_size))
    batches = [*viewed]
    with tempfile.TemporaryDirectory() as folder:
        stored_cfg = dict(cfg, teacher=network, teacher_ckpt=None)
        stored_cfg['teacher_cache'] = dict(dir=folder, views=1, max_mb=10)
        filling = MODELS.build(stored_cfg).to(args.device)
        filling.teacher.begin(views)
        for data in batches:
            given = filling.data_preprocessor(data, True)
            filling.teacher.record(filling.distiller.teacher_recorders, **given)
        filling.teacher.end()
        print(filling.teacher.store.told)
        stored = MODELS.build(stored_cfg)
        stored.teacher.begin(views)
        assert stored.teacher.complete
        models = dict(alone=MODELS.build(alone), live=live, stored=stored)
        if args.compile:
            fast = dict(teacher_dtype='bfloat16', teacher_compile=True)
            models['live, compiled'] = MODELS.build(
                dict(cfg, teacher=copy.deepcopy(network), teacher_ckpt=None, **fast)
            )
        steps = {name: trained(model, args.device) for name, model in models.items()}

        def step(name: str) -> Callable[[], None]:
            turn = iter(range(10**9))
            return lambda: steps[name](batches[next(turn) % len(batches)])

        def epoch(name: str) -> Callable[[], None]:
            loads = viewed if name == 'stored' else loader(plain, args.batch_size)

            def run() -> None:
                for data in loads:
                    steps[name](data)

            return run

        show('step', in_turns({name: step(name) for name in models}, args.steps))
        show('epoch', in_turns({name: epoch(name) for name in models}, args.epochs))


if __name__ == '__main__':
    main()
