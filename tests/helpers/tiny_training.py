"""A distillation of vectors that trains an epoch in milliseconds, on the upstream Runner."""

import functools
import time

import mmengine.config.config
import mmengine.runner.runner
import torch
import yapf.yapflib.yapf_api
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.registry import DATASETS, METRICS
from mmengine.runner import Runner
from torch.utils.data import Dataset

from helpers import algorithm_cfg

# Asking the compilers for their versions is most of what such a training takes.
collect_env = functools.lru_cache(mmengine.runner.runner.collect_env)
mmengine.runner.runner.collect_env = lambda: dict(collect_env())
# And most of the rest, with a detector, laying out the text of its config four times.
for module in (mmengine.config.config, yapf.yapflib.yapf_api):
    module.FormatCode = lambda text, **style: (text, False)


@DATASETS.register_module(force=True)
class Vectors(Dataset):
    """Vectors whose class is the sign pattern of two of them."""

    def __init__(self, size=12):
        generator = torch.Generator().manual_seed(1)
        self.inputs = torch.randn(size, 6, generator=generator)

    def __len__(self):
        return len(self.inputs)

    def __getitem__(self, index):
        inputs = self.inputs[index]
        return dict(inputs=inputs, data_samples=int(inputs[0] > 0) + 2 * int(inputs[1] > 0))


@METRICS.register_module(force=True)
class Level(BaseMetric):
    """Something that grows in every validation, so that each is the best so far."""

    def process(self, data_batch, data_samples):
        self.results.append(0)

    def compute_metrics(self, results):
        Level.value = getattr(Level, 'value', 0) + 1
        return dict(level=float(Level.value))


def config(work_dir, epochs=2, model=None, **options):
    """Return the config of a training with a checkpoint and a validation every epoch."""

    def loader(shuffle):
        return dict(
            batch_size=4,
            dataset=dict(type='Vectors'),
            sampler=dict(type='DefaultSampler', shuffle=shuffle),
            collate_fn=dict(type='default_collate'),
        )

    cfg = Config(
        dict(
            model=model or algorithm_cfg(data_preprocessor=None),
            work_dir=str(work_dir),
            experiment_name=f'tiny_{time.time_ns()}',
            train_dataloader=loader(True),
            val_dataloader=loader(False),
            val_evaluator=dict(type='Level'),
            val_cfg=dict(),
            train_cfg=dict(by_epoch=True, max_epochs=epochs, val_interval=1),
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1, momentum=0.9)),
            param_scheduler=dict(type='CosineAnnealingLR', T_max=10, by_epoch=True),
            default_hooks=dict(
                checkpoint=dict(
                    type='kd_plugins.SafeCheckpointHook',
                    max_keep_ckpts=1,
                    save_best='level',
                    rule='greater',
                    interval=1,
                ),
            ),
            custom_hooks=[dict(type='kd_plugins.SeedByProgressHook')],
            randomness=dict(seed=0),
            log_level='ERROR',
        )
    )
    cfg.merge_from_dict(options)
    return cfg


def train(cfg):
    """Train; return the weights at the end."""
    cfg.experiment_name = f'tiny_{time.time_ns()}'
    model = Runner.from_cfg(cfg).train()
    return {name: value.clone() for name, value in model.state_dict().items()}
