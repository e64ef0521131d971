"""Every config builds, and the smallest of every method trains."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import ROOT
from helpers.detection import images, untrained
from helpers.networks import install_timm
from helpers.short import fewer, shorten
from mmdet.structures.mask import BitmapMasks
from mmengine.config import Config
from mmengine.registry import HOOKS, MODELS, init_default_scope
from mmengine.runner import Runner
from mmpretrain.structures import DataSample

from kd_plugins.structures import Progress
from kd_plugins.temperatures import LearnedTemperature

CONFIGS = sorted(
    path.relative_to(ROOT).as_posix()
    for path in (ROOT / 'configs').rglob('*.py')
    if '_base_' not in path.parts
)
DIGITS = [path for path in CONFIGS if 'digits' in path]
DETECTORS = [path for path in CONFIGS if 'coco' in path or 'scenes' in path]
CLASSIFIERS = [path for path in CONFIGS if path not in DETECTORS]


def load(path):
    cfg = Config.fromfile(ROOT / path)
    if isinstance(cfg.model.get('teacher'), dict):
        cfg.model.update(teacher_ckpt=None, allow_random_teacher=True)
        # Nobody stores what a random teacher says; test_stores.py trains with stores.
        cfg.model.pop('teacher_cache', None)
    return cfg


def assert_loses_nothing(cfg):
    """Our checkpoints, guard, record and seeds are on, whatever the config inherits."""
    ours = ('SafeCheckpointHook', 'DistillationGuardHook', 'EnvironmentHook')
    types = {hook.type for hook in cfg.default_hooks.values()}
    assert types > {f'kd_plugins.{name}' for name in ours} and 'LoggerHook' in types
    assert 'kd_plugins.SeedByProgressHook' in {hook.type for hook in cfg.custom_hooks}
    assert cfg.randomness.seed is not None and 'kd_plugins' in cfg.custom_imports.imports


@pytest.mark.parametrize('path', CLASSIFIERS)
def test_builds_and_gives_finite_losses(path, monkeypatch):
    if '/cosine/' not in path:
        install_timm(monkeypatch)
    cfg = load(path)
    assert_loses_nothing(cfg)
    init_default_scope(cfg.get('default_scope'))
    if '/fullmatch/' in path:
        # Of an untrained network no label is sure.
        cfg.model.distiller.connectors.pseudo_labels.cutoff = 0.001
    preprocessor = cfg.get('data_preprocessor')
    model = MODELS.build(dict(cfg.model, data_preprocessor=preprocessor))
    # Swin's windows need their own size.
    size = 224 if 'swin' in path else 32 if 'cifar' in path else 64
    size, channels = (8, 1) if 'digits' in path else (size, 3)
    if 'teacher' in cfg.model:
        # As long as the config trains: no curriculum is longer.
        epochs = cfg.train_cfg.get('max_epochs', 1)
        progress = Progress(iter=0, max_iters=10 * epochs, epoch=0, max_epochs=epochs)
        model.set_progress(progress)
    samples = [DataSample().set_gt_label(i) for i in range(2)]
    if '/ctc/' in path:
        for i, sample in enumerate(samples):
            sample.set_metainfo(dict(sample_idx=i))
        # As the hook of its training does.
        term = model.distiller.distill_losses.loss_ctc
        term.set_classes([i % 10 for i in range(term.samples)], 0)
    if '/fullmatch/' in path:
        # Wide networks; any size will do.
        size = 8 if 'resnet50' not in path else size
        samples += [DataSample(metainfo=dict(sample_idx=i)) for i in range(2)]
        for sample in samples[2:]:
            view = torch.randint(0, 255, (channels, size, size))
            sample.set_field(view, 'strong_view')
    if '_crd_' in path:
        for i, sample in enumerate(samples):
            sample.set_field(torch.tensor(i), 'sample_idx')
            sample.set_field(torch.arange(i, i + 16385), 'contrast_sample_idxs')
    pictures = torch.randint(0, 255, (len(samples), channels, size, size))
    data = dict(inputs=pictures, data_samples=samples)
    if 'batch_parts' in cfg.model:
        # The first batch has none before it. In this iteration the box is not empty.
        model(**model.data_preprocessor(data, training=True), mode='loss')
        model.set_progress(dataclasses.replace(progress, iter=1))
    losses = model(**model.data_preprocessor(data, training=True), mode='loss')
    total, log = model.parse_losses(losses)
    assert torch.isfinite(total) and total.requires_grad
    if 'teacher' in cfg.model:
        assert log['distill_loss'] > 0
        assert log.get('task_loss', 0) > 0 or not model.calculate_student_loss


def learn_temperature(model, cfg):
    """What the curriculum's hook does before a training, whose first step this is."""
    hook = cfg.default_hooks.get('curriculum_temperature')
    if hook is None:
        return
    curriculum = HOOKS.build(hook).curriculum
    for module in model.modules():
        if isinstance(module, LearnedTemperature):
            module.curriculum = curriculum
    model.set_progress(Progress(iter=0, max_iters=cfg.train_cfg.max_iters, epoch=0, max_epochs=1))


@pytest.mark.parametrize('path', DETECTORS)
def test_detector_builds_and_gives_finite_losses(path):
    cfg = Config.fromfile(ROOT / path)
    assert_loses_nothing(cfg)
    # As above; test_scenes_training.py trains with a store.
    cfg.model.pop('teacher_cache', None)
    model = MODELS.build(untrained(cfg))
    learn_temperature(model, cfg)
    data = images()
    for sample in data['data_samples'] if 'mask' in path else ():
        sample.gt_instances.masks = BitmapMasks(np.ones((2, 64, 64), np.uint8), 64, 64)
    data = model.data_preprocessor(data, training=True)
    total, log = model.parse_losses(model(**data, mode='loss'))
    assert torch.isfinite(total) and total.requires_grad
    folder = path.split('/')[1]
    wanted = dict(bckd=['distill.loss_bckd_cls', 'distill.loss_bckd_loc'], ld=['loss_ld'])
    for name in wanted.get(folder, []):
        assert log[name] > 0
    if 'rcnn' in path and folder != 'vanilla':
        methods = Path(path).stem.rsplit('-rcnn')[0]
        assert any(name.startswith('distill.loss_dkd') for name in log) == ('dkd' in methods)
        assert ('distill.loss_reviewkd' in log) == ('review' in methods)


@pytest.mark.parametrize('path', DIGITS)
def test_smallest_config_trains(path, tmp_path):
    cfg = load(path)
    cfg.work_dir = str(tmp_path)
    fewer(cfg, 96)
    shorten(cfg, 2)
    cfg.experiment_name = f'{Path(path).stem}_{tmp_path.name}'
    runner = Runner.from_cfg(cfg)
    before = [p.detach().clone() for p in runner.model.parameters() if p.requires_grad]
    runner.train()
    after = [p.detach() for p in runner.model.parameters() if p.requires_grad]
    assert runner.iter == 2 * len(runner.train_dataloader) >= 6
    assert all(torch.isfinite(p).all() for p in after)
    assert sum(not torch.equal(a, b) for a, b in zip(before, after, strict=True)) > len(after) // 2


def test_names_are_unique_and_not_mmrazors():
    names = [Path(path).name for path in CONFIGS]
    assert len(names) == len(set(names))
    import mmrazor

    theirs = {p.name for p in (Path(mmrazor.__file__).parent / '.mim/configs').rglob('*.py')}
    assert theirs and not theirs & set(names)


@pytest.mark.parametrize('path', CONFIGS)
def test_a_leaf_is_short_and_says_how_to_run_it(path):
    lines = (ROOT / path).read_text().splitlines()
    commands = [line for line in lines[:4] if line.startswith('# ')]
    assert any(path in line for line in commands)
    assert len(lines) <= 45


def imagenet_loss(name):
    cfg = Config.fromfile(ROOT / 'configs' / name)
    return cfg, cfg.model.distiller.distill_losses.loss_kd, cfg.model.architecture.head.loss


def test_imagenet_pair_is_as_published():
    cfg, kd, ce = imagenet_loss('kd/kd_resnet34_resnet18_8xb64_in1k.py')
    assert (kd.type, kd.tau, kd.loss_weight) == ('kd_plugins.KDLoss', 1.0, 0.5)
    assert ce.loss_weight == 0.5
    assert cfg.optim_wrapper.optimizer.lr == 0.2 and cfg.train_dataloader.batch_size * 8 == 512
    cfg, dkd, ce = imagenet_loss('dkd/dkd_resnet34_resnet18_8xb64_in1k.py')
    assert dict(dkd) == dict(type='kd_plugins.DKDLoss', tau=1.0, alpha=1.0, beta=0.5, warmup=1)
    assert ce.loss_weight == 1.0


def test_dot_is_as_published():
    cfg, kd, ce = imagenet_loss('dot/dot_kd_resnet34_resnet18_8xb64_in1k.py')
    wrapper = cfg.optim_wrapper
    assert (wrapper.type, wrapper.delta) == ('kd_plugins.DOTOptimWrapper', 0.09)
    assert dict(wrapper.optimizer) == dict(type='SGD', lr=0.2, momentum=0.9, weight_decay=1e-4)
    assert (kd.tau, kd.loss_weight, ce.loss_weight) == (1.0, 0.5, 0.5)
    assert cfg.param_scheduler.milestones == [30, 60, 90] and cfg.train_cfg.max_epochs == 100
