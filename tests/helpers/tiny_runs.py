"""Runs of the tiny classifier for the tests of repeated trainings."""

import os
import signal
import time

import torch
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.registry import HOOKS, METRICS

from helpers import STUDENT, tiny_training
from kd_plugins.experiments.results import Run


@METRICS.register_module(force=True)
class Right(BaseMetric):
    """Top-1 in percent, of logits."""

    default_prefix = 'accuracy'

    def process(self, data_batch, data_samples):
        logits = torch.stack(list(data_samples))
        self.results.extend((logits.argmax(dim=1) == data_batch['data_samples']).tolist())

    def compute_metrics(self, results):
        return dict(top1=100 * sum(results) / len(results))


class BadNewsError(Exception):
    """Does not survive the way between processes: its arguments are not its message."""

    def __init__(self, number, of):
        super().__init__(f'number {number} of {of}')


@HOOKS.register_module(force=True)
class Misbehave(Hook):
    """Does what it is told in the first epoch of a seed."""

    def __init__(self, seeds):
        self.seeds = seeds

    def after_train_epoch(self, runner):
        what = self.seeds.get(str(runner.seed))
        if what == 'timeout':
            raise TimeoutError('the storage did not\nanswer')
        if what == 'unpicklable':
            raise BadNewsError(1, 2)
        if what == 'killed':
            os.kill(os.getpid(), signal.SIGKILL)
        if what == 'exit':
            raise SystemExit('not today')
        if what == 'sleep':
            with open(os.path.join(runner.work_dir, 'pid'), 'w') as file:
                file.write(str(os.getpid()))
            time.sleep(600)


def tiny_run(folder, epochs=4, iterations=None, seed=3, name='tiny', **changes):
    """Write the config of a training of milliseconds; return its run.

    ``iterations`` trains without epochs: so many, with a checkpoint and a
    validation after every second one.
    """
    cfg = tiny_training.config('unused', epochs, model=dict(STUDENT, type='TinyClassifier'))
    cfg.custom_imports = dict(imports=['helpers.tiny_runs'], allow_failed_imports=False)
    cfg.val_evaluator = dict(type='Right')
    cfg.default_hooks.checkpoint = dict(type='kd_plugins.SafeCheckpointHook', interval=1)
    cfg.optim_wrapper.optimizer.lr = 0.5
    if iterations:
        cfg.train_cfg = dict(by_epoch=False, max_iters=iterations, val_interval=2)
        cfg.param_scheduler = None
        cfg.default_hooks.checkpoint.update(by_epoch=False, interval=2)
        cfg.train_dataloader.sampler = dict(type='InfiniteSampler', shuffle=True)
    cfg.pop('experiment_name')
    for key, value in changes.items():
        cfg[key] = value
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f'{name}.py'
    cfg.dump(path)
    return Run(name, str(path), seed, str(folder / f'work_{name}' / str(seed)))
