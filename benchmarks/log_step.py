"""Time of a training step that DistillationLogHook looks at over one that it does not.

    python benchmarks/log_step.py

Steps of KD with and without the hook alternate in one process on the same
model and data. The hook looks at the iterations that are logged, every
hundredth by default, so its share of a training is a hundredth of what is
printed here. ``--device cuda`` times a GPU.
"""

from __future__ import annotations

import argparse
import statistics
from types import SimpleNamespace

import torch
from kd_pair import CLASSES, algorithm
from mmengine.hooks import LoggerHook
from mmengine.logging import MessageHub
from mmengine.optim import OptimWrapper
from mmengine.registry import init_default_scope

from kd_plugins.experiments.timing import now
from kd_plugins.hooks import DistillationLogHook


def main() -> None:
    """Print the medians and their ratio."""
    parser = argparse.ArgumentParser(description=(__doc__ or '').splitlines()[0])
    parser.add_argument('--steps', type=int, default=40, help='timed steps of each kind')
    parser.add_argument('--batch-size', type=int, default=64)
    parser.add_argument('--device', default='cpu')
    args = parser.parse_args()
    torch.set_num_threads(1)
    init_default_scope('mmpretrain')
    from mmpretrain.structures import DataSample

    hub = MessageHub.get_current_instance()
    model = algorithm(4.0, args.device)
    optimizer = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9))
    samples = [DataSample().set_gt_label(i % CLASSES) for i in range(args.batch_size)]
    data = dict(inputs=torch.randn(args.batch_size, 3, 32, 32), data_samples=samples)
    hook = DistillationLogHook()
    runner = SimpleNamespace(
        model=model, message_hub=hub, hooks=[LoggerHook(interval=1)], train_dataloader=range(10)
    )
    times: dict[bool, list[float]] = {False: [], True: []}
    warm_up = 5
    for step in range(args.steps + warm_up):
        for watched, values in times.items():
            start = now()
            if watched:
                hook.before_train_iter(runner, 0)
            model.train_step(data, optimizer)
            if watched:
                hook.after_train_iter(runner, 0)
            if step >= warm_up:
                values.append(now() - start)
    # Step by step, since neighbours in time share the machine's load.
    ratio = statistics.median(a / b for a, b in zip(times[True], times[False], strict=True))
    print(
        f'{1e3 * statistics.median(times[False]):.2f} ms a step; a step that is looked at takes '
        f'{ratio:.4f} of that, which is {1 + (ratio - 1) / 100:.5f} with every hundredth logged'
    )


if __name__ == '__main__':
    main()
