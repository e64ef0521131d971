import pytest
from helpers.stored import noisy, pair, save_teacher, start, train


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    return save_teacher(tmp_path_factory.mktemp('teacher') / 'teacher.pth')


@pytest.fixture(scope='module')
def filled(tmp_path_factory, checkpoint):
    """A complete store in float32, of two views of twelve pictures."""
    folder = tmp_path_factory.mktemp('filled') / 'store'
    model = start(pair(folder, checkpoint, cache=dict(dtype='float32')), noisy())
    train(model, noisy())
    return folder
