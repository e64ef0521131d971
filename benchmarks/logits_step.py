"""Time of a training step with a term on logits or pooled features over its floor.

    python benchmarks/logits_step.py

Steps of these kinds alternate in one process on the same pictures, in changing order, so that
whatever else the machine does falls on all alike:

* floor: the student's step alone, and the teacher's forward pass;
* one for each term: ``kd_plugins.SingleTeacherDistill``.

All with SGD. A term adds less than two such steps differ by chance: so each is timed by itself as
well, forward and backward on outputs of the same shapes, and printed as a share of the floor.
The pair is of the size of the papers' smaller ones on CIFAR-100: residual networks of 0.18 and
0.52 million parameters, batch 64 of 32 x 32 pictures. ``--device cuda`` times a GPU.
"""

from __future__ import annotations

import argparse
import inspect
import statistics
from collections.abc import Callable

import torch
from alternating import alternate, print_ratios
from kd_pair import CLASSES, algorithm
from mmengine.optim import OptimWrapper
from mmengine.registry import MODELS, init_default_scope

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


def term_alone(loss: dict, batch_size: int, device: str) -> Callable[[], None]:
    """Return a term's forward and backward passes, on random outputs of both networks."""
    term = MODELS.build(dict(loss)).to(device)
    shape = batch_size, loss.get('channels_S', CLASSES)
    preds_S = torch.randn(shape, device=device, requires_grad=True)
    preds_T = torch.randn(shape, device=device)
    named = dict(gt_labels=torch.arange(batch_size, device=device) % CLASSES)
    takes = inspect.signature(term.forward).parameters
    more = {name: value for name, value in named.items() if name in takes}
    return lambda: term(preds_S, preds_T, **more).backward()


def main() -> None:
    """Print the medians, their ratios, and the shares of the terms."""
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
    times = alternate(steps, args.steps)
    print_ratios(times, 'floor')
    floor = statistics.median(times['floor'])
    terms = {name: term_alone(loss, args.batch_size, args.device) for name, loss in TERMS.items()}
    for name, seconds in alternate(terms, 10 * args.steps).items():
        own = statistics.median(seconds)
        print(f'{name} by itself{1e3 * own:9.3f} ms   {own / floor:.4f} of floor')


if __name__ == '__main__':
    main()
