"""Steps of a distilled detector on this rank's half of every batch.

Runs on two ranks with a kind of head; rank 0 writes what the test compares.
"""

import sys
from pathlib import Path
from unittest import mock

import torch
import torch.distributed as dist

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from helpers.detection import build, detector, images
from helpers.tiny_pictures import crossed
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import OptimWrapper
from mmengine.structures import InstanceData

from kd_plugins.recorders import head_features

STEPS = 3


def model(kind):
    """The same on every rank and in the test, without batch statistics."""
    cfg = detector('GFL' if kind == 'CrossKD' else kind)
    cfg['backbone']['norm_eval'] = True
    if kind == 'CrossKD':
        network = build(cfg, detector(width=16), whole=crossed()['distiller']).train()
    else:
        network = build(cfg, detector(kind, width=16)).train()
    if kind in ('GFL', 'CrossKD'):
        # Its own box losses are divided by the sum of scores, or by 1 if that is more:
        # two sums below 1 would not be divided as their sum is.
        network.student.bbox_head.gfl_cls.bias.data.zero_()
    return network


def data(step, empty, share=slice(None)):
    """A batch of four pictures; the second rank has the boxes of the first, and them moved.

    So the same levels hold positive anchors on both ranks, of different numbers.
    """
    batch = images(step, sizes=[(64, 64)] * 4)
    samples = batch['data_samples']
    for i in (0, 1):
        boxes = samples[i].gt_instances
        moved = InstanceData(bboxes=boxes.bboxes + 8, labels=boxes.labels)
        samples[i + 2].gt_instances = InstanceData.cat([boxes, moved])
    for i in empty:
        samples[i].gt_instances = samples[i].gt_instances[:0]
    return {key: value[share] for key, value in batch.items()}


def train(network, empty, share=slice(None)):
    """A few steps of SGD; return the student's weights."""
    wrapper = OptimWrapper(torch.optim.SGD(network.parameters(), lr=0.001, momentum=0.9))
    # CrossKD's moments are those of each process's pictures, as published.
    with mock.patch.object(head_features, 'align', lambda s, t: s):
        for step in range(STEPS):
            network.train_step(data(step, empty, share), wrapper)
    student = getattr(network, 'module', network).student
    return {name: p.detach().clone() for name, p in student.named_parameters()}


#: Pictures without boxes: one of each rank, and both of the second rank.
CASES = dict(one_each=(1, 3), all_of_one=(2, 3))

if __name__ == '__main__':
    torch.set_num_threads(1)
    dist.init_process_group('gloo')
    rank = dist.get_rank()
    result = {}
    for kind in sys.argv[2:]:
        for case, empty in CASES.items():
            network = MMDistributedDataParallel(model(kind), device_ids=None)
            result[kind, case] = train(network, empty, slice(2 * rank, 2 * rank + 2))
    everyone = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, result)
    if rank == 0:
        torch.save(everyone, sys.argv[1])
    # Without it gloo on torch 2.1 hangs now and then where one rank leaves first.
    dist.barrier()
    dist.destroy_process_group()
