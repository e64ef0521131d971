"""Learned temperatures over 60 steps of DDP, on other data on every rank.

Runs on two ranks; rank 0 writes, for every rank, its temperatures' parameters
after each step and the gradients that its own data alone would have given.
"""

import copy
import sys
from pathlib import Path

import torch
import torch.distributed as dist

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from helpers import batch, build, distiller
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import OptimWrapper

from kd_plugins.structures import Progress

STEPS = 60
TERMS = dict(
    loss_all=dict(type='kd_plugins.KDLoss', tau=dict(type='kd_plugins.GlobalTemperature')),
    loss_each=dict(
        type='kd_plugins.DKDLoss',
        beta=2.0,
        tau=dict(type='kd_plugins.InstanceTemperature', num_classes=4, hidden=3),
    ),
)


def algorithm():
    torch.manual_seed(0)
    cfg = distiller()
    mapping = cfg['loss_forward_mappings']['loss_kd']
    cfg.update(
        distill_losses=copy.deepcopy(TERMS),
        loss_forward_mappings=dict(loss_all=mapping, loss_each=mapping),
    )
    return build(distiller=cfg)


def learned(model):
    """The temperatures' parameters in one vector, the global theta first."""
    return torch.cat([p.detach().flatten() for p in model.distiller.parameters()])


if __name__ == '__main__':
    torch.set_num_threads(1)
    dist.init_process_group('gloo')
    rank, size = dist.get_rank(), dist.get_world_size()
    algorithm_here = algorithm()
    # Other values on every rank, until DDP takes the first rank's.
    for parameter in algorithm_here.distiller.parameters():
        parameter.data += rank
    model = MMDistributedDataParallel(algorithm_here, device_ids=None)
    sgd = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    wrapper = OptimWrapper(sgd)
    path, alone = [learned(algorithm_here)], None
    for step in range(STEPS):
        algorithm_here.set_progress(Progress(step, STEPS, epoch=step // 6, max_epochs=10))
        inputs, labels = batch(seed=100 * step + rank, size=8)
        if alone is None:
            total, _ = algorithm_here.parse_losses(algorithm_here(inputs, labels, mode='loss'))
            gradients = torch.autograd.grad(total, list(algorithm_here.distiller.parameters()))
            alone = torch.cat([g.flatten() for g in gradients])
        model.train_step(dict(inputs=inputs, data_samples=labels), wrapper)
        path.append(learned(algorithm_here))
    everyone = [None] * size
    dist.all_gather_object(everyone, dict(path=torch.stack(path), alone=alone))
    if rank == 0:
        torch.save(everyone, sys.argv[1])
    # Without it gloo on torch 2.1 hangs now and then where one rank leaves first.
    dist.barrier()
    dist.destroy_process_group()
