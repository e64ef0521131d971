"""Twenty steps of DOT on this rank's half of every batch.

Runs on two ranks; rank 0 writes what the test compares, for four wrappings.
"""

import sys
from pathlib import Path

import torch
import torch.distributed as dist

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from helpers.scaler import cpu_scaler
from helpers.two_losses import data, network, weights
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import build_optim_wrapper

STEPS = 20
KINDS = {
    'plain': dict(),
    'unused': dict(find_unused_parameters=True),
    'accumulated': dict(accumulative_counts=2),
    'clipped': dict(clip_grad=dict(max_norm=0.3)),
    'reentrant': dict(reentrant=True),
}


def wrapper(model, **settings):
    cfg = dict(type='kd_plugins.DOTOptimWrapper', delta=0.075, **settings)
    cfg['optimizer'] = dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=0.01)
    built = build_optim_wrapper(model, cfg)
    built.initialize_count_status(model, 0, STEPS)
    return built


def part(step, rank, size):
    """This rank's share of the batch; a rank may have no rare label."""
    return {key: value.chunk(size)[rank] for key, value in data(step).items()}


def skipping(rank, size):
    """The last rank has an infinite distillation loss in step 5."""
    model = network()
    ddp = MMDistributedDataParallel(model, broadcast_buffers=False, device_ids=None)
    dot = wrapper(ddp)
    dot.loss_scaler = cpu_scaler(256.0)
    for step in range(STEPS):
        if step == 5 and rank == size - 1:
            hook = model.distill_head.register_forward_hook(lambda m, a, output: output * torch.inf)
        ddp.train_step(part(step, rank, size), dot)
        if step == 5:
            assert dot.skipped_steps == 1 and dot.loss_scaler.get_scale() == 128.0
            if rank == size - 1:
                hook.remove()
    assert dot.skipped_steps == 1
    return weights(model)


if __name__ == '__main__':
    torch.set_num_threads(1)
    dist.init_process_group('gloo')
    rank, size = dist.get_rank(), dist.get_world_size()
    reached = torch.tensor([bool((part(s, rank, size)['data_samples'] == 0).any())
                            for s in range(STEPS)])  # fmt: skip
    result = {}
    for kind, settings in KINDS.items():
        settings = dict(settings)
        model = network(reentrant=settings.pop('reentrant', None))
        unused = settings.pop('find_unused_parameters', False)
        ddp = MMDistributedDataParallel(
            model, broadcast_buffers=False, find_unused_parameters=unused, device_ids=None
        )
        dot = wrapper(ddp, **settings)
        for step in range(STEPS):
            ddp.train_step(part(step, rank, size), dot)
        result[kind] = weights(model)
    result['infinite'] = skipping(rank, size)
    everyone = [None] * size
    dist.all_gather_object(everyone, dict(weights=result, reached=reached))
    if rank == 0:
        torch.save(everyone, sys.argv[1])
    # Without it gloo on torch 2.1 hangs now and then where one rank leaves first.
    dist.barrier()
    dist.destroy_process_group()
