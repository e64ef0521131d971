"""Stock upstream configs, shrunken, trained as they are and inside of a distillation."""

import copy
import time

import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.hub import get_config
from mmengine.registry import DATASETS, HOOKS, TRANSFORMS, DefaultScope
from mmengine.runner import Runner

import helpers.tiny_training  # noqa: F401  (registers Level)
from helpers.tiny_pictures import Boxes, Pictures


@TRANSFORMS.register_module(force=True)
class Brighten:
    """Stands for an augmentation that a recipe switches to."""

    def __call__(self, sample):
        return dict(sample, inputs=sample['inputs'] * 0.5 + 3)


class Switchable:
    """What the hooks of upstream switch on a dataset."""

    brighten = False

    def __getitem__(self, index):
        sample = super().__getitem__(index)
        pipeline = getattr(self, 'pipeline', None)
        if self.brighten:
            pipeline = Brighten()
        return pipeline(sample) if pipeline else sample

    def update_skip_type_keys(self, keys):
        self.brighten = bool(keys)


@DATASETS.register_module(force=True)
class SwitchablePictures(Switchable, Pictures):
    pipeline = None


@DATASETS.register_module(force=True)
class SwitchableBoxes(Switchable, Boxes):
    pipeline = None


@HOOKS.register_module(force=True)
class Watch(Hook):
    """Keeps what the optimizer is about to use, and what validation sees."""

    priority = 'VERY_LOW'

    def __init__(self):
        self.groups, self.predictions, self.modes = [], [], []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        names = {id(p): name for name, p in runner.model.named_parameters()}
        self.groups.append(
            [
                {
                    key: [names[id(p)] for p in value] if key == 'params' else copy.copy(value)
                    for key, value in sorted(group.items())
                }
                for group in runner.optim_wrapper.optimizer.param_groups
            ]
        )
        self.modes.append([n for n, m in runner.model.named_modules() if n and not m.training])

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        for sample in outputs:
            found = sample.pred_score if 'pred_score' in sample else sample.pred_instances.scores
            self.predictions.append(found.clone())


def stock(path, options, folder, batch_size=4, epochs=3):
    """Return an upstream config on twelve made-up pictures, without what needs files."""
    package = path.split('::')[0]
    with DefaultScope.overwrite_default_scope(package):
        cfg = get_config(path)
    kind, collate = ('SwitchablePictures', 'default_collate')
    if package == 'mmdet':
        kind, collate = ('SwitchableBoxes', 'pseudo_collate')

    def loader(shuffle):
        return dict(
            batch_size=batch_size,
            dataset=dict(type=kind, size=8),
            sampler=dict(type='DefaultSampler', shuffle=shuffle),
            collate_fn=dict(type=collate),
        )

    for key in ('test_dataloader', 'test_evaluator', 'test_cfg', 'tta_model', 'tta_pipeline'):
        cfg.pop(key, None)
    cfg.train_dataloader, cfg.val_dataloader = loader(True), loader(False)
    cfg.val_evaluator, cfg.val_cfg = dict(type='Level'), dict()
    cfg.train_cfg = dict(by_epoch=True, max_epochs=epochs, val_interval=epochs)
    cfg.default_hooks = dict(checkpoint=None)
    cfg.work_dir = str(folder)
    cfg.randomness = dict(seed=0)
    cfg.log_level = 'ERROR'
    # There is no accelerator here.
    cfg.optim_wrapper.type = 'OptimWrapper'
    cfg.optim_wrapper.pop('loss_scale', None)
    for key, value in options.items():
        put(cfg, key, value)
    cfg.custom_hooks = [*cfg.get('custom_hooks', []), dict(type='Watch')]
    return cfg


def put(cfg, key, value):
    """Set ``model.backbone.depth`` or ``custom_hooks.0.momentum``, without merging dicts."""
    *path, last = key.split('.')
    for name in path:
        cfg = cfg[int(name)] if name.isdigit() else cfg.setdefault(name, {})
    cfg[int(last) if last.isdigit() else last] = value


def distil(cfg, source, loss_weight=0.0, **changes):
    """Return a config that trains the model of another one beside a teacher of the same kind.

    Args:
        cfg: A config that trains a model.
        source: The module whose outputs are compared.
        loss_weight: Of the distillation; at 0 the student must train as alone.
        **changes: Further arguments of the algorithm.
    """
    cfg = Config(copy.deepcopy(cfg._cfg_dict.to_dict()))
    read = dict(out=dict(type='ModuleOutputs', source=source))
    teacher = copy.deepcopy(cfg.model)
    cfg.model = dict(
        type='kd_plugins.SingleTeacherDistill',
        architecture=cfg.model,
        teacher=teacher,
        allow_random_teacher=True,
        distiller=dict(
            student_recorders=read,
            teacher_recorders=copy.deepcopy(read),
            distill_losses=dict(
                # Not normalised: heads that begin at 0 have no direction.
                loss_l2=dict(type='L2Loss', normalize=False, loss_weight=loss_weight)
            ),
            loss_forward_mappings=dict(
                loss_l2=dict(
                    s_feature=dict(recorder='out', from_student=True),
                    t_feature=dict(recorder='out', from_student=False),
                )
            ),
        ),
        **changes,
    )
    return cfg


def run(cfg):
    """Train; return the runner and what :class:`Watch` saw."""
    runner = built(cfg)
    runner.train()
    return runner, watch(runner)


def built(cfg):
    """Build a runner of its own name."""
    cfg = Config(copy.deepcopy(cfg._cfg_dict.to_dict()))
    cfg.experiment_name = f'upstream_{time.time_ns()}'
    return Runner.from_cfg(cfg)


def watch(runner):
    """The hook that saw the training."""
    return next(hook for hook in runner.hooks if type(hook) is Watch)


def average(runner):
    """The weights of every average that hooks of upstream keep."""
    return [hook.ema_model.state_dict() for hook in runner.hooks if hasattr(hook, 'ema_model')]


def assert_same(expected, got):
    """Both are bit for bit the same, in the same order."""
    if isinstance(expected, torch.Tensor):
        assert torch.equal(expected, got)
    elif isinstance(expected, dict):
        assert list(expected) == list(got)
        for key in expected:
            assert_same(expected[key], got[key])
    elif isinstance(expected, (list, tuple)):
        assert len(expected) == len(got)
        for one, other in zip(expected, got, strict=True):
            assert_same(one, other)
    else:
        assert expected == got
