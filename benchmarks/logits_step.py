"""Time of a training step with a term on logits or pooled features over its floor.

    python benchmarks/logits_step.py

Steps of these kinds alternate in one process on the same pictures, in changing order, so that
whatever else the machine does falls on all alike:

* floor: the student's step alone, and the teacher's forward pass;
* one for each term: ``kd_plugins.SingleTeacherDistill``.

All with SGD. The pair is of the size of the papers' smaller ones on CIFAR-100: residual networks of
0.18 and 0.52 million parameters, batch 64 of 32 x 32 pictures. ``--device cuda`` times a GPU.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from alternating import alternate, print_ratios
from kd_pair import CLASSES, algorithm
from mmengine.optim import OptimWrapper
from mmengine.registry import init_default_scope

LSKD = dict(type='kd_plugins.LSKDTemperature', tau=2.0)
TERMS = {
    'kd': dict(type='kd_plugins.KDLoss', tau=4.0),
    'dist': dict(type='kd_plugins.DISTLoss', tau=4.0),
    'wttm': dict(type='kd_plugins.WTTMLoss'),
    'lskd': dict(type='kd_plugins.KDLoss', tau=LSKD),
    # One of the five of a training, without its branch.
    'ofa': dict(type='kd_plugins.OFALoss', eps=1.5),
    # On the pooled features, with its projection.
    'vkd': dict(type='kd_plugins.VkDLoss', channels_S=64, channels_T=64),
}


def optimizer(model: torch.nn.Module) -> OptimWrapper:
    """Return SGD of what a model learns."""
    sgd = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, weight_decay=5e-4)
    return OptimWrapper(sgd)


def floor_step(model: torch.nn.Module, data: dict) -> Callable[[], None]:
    """Return a step of the student, with the teacher's forward pass beside it."""
    wrapper = optimizer(model)

    def step() -> None:
        inputs = model.data_preprocessor(data, True)
        with torch.no_grad():
            model.teacher.network(inputs['inputs'], mode='tensor')
        losses = model.student(**inputs, mode='loss')
        wrapper.update_params(model.student.parse_losses(losses)[0])

    return step


def term_step(model: torch.nn.Module, data: dict) -> Callable[[], None]:
    """Return a step as the Runner does it."""
    wrapper = optimizer(model)
    return lambda: model.train_step(data, wrapper)


def main() -> None:
    """Print the medians and their ratios."""
    parser = argparse.ArgumentParser(description=(__doc__ or '').splitlines()[0])
    parser.add_argument('--steps', type=int, default=40, help='timed steps of each kind')
    parser.add_argument('--batch-size', type=int, default=64)
    parser.add_argument('--device', default='cpu')
    parser.add_argument('--threads', type=int, default=1, help="torch's threads")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    init_default_scope('mmpretrain')
    from mmpretrain.structures import DataSample

    samples = [DataSample().set_gt_label(i % CLASSES) for i in range(args.batch_size)]
    data = dict(inputs=torch.randn(args.batch_size, 3, 32, 32), data_samples=samples)
    steps = {'floor': floor_step(algorithm(4.0, args.device), data)}
    for name, loss in TERMS.items():
        steps[name] = term_step(algorithm(4.0, args.device, loss=dict(loss)), data)
    print_ratios(alternate(steps, args.steps), 'floor')


if __name__ == '__main__':
    main()
