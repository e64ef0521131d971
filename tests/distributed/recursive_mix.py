"""Steps of RecursiveMix on this rank's half of every batch, the ranks' seeds being different.

Runs on two ranks; rank 0 writes the weights, and every rank's boxes. In float64 and
without batch statistics.
"""

import sys
from pathlib import Path
from types import SimpleNamespace

import torch
import torch.distributed as dist

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from helpers.tiny_pictures import Pictures, recursive_mix
from mmengine.logging import MessageHub
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import OptimWrapper
from mmengine.registry import MODELS

from kd_plugins.hooks import every_runner

#: Pictures of each step, and its epoch. (Of a smaller batch, a rank pastes its own first rows.)
STEPS = [(8, 0), (8, 0), (8, 0), (8, 1), (8, 1)]


def network():
    """The same on every rank and in the test."""
    torch.manual_seed(0)
    model = MODELS.build(
        recursive_mix(
            dict(loss_weight=2.0),
            dict(alpha=0.9),
            data_preprocessor=dict(type='BaseDataPreprocessor'),
        )
    )
    model.init_weights()
    # In training its batch statistics are fixed.
    return model.double().train()


def train(model, part, seed):
    """Train with a share of every batch; return the weights and the boxes."""
    inner = getattr(model, 'module', model)
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))
    hub = MessageHub(f'rank with seed {seed}')
    runner = SimpleNamespace(seed=seed, message_hub=hub, model=model)
    every_runner.share_seed(runner)
    data, boxes = Pictures(16), []
    for i, (size, epoch) in enumerate(STEPS):
        hub.update_info_dict(dict(iter=i, max_iters=len(STEPS), epoch=epoch, max_epochs=2))
        every_runner.before_train_iter(runner)
        chosen = [data[(5 * i + j) % 16] for j in range(size)]
        inputs = torch.stack([sample['inputs'] for sample in chosen]).double()
        labels = [sample['data_samples'] for sample in chosen]
        share = part(size)
        model.train_step(dict(inputs=inputs[share], data_samples=labels[share]), wrapper)
        record = inner.batch_parts[0].record
        boxes.append((record.box, record.preds is None))
    return {name: p.detach().clone() for name, p in inner.state_dict().items()}, boxes


if __name__ == '__main__':
    dist.init_process_group('gloo')
    rank, size = dist.get_rank(), dist.get_world_size()
    model = MMDistributedDataParallel(network(), device_ids=None)
    result = train(model, lambda n: slice(rank * n // size, (rank + 1) * n // size), seed=11 + rank)
    everyone = [None] * size
    dist.all_gather_object(everyone, result)
    if rank == 0:
        torch.save(everyone, sys.argv[1])
    # Without it gloo on torch 2.1 hangs now and then where one rank leaves first.
    dist.barrier()
    dist.destroy_process_group()
