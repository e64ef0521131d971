"""Records on disk: whole or not there, each where nobody else writes."""

import errno
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest

from kd_plugins.files import records
from kd_plugins.files.records import Lock, Records, RecordsError, RecordsNotWrittenError, Writer

LAYOUT = dict(forms={}, parts=[])


def content(sample, view):
    """Bytes of another length for every record."""
    generator = np.random.default_rng(100 * view + sample)
    return generator.bytes(50 + 7 * sample + view)


def fill(folder, keys, rank=0, close=True):
    writer = Writer(folder, LAYOUT, rank)
    for sample, view in keys:
        writer.add(sample, view, 10 * sample + view, content(sample, view))
    if close:
        writer.close()
    return writer


def check(found, keys):
    for sample, view in keys:
        assert (sample, view) in found
        layout, data, picture = found.read(sample, view)
        assert (layout, bytes(data)) == (LAYOUT, content(sample, view))
        assert picture == 10 * sample + view


ALL = [(sample, view) for view in range(3) for sample in range(8)]


def test_records_of_several_processes_are_read_by_sample_and_view(tmp_path):
    fill(tmp_path, ALL[:10], rank=0)
    fill(tmp_path, ALL[14:], rank=1)
    found = Records(tmp_path, 8, 3)
    check(found, ALL[:10] + ALL[14:])
    assert found.missing == 4
    assert all(key not in found for key in ALL[10:14])
    with pytest.raises(KeyError):
        found.read(*ALL[10])
    assert [*found.missing_of(1)] == [2, 3, 4, 5]
    # What another process writes meanwhile is found, block by block.
    writer = fill(tmp_path, ALL[10:12], rank=2, close=False)
    found.refresh()
    assert found.missing == 4
    writer.flush()
    found.refresh()
    check(found, ALL[:12])
    writer.add(*ALL[12], 0, b'')
    writer.flush()
    found.refresh()
    assert found.missing == 1


def test_of_two_records_of_a_view_the_first_counts(tmp_path):
    fill(tmp_path, [(1, 0)], rank=0)
    writer = Writer(tmp_path, LAYOUT, 1)
    writer.add(1, 0, 7, b'second')
    writer.close()
    check(Records(tmp_path, 8, 3), [(1, 0)])


def test_a_block_is_written_when_it_is_full_or_old(tmp_path, monkeypatch):
    monkeypatch.setattr(records, 'BLOCK_BYTES', 230)
    writer = fill(tmp_path, ALL[:4], close=False)
    found = Records(tmp_path, 8, 3)
    assert found.missing == 24 - 4 and not writer.waiting
    fill(tmp_path, ALL[4:5], rank=1, close=False)
    found.refresh()
    assert found.missing == 24 - 4
    monkeypatch.setattr(records, 'BLOCK_SECONDS', -1.0)
    fill(tmp_path, ALL[4:5], rank=2, close=False)
    found.refresh()
    check(found, ALL[:5])


@pytest.mark.parametrize('cut', [1, 20, 60, 200, 400])
def test_a_file_that_breaks_off_loses_its_last_block_only(tmp_path, cut):
    writer = fill(tmp_path, ALL[:6], close=False)
    writer.flush()
    whole = writer.path.stat().st_size
    for key in ALL[6:12]:
        writer.add(*key, 10 * key[0] + key[1], content(*key))
    writer.close()
    last = writer.path.stat().st_size - whole
    assert cut < last
    os.truncate(writer.path, whole + last - cut)
    found = Records(tmp_path, 8, 3)
    check(found, ALL[:6])
    assert found.missing == 18
    # The next process appends to a file of its own.
    fill(tmp_path, ALL[6:], rank=0)
    found = Records(tmp_path, 8, 3)
    check(found, ALL)
    assert not found.missing


def test_room_that_a_power_cut_left_unwritten_is_passed_over(tmp_path):
    writer = fill(tmp_path, ALL[:6])
    with open(writer.path, 'ab') as file:
        file.write(bytes(5000))
    found = Records(tmp_path, 8, 3)
    check(found, ALL[:6])


def test_a_broken_record_and_a_broken_block_say_which_file_to_delete(tmp_path):
    first, second = fill(tmp_path, ALL[:6], rank=0), fill(tmp_path, ALL[6:12], rank=1)
    data = bytearray(first.path.read_bytes())
    at = data.index(content(*ALL[3]))
    data[at + 5] ^= 1
    first.path.write_bytes(data)
    found = Records(tmp_path, 8, 3)
    check(found, ALL[:3] + ALL[4:12])
    with pytest.raises(RecordsError, match=r'sample 3, view 0 .*checksum.*delete this file'):
        found.read(3, 0)
    data = bytearray(second.path.read_bytes())
    data[data.index(records._BLOCK_MAGIC) + 30] ^= 1  # in the table
    second.path.write_bytes(data)
    with pytest.raises(RecordsError, match=f'{second.path.name}.*no block of records.*delete'):
        Records(tmp_path, 8, 3)
    second.path.unlink()
    check(Records(tmp_path, 8, 3), ALL[:3])
    (tmp_path / '9.records').write_bytes(b'something else altogether')
    with pytest.raises(RecordsError, match='no file of records of this version'):
        Records(tmp_path, 8, 3)


def test_records_of_more_samples_than_the_header_says_are_refused(tmp_path):
    fill(tmp_path, ALL)
    with pytest.raises(RecordsError, match='more samples or views'):
        Records(tmp_path, 7, 3)


@pytest.mark.parametrize('fails', ['first', 'second'])
def test_a_full_disk_says_so_and_loses_nothing(tmp_path, monkeypatch, fails):
    writer = fill(tmp_path, ALL[:6], close=False)
    written = []
    if fails == 'second':
        writer.flush()
        written = ALL[:6]
        for key in ALL[6:9]:
            writer.add(*key, 10 * key[0] + key[1], content(*key))
    sync = os.fsync

    def full(handle):
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr(os, 'fsync', full)
    with pytest.raises(RecordsNotWrittenError, match=r'No space left.*make room and go on'):
        writer.flush()
    check(Records(tmp_path, 8, 3), written)
    monkeypatch.setattr(os, 'fsync', sync)
    writer.close()
    found = Records(tmp_path, 8, 3)
    check(found, ALL[:6] if fails == 'first' else ALL[:9])


def test_a_disk_that_takes_a_part_of_a_block_gets_it_back(tmp_path, monkeypatch):
    writer = fill(tmp_path, ALL[:3], close=False)
    writer.flush()
    size = writer.path.stat().st_size
    file, took = writer._file, []

    class Small:
        """A disk with room for some bytes more."""

        def write(self, data):
            if took:
                raise OSError(errno.ENOSPC, 'No space left on device')
            took.append(file.write(data[:40]))
            return took[0]

        def __getattr__(self, name):
            return getattr(file, name)

    writer._file = Small()
    writer.add(*ALL[3], 10 * ALL[3][0] + ALL[3][1], content(*ALL[3]))
    with pytest.raises(RecordsNotWrittenError):
        writer.flush()
    assert took == [40] and writer.path.stat().st_size == size
    writer._file = file
    writer.close()
    check(Records(tmp_path, 8, 3), ALL[:4])


@pytest.mark.parametrize('when', ['before', 'after'])
def test_an_interruption_while_a_block_is_written_loses_nothing(tmp_path, monkeypatch, when):
    writer = fill(tmp_path, ALL[:3], close=False)
    writer.flush()
    for key in ALL[3:7]:
        writer.add(*key, 10 * key[0] + key[1], content(*key))
    sync, file = os.fsync, writer._file

    class Cut:
        """Takes a part of a block, and then the user has had enough."""

        def write(self, data):
            file.write(data[:40])
            raise KeyboardInterrupt

        def __getattr__(self, name):
            return getattr(file, name)

    def interrupted(handle):
        raise KeyboardInterrupt

    if when == 'before':
        writer._file = Cut()
    monkeypatch.setattr(os, 'fsync', interrupted if when == 'after' else sync)
    with pytest.raises(KeyboardInterrupt):
        writer.flush()
    monkeypatch.setattr(os, 'fsync', sync)
    writer._file = file
    # The end of the process.
    writer.close()
    check(Records(tmp_path, 8, 3), ALL[:7])


@pytest.mark.parametrize('told', [True, False])
def test_the_end_of_a_process_says_once_that_the_disk_is_full(tmp_path, monkeypatch, told):
    writer, said = fill(tmp_path, ALL[:3], close=False), []

    def full(handle):
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr(os, 'fsync', full)
    monkeypatch.setattr(records, 'print_log', lambda line, *_: said.append(line))
    if told:
        with pytest.raises(RecordsNotWrittenError):
            writer.flush()
    writer.close()
    assert len(said) == (not told) and all('No space left' in line for line in said)


def test_a_header_is_written_whole_and_read_back(tmp_path):
    folder = tmp_path / 'new'
    assert records.read_header(folder) is None
    records.write_header(folder, dict(views=3))
    assert records.read_header(folder) == dict(views=3)
    for broken in ('{"views":', 'null', '3'):
        (folder / records.HEADER).write_text(broken)
        with pytest.raises(RecordsError, match=r'header.json.*delete the folder'):
            records.read_header(folder)


def test_a_second_job_is_told_that_another_one_writes(tmp_path):
    first = Lock(tmp_path)
    with pytest.raises(RecordsError, match=f'written by another job .process {os.getpid()} on'):
        Lock(tmp_path, patience=0)
    first.release()
    Lock(tmp_path, patience=0).release()


def test_a_forked_worker_keeps_no_lock_that_was_released(tmp_path):
    first = Lock(tmp_path)
    worker = multiprocessing.get_context('fork').Process(target=time.sleep, args=(60,))
    worker.start()
    try:
        first.release()
        Lock(tmp_path, patience=0).release()
    finally:
        worker.kill()
        worker.join()


WRITES = """
import sys
from kd_plugins.files import records
records.BLOCK_BYTES = 2000
lock = records.Lock(sys.argv[1])
writer = records.Writer(sys.argv[1], dict(forms={}, parts=[]), 0)
sys.path.insert(0, sys.argv[2])
from test_records import content
print('begun', flush=True)
while True:
    for sample in range(8):
        for view in range(3):
            writer.add(sample, view, 10 * sample + view, content(sample, view))
"""


@pytest.mark.parametrize('moment', [0.0, 0.05, 0.11])
def test_a_killed_writer_leaves_whole_records_and_no_lock(tmp_path, moment):
    here = os.path.dirname(__file__)
    job = subprocess.Popen(
        [sys.executable, '-c', textwrap.dedent(WRITES), str(tmp_path), here],
        stdout=subprocess.PIPE,
    )
    assert job.stdout.readline() == b'begun\n'
    time.sleep(moment)
    job.send_signal(signal.SIGKILL)
    job.stdout.close()
    job.wait()
    Lock(tmp_path, patience=2).release()
    found = Records(tmp_path, 8, 3)
    check(found, [key for key in ALL if key in found])
    fill(tmp_path, [key for key in ALL if key not in found], rank=0)
    check(Records(tmp_path, 8, 3), ALL)


def test_files_hold_no_pickle(tmp_path):
    writer = fill(tmp_path, ALL)
    data = writer.path.read_bytes()
    length = int.from_bytes(data[8:12], 'little')
    assert json.loads(data[12 : 12 + length]) == LAYOUT
