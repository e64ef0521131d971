"""Checkpoints at even distances, for EEKD."""

import pytest
import torch
from faults.moments import Moments
from helpers import STUDENT, build
from helpers.tiny_training import config, train

from kd_plugins.hooks.even_checkpoint import EvenCheckpointHook, moments


class Killed(BaseException):
    """What stands for a kill."""


def die():
    raise Killed


def of(work_dir, epochs=5, number=3, **options):
    cfg = config(work_dir, epochs, model=dict(STUDENT))
    cfg.default_hooks.even = dict(type='kd_plugins.EvenCheckpointHook', number=number)
    cfg.merge_from_dict(options)
    return cfg


def files(work_dir):
    found = {}
    for path in (work_dir / 'even').glob('*.pth'):
        read = torch.load(path, weights_only=False)
        assert 'optimizer' not in read
        found[path.name] = read['state_dict']
    return found


def same(a, b):
    return a.keys() == b.keys() and all(
        torch.equal(a[name][key], b[name][key]) for name in a for key in a[name]
    )


@pytest.mark.parametrize('length', [1, 5, 7, 100, 240])
def test_the_moments_are_even_and_the_last_is_the_end(length):
    for number in range(1, min(length, 12) + 1):
        steps = moments(number, length)
        gaps = [b - a for a, b in zip([0, *steps], steps, strict=False)]
        assert len(gaps) == number and steps[-1] == length
        assert min(gaps) >= 1 and max(abs(gap - length / number) for gap in gaps) < 1.01
    assert moments(5, 100) == [20, 40, 60, 80, 100]


def test_weights_are_those_of_the_moment_and_other_checkpoints_are_left_alone(tmp_path):
    last = train(of(tmp_path, **{'default_hooks.checkpoint.max_keep_ckpts': 5}))
    found = files(tmp_path)
    assert set(found) == {'epoch_2.pth', 'epoch_3.pth', 'epoch_5.pth'}
    for name, weights in found.items():
        other = torch.load(tmp_path / name, weights_only=False)['state_dict']
        assert all(torch.equal(weights[key], other[key]) for key in other)
    assert all(torch.equal(found['epoch_5.pth'][key], last[key]) for key in last)
    # And they teach.
    model = build(
        teacher=dict(STUDENT),
        teacher_ckpt=[str(tmp_path / 'even' / f'epoch_{n}.pth') for n in (2, 3, 5)],
        allow_random_teacher=False,
        distiller=reading_all(),
    )
    assert len(model.teacher.members) == 3


def reading_all():
    from helpers import distiller

    every = dict(type='kd_plugins.EveryCheckpoint', source='fc')
    loss = dict(type='kd_plugins.EEKDLoss', mode='linear')
    return distiller(loss, teacher_recorders=dict(logits=every))


def test_a_kill_at_any_step_of_writing_leaves_the_files_of_an_undisturbed_run(tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        counted = Moments(0, die, patch.setattr)
        train(of(tmp_path / 'whole'))
    expected = files(tmp_path / 'whole')
    # Every ninth step around the second file, which is of the third epoch of five.
    for at in range(counted.count // 2 - 30, counted.count // 2 + 20, 9):
        work_dir = tmp_path / str(at)
        with pytest.MonkeyPatch.context() as patch:
            Moments(at, die, patch.setattr)
            with pytest.raises(Killed):
                train(of(work_dir))
        files(work_dir)  # each can be read
        train(of(work_dir, resume=True))
        assert same(files(work_dir), expected), at


def test_loops_without_epochs_count_iterations(tmp_path):
    cfg = of(tmp_path)
    cfg.train_cfg = dict(by_epoch=False, max_iters=7, val_interval=100)
    cfg.param_scheduler = None
    cfg.default_hooks.checkpoint.update(by_epoch=False)
    train(cfg)
    assert set(files(tmp_path)) == {'iter_2.pth', 'iter_5.pth', 'iter_7.pth'}


def test_an_average_is_what_is_kept(tmp_path):
    cfg = of(tmp_path)
    cfg.custom_hooks.append(dict(type='EMAHook', momentum=0.5))
    train(cfg)
    kept = files(tmp_path)['epoch_5.pth']
    other = torch.load(tmp_path / 'epoch_5.pth', weights_only=False)
    assert all(torch.equal(kept[key], other['state_dict'][key]) for key in kept)
    assert any(
        not torch.equal(kept[key], other['ema_state_dict'][f'module.{key}'])
        for key in kept
        if f'module.{key}' in other['ema_state_dict']
    )


def test_what_would_be_mixed_or_missing_is_said(tmp_path, caplog):
    warned = []

    def told(cfg):
        from mmengine.logging import MMLogger

        before = MMLogger.warning
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                MMLogger,
                'warning',
                lambda self, text, *a: (warned.append(text), before(self, text)),
            )
            train(cfg)

    told(of(tmp_path, 2, number=1))
    assert not [text for text in warned if 'even' in text]
    told(of(tmp_path, 4, number=4))
    assert 'has epoch_2.pth of an earlier training' in ' '.join(warned)
    warned.clear()
    (tmp_path / 'even' / 'epoch_2.pth').unlink()
    told(of(tmp_path, 8, number=4, resume=True))
    said = ' '.join(warned)
    assert 'lacks epoch_2.pth' in said and 'has epoch_1.pth, epoch_3.pth of an earlier' in said


@pytest.mark.parametrize('number', [0, 2.0, True, '5'])
def test_a_number_that_is_none_is_refused(number):
    with pytest.raises(ValueError, match=r'EvenCheckpointHook\.number='):
        EvenCheckpointHook(number)


@pytest.mark.parametrize('folder', ['', '..', 'a/b', None])
def test_a_folder_elsewhere_is_refused(folder):
    with pytest.raises(ValueError, match=r'EvenCheckpointHook\.folder='):
        EvenCheckpointHook(2, folder)


def test_more_checkpoints_than_epochs_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r'number=6 is wrong: give at most 5.*epochs'):
        train(of(tmp_path, number=6))
