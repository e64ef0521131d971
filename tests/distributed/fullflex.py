"""Steps of FullFlex on this rank's half of every batch, in float64 and without batch statistics.

Runs on two ranks; rank 0 writes what every rank ended with.
"""

import copy
import sys
from pathlib import Path

import torch
import torch.distributed as dist

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from helpers.two_views import batch, two_views
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import OptimWrapper
from mmengine.registry import MODELS

PICTURES, STEPS = 7, 5


def network():
    """The same on every rank and in the test."""
    torch.manual_seed(0)
    model = MODELS.build(two_views('fullflex', cutoff=0.4, num_unlabelled=PICTURES))
    model.init_weights()
    # So that pictures have several labels.
    model.head.fc.weight.data *= 30
    # In training its batch statistics are fixed.
    return model.double().train()


def half(rank, t):
    """A rank's two labelled and three unlabelled pictures of step t, preprocessed."""
    numbers = [(6 * t + 3 * rank + i) % PICTURES for i in range(3)]
    data = batch([(t + rank) % 5, (2 * t + 3 * rank) % 5], numbers, offset=0.1 * t)
    return network_input(data)


def network_input(data):
    """What the preprocessor makes of a batch, without its rounding to float32."""
    inputs, samples = data['inputs'], copy.deepcopy(data['data_samples'])
    strong = torch.stack([sample.pop('strong_view') for sample in samples[2:]])
    unlabelled = dict(inputs=inputs[2:], data_samples=samples[2:], strong=strong)
    return dict(inputs=inputs[:2], data_samples=samples[:2], unlabelled=unlabelled)


def train(model, rank):
    """Train on a rank's halves; return the weights, and k of every step."""
    inner, ks = getattr(model, 'module', model), []
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9))
    inner.distiller.distill_losses.loss_eml.register_forward_pre_hook(
        lambda module, args, kwargs: ks.append(int(kwargs['pseudo'].k)), with_kwargs=True
    )
    for t in range(STEPS):
        with wrapper.optim_context(model):
            losses = model(**half(rank, t), mode='loss')
            total, _ = inner.parse_losses(losses)
        wrapper.update_params(total)
    return {name: p.detach().clone() for name, p in inner.state_dict().items()}, ks


if __name__ == '__main__':
    dist.init_process_group('gloo')
    rank, size = dist.get_rank(), dist.get_world_size()
    result = train(MMDistributedDataParallel(network(), device_ids=None), rank)
    everyone = [None] * size
    dist.all_gather_object(everyone, result)
    if rank == 0:
        torch.save(everyone, sys.argv[1])
    # Without it gloo on torch 2.1 hangs now and then where one rank leaves first.
    dist.barrier()
    dist.destroy_process_group()
