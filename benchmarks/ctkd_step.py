"""Time of a training step with CTKD over the time without it.

    python benchmarks/ctkd_step.py

Steps of KD with a fixed, a global and an instance-wise temperature alternate in
one process on the same data, so that whatever else the machine does falls on
all alike. The pair is of the size of the papers' smaller ones on CIFAR-100:
residual networks of 0.18 and 0.52 million parameters, batch 64 of 32 x 32
pictures. ``--device cuda`` times a GPU.
"""

from __future__ import annotations

import argparse
import statistics

import torch
from kd_pair import CLASSES, algorithm
from mmengine.optim import OptimWrapper
from mmengine.registry import init_default_scope

from kd_plugins.experiments.timing import now
from kd_plugins.structures import Progress

TEMPERATURES = {
    'fixed': 4.0,
    'global': dict(type='kd_plugins.GlobalTemperature'),
    'instance-wise': dict(type='kd_plugins.InstanceTemperature', num_classes=CLASSES),
}


def trained(tau: float | dict, device: str) -> tuple[torch.nn.Module, OptimWrapper]:
    """Build KD at this temperature, and its optimizer."""
    model = algorithm(tau, device)
    sgd = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    return model, OptimWrapper(sgd)


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

    models = {name: trained(tau, args.device) for name, tau in TEMPERATURES.items()}
    for model, _ in models.values():
        model.set_progress(Progress(iter=0, max_iters=1000, epoch=9, max_epochs=10))
    samples = [DataSample().set_gt_label(i % CLASSES) for i in range(args.batch_size)]
    data = dict(inputs=torch.randn(args.batch_size, 3, 32, 32), data_samples=samples)
    times: dict[str, list[float]] = {name: [] for name in models}
    warm_up = 5
    for step in range(args.steps + warm_up):
        for name, (model, optimizer) in models.items():
            start = now()
            model.train_step(data, optimizer)
            seconds = now() - start
            if step >= warm_up:
                times[name].append(seconds)
    base = statistics.median(times['fixed'])
    for name, values in times.items():
        median = statistics.median(values)
        # Step by step, since neighbours in time share the machine's load.
        ratios = [a / b for a, b in zip(values, times['fixed'], strict=True)]
        print(
            f'{name:14} {1e3 * median:8.2f} ms   {median / base:.4f} of fixed '
            f'(median of paired ratios {statistics.median(ratios):.4f})'
        )


if __name__ == '__main__':
    main()
