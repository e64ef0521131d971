"""A training through both stages of CTC, on the upstream Runner."""

import copy
import math

import pytest
import torch
from helpers.numbered import ctc_config, ctc_model
from helpers.tiny_training import train
from mmengine.dataset import DefaultSampler
from mmengine.hooks import Hook
from mmengine.registry import DATA_SAMPLERS, HOOKS, MODELS
from mmengine.runner import Runner
from mmpretrain.models import MultiLabelClsHead
from torch.utils.data import BatchSampler

from kd_plugins.hooks import CTCHook
from kd_plugins.teachers import SnapshotTeacher


@HOOKS.register_module(force=True)
class Stop(Hook):
    """Ends the training as a kill would, before an epoch's checkpoint or after it."""

    def __init__(self, epoch, iteration=None):
        self.epoch, self.iteration = epoch, iteration

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if (runner.epoch, batch_idx) == (self.epoch, self.iteration):
            raise KeyboardInterrupt

    def before_train_epoch(self, runner):
        if self.iteration is None and runner.epoch == self.epoch:
            raise KeyboardInterrupt


def same(a, b):
    return a.keys() == b.keys() and all(
        torch.equal(a[key], b[key]) or (a[key].isnan() & b[key].isnan()).all() for key in a
    )


def student_of(weights):
    return {key: value for key, value in weights.items() if not key.startswith('distiller.')}


@pytest.mark.parametrize('at', [(1, 2), (2, None), (2, 1), (4, None)])
def test_a_resume_in_either_stage_ends_in_the_same_weights(tmp_path, at):
    expected = train(ctc_config(tmp_path / 'whole'))
    cfg = ctc_config(tmp_path / 'killed')
    cfg.custom_hooks.append(dict(type='Stop', epoch=at[0], iteration=at[1], priority='LOW'))
    with pytest.raises(KeyboardInterrupt):
        train(cfg)
    got = train(ctc_config(tmp_path / 'killed', resume=True))
    assert same(got, expected)
    assert any('snapshot.body' in key for key in got) and any('memory_2' in key for key in got)


def test_the_students_keys_are_upstreams(tmp_path):
    weights = train(ctc_config(tmp_path))
    alone = MODELS.build(ctc_model()['architecture'])
    assert student_of(weights).keys() == alone.state_dict().keys()
    model = MODELS.build(ctc_model())
    assert not any('memory' in n or 'snapshot' in n for n, _ in model.named_parameters())
    assert not any('memory' in n or 'snapshot' in n for n, _ in model.named_buffers())


def test_without_weights_the_student_trains_bit_for_bit_as_alone(tmp_path):
    """With dropout, whose draws the second stage would change, and the same rates."""
    with_ctc = train(ctc_config(tmp_path / 'a', loss=dict(alpha=0.0, beta=0.0)))
    cfg = ctc_config(tmp_path / 'b')
    cfg.model = dict(ctc_model()['architecture'])
    cfg.default_hooks.ctc = dict(type='OnlyRates', stage_two_epoch=2)
    assert same(student_of(with_ctc), train(cfg))


@HOOKS.register_module(force=True)
class OnlyRates(CTCHook):
    def before_train(self, runner):
        pass


def test_rates_and_decay_are_the_published_ones(tmp_path):
    seen = []

    @HOOKS.register_module(force=True)
    class Rates(Hook):
        def before_train_iter(self, runner, batch_idx, data_batch=None):
            if batch_idx == 0:
                (group,) = runner.optim_wrapper.param_groups
                seen.append((group['lr'], group['weight_decay']))

    cfg = ctc_config(tmp_path)
    cfg.custom_hooks.append(dict(type='Rates'))
    train(cfg)
    expected = [(0.05 * (1 + math.cos(math.pi * e / 3)) / 2, 1e-3) for e in (1, 2)]
    expected += [(0.005 * (1 + math.cos(math.pi * e / 4)) / 2, 5e-4) for e in (1, 2, 3)]
    assert [rate for pair in seen for rate in pair] == pytest.approx(
        [rate for pair in expected for rate in pair], rel=1e-12
    )


def test_the_bank_is_the_student_at_the_end_of_stage_one_and_fills_both_memories(tmp_path):
    cfg = ctc_config(tmp_path, epochs=3, **{'default_hooks.checkpoint.max_keep_ckpts': 5})
    weights = []

    @HOOKS.register_module(force=True)
    class Look(Hook):
        priority = 'LOW'

        def before_train_iter(self, runner, batch_idx, data_batch=None):
            if (runner.epoch, batch_idx) == (2, 0):
                weights.append({k: v.clone() for k, v in runner.model.state_dict().items()})

    cfg.custom_hooks.append(dict(type='Look'))
    runner = Runner.from_cfg(cfg)
    runner.train()
    end = torch.load(tmp_path / 'epoch_2.pth', weights_only=False)['state_dict']
    (now,), model = weights, runner.model
    for key, value in student_of(end).items():
        assert torch.equal(now[f'distiller.snapshot.{key}'], value)
        assert torch.equal(model.distiller.snapshot.kept()[key], value)
    assert bool(now['distiller.snapshot.taken'])
    # Without augmentations, the rows are those of the vectors themselves.
    term = 'distiller.distill_losses.loss_ctc.'
    network = model.teacher.network
    with torch.no_grad():
        features = network.body(runner.train_dataloader.dataset.inputs)
        for memory, side in (('memory_1', 'S'), ('memory_2', 'T')):
            linear = torch.nn.Linear(8, 4)
            linear.load_state_dict({k: now[f'{term}embed_{side}.{k}'] for k in ('weight', 'bias')})
            expected = torch.nn.functional.normalize(linear(features), dim=1)
            torch.testing.assert_close(now[f'{term}state.{memory}'], expected)
    assert not network.training and not any(p.requires_grad for p in network.parameters())


@pytest.mark.parametrize('loader', [
    {'batch_size': 5, 'drop_last': True}, {'sampler.type': 'HalfSampler'},
    {'batch_size': 5, 'batch_sampler': dict(type='WholeBatches')},
])  # fmt: skip
def test_the_pass_before_stage_two_sees_samples_that_an_epoch_leaves_out(tmp_path, loader):
    """The last batch may be dropped, and repeated augmentation sees a third of the samples."""

    @DATA_SAMPLERS.register_module(force=True)
    class HalfSampler(DefaultSampler):
        def __iter__(self):
            return iter([*super().__iter__()][:6])

    @DATA_SAMPLERS.register_module(force=True)
    class WholeBatches(BatchSampler):
        def __init__(self, sampler, batch_size):
            super().__init__(sampler, batch_size, drop_last=True)

    cfg = ctc_config(tmp_path, **{f'train_dataloader.{k}': v for k, v in loader.items()})
    lengths = []

    @HOOKS.register_module(force=True)
    class Lengths(Hook):
        priority = 'LOW'

        def before_train_epoch(self, runner):
            state = runner.model.distiller.distill_losses.loss_ctc.state
            lengths.append(state.tensors['memory_2'].norm(dim=1))
            # To which processes with batches of different sizes fill theirs up.
            assert runner.model.distiller.distill_losses.loss_ctc.batch_size in (4, 5)

    cfg.custom_hooks.append(dict(type='Lengths'))
    train(cfg)
    # A row that was written has a length of 1; as drawn it has another.
    assert ((lengths[1] - 1).abs() > 1e-5).all() and ((lengths[2] - 1).abs() < 1e-5).all()


def test_the_maps_do_not_learn_in_stage_one_and_do_in_stage_two(tmp_path):
    options = {'default_hooks.checkpoint.max_keep_ckpts': 9}
    train(ctc_config(tmp_path, **options))
    read = []
    for epoch in (1, 2, 3, 4):
        saved = torch.load(tmp_path / f'epoch_{epoch}.pth', weights_only=False)['state_dict']
        term = 'distiller.distill_losses.loss_ctc.'
        read.append((saved[term + 'embed_S.weight'], int(saved[term + 'state.stage'])))
    (first, second, third, fourth), stages = zip(*read, strict=True)
    # In stage one they only decay, and begin anew.
    torch.testing.assert_close(first / first.norm(), second / second.norm())
    assert (fourth - third).norm() > 1e-4
    assert stages == (1, 1, 2, 2)


def test_an_average_shares_the_memories_and_does_not_save_them(tmp_path):
    cfg = ctc_config(tmp_path)
    cfg.custom_hooks.append(dict(type='EMAHook', momentum=0.5))
    runner = Runner.from_cfg(cfg)
    averaged = runner.train()
    assert same(student_of(averaged.state_dict()), student_of(train(ctc_config(tmp_path / 'b'))))
    hook = next(hook for hook in runner.hooks if type(hook).__name__ == 'EMAHook')
    copies = hook.ema_model.module
    state = runner.model.distiller.distill_losses.loss_ctc.state
    assert copies.distiller.distill_losses.loss_ctc.state.tensors is state.tensors
    assert not any('memory' in key or 'snapshot' in key for key in copies.state_dict())
    saved = torch.load(tmp_path / 'epoch_5.pth', weights_only=False)
    assert not any('memory' in key for key in saved['ema_state_dict'])
    assert any('memory' in key for key in saved['state_dict'])
    copies.double()
    assert state.tensors['memory_1'].dtype == torch.float32
    # And goes on from such a checkpoint.
    cfg = ctc_config(tmp_path / 'c', epochs=6)
    cfg.custom_hooks.append(dict(type='EMAHook', momentum=0.5))
    whole = train(cfg)
    cfg = ctc_config(tmp_path / 'd', epochs=6)
    cfg.custom_hooks += [dict(type='EMAHook', momentum=0.5), dict(type='Stop', epoch=4)]
    with pytest.raises(KeyboardInterrupt):
        train(cfg)
    cfg = ctc_config(tmp_path / 'd', epochs=6, resume=True)
    cfg.custom_hooks.append(dict(type='EMAHook', momentum=0.5))
    assert same(train(cfg), whole)


def test_there_is_nobody_to_ask_before_the_snapshot(tmp_path):
    model = MODELS.build(ctc_model())
    assert isinstance(model.teacher, SnapshotTeacher) and not model.teacher
    assert model.teacher.look(torch.zeros(2, 6)) is None
    assert copy.deepcopy(model).teacher is model.teacher


@pytest.mark.parametrize(
    ('changes', 'says'),
    [
        ({'default_hooks.ctc.stage_two_epoch': 5}, r'stage_two_epoch=5 is wrong: give fewer than'),
        ({'param_scheduler': dict(type='CosineAnnealingLR', T_max=5)}, 'param_scheduler'),
        ({'train_dataloader.dataset': dict(
            _delete_=True, type='RepeatDataset', times=2, dataset=dict(type='NumberedVectors'))},
         'is a RepeatDataset, which does not say which sample'),
        ({'train_dataloader.dataset': dict(
            _delete_=True, type='ConcatDataset', datasets=[dict(type='NumberedVectors')])},
         'is a ConcatDataset, which does not say which sample'),
        ({'train_dataloader.dataset.size': 13}, 'samples=12 is wrong: the training set has 13'),
    ],
)  # fmt: skip
def test_trainings_that_would_remember_the_wrong_samples_are_refused(tmp_path, changes, says):
    cfg = ctc_config(tmp_path)
    for key, value in changes.items():
        if isinstance(value, dict) and value.pop('_delete_', None):
            cfg.train_dataloader[key.rsplit('.', 1)[1]] = value
        elif key == 'param_scheduler':
            cfg.param_scheduler = value
        else:
            cfg.merge_from_dict({key: value})
    with pytest.raises(ValueError, match=says):
        train(cfg)


def test_a_hook_without_the_loss_or_the_snapshot_is_refused(tmp_path):
    cfg = ctc_config(tmp_path)
    cfg.model = dict(ctc_model()['architecture'])
    with pytest.raises(ValueError, match=r"needs a kd_plugins\.CTCLoss.*teacher='snapshot'"):
        train(cfg)
    with pytest.raises(ValueError, match=r"teacher_ckpt='a\.pth' is of a teacher"):
        MODELS.build(dict(ctc_model(), teacher_ckpt='a.pth'))
    with pytest.raises(ValueError, match=r"model\.teacher='student' is wrong.*'snapshot'"):
        MODELS.build(dict(ctc_model(), teacher='student'))


def test_a_student_whose_pictures_have_several_classes_is_refused(tmp_path):
    runner = Runner.from_cfg(ctc_config(tmp_path))
    runner.model.architecture.head = MultiLabelClsHead(
        loss=dict(type='mmpretrain.CrossEntropyLoss')
    )
    with pytest.raises(ValueError, match=r'student \(MultiLabelClsHead\) may have several'):
        runner.train()


def test_another_training_does_not_begin_in_stage_two(tmp_path):
    train(ctc_config(tmp_path, epochs=4))
    cfg = ctc_config(tmp_path / 'b', load_from=str(tmp_path / 'epoch_4.pth'))
    with pytest.raises(ValueError, match=r'stage 2 at epoch 0.*give load_from what tools/export_'):
        train(cfg)


def test_another_number_of_epochs_after_a_resume_is_refused(tmp_path):
    train(ctc_config(tmp_path, epochs=4))
    cfg = ctc_config(tmp_path, epochs=8, stage_two_epoch=6, resume=True)
    with pytest.raises(ValueError, match='is in stage 2 at epoch 4'):
        train(cfg)


def test_what_measures_teachers_says_that_the_snapshot_is_none_yet(tmp_path):
    from kd_plugins.inspect.check import check
    from kd_plugins.teachers import teacher_of

    report = check(ctc_config(tmp_path))
    assert report.ok
    assert [f.what for f in report.findings if 'snapshot of the student' in f.what]
    with pytest.raises(ValueError, match='with nobody to ask as its teacher'):
        teacher_of(MODELS.build(ctc_model()))
    # Once it is taken, it is the student.
    runner = Runner.from_cfg(ctc_config(tmp_path / 'a'))
    runner.train()
    teacher = teacher_of(runner.model).teacher
    assert teacher.weights == 'the student' and teacher.predict(torch.zeros(2, 6)).shape == (2, 4)
