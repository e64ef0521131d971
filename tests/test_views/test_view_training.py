"""Trainings on repeatable views end in the same weights, however the data were loaded."""

import time
from types import SimpleNamespace

import pytest
import torch
from helpers.networks import resnet
from helpers.tiny_pictures import patches, recursive_mix
from helpers.view_data import Photos  # noqa: F401  (registers the pictures)
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from kd_plugins.hooks import CTCHook

PIPELINE = [
    dict(type='RandomResizedCrop', scale=32),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='PackInputs'),
]


PREPROCESSOR = dict(
    type='ClsDataPreprocessor', mean=[127.0] * 3, std=[64.0] * 3, num_classes=5
)  # fmt: skip
MIX = dict(augments=[dict(type='Mixup', alpha=0.8), dict(type='CutMix', alpha=1.0)], num_classes=5)


@HOOKS.register_module(force=True)
class Stops(Hook):
    """As a machine that is taken away."""

    def __init__(self, epoch):
        self.epoch = epoch

    def before_train_epoch(self, runner):
        if runner.epoch == self.epoch:
            raise KeyboardInterrupt


def train(folder, workers=0, hooks=(), mix=None, model=None, **changes):
    """Distil a vision transformer three epochs; return its weights."""
    dataset = dict(type='Photos', size=8, pipeline=PIPELINE)
    cfg = dict(
        default_scope='mmpretrain',
        model=model or patches(data_preprocessor=PREPROCESSOR),
        work_dir=str(folder),
        experiment_name=f'views_{time.time_ns()}',
        train_dataloader=dict(
            batch_size=4, num_workers=workers, persistent_workers=workers > 0,
            dataset=dict(type='kd_plugins.RepeatableViews', views=2, dataset=dataset, mix=mix),
            sampler=dict(type='DefaultSampler', shuffle=True),
        ),
        train_cfg=dict(by_epoch=True, max_epochs=3),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.05)),
        default_hooks=dict(checkpoint=dict(type='kd_plugins.SafeCheckpointHook', interval=1)),
        custom_hooks=[dict(type='kd_plugins.SeedByProgressHook'), *hooks],
        randomness=dict(seed=0),
        log_level='ERROR',
        **changes,
    )  # fmt: skip
    runner = Runner.from_cfg(cfg)
    try:
        model = runner.train()
    except KeyboardInterrupt:
        return None
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize('mixed', [False, True])
def test_workers_and_a_resume_do_not_matter(tmp_path, mixed):
    mix = MIX if mixed else None
    wanted = train(tmp_path / 'a', mix=mix)
    other = train(tmp_path / 'b', workers=2, mix=mix)
    stopped = train(tmp_path / 'c', workers=1, hooks=[dict(type='Stops', epoch=2)], mix=mix)
    resumed = train(tmp_path / 'c', workers=2, mix=mix, resume=True)
    assert stopped is None
    for name, value in wanted.items():
        assert torch.equal(other[name], value) and torch.equal(resumed[name], value), name


def again():
    """Config of a student that mixes the pictures of a batch."""
    return dict(
        resnet(),
        train_cfg=dict(augments=dict(type='Mixup', alpha=1.0)),
        data_preprocessor=PREPROCESSOR,
    )


@pytest.mark.parametrize(
    'model, what',
    [
        (again, r'data_preprocessor\.batch_augments \(train_cfg\.augments\)'),
        (lambda: recursive_mix(data_preprocessor=PREPROCESSOR), 'RecursiveMix'),
    ],
)
def test_nothing_is_mixed_twice(tmp_path, model, what):
    with pytest.raises(ValueError, match=f'dataset.mix mixes pictures, and {what}') as error:
        train(tmp_path, mix=MIX, model=model())
    assert len(str(error.value).splitlines()) == 1
    train(tmp_path, mix=None, model=model())


def test_ctc_remembers_no_mixtures():
    dataset = SimpleNamespace(mix=object(), get_gt_labels=list)
    runner = SimpleNamespace(
        model=SimpleNamespace(data_preprocessor=None), max_epochs=3, param_schedulers=[],
        train_dataloader=SimpleNamespace(dataset=dataset),
    )  # fmt: skip
    with pytest.raises(ValueError, match='dataset.mix mixes pictures, and CTC remembers'):
        CTCHook(stage_two_epoch=1).before_train(runner)
