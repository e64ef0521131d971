"""Whole trainings on the upstream runner, on a part of the digits."""

import time
from pathlib import Path

import pytest
import torch
from helpers import ROOT
from helpers.short import fewer, shorten
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.hub import get_model
from mmengine.registry import HOOKS, MODELS, init_default_scope
from mmengine.runner import Runner, load_checkpoint

STUDENT = 'configs/vanilla/digits_student.py'
KD = 'configs/kd/kd_digits.py'
DKD = 'configs/dkd/dkd_digits.py'


class Stopped(Exception):
    """What stands for a kill."""


@HOOKS.register_module(force=True)
class StopAfterEpoch(Hook):
    """Ends the process's training once an epoch's checkpoint is written."""

    priority = 'LOWEST'

    def __init__(self, epoch):
        self.epoch = epoch

    def after_train_epoch(self, runner):
        if runner.epoch + 1 == self.epoch:
            raise Stopped


def load(path, work_dir, epochs=2, **options):
    cfg = Config.fromfile(ROOT / path)
    if 'teacher' in cfg.model:
        cfg.model.update(teacher_ckpt=None, allow_random_teacher=True)
    cfg.work_dir = str(work_dir)
    cfg.experiment_name = f'{work_dir.name}_{time.time_ns()}'
    fewer(cfg, 160)
    cfg.train_cfg.val_interval = 1
    cfg.default_hooks.checkpoint.update(interval=1, save_best='auto')
    cfg.log_level = 'WARNING'
    shorten(cfg, epochs).merge_from_dict(options)
    return cfg


def train(cfg):
    model = Runner.from_cfg(cfg).train()
    return {k: v.clone() for k, v in model.state_dict().items()}


def assert_same_bits(a, b):
    assert list(a) == list(b)
    different = [key for key in a if not torch.equal(a[key], b[key])]
    assert not different


def test_weight_zero_trains_bit_for_bit_like_the_student_alone(tmp_path):
    alone = train(load(STUDENT, tmp_path / 'alone'))
    zero = {
        'model.architecture.head.loss.loss_weight': 1.0,
        'model.distiller.distill_losses.loss_kd.loss_weight': 0.0,
    }
    assert_same_bits(alone, train(load(KD, tmp_path / 'zero', **zero)))
    tiny = dict(zero, **{'model.distiller.distill_losses.loss_kd.loss_weight': 1e-3})
    taught = train(load(KD, tmp_path / 'tiny', **tiny))
    assert any(not torch.equal(alone[key], taught[key]) for key in alone)


@pytest.mark.parametrize('workers', [0, 2])
def test_a_resumed_run_ends_in_the_same_weights(tmp_path, workers):
    options = {'train_dataloader.num_workers': workers}
    if workers:
        options['train_dataloader.worker_init_fn'] = dict(type='kd_plugins.seed_worker')
    whole = train(load(DKD, tmp_path / 'whole', 3, **options))
    broken = load(DKD, tmp_path / 'broken', 3, **options)
    broken.custom_hooks.append(dict(type='StopAfterEpoch', epoch=2))
    with pytest.raises(Stopped):
        train(broken)
    resumed = train(load(DKD, tmp_path / 'broken', 3, resume=True, **options))
    assert_same_bits(whole, resumed)
    # Without the hook that reseeds, the augmentation differs: the test can fail.
    careless = load(DKD, tmp_path / 'broken2', 3, **options)
    careless.custom_hooks = [dict(type='StopAfterEpoch', epoch=2)]
    with pytest.raises(Stopped):
        train(careless)
    again = load(DKD, tmp_path / 'broken2', 3, resume=True, **options)
    again.custom_hooks = []
    other = load(DKD, tmp_path / 'whole2', 3, **options)
    other.custom_hooks = []
    if not workers:
        assert not torch.equal(train(again)['head.fc.weight'], train(other)['head.fc.weight'])


def test_every_checkpoint_is_the_stock_students(tmp_path):
    cfg = load(KD, tmp_path, 3)
    cfg.custom_hooks.append(dict(type='EMAHook', momentum=0.1))
    last = train(cfg)
    init_default_scope('mmpretrain')
    names = sorted(path.name for path in tmp_path.glob('*.pth'))
    assert 'epoch_3.pth' in names and any(name.startswith('best_accuracy') for name in names)
    stock = MODELS.build(Config.fromfile(ROOT / STUDENT).model)
    for name in names:
        saved = torch.load(tmp_path / name, map_location='cpu', weights_only=False)
        stock.load_state_dict(saved['state_dict'], strict=True)
        ema = {k.removeprefix('module.'): v for k, v in saved['ema_state_dict'].items()}
        ema.pop('steps')
        stock.load_state_dict(ema, strict=True)
    load_checkpoint(stock, str(tmp_path / 'epoch_3.pth'), strict=True)
    # The file holds the averaged weights, which is what was validated, under state_dict.
    saved = torch.load(tmp_path / 'epoch_3.pth', map_location='cpu', weights_only=False)
    raw = {k.removeprefix('module.'): v for k, v in saved['ema_state_dict'].items()}
    assert torch.equal(raw['head.fc.weight'], last['head.fc.weight'])
    assert not torch.equal(saved['state_dict']['head.fc.weight'], last['head.fc.weight'])


def test_training_starts_from_a_students_checkpoint(tmp_path):
    start = train(load(STUDENT, tmp_path / 'start', 1))
    cfg = load(KD, tmp_path / 'go_on', 1, load_from=str(tmp_path / 'start' / 'epoch_1.pth'))
    cfg.optim_wrapper.optimizer.update(lr=0.0, weight_decay=0.0)
    assert torch.equal(train(cfg)['head.fc.weight'], start['head.fc.weight'])


def test_an_iteration_based_loop_trains_and_refuses_epochs(tmp_path):
    def iterations(path, name, **options):
        cfg = load(path, tmp_path / name, **options)
        cfg.train_cfg = dict(by_epoch=False, max_iters=4, val_interval=4)
        cfg.param_scheduler = dict(type='CosineAnnealingLR', T_max=4, by_epoch=False)
        cfg.default_hooks.checkpoint = dict(type='CheckpointHook', by_epoch=False, interval=4)
        return cfg

    with pytest.raises(ValueError, match=r'DKDLoss\.warmup=2 counts epochs'):
        train(iterations(DKD, 'epochs'))
    warmup = {
        'model.distiller.distill_losses.loss_kd.warmup': dict(
            length=3, by_epoch=False, _delete_=True
        )
    }
    assert train(iterations(DKD, 'iterations', **warmup))


@pytest.mark.parametrize('resume', [False, True])
def test_a_warm_up_longer_than_the_training_is_refused_before_the_first_step(tmp_path, resume):
    """Accepted, it would never reach the full loss."""
    if resume:
        train(load(DKD, tmp_path, 1))
    warmup = {'model.distiller.distill_losses.loss_kd.warmup': 5}
    runner = Runner.from_cfg(load(DKD, tmp_path, 4, resume=resume, **warmup))
    says = r'DKDLoss\.warmup=5 is longer than the training, which has 4 epochs.*at most 4'
    with pytest.raises(ValueError, match=says):
        runner.train()
    assert runner.iter == (5 if resume else 0)


@pytest.mark.parametrize('augment', ['Mixup', 'CutMix'])
def test_mixed_labels_reach_the_loss(tmp_path, augment):
    cfg = load(DKD, tmp_path, 2)
    student = cfg.model.architecture
    student.train_cfg = dict(augments=dict(type=augment, alpha=1.0))
    seen = []
    runner = Runner.from_cfg(cfg)
    loss = runner.model.distiller.distill_losses['loss_kd']
    loss.register_forward_hook(
        lambda module, args, kwargs, output: seen.append(kwargs['gt_labels'].clone()),
        with_kwargs=True,
    )
    runner.train()
    assert all(labels.shape[1] == 10 for labels in seen)
    assert any(((labels > 0.01) & (labels < 0.99)).any() for labels in seen)


STOCK = 'distill/mmcls/kd/kd_logits_resnet34_resnet18_8xb32_in1k.py'


def test_a_stock_mmrazor_config_runs_after_three_edits(tmp_path):
    import mmrazor
    from PIL import Image

    text = (Path(mmrazor.__file__).parent / '.mim/configs' / STOCK).read_text()
    text = text.replace('mmcls::', 'mmpretrain::')
    text = text.replace("type='SingleTeacherDistill'", "type='kd_plugins.SingleTeacherDistill'")
    text += "\ncustom_imports = dict(imports=['kd_plugins'])\n"
    (tmp_path / 'stock.py').write_text(text)
    cfg = Config.fromfile(tmp_path / 'stock.py')
    # What is not an edit of the method: a few pictures, and a teacher without a download.
    for label in ('a', 'b'):
        (tmp_path / 'data' / label).mkdir(parents=True)
        for i in range(2):
            colour = (40 * i, 200, 90) if label == 'a' else (250, 30 * i, 0)
            Image.new('RGB', (64, 64), colour).save(tmp_path / 'data' / label / f'{i}.jpg')
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        pipeline = loader.dataset.pipeline
        loader.dataset = dict(type='CustomDataset', data_prefix=str(tmp_path / 'data'))
        loader.dataset.pipeline = [dict(step) for step in pipeline]
        loader.update(batch_size=2, num_workers=0, persistent_workers=False)
    init_default_scope('mmpretrain')
    resnet34 = get_model('mmpretrain::resnet/resnet34_8xb32_in1k.py')
    torch.save(dict(state_dict=resnet34.state_dict()), tmp_path / 'resnet34.pth')
    cfg.model.teacher_ckpt = str(tmp_path / 'resnet34.pth')
    cfg.train_cfg.update(max_epochs=1)
    cfg.work_dir = str(tmp_path / 'work')
    cfg.log_level = 'WARNING'
    model = Runner.from_cfg(cfg).train()
    assert type(model).__module__ == 'kd_plugins.algorithms.single_teacher_distill'
    assert torch.equal(model.teacher.network.head.fc.weight, resnet34.head.fc.weight)
    saved = torch.load(tmp_path / 'work' / 'epoch_1.pth', weights_only=False)['state_dict']
    get_model('mmpretrain::resnet/resnet18_8xb32_in1k.py').load_state_dict(saved, strict=True)
