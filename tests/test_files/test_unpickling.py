"""Files that would change something beside what they return."""

import argparse
import contextlib
import copyreg
import io
import os
import pickle
import pickletools
import random
import tarfile
import threading
import tracemalloc
import warnings
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch
from helpers.pickles import archive, attributes, legacy, named, outside, strangers, text
from mmengine.logging import HistoryBuffer
from mmengine.runner import CheckpointLoader

from kd_plugins.files import reading
from kd_plugins.files.reading import UnreadableCheckpointError, UntrustedCheckpointError
from kd_plugins.files.unpickling import CLASSES, MAKERS

HISTORY = named('mmengine.logging.history_buffer', 'HistoryBuffer')
NAMESPACE = named('argparse', 'Namespace')
ENCODE = named('_codecs', 'encode')
ONE_CYCLE = named(
    'mmengine.optim.scheduler.param_scheduler', 'OneCycleParamScheduler._annealing_cos'
)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory in a folder that is watched."""
    (tmp_path / 'work').mkdir()
    monkeypatch.chdir(tmp_path / 'work')
    # What Python and mmengine complete when they are first used, whatever is read.
    HistoryBuffer()
    for make in (legacy, archive):
        reading.load(io.BytesIO(make(b'}')))
    return tmp_path


def refused(content, folder):
    """Read a file in both formats; return what is said, having seen that nothing changed."""
    said = set()
    for make in (legacy, archive):
        before = outside(folder)
        with pytest.raises(UntrustedCheckpointError) as error, warnings.catch_warnings():
            warnings.simplefilter('ignore')
            reading.load(io.BytesIO(make(*content)))
        assert outside(folder) == before
        said.add(str(error.value).split(', which no')[0])
    (only,) = said
    return only


@pytest.mark.parametrize('name', sorted({*map(str, MAKERS), *map(str, CLASSES), 'numpy.ndarray'}))
def test_no_attribute_of_a_named_thing_is_set(folder, name):
    thing = named(*name.rsplit('.', 1))
    for opcodes in (attributes(planted=b'K\x01'), b'}' + text('planted') + b'K\x01sb'):
        assert refused([b'}0', thing, opcodes, b'0}'], folder).endswith(
            f'sets attributes of {name}'
        )


def test_the_two_of_the_issue(folder):
    equal = [NAMESPACE, attributes(__eq__=b'N'), b'0}']
    assert 'sets attributes of argparse.Namespace' in refused(equal, folder)
    rebuild = named('torch._utils', '_rebuild_tensor_v2')
    defaults = [rebuild, attributes(__defaults__=b'K\x01\x85'), b'0}']
    assert 'sets attributes of torch._utils._rebuild_tensor_v2' in refused(defaults, folder)


def test_torchs_own_patch_of_a_source_is_not_written(folder):
    # What torch does where a class has changed since its 'module' was saved: it writes
    # NAME.patch, and this name leads out of the working directory.
    patch = [
        NAMESPACE, attributes(__name__=text('../outside'), dump_patches=b'\x88'),
        b'(', text('module'), NAMESPACE, text('file'), text('source'), b'tQ0}',
    ]  # fmt: skip
    refused(patch, folder)
    assert "has 'module' in the place of a storage" in refused(patch[2:], folder)
    assert not (folder / 'outside.patch').exists()


def test_a_log_does_not_write_into_its_class(folder):
    buffer = HistoryBuffer([1.0, 3.0], [1, 1])
    state = buffer.__getstate__()
    state['statistics_methods'] = dict(mean=HistoryBuffer.max, planted=HistoryBuffer.min)
    content = [HISTORY, b')\x81', pickle.dumps(state, protocol=2)[2:-1], b'b']
    before = outside(folder)
    for make in (legacy, archive):
        read = reading.load(io.BytesIO(make(*content)))
        assert read.mean() == 2 and read.statistics('mean') == 2 and read.max() == 3
        assert 'planted' not in read._statistics_methods
    assert outside(folder) == before


@pytest.mark.parametrize(
    ('content', 'says'),
    [
        # Things that are shared by the process are no containers to put something into.
        ([named('torch', 'float32'), attributes(a=b'N')], 'sets attributes of a dtype'),
        ([named('torch', 'device'), text('cpu'), b'\x85R', attributes(a=b'N')],
         'sets attributes of a device'),
        ([HISTORY, text('a'), b'Ns'], 'puts something into mmengine.logging'),
        ([named('torch', 'float32'), b'(Ne'], 'puts something into a dtype'),
        ([named('torch', 'Size'), b')\x85R', b'Na'], 'puts something into a Size'),
        ([b'))s'], None),
        # An attribute that would hide one of the class of what was read.
        ([named('collections', 'OrderedDict'), b')R}', text('items'), b'Nsb'], "sets 'items' of a"),
        ([NAMESPACE, b')\x81}', text('__class__'), b'Nsb'], "sets '__class__' of a Namespace"),
        # Other ways to call something than the two.
        ([b'(iargparse\nNamespace\n'], 'has the pickle opcode INST'),
        ([b'(', NAMESPACE, b'o'], 'has the pickle opcode OBJ'),
        ([b'\x82\xf0'], 'has the pickle opcode EXT1'),
        ([b'\x83\xf0\xf0'], 'has the pickle opcode EXT2'),
        ([b'\x84\xf0\xf0\xf0\x00'], 'has the pickle opcode EXT4'),
        ([NAMESPACE, b')}\x92'], 'has the pickle opcode NEWOBJ_EX'),
        ([b'Pid\n'], 'has the pickle opcode PERSID'),
        ([b'\x97'], 'has the pickle opcode NEXT_BUFFER'),
        # What counts, counts by whole numbers.
        ([named('collections', 'Counter'), b'}', text('a'), text('b'), b's\x85R'], None),
        ([named('collections', 'Counter'), b')R', text('a'), b'Ns'], None),
        ([named('mmengine.config.config', 'ConfigDict'), b']\x85R'], None),
        # A function of a schedule is given, and nothing can be done to it.
        ([ONE_CYCLE, attributes(a=b'N')], 'sets attributes of'),
        ([ONE_CYCLE, b'NNN\x87R'], 'calls a function'),
        ([ONE_CYCLE, text('a'), b'Ns'], 'puts something into a function'),
        ([named('mmengine.optim.scheduler.param_scheduler', 'OneCycleParamScheduler.__init__')],
         'names mmengine.optim.scheduler.param_scheduler.OneCycleParamScheduler.__init__'),
        ([named('mmengine.optim.scheduler.param_scheduler', 'OneCycleParamScheduler'), b')\x81'],
         'calls mmengine.optim.scheduler.param_scheduler.OneCycleParamScheduler'),
        ([NAMESPACE, b')R'], 'calls argparse.Namespace'),
        ([named('torch', 'Size'), b')\x81'], 'calls torch.Size'),
        # mmengine warns of a log that is longer than its length.
        ([HISTORY, b']K\x01a]K\x01aK\x00\x87\x81'], 'gives arguments to mmengine.logging'),
        ([named('torch', 'float32'), b')R'], 'calls a dtype'),
        ([b'})R'], 'calls a dict'),
        # Codecs are modules, which Python would import.
        ([ENCODE, text('a'), text('rot13'), b'\x86R'], "encodes text by 'rot13'"),
        ([ENCODE, text('a'), text('mbcs'), b'\x86R'], "encodes text by 'mbcs'"),
        # Some of torch's modules are imported when they are named.
        ([named('torch', '_inductor')], 'names torch._inductor'),
        ([named('torch', 'onnx')], 'names torch.onnx'),
        # A class of arrays that is not the plain one.
        ([named('numpy.core.multiarray', '_reconstruct'), NAMESPACE, b'K\x00\x85C\x01b\x87R'],
         'makes an array of argparse.Namespace'),
        ([named('torch._utils', '_rebuild_tensor_v2'), b'(', b'(', text('storage'),
          named('torch', 'FloatStorage'), text('0'), text('cpu'), b'K\x00NtQK\x00))\x89N}',
          text('other'), b'\x88stR'], None),
    ],
)  # fmt: skip
def test_detours_change_nothing(folder, content, says, monkeypatch):
    monkeypatch.setitem(copyreg._extension_registry, ('os', 'mkdir'), 240)
    monkeypatch.setitem(copyreg._inverted_registry, 240, ('os', 'mkdir'))
    content = [*content, b'0}']
    if says is None:
        for make in (legacy, archive):
            before = outside(folder)
            with pytest.raises((UntrustedCheckpointError, UnreadableCheckpointError)):
                reading.load(io.BytesIO(make(*content)))
            assert outside(folder) == before
    else:
        assert says in refused(content, folder)


def test_a_data_type_of_numpy_is_not_changed_in_place(folder):
    # Without the copy that pickles ask for, numpy returns the one of the whole process.
    big = [named('numpy', 'dtype'), text('f8'), b'\x89\x89\x87R',
           b'(K\x03', text('>'), b'NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb']  # fmt: skip
    before = outside(folder)
    for make in (legacy, archive):
        assert reading.load(io.BytesIO(make(*big))) == np.dtype('>f8')
    assert outside(folder) == before and np.dtype('f8').isnative


def test_a_tar_archive_before_an_archive_is_not_unpacked(folder):
    # torch would take the beginning, and unpack it; a look at the end sees the other.
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode='w') as file:
        member = tarfile.TarInfo('storages')
        member.size = 3
        file.addfile(member, io.BytesIO(b'abc'))
    path = folder / 'both.pth'
    path.write_bytes(tar.getvalue() + archive(b'}'))
    before = outside(folder)
    with pytest.raises(UnreadableCheckpointError, match='another format'):
        reading.load(path)
    assert outside(folder) == before


def tensor(size, stride, count=4, offset=0, key='0', view=b''):
    """The opcodes of a tensor of a storage of ``count`` floats."""
    numbers = [
        b'(' + b''.join(pickle.dumps(n, 2)[2:-1] for n in of) + b't' for of in (size, stride)
    ]
    return [
        named('torch._utils', '_rebuild_tensor_v2'), b'((', text('storage'),
        named('torch', 'FloatStorage'), text(key), text('cpu'), pickle.dumps(count, 2)[2:-1], view,
        b'tQ', pickle.dumps(offset, 2)[2:-1], *numbers, b'\x89NtR',
    ]  # fmt: skip


FOUR = np.arange(4, dtype='f4').tobytes()


def both(content, four=FOUR):
    """The two formats of a file with a storage 0 of four numbers."""
    tail = (len(four) // 4).to_bytes(8, 'little') + four
    old = [part if part != b'' else b'N' for part in content]
    return legacy(*old, keys=['0'], storages=tail), archive(*content, storages={'0': four})


def test_tensors_made_of_opcodes_are_what_they_say():
    for file in both(tensor((2, 2), (2, 1))):
        assert reading.load(io.BytesIO(file)).tolist() == [[0, 1], [2, 3]]
    for file in both(tensor((3, 2), (0, 1), offset=2)):
        assert reading.load(io.BytesIO(file)).tolist() == [[2, 3]] * 3
    for file in both(tensor((0, 9), (9, 1))):
        assert reading.load(io.BytesIO(file)).shape == (0, 9)


@pytest.mark.parametrize(
    'content',
    [
        # Beyond the storage, which torch would enlarge, by what is in memory.
        tensor((5,), (1,)),
        tensor((2,), (1,), offset=3),
        tensor((2**40,), (1,)),
        tensor((2, 2), (2**50, 1)),
        tensor((2,), (-1,), offset=1),
        tensor((-1,), (1,)),
        tensor((2,), (1,), offset=-1),
        # A storage beyond its file.
        tensor((1,), (1,), count=5),
        tensor((1,), (1,), count=2**40),
        tensor((1,), (1,), count=-1),
    ],
)
def test_no_tensor_has_more_than_its_file(content, monkeypatch):
    made, original = [], torch.UntypedStorage
    monkeypatch.setattr(
        torch, 'UntypedStorage', lambda count: (made.append(count), original(count))[1]
    )
    for file in both(content):
        with pytest.raises(UnreadableCheckpointError):
            reading.load(io.BytesIO(file))
    assert all(count <= len(file) for count in made)


@pytest.mark.parametrize(
    'opcodes',
    [
        [b'\x8d' + (2**60).to_bytes(8, 'little')],  # a text
        [b'X' + (2**32 - 1).to_bytes(4, 'little')],
        [b'\x8e' + (2**60).to_bytes(8, 'little')],  # bytes
        [b'\x8b' + (2**31 - 1).to_bytes(4, 'little')],  # a number
        [b'\x95' + (2**60).to_bytes(8, 'little')],  # a frame
        [b'}r' + (2**32 - 1).to_bytes(4, 'little'), b'0X'],  # a place to remember
    ],
)
def test_what_is_announced_takes_no_memory(tmp_path, opcodes):
    for number, make in enumerate((legacy, archive)):
        path = tmp_path / f'{number}.pth'
        path.write_bytes(make(*opcodes))
        tracemalloc.start()
        try:
            with pytest.raises(UnreadableCheckpointError):
                reading.load(path)
            assert tracemalloc.get_traced_memory()[1] < 2**22
        finally:
            tracemalloc.stop()


def everything():
    """What checkpoints are made of, small."""
    net = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 1), torch.nn.BatchNorm2d(2)).half()
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.ones(3))])
    optimizer.param_groups[0]['params'][0].sum().backward()
    optimizer.step()
    return dict(
        state_dict=net.state_dict(),
        optimizer=optimizer.state_dict(),
        parameter=torch.nn.Parameter(torch.ones(2)),
        message_hub=dict(
            log_scalars=OrderedDict(a=HistoryBuffer([1.0, 2.0], [1, 1])), keys={'a', 'b'}
        ),
        meta=dict(
            args=argparse.Namespace(lr=0.1, milestones=[1, 2]), seed=np.int64(3),
            names=np.array(['a', 'b']), size=torch.Size([1]), dtype=torch.bfloat16, part=slice(1),
        ),
    )  # fmt: skip


def saved(content, zipped, protocol=2):
    stream = io.BytesIO()
    torch.save(content, stream, _use_new_zipfile_serialization=zipped, pickle_protocol=protocol)
    return stream.getvalue()


FRAGMENTS = [
    b'b', b'R', b'\x81', b'0', b'2', b'(', b't', b'e', b'u', b's', b'a', b'Q', b'\x93', b'\x90',
    b'N', b'}', b']', b')', b'\x85', b'\x86', b'\x87', b'\x94', b'K\x00', b'K\x01',
    attributes(planted=b'K\x01'), attributes(__eq__=b'N'), attributes(__defaults__=b'K\x01\x85'),
    b'}' + text('planted') + b'Nsb', text('planted') + b'K\x01s', text('os'), text('mkdir'),
    text('../outside'), named('os', 'mkdir'), named('builtins', 'eval'), b'\x82\xf0', b'Pid\n',
    text('os') + text('mkdir') + b'\x93' + text('../outside') + b'\x85R',
    b'(' + text('module') + HISTORY + text('f') + text('s') + b'tQ',
    *(named(*str(name).rsplit('.', 1)) for name in (*MAKERS, *CLASSES)),
    *(named(*str(name).rsplit('.', 1)) + attributes(planted=b'N') for name in (*MAKERS, *CLASSES)),
    *(b'h' + bytes([n]) for n in range(0, 60, 3)), *(b'q' + bytes([n]) for n in range(0, 60, 7)),
]  # fmt: skip


def pieces(pickled):
    """The opcodes of the first pickle of some bytes, each with its argument, and the rest."""
    places = [place for _, _, place in pickletools.genops(pickled)]
    ends = [*places[1:], places[-1] + 1]
    return [pickled[a:b] for a, b in zip(places, ends, strict=True)], pickled[ends[-1] :]


def mutated(pickled, rest, draw):
    """Bytes or opcodes of a pickle changed, left out, doubled, moved and put in."""
    for _ in range(draw.choice((1, 1, 2, 3, 5))):
        if draw.random() < 0.4:
            content = bytearray(b''.join(pickled))
            for _ in range(draw.choice((1, 1, 2, 4))):
                at = draw.randrange(len(content))
                kind = draw.randrange(3)
                content[at : at + (kind > 0)] = bytes([draw.randrange(256)] * (kind < 2))
            return bytes(content) + rest
        at = draw.randrange(1, len(pickled) - 1)
        kind = draw.randrange(5)
        if kind < 3:
            pickled = [*pickled[:at], draw.choice(FRAGMENTS), *pickled[at:]]
        elif kind == 3:
            pickled = [*pickled[:at], draw.choice(pickled), *pickled[at:]]
        else:
            pickled = [*pickled[:at], *pickled[at + 1 :]]
    return b''.join(pickled) + rest


def content(protocol):
    """What can be written so: mmengine's logs name functions in a way that protocol 4 lacks."""
    made = everything()
    if protocol > 2:
        del made['message_hub']['log_scalars']
    return made


def variants(zipped, protocol, draw):
    """Yield mutated files without end."""
    file = saved(content(protocol), zipped, protocol)
    if zipped:
        with zipfile.ZipFile(io.BytesIO(file)) as source:
            members = {name: source.read(name) for name in source.namelist()}
        (main,) = (name for name in members if name.endswith('/data.pkl'))
        opcodes, rest = pieces(members[main])
        while True:
            stream = io.BytesIO()
            with zipfile.ZipFile(stream, 'w') as target:
                for name, value in members.items():
                    target.writestr(name, mutated(opcodes, rest, draw) if name == main else value)
            yield stream.getvalue()
    head, rest = b'', file
    for _ in range(3):
        part, rest = pieces(rest)
        head += b''.join(part)
    opcodes, rest = pieces(rest)
    while True:
        yield head + mutated(opcodes, rest, draw)


def fuzz(folder, zipped, protocol, seed, count):
    draw = random.Random(seed)
    files = variants(zipped, protocol, draw)
    reading.load(io.BytesIO(saved(content(protocol), zipped, protocol)))
    before, read = outside(folder), 0
    for number in range(count):
        file = next(files)
        place = draw.choice(('cpu', None))
        try:
            result = reading.load(io.BytesIO(file), map_location=place)
        except (UnreadableCheckpointError, UntrustedCheckpointError):
            pass
        except RuntimeError as error:
            assert 'Attempting to deserialize object on' in str(error)
        else:
            read += 1
            assert not strangers(result), (seed, number)
        if number % 50 == 49:
            assert outside(folder) == before, (seed, number)
    assert outside(folder) == before
    # Some are harmless and some are not, or nothing has been tried.
    assert 0.02 * count < read < 0.98 * count


@pytest.mark.parametrize(('zipped', 'protocol'), [(True, 2), (True, 4), (False, 2)])
def test_mutated_files_change_nothing(folder, zipped, protocol):
    fuzz(folder, zipped, protocol, seed=0, count=300)


@pytest.mark.parametrize('zipped', [True, False])
def test_files_with_wrong_bytes_anywhere_change_nothing(folder, zipped):
    draw, file = random.Random(1), saved(everything(), zipped)
    whole = repr(reading.load(io.BytesIO(file))['state_dict'])
    before, path, read = outside(folder), folder / 'file.pth', 0
    for number in range(300):
        content = bytearray(file)
        # Half of them in the last bytes, where an archive says what it holds.
        at = draw.randrange(max(len(content) - 3000, 0) if number % 2 else 0, len(content))
        content[at] = draw.randrange(256)
        path.write_bytes(content)
        with contextlib.suppress(UnreadableCheckpointError, UntrustedCheckpointError):
            result = reading.load(path)
            read += 1
            assert not strangers(result)
            # An archive has checksums.
            assert not zipped or repr(result['state_dict']) == whole
    path.unlink()
    assert outside(folder) == before
    assert 3 < read < 297


@pytest.mark.long
@pytest.mark.parametrize('seed', range(1, 5))
@pytest.mark.parametrize(('zipped', 'protocol'), [(True, 2), (True, 4), (False, 2)])
def test_many_mutated_files_change_nothing(folder, zipped, protocol, seed):
    fuzz(folder, zipped, protocol, seed, count=10_000)


def test_threads_that_read_leave_torch_as_it_is(folder):
    good, bad = folder / 'good.pth', folder / 'bad.pth'
    torch.save(dict(w=torch.arange(3)), good)
    bad.write_bytes(legacy(named('os', 'mkdir'), text('ran'), b'\x85R'))
    original = torch.load
    inside, left = threading.Event(), threading.Event()
    results = []

    def read(before, after):
        def place(storage, location):
            # One enters while the other is inside, and leaves after it.
            results.append(torch.load is original)
            before()
            return storage

        results.append(
            CheckpointLoader.load_checkpoint(str(good), place)['w'].tolist() == [0, 1, 2]
        )
        after()

    first = threading.Thread(target=read, args=(lambda: inside.wait(10), left.set))
    second = threading.Thread(
        target=read, args=(lambda: (inside.set(), left.wait(10)), lambda: None)
    )
    for thread in (first, second):
        thread.start()
    for thread in (first, second):
        thread.join()
    assert results == [True] * 4 and torch.load is original

    def many():
        for _ in range(20):
            content = CheckpointLoader.load_checkpoint(str(good), 'cpu')
            results.append(content['w'].tolist() == [0, 1, 2])
            with pytest.raises(UntrustedCheckpointError):
                CheckpointLoader.load_checkpoint(str(bad), 'cpu')

    threads = [threading.Thread(target=many) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 164 and torch.load is original
    assert not os.path.exists('ran')


@pytest.mark.parametrize('zipped', [True, False])
def test_records_and_arrays_come_back(zipped):
    content = dict(
        everything(),
        arrays=[
            np.array([], 'f4'), np.array([['a', None]], object), np.array([1, 2], '>i4'),
            np.array([3, 4], '<i4'), np.asfortranarray(np.arange(6).reshape(2, 3)),
            np.array([(1, [2.0, 3.0])], [('a', 'i4'), ('b', 'f8', (2,))]),
            np.array(['2020-01-02'], 'M8[D]'), np.array([b'ab', b'c']), np.array(True),
            np.arange(2000.0),
        ],
        numbers=[np.float32(1.5), np.bool_(True), np.str_('ä'), np.datetime64('2020', 'Y')],
        dtypes=[np.dtype('>f8'), np.dtype('f8'), np.dtype(object)],
        frozen=frozenset([1, (2, 'b')]), empty=b'', some=b'\x00\xff',
    )  # fmt: skip
    content['again'] = content['arrays'][0]
    ours = reading.load(io.BytesIO(saved(content, zipped)))
    theirs = torch.load(io.BytesIO(saved(content, zipped)), weights_only=False)
    assert vars(ours['meta'].pop('args')) == vars(theirs['meta'].pop('args'))
    for a, b in zip(ours.pop('arrays'), theirs.pop('arrays'), strict=True):
        assert a.dtype == b.dtype and repr(a) == repr(b) and a.flags.writeable
        assert a.flags.c_contiguous == b.flags.c_contiguous
    log = ours.pop('message_hub')['log_scalars']['a']
    assert log.statistics('mean') == theirs.pop('message_hub')['log_scalars']['a'].mean() == 1.5
    assert ours['state_dict']._metadata == theirs['state_dict']._metadata
    assert [type(n) for n in ours['numbers']] == [type(n) for n in theirs['numbers']]
    assert ours.pop('dtypes') == theirs.pop('dtypes')
    assert repr(ours) == repr(theirs)


def test_tensors_that_share_memory_still_do(tmp_path):
    whole = torch.arange(6.0)
    for zipped in (True, False):
        stream = io.BytesIO(saved(dict(whole=whole, part=whole.view(2, 3).T[1]), zipped))
        read = reading.load(stream)
        read['whole'].zero_()
        assert read['part'].tolist() == [0, 0] and read['part'].stride() == (3,)


def test_a_flipped_bit_is_seen():
    file = bytearray(saved(dict(w=torch.ones(100)), True))
    at = file.index(torch.ones(100).numpy().tobytes())
    file[at + 7] ^= 1
    with pytest.raises(UnreadableCheckpointError, match='CRC-32'):
        reading.load(io.BytesIO(bytes(file)))


@pytest.mark.parametrize('zipped', [True, False])
def test_places_are_those_of_torch(zipped):
    file = saved(dict(w=torch.arange(3.0)), zipped)
    for place in (
        None, 'cpu', 'meta', torch.device('meta'), {'cpu': 'meta'}, lambda s, _: s,
        lambda s, _: None, lambda s, _: torch.UntypedStorage(s.nbytes(), device='meta'),
    ):  # fmt: skip
        ours = reading.load(io.BytesIO(file), place)['w']
        theirs = torch.load(io.BytesIO(file), place)['w']
        assert ours.device == theirs.device and ours.shape == theirs.shape
        if ours.device.type == 'cpu':
            assert torch.equal(ours, theirs)
    with pytest.raises(RuntimeError, match='Attempting to deserialize object on'):
        reading.load(io.BytesIO(file), 'cuda:77')
