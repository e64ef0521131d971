"""Checkpoint files made of opcodes, and what reading one must not change."""

import argparse
import codecs
import copyreg
import io
import os
import pickle
import sys
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
from mmengine.logging import HistoryBuffer

from kd_plugins.files.unpickling import CLASSES, MAKERS


def legacy(*opcodes, keys=(), storages=b''):
    """A file in the old format of torch.save, whose content is these opcodes."""
    stream = io.BytesIO()
    for part in (0x1950A86A20F9469CFC6C, 1001, {}):
        pickle.dump(part, stream, protocol=2)
    tail = pickle.dumps(list(keys), protocol=2) + storages
    return stream.getvalue() + b''.join((b'\x80\x02', *opcodes, b'.')) + tail


def archive(*opcodes, storages=()):
    """A file in the new format of torch.save, whose content is these opcodes."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, 'w') as file:
        file.writestr('archive/data.pkl', b''.join((b'\x80\x02', *opcodes, b'.')))
        file.writestr('archive/version', '3')
        for key, content in dict(storages).items():
            file.writestr(f'archive/data/{key}', content)
    return stream.getvalue()


def text(value):
    """The opcode of a text."""
    value = value.encode()
    return b'X' + len(value).to_bytes(4, 'little') + value


def named(module, name):
    """The opcode of a global."""
    return f'c{module}\n{name}\n'.encode()


def attributes(**values):
    """The opcodes that set attributes of what is on the stack, by BUILD's second state."""
    pairs = b''.join(text(key) + value for key, value in values.items())
    return b'N}(' + pairs + b'u\x86b'


def _numpy_core():
    return sys.modules.get('numpy._core.multiarray') or sys.modules['numpy.core.multiarray']


OWNERS = (
    argparse.Namespace, HistoryBuffer, OrderedDict, set, slice, bytes, getattr, codecs.encode,
    torch.Size, torch.device, torch.float32, torch.Tensor, torch.nn.Parameter, torch.FloatStorage,
    torch.UntypedStorage, torch.storage.TypedStorage,
    torch._utils._rebuild_tensor, torch._utils._rebuild_tensor_v2,
    torch._utils._rebuild_parameter, torch.load, torch.save, np.ndarray, np.dtype,
    _numpy_core()._reconstruct, _numpy_core().scalar,
)  # fmt: skip


def outside(*folders):
    """All that a file could reach: attributes, tables of the process, files."""
    seen = {}
    for owner in OWNERS:
        held = {key: id(value) for key, value in getattr(owner, '__dict__', {}).items()}
        for name in ('__name__', '__defaults__', '__kwdefaults__', '__code__'):
            held[name] = repr(getattr(owner, name, None))
        seen[repr(owner)[:80]] = held
    return dict(
        seen,
        statistics=dict(HistoryBuffer._statistics_methods),
        eight=np.dtype('f8').__reduce__()[2],
        makers=(dict(MAKERS), dict(CLASSES)),
        load=(torch.load, torch.serialization.load),
        modules=set(sys.modules),
        finders=list(sys.meta_path),
        copyreg=(dict(copyreg.dispatch_table), dict(copyreg._extension_registry)),
        environment=dict(os.environ),
        warnings=list(warnings.filters),
        defaults=(
            torch.get_default_dtype(),
            torch.is_grad_enabled(),
            int(torch.get_rng_state().sum()),
        ),
        files=sorted(str(path) for folder in folders for path in Path(folder).rglob('*')),
    )


INERT = (
    str, bytes, int, float, complex, bool, type(None), slice, torch.Size, torch.device,
    torch.dtype, torch.Tensor, torch.nn.Parameter,
)  # fmt: skip


def strangers(content):
    """What of a content is neither plain data nor made of it."""
    found, seen, waiting = [], set(), [content]
    while waiting:
        item = waiting.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if type(item) in (dict, OrderedDict):
            waiting += [*item.keys(), *item.values(), *getattr(item, '__dict__', {}).values()]
        elif type(item) in (list, tuple, set, frozenset):
            waiting += item
        elif type(item) in (argparse.Namespace, HistoryBuffer):
            waiting += vars(item).values()
        elif isinstance(item, np.ndarray) and item.dtype == object:
            waiting += item.ravel().tolist()
        elif type(item).__module__ == 'kd_plugins.files.unpickling':
            continue  # a name, or a thing that the file began and did not end
        elif type(item) not in INERT and not isinstance(item, (np.ndarray, np.generic, np.dtype)):
            found.append(item)
    return found
