"""Two epochs, and some passes without end, of repeatable views on this rank.

Runs on two ranks; every rank writes what it saw: index, view, content.
"""

import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from helpers.view_data import content, disturb
from mmengine.registry import init_default_scope
from mmengine.runner import Runner

VIEWS = 3
MIX = dict(augments=[dict(type='Mixup', alpha=0.8), dict(type='CutMix', alpha=1.0)])


def dataset_cfg():
    """The same on every rank and in the test."""
    init_default_scope('mmpretrain')
    pipeline = [
        dict(type='RandomResizedCrop', scale=16),
        dict(type='RandomFlip', prob=0.5, direction='horizontal'),
        dict(type='ColorJitter', brightness=0.4, contrast=0.4),
        dict(type='PackInputs'),
    ]
    return dict(
        type='kd_plugins.RepeatableViews', views=VIEWS, mix=MIX,
        dataset=dict(type='Photos', size=10, pipeline=pipeline),
    )  # fmt: skip


def saw(batches):
    """What there was in batches, sample by sample."""
    return [
        (said.sample_index, said.view, content(dict(inputs=picture, data_samples=said)))
        for batch in batches
        for picture, said in zip(batch['inputs'], batch['data_samples'], strict=True)
    ]


def draw(seed, workers):
    """What this rank sees in each of some epochs, and in some batches without end."""
    disturb(seed)

    def loader(kind):
        cfg = dict(
            dataset=dataset_cfg(), batch_size=2, num_workers=workers,
            persistent_workers=workers > 0, sampler=dict(type=kind, shuffle=True),
        )  # fmt: skip
        return Runner.build_dataloader(cfg, seed=4)

    made, epochs = loader('DefaultSampler'), []
    for epoch in range(4):
        made.sampler.set_epoch(epoch)
        epochs.append(saw(made))
    endless = iter(loader('InfiniteSampler'))
    return epochs, saw(next(endless) for _ in range(10))


if __name__ == '__main__':
    dist.init_process_group('gloo')
    rank = dist.get_rank()
    # Each rank has other surroundings, and another number of workers.
    torch.save(draw(seed=11 + rank, workers=rank), f'{sys.argv[1]}.{rank}')
    # gloo on torch 2.1 hangs now and then where it is taken down after workers were started.
    os._exit(0)
