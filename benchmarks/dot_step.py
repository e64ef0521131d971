"""Time of a training step with DOT over plain SGD and over what it must at least do.

    python benchmarks/dot_step.py

Steps of three kinds alternate in one process on the same data, in changing
order, so that whatever else the machine does falls on all alike:

* floor: the forward pass and two backward passes, and no update at all;
* plain: one backward pass of the summed loss, and SGD;
* dot: ``kd_plugins.DOTOptimWrapper``.

The pair is of the size of the papers' smaller ones on CIFAR-100: residual
networks of 0.18 and 0.52 million parameters, batch 64 of 32 x 32 pictures; or
``--width 64`` for 2.8 and 8.2 million. ``--device cuda`` times a GPU and adds
the peak of its memory. ``--groups`` gives every parameter a group of its own,
as ``paramwise_cfg`` does.
"""

from __future__ import annotations

import argparse
import copy
import statistics
from collections.abc import Callable

import torch
from kd_pair import CLASSES, algorithm
from mmengine.logging import MMLogger
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope

from kd_plugins.experiments.timing import now

SGD = dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=5e-4)
WARM_UP = 5


def wrapped_step(model: torch.nn.Module, data: dict, steps: int, **cfg: object) -> Callable:
    """Return a step as the Runner does it."""
    wrapper = build_optim_wrapper(model, dict(optimizer=dict(SGD), **cfg))
    wrapper.initialize_count_status(model, 0, steps)
    return lambda: model.train_step(data, wrapper)


def floor_step(model: torch.nn.Module, data: dict) -> Callable:
    """Return a step that only computes both gradients."""
    params = list(model.parameters())

    def forget() -> None:
        for p in params:
            p.grad = None

    def step() -> None:
        losses = model(**model.data_preprocessor(data, True), mode='loss')
        model.parse_losses(losses)
        losses['distill.loss_kd'].backward(retain_graph=True)
        forget()
        losses['student.loss'].backward()
        forget()

    return step


def main() -> None:
    """Print the medians and their ratios."""
    parser = argparse.ArgumentParser(description=(__doc__ or '').splitlines()[0])
    parser.add_argument('--steps', type=int, default=40, help='timed steps of each kind')
    parser.add_argument('--batch-size', type=int, default=64)
    parser.add_argument('--width', type=int, default=16, help="the networks' first channels")
    parser.add_argument('--device', default='cpu')
    parser.add_argument('--threads', type=int, default=1, help="torch's threads")
    parser.add_argument('--groups', action='store_true', help='one parameter group a parameter')
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    MMLogger.get_current_instance().setLevel('WARNING')
    init_default_scope('mmpretrain')
    from mmpretrain.structures import DataSample

    samples = [DataSample().set_gt_label(i % CLASSES) for i in range(args.batch_size)]
    data = dict(inputs=torch.randn(args.batch_size, 3, 32, 32), data_samples=samples)
    groups = dict(paramwise_cfg=dict(norm_decay_mult=1.0)) if args.groups else {}
    count = args.steps + WARM_UP
    model = algorithm(4.0, args.device, args.width)
    steps = {
        'floor': floor_step(copy.deepcopy(model), data),
        'plain': wrapped_step(copy.deepcopy(model), data, count, **groups),
        'dot': wrapped_step(
            model, data, count, type='kd_plugins.DOTOptimWrapper', delta=0.075, **groups
        ),
    }
    times: dict[str, list[float]] = {name: [] for name in steps}
    peaks = {}
    for i in range(count):
        names = list(steps)
        for name in names[i % 3 :] + names[: i % 3]:
            if args.device != 'cpu':
                torch.cuda.reset_peak_memory_stats()
                held = torch.cuda.memory_allocated()
            start = now()
            steps[name]()
            seconds = now() - start
            if i >= WARM_UP:
                times[name].append(seconds)
            if args.device != 'cpu':
                peaks[name] = (torch.cuda.max_memory_allocated() - held) / 2**20
    for name, values in times.items():
        line = f'{name:6}{1e3 * statistics.median(values):9.2f} ms'
        for other in ('plain', 'floor'):
            # Step by step, since neighbours in time share the machine's load.
            ratios = [a / b for a, b in zip(values, times[other], strict=True)]
            line += f'   {statistics.median(ratios):.4f} of {other}'
        if peaks:
            line += f'   peak {peaks[name]:.1f} MiB above what was held'
        print(line)


if __name__ == '__main__':
    main()
