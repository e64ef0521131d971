"""Short trainings of the tiny classifiers on made-up vectors."""

import copy
import json

import torch
from mmengine.registry import DATASETS
from mmengine.runner import Runner
from torch.utils.data import Dataset

from helpers import algorithm_cfg, distiller

GLOBAL = dict(type='kd_plugins.GlobalTemperature')


@DATASETS.register_module(force=True)
class FortyVectors(Dataset):
    """40 vectors with labels, the same in every run."""

    metainfo = dict(classes='abcd')

    def __init__(self):
        generator = torch.Generator().manual_seed(1)
        self.inputs = torch.randn(40, 6, generator=generator)
        self.labels = torch.randint(4, (40,), generator=generator)

    def __len__(self):
        return 40

    def __getitem__(self, index):
        return dict(inputs=self.inputs[index], data_samples=self.labels[index])


def terms(**losses):
    """A distiller with these losses on both classifiers."""
    mapping = distiller()['loss_forward_mappings']['loss_kd']
    return distiller(
        distill_losses={name: dict(cfg) for name, cfg in losses.items()},
        loss_forward_mappings={name: copy.deepcopy(mapping) for name in losses},
    )


def kd(tau):
    return dict(type='kd_plugins.KDLoss', tau=dict(tau) if isinstance(tau, dict) else tau)


def runner_of(
    path, hook, max_epochs=4, losses=None, by_epoch=True, optim_wrapper=None, interval=2, **changes
):
    """A Runner of 5 iterations an epoch, logging every second by default."""
    train_cfg = dict(by_epoch=True, max_epochs=max_epochs)
    if not by_epoch:
        train_cfg = dict(by_epoch=False, max_iters=5 * max_epochs)
    hooks = dict(logger=dict(type='LoggerHook', interval=interval))
    if hook is not None:
        hooks['temperature'] = dict(type='kd_plugins.CurriculumTemperatureHook', **hook)
    optimizer = dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=5e-4)
    return Runner(
        algorithm_cfg(distiller=terms(**(losses or dict(loss_kd=kd(GLOBAL))))),
        work_dir=str(path),
        train_dataloader=dict(
            batch_size=8,
            dataset=dict(type='FortyVectors'),
            sampler=dict(type='DefaultSampler', shuffle=False),
            collate_fn=dict(type='default_collate'),
        ),
        optim_wrapper=optim_wrapper or dict(optimizer=optimizer),
        train_cfg=train_cfg,
        default_hooks=hooks,
        custom_hooks=[dict(type='kd_plugins.SeedByProgressHook')],
        visualizer=dict(type='Visualizer', vis_backends=[dict(type='LocalVisBackend')]),
        log_processor=dict(by_epoch=by_epoch),
        randomness=dict(seed=0),
        experiment_name=f'{path.name}_{path.parent.name}',
        **changes,
    )


def logged(path):
    files = sorted(path.glob('*/vis_data/scalars.json'))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]
