"""Finding the checkpoint to go on from."""

import os

import pytest
import torch
from helpers.tiny_training import config, train

from kd_plugins.files.resuming import repair_pointer


def write(path, epoch, complete=True, seconds=0):
    checkpoint = dict(meta=dict(epoch=epoch), message_hub={}, optimizer={}, state_dict={})
    torch.save(checkpoint, path)
    if not complete:
        path.write_bytes(path.read_bytes()[:-30])
    os.utime(path, (1000 + seconds, 1000 + seconds))


@pytest.mark.parametrize(
    ('pointer', 'files', 'expected'),
    [
        # What it names is the newest: nothing to do.
        ('epoch_2.pth', [(1, True, 1), (2, True, 2)], 2),
        # Killed after the checkpoint and before the pointer.
        ('epoch_2.pth', [(1, True, 1), (2, True, 2), (3, True, 3)], 3),
        # Upstream's pointer, killed after it was opened; half a name; the file is gone.
        ('', [(1, True, 1), (2, True, 2)], 2),
        ('epoch_', [(1, True, 1), (2, True, 2)], 2),
        ('epoch_3.pth', [(1, True, 1), (2, True, 2)], 2),
        # Half-written ones.
        ('epoch_3.pth', [(1, True, 1), (2, True, 2), (3, False, 3)], 2),
        ('epoch_2.pth', [(1, True, 1), (2, True, 2), (3, False, 3)], 2),
        ('epoch_3.pth', [(1, True, 1), (2, False, 2), (3, False, 3)], 1),
        # What an older training left in the same directory is not newer.
        ('epoch_2.pth', [(9, True, 0), (2, True, 2)], 2),
        # Copied without times, all as new.
        ('epoch_10.pth', [(9, True, 5), (10, True, 5)], 10),
        ('', [(9, True, 5), (10, True, 5)], 10),
    ],
)
def test_the_pointer_names_the_newest_that_can_be_read(tmp_path, pointer, files, expected):
    for epoch, complete, seconds in files:
        write(tmp_path / f'epoch_{epoch}.pth', epoch, complete, seconds)
    (tmp_path / 'best_level_epoch_77.pth').write_bytes(b'')
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / pointer) if pointer else '')
    repair_pointer(tmp_path / 'last_checkpoint', tmp_path, 'epoch_{}.pth')
    named = (tmp_path / 'last_checkpoint').read_text()
    assert named == str(tmp_path / f'epoch_{expected}.pth')


def test_where_nothing_can_be_read_it_says_so(tmp_path):
    write(tmp_path / 'epoch_1.pth', 1, complete=False)
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'epoch_1.pth'))
    with pytest.raises(ValueError, match=r'no checkpoint to resume from: of 1 none can be read'):
        train(config(tmp_path, resume=True))
