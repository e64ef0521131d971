"""Whole trainings on RoIs: DKD with a curriculum and DOT, mmrazor's PKD on the FPN beside it."""

import pytest
import torch
from helpers.tiny_pictures import Boxes, rois
from helpers.tiny_training import config, train
from helpers.two_stage import detector
from mmengine.hooks import Hook
from mmengine.registry import HOOKS, MODELS
from mmengine.runner import Runner, save_checkpoint

from kd_plugins.inspect.check import check

THETA = 'distiller.distill_losses.loss_dkd.loss.tau.theta'


class Stopped(Exception):
    """What stands for a kill."""


@HOOKS.register_module(force=True)
class StopAfterTheFirst(Hook):
    """Ends the process's training once an epoch's checkpoint is written."""

    priority = 'LOWEST'

    def after_train_epoch(self, runner):
        if runner.epoch == 0:
            raise Stopped


def of(work_dir, **options):
    # Low, where the gradient of its raw value is not lost to rounding.
    tau = dict(type='kd_plugins.GlobalTemperature', start=0.5, end=1.0)
    model = rois(tau=tau, fpn=True)
    cfg = config(work_dir, 2, model=model)
    cfg.train_dataloader.dataset.type = 'Boxes'
    cfg.train_dataloader.collate_fn.type = 'pseudo_collate'
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    cfg.default_hooks.checkpoint.update(save_best=None, max_keep_ckpts=2)
    cfg.default_hooks.curriculum = dict(type='kd_plugins.CurriculumTemperatureHook', length=2)
    cfg.default_hooks.guard = dict(type='kd_plugins.DistillationGuardHook', interval=1)
    cfg.default_hooks.log = dict(type='kd_plugins.DistillationLogHook')
    cfg.default_hooks.logger = dict(type='LoggerHook', interval=1)
    cfg.optim_wrapper = dict(
        type='kd_plugins.DOTOptimWrapper',
        delta=0.05,
        optimizer=dict(type='SGD', lr=0.01, momentum=0.9),
    )
    cfg.merge_from_dict(options)
    return cfg


@pytest.mark.parametrize('options', [{}, {'optim_wrapper.accumulative_counts': 3}])
def test_an_interrupted_run_resumes_to_the_same_weights(tmp_path, options):
    whole = train(of(tmp_path / 'whole', **options))
    broken = of(tmp_path / 'broken', **options)
    broken.custom_hooks.append(dict(type='StopAfterTheFirst'))
    with pytest.raises(Stopped):
        train(broken)
    resumed = train(of(tmp_path / 'broken', resume=True, **options))
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())
    # The rest of the checkpoint is the student's.
    saved = torch.load(tmp_path / 'broken' / 'epoch_1.pth', weights_only=False)['state_dict']
    own = [name for name in saved if name.startswith('distiller.')]
    assert own == [THETA] and not any('teacher' in name for name in saved)
    assert whole[THETA] not in (1, saved[THETA])


def test_every_term_and_what_it_says_reaches_the_log(tmp_path):
    cfg = of(tmp_path)
    runner = Runner.from_cfg(cfg)
    runner.train()
    said = runner.message_hub.log_scalars
    for name in ('distill.loss_dkd', *(f'distill.loss_pkd_fpn{i}' for i in range(4)), 'agreement',
                 'tckd', 'nckd', 'task_loss', 'distill_loss'):  # fmt: skip
        values, _ = said[f'train/{name}'].data
        assert len(values) > 0 and all(0 <= value < 1e6 for value in values), name
    assert max(said['train/distill.loss_dkd'].data[0]) > 0


def test_the_check_says_what_the_terms_read(tmp_path):
    report = check(of(tmp_path), iterations=1, debug=True)
    assert [finding for finding in report.findings if finding.level == 'error'] == []
    term = next(term for term in report.terms if term.name == 'loss_dkd')
    said = {read.argument: (read.source, read.what) for read in term.reads}
    for argument, side in (('preds_S', 'student'), ('preds_T', 'teacher')):
        source, value = said[argument]
        assert source == f'{side}.roi_head' and '1 of: RoIOutputs: rois (' in value
        assert 'cls_logits (' in value and ('labels (' in value) == (side == 'student')
    assert term.gradient > 0 and term.weight == 1


NAMES = ['cat', 'dog', 'cow']


@pytest.mark.parametrize(
    'meta', [dict(dataset_meta=dict(classes=('dog', 'cat', 'cow'))), dict(CLASSES=NAMES[::-1])]
)
def test_a_teacher_that_knows_the_classes_in_another_order_is_refused(tmp_path, monkeypatch, meta):
    monkeypatch.setattr(Boxes, 'metainfo', dict(classes=tuple(NAMES)), raising=False)

    def runner(meta, **recorder):
        teacher = MODELS.build(detector())
        save_checkpoint(dict(state_dict=teacher.state_dict(), meta=meta), str(tmp_path / 'T.pth'))
        cfg = of(tmp_path, **{'model.teacher_ckpt': str(tmp_path / 'T.pth')})
        cfg.model.distiller.teacher_recorders.rois.update(recorder)
        cfg.experiment_name += str(len(recorder) + len(meta))
        return Runner.from_cfg(cfg)

    says = (
        r"T\.pth' was trained on .* another order: class 0 is '(dog|cow)' of the teacher and 'cat'"
    )
    with pytest.raises(ValueError, match=says):
        runner(meta).train()
    runner(dict(CLASSES=NAMES)).train()
    runner(meta, class_map=[1, 0, 2]).train()
