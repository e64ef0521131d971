"""Gradients of a distillation step on this rank's half of a batch, after DDP.

Started by torchrun; rank 0 writes what its parameters would be updated with.
"""

import sys
from pathlib import Path

import torch
import torch.distributed as dist

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from helpers import batch, build, distiller
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import OptimWrapper

#: KD and DKD at once, in float64, without batch statistics.
TERMS = dict(loss_kd=dict(type='kd_plugins.KDLoss', tau=2.0),
             loss_dkd=dict(type='kd_plugins.DKDLoss', tau=3.0, beta=2.0))  # fmt: skip


def algorithm():
    """The same network on every rank and in the test."""
    torch.manual_seed(0)
    cfg = distiller()
    mapping = cfg['loss_forward_mappings']['loss_kd']
    cfg.update(distill_losses=TERMS, loss_forward_mappings=dict(loss_kd=mapping, loss_dkd=mapping))
    return build(distiller=cfg).double()


def step(model, inputs, labels):
    """One SGD step of rate 1; return the student's weights."""
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=1.0))
    model.train_step(dict(inputs=inputs.double(), data_samples=labels), wrapper)
    student = getattr(model, 'module', model).student
    return {name: p.detach().clone() for name, p in student.named_parameters()}


if __name__ == '__main__':
    dist.init_process_group('gloo')
    rank, size = dist.get_rank(), dist.get_world_size()
    inputs, labels = batch(size=8)
    model = MMDistributedDataParallel(algorithm(), device_ids=None)
    weights = step(model, inputs.chunk(size)[rank], labels.chunk(size)[rank])
    everyone = [None] * size
    dist.all_gather_object(everyone, weights)
    for other in everyone:
        assert all(torch.equal(other[name], weights[name]) for name in weights)
    if rank == 0:
        torch.save(weights, sys.argv[1])
    # Without it gloo on torch 2.1 hangs now and then where one rank leaves first.
    dist.barrier()
    dist.destroy_process_group()
