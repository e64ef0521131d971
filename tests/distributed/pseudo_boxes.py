"""Steps of a detector on labelled and unlabelled pictures, on this rank's half of every batch.

Started by torchrun; rank 0 writes what the test compares.
"""

import sys
from pathlib import Path
from unittest import mock

import torch
import torch.distributed as dist

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from helpers.detection import build, detector, images
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import OptimWrapper
from mmengine.structures import InstanceData

from kd_plugins.structures import HeadTargets

STEPS = 2
#: Of the four unlabelled pictures those in which the teacher is sure of nothing.
CASES = dict(one_each=(1, 3), all_of_one=(2, 3), everywhere=(0, 1, 2, 3))


def model():
    """The same on every rank and in the test, without batch statistics."""
    cfg = detector()
    cfg['backbone']['norm_eval'] = True
    cfg['data_preprocessor']['type'] = 'kd_plugins.DetDataPreprocessor'
    teacher = detector(width=16)
    changes = dict(pseudo_boxes=dict(score=0.4, loss_weight=0.5))
    network = build(cfg, teacher, changes=changes).train()
    network.student.bbox_head.gfl_cls.bias.data.zero_()
    return network


def found(network, step, empty, share):
    """Let the teacher find the boxes of made-up pictures, and be sure of some."""
    boxes = images(step + 50, sizes=[(64, 64)] * 4)['data_samples']
    objects = []
    for i in range(4):
        known = boxes[i % 2].gt_instances  # the same levels hold positives on both ranks
        score = 0.1 if i in empty else 0.5 + 0.1 * i
        scores = torch.full((len(known.bboxes),), score)
        objects.append(InstanceData(bboxes=known.bboxes, labels=known.labels, scores=scores))
    find = network.teacher.find

    def replaced(*args):
        find(*args)
        return objects[share]

    return mock.patch.object(network.teacher, 'find', replaced)


def data(step, share):
    labelled, others = (images(step + more, sizes=[(64, 64)] * 4) for more in (0, 10))
    for i in (0, 1):
        labelled['data_samples'][i + 2].gt_instances = labelled['data_samples'][i].gt_instances
    for sample in others['data_samples']:
        del sample.gt_instances
    return {key: [*labelled[key][share], *others[key][share]] for key in labelled}


def train(network, empty, share=slice(None)):
    """A few steps of SGD; return the student's weights."""
    wrapper = OptimWrapper(torch.optim.SGD(network.parameters(), lr=0.001, momentum=0.9))
    inner = getattr(network, 'module', network)
    # BCKD leaves levels without a positive out, which a process alone decides, as published.
    levels = mock.patch.object(HeadTargets, 'weights', property(lambda self: self.label_weights))
    for step in range(STEPS):
        with found(inner, step, empty, share), levels:
            network.train_step(data(step, share), wrapper)
    return {name: p.detach().clone() for name, p in inner.student.named_parameters()}


if __name__ == '__main__':
    torch.set_num_threads(1)
    dist.init_process_group('gloo')
    rank = dist.get_rank()
    result = {}
    for case, empty in CASES.items():
        network = MMDistributedDataParallel(model(), device_ids=None)
        result[case] = train(network, empty, slice(2 * rank, 2 * rank + 2))
    everyone = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, result)
    if rank == 0:
        torch.save(everyone, sys.argv[1])
    # Without it gloo on torch 2.1 hangs now and then where one rank leaves first.
    dist.barrier()
    dist.destroy_process_group()
