"""Time of a training step with Zipf's label smoothing, and with RecursiveMix, over plain training.

    python benchmarks/history_step.py

Steps of the network alone, with Zipf's loss and with RecursiveMix alternate in one
process on the same pictures, in changing order, so that whatever else the machine
does falls on all alike. By default the network is the published one for 100 classes
and 32 x 32 pixels, a pre-activation ResNet-18, whose votes are upsampled;
``--classes 1000`` takes ResNet-50 at 224 x 224. ``--device cuda`` times a GPU.
"""

from __future__ import annotations

import argparse
import itertools
import logging
from collections.abc import Callable
from pathlib import Path

import torch
from alternating import alternate, print_ratios
from mmengine.config import Config
from mmengine.optim import OptimWrapper
from mmengine.registry import MODELS, init_default_scope

import kd_plugins  # noqa: F401  (makes mmrazor importable)
from kd_plugins.structures import Progress

CONFIGS = Path(__file__).resolve().parent.parent / 'configs'
NETWORKS = {100: 'zipf_preact-resnet18_1xb128_cifar100', 1000: 'zipf_resnet50_4xb64_in1k'}
# mmengine tells how it initialises every weight.
logging.disable(logging.INFO)


def kinds(classes: int) -> dict[str, dict]:
    """Return the configs of the models that are timed."""
    zipf = Config.fromfile(CONFIGS / f'zipf/{NETWORKS[classes]}.py')
    mix = Config.fromfile(CONFIGS / '_base_/distill/recursive_mix.py').distiller
    network = dict(zipf.model.architecture, _scope_='mmpretrain')
    channels = network['head'].in_channels
    mix.distill_losses = dict(
        loss_rm=dict(type='kd_plugins.RecursiveMixLoss', channels=channels, num_classes=classes)
    )
    parts = [dict(type='kd_plugins.RecursiveMix')]
    with_mix = dict(zipf.model, distiller=mix, batch_parts=parts, architecture=network)
    return {
        'alone': network,
        'zipf': dict(zipf.model, architecture=network),
        'recursive mix': with_mix,
    }


def step_of(cfg: dict, data: dict, device: str) -> Callable[[], None]:
    """Return a step as the Runner does it."""
    model = MODELS.build(cfg).to(device)
    model.train()  # mmpretrain's own returns nothing
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9))

    numbers = itertools.count()

    def step() -> None:
        if hasattr(model, 'set_progress'):
            model.set_progress(Progress(next(numbers), 10**6, 0, 2))
        model.train_step(data, wrapper)

    return step


def main() -> None:
    """Print the medians and their ratios."""
    parser = argparse.ArgumentParser(description=(__doc__ or '').splitlines()[0])
    parser.add_argument('--classes', type=int, default=100, choices=list(NETWORKS))
    parser.add_argument('--steps', type=int, default=20, help='timed steps of each kind')
    parser.add_argument('--batch-size', type=int, default=32)
    parser.add_argument('--device', default='cpu')
    parser.add_argument('--threads', type=int, default=1, help="torch's threads")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    init_default_scope('mmpretrain')
    from mmpretrain.structures import DataSample

    size = 32 if args.classes == 100 else 224
    samples = [DataSample().set_gt_label(i % args.classes) for i in range(args.batch_size)]
    data = dict(inputs=torch.rand(args.batch_size, 3, size, size), data_samples=samples)
    steps = {name: step_of(cfg, data, args.device) for name, cfg in kinds(args.classes).items()}
    print_ratios(alternate(steps, args.steps), 'alone')


if __name__ == '__main__':
    main()
