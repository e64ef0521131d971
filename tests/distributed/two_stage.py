"""Steps of DKD on RoIs on this rank's half of every batch.

Runs on two ranks; rank 0 writes what the test compares.
"""

import sys
from pathlib import Path

import torch
import torch.distributed as dist

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from helpers.two_stage import build, detector, pictures
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import OptimWrapper

from kd_plugins.structures import Progress

STEPS = 3
#: Without proposals, only objects become RoIs: pictures without any have none.
NO_PROPOSALS = {'train_cfg.rpn_proposal.min_bbox_size': 1e5}
#: What changes the student, and the pictures without objects of four.
CASES = {'an empty picture': ({}, (3,)), 'no RoI on one rank': (NO_PROPOSALS, (2, 3))}


def model(case):
    """The same on every rank and in the test; DKD with a learned temperature."""
    tau = dict(type='kd_plugins.GlobalTemperature')
    return build(detector(changes=CASES[case][0]), 'Faster', loss=dict(tau=tau))


def begin(network, case, step, rank):
    """Prepare a step of a rank; return its half of the batch."""
    batch = pictures(step, sizes=[(96, 96)] * 4, empty=CASES[case][1])
    getattr(network, 'module', network).set_progress(Progress(step + 5, 20, step + 5, 20))
    # Samplers of RoIs draw.
    torch.manual_seed(10 * step + rank)
    return {key: value[2 * rank : 2 * rank + 2] for key, value in batch.items()}


def optimizer(network):
    return torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)


def weights(network):
    named = getattr(network, 'module', network).named_parameters()
    return {name: p.detach().clone() for name, p in named}


if __name__ == '__main__':
    torch.set_num_threads(1)
    dist.init_process_group('gloo')
    rank = dist.get_rank()
    result = {}
    for case in CASES:
        network = MMDistributedDataParallel(model(case), device_ids=None)
        wrapper = OptimWrapper(optimizer(network))
        losses = []
        for step in range(STEPS):
            log = network.train_step(begin(network, case, step, rank), wrapper)
            losses.append(log['distill.loss_dkd'].item())
        result[case] = weights(network), losses
    everyone = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, result)
    if rank == 0:
        torch.save(everyone, sys.argv[1])
    # Without it gloo on torch 2.1 hangs now and then where one rank leaves first.
    dist.barrier()
    dist.destroy_process_group()
