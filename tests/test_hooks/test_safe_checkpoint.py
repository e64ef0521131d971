"""Checkpoints when the process dies at any step of writing them."""

import resource
from pathlib import Path

import pytest
import torch
from faults.moments import Moments
from helpers import build
from helpers.tiny_training import config, train

from kd_plugins.files import writing
from kd_plugins.files.reading import UnreadableCheckpointError

load = torch.load


class Killed(BaseException):
    """What stands for a kill: no handler of ours may see it."""


def die():
    raise Killed


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_a_run_killed_at_any_step_of_writing_goes_on_from_a_whole_checkpoint(tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        moments = Moments(0, die, patch.setattr)
        undisturbed = train(config(tmp_path / 'whole', epochs=3))
    assert moments.count > 100
    # All kinds of writing and deleting occur in the second epoch; every eighth step of them
    # (tests/faults kills for real, at many more).
    begun_anew = []
    for at in range(moments.count // 3, 2 * moments.count // 3 + 2, 8):
        work_dir = tmp_path / str(at)
        with pytest.MonkeyPatch.context() as patch:
            Moments(at, die, patch.setattr)
            with pytest.raises(Killed):
                train(config(work_dir, epochs=3))
        cfg = config(work_dir, epochs=3, resume=True)
        assert same(train(cfg), undisturbed), at
        begun_anew.append('Auto resumed from the latest checkpoint None' in log(work_dir))
        names = sorted(path.name for path in work_dir.glob('*.pth'))
        assert 'epoch_3.pth' in names and 'best_level_epoch_3.pth' in names
        # One last checkpoint; a kill after writing the best one may leave that one more.
        assert sum(name.startswith('epoch') for name in names) == 1, at
        assert len(names) <= 3 and not list(work_dir.glob('epoch_3.pth.part'))
        assert Path((work_dir / 'last_checkpoint').read_text()) == work_dir / 'epoch_3.pth'
    assert not any(begun_anew)


def log(work_dir):
    newest = max(work_dir.glob('*/*.log'))
    return newest.read_text()


def test_with_upstreams_own_hook_some_of_these_steps_lose_everything(tmp_path, monkeypatch):
    # The day this fails, upstream has mended it.
    plain = {'default_hooks.checkpoint.type': 'CheckpointHook'}
    train(config(tmp_path, epochs=1, **plain))
    Moments(
        2, die, monkeypatch.setattr
    )  # the second step: the only checkpoint has just been deleted
    with pytest.raises(Killed):
        train(config(tmp_path, epochs=2, resume=True, **plain))
    assert not (tmp_path / 'epoch_1.pth').is_file() and not (tmp_path / 'epoch_2.pth').is_file()


def test_a_moved_directory_is_followed_and_no_pointer_is_a_new_start(tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        moments = Moments(0, die, patch.setattr)
        whole = train(config(tmp_path / 'whole', epochs=3))
        moments.at, moments.count = 2 * moments.count // 3, 0
        with pytest.raises(Killed):
            train(config(tmp_path / 'here', epochs=3))
    (tmp_path / 'here').rename(tmp_path / 'there')
    assert same(train(config(tmp_path / 'there', epochs=3, resume=True)), whole)
    (tmp_path / 'there' / 'last_checkpoint').unlink()
    train(config(tmp_path / 'there', epochs=1, resume=True))
    assert (tmp_path / 'there' / 'last_checkpoint').read_text().endswith('epoch_1.pth')


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path):
    train(config(tmp_path, epochs=1))
    before = (tmp_path / 'epoch_1.pth').read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    # A real refusal of the system, in the middle of the file.
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, limits[1]))
    try:
        with pytest.raises(writing.CheckpointNotWrittenError) as failure:
            train(config(tmp_path, epochs=2, resume=True))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    said = str(failure.value)
    assert 'epoch_2.pth' in said and 'File too large' in said and 'go on with --resume' in said
    assert (tmp_path / 'epoch_1.pth').read_bytes() == before
    assert not list(tmp_path.glob('epoch_2*'))
    train(config(tmp_path, epochs=2, resume=True))
    assert (tmp_path / 'epoch_2.pth').is_file()


def test_checkpoints_of_something_else_stop_the_run(tmp_path):
    foreign, bare, truncated = (tmp_path / f'{name}.pth' for name in ('foreign', 'bare', 'cut'))
    torch.save(dict(state_dict=torch.nn.Conv2d(1, 1, 1).state_dict()), foreign)
    torch.save(dict(state_dict=build().state_dict()), bare)
    truncated.write_bytes(foreign.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"checkpoint is another model's: 4 weights are missing"):
        train(config(tmp_path / 'a', load_from=str(foreign)))
    with pytest.raises(ValueError, match='no meta and no message_hub and no optimizer'):
        train(config(tmp_path / 'b', load_from=str(bare), resume=True))
    with pytest.raises(UnreadableCheckpointError, match=r'cut\.pth. is not a readable checkpoint'):
        train(config(tmp_path / 'c', load_from=str(truncated)))
    train(config(tmp_path / 'd', epochs=1, load_from=str(bare)))
    # Mmrazor's name of the same student.
    razor = {f'architecture.{k}': v for k, v in build().state_dict().items()}
    torch.save(dict(state_dict=razor), bare)
    train(config(tmp_path / 'e', epochs=1, load_from=str(bare)))


def test_names_in_a_checkpoint_delete_nothing_outside_its_directory(tmp_path):
    precious = tmp_path / 'precious.pth'
    precious.write_text('mine')
    train(config(tmp_path / 'work', epochs=1))
    path = tmp_path / 'work/epoch_1.pth'
    saved = load(path, weights_only=False)
    saved['message_hub']['runtime_info']['best_ckpt'] = str(precious)
    torch.save(saved, path)
    train(config(tmp_path / 'work', epochs=2, resume=True))
    assert precious.read_text() == 'mine'


def test_files_are_kept_as_upstream_keeps_them(tmp_path):
    keep = {'default_hooks.checkpoint.max_keep_ckpts': 2}
    train(config(tmp_path, epochs=4, **keep))
    assert sorted(path.name for path in tmp_path.glob('*.pth')) == [
        'best_level_epoch_4.pth', 'epoch_3.pth', 'epoch_4.pth',
    ]  # fmt: skip
    # Fewer from now on.
    keep['default_hooks.checkpoint.max_keep_ckpts'] = 1
    train(config(tmp_path, epochs=5, resume=True, **keep))
    assert [path.name for path in tmp_path.glob('epoch*')] == ['epoch_5.pth']
