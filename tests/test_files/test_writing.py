"""Files when the process dies while they are written."""

import os

import pytest
from faults.moments import Moments

from kd_plugins.files import writing


class Killed(BaseException):
    """What stands for a kill: no handler of ours may see it."""


def die():
    raise Killed


def test_a_file_is_the_old_one_or_the_new_one_at_every_step(tmp_path):
    path, seen = tmp_path / 'file', []
    for at in range(1, 9):
        path.write_bytes(b'the old content')
        with pytest.MonkeyPatch.context() as patch:
            Moments(at, die, patch.setattr)
            try:
                writing.write_aside(b'the new content, longer', path)
            except Killed:
                seen.append(path.read_bytes())
    assert len(seen) == 8 and set(seen) == {b'the old content', b'the new content, longer'}


def test_the_content_reaches_the_disk_before_the_name(tmp_path, monkeypatch):
    steps = []
    for name in ('fsync', 'replace'):
        original = getattr(os, name)
        monkeypatch.setattr(
            os, name, lambda *a, name=name, original=original: (steps.append(name), original(*a))
        )
    writing.AtomicLocalBackend().put(b'content', tmp_path / 'new' / 'file')
    writing.AtomicLocalBackend().put_text('tëxt', tmp_path / 'new' / 'text')
    assert steps == ['fsync', 'replace', 'fsync'] * 2
    assert (tmp_path / 'new' / 'file').read_bytes() == b'content'
    assert (tmp_path / 'new' / 'text').read_text(encoding='utf-8') == 'tëxt'
    assert len(list((tmp_path / 'new').iterdir())) == 2


def test_text_and_bytes_are_written_alike(tmp_path):
    writing.write_aside('tëxt', tmp_path / 'new/text')
    writing.write_aside(b'bytes', str(tmp_path / 'new/bytes'))
    assert (tmp_path / 'new/text').read_bytes() == 'tëxt'.encode()
    assert (tmp_path / 'new/bytes').read_bytes() == b'bytes'
    assert len(list((tmp_path / 'new').iterdir())) == 2
