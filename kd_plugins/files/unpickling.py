"""Reading a pickle as data.

Python's unpickler runs what a pickle says: it can call whatever a module holds, and its
``BUILD`` sets attributes of whatever it is given, classes and functions among them. Here
a global is nothing but a name, on which one of the functions of :data:`MAKERS` answers;
each makes an object that did not exist before, of what it was given. No opcode reaches
anything else, so that what is read cannot change anything but the result.
"""

from __future__ import annotations

import argparse
import pickletools
import re
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from mmengine.config import ConfigDict
from mmengine.logging import HistoryBuffer
from mmengine.optim.scheduler.param_scheduler import OneCycleParamScheduler
from torch import Tensor


class NotAllowedError(Exception):
    """What a file asks for that no checkpoint needs, as the rest of a sentence."""


@dataclass(frozen=True)
class Global:
    """The name of a global in a pickle; never the thing itself."""

    module: str
    name: str

    def __str__(self) -> str:
        return f'{self.module}.{self.name}'


@dataclass(frozen=True)
class Storage:
    """A part of a storage of this file, in elements of its data type."""

    dtype: torch.dtype
    whole: torch.UntypedStorage
    start: int
    size: int


@dataclass
class _Unfilled:
    """A NumPy object whose content follows by ``BUILD``; ``made`` is the object then."""

    fill: Callable[[Any], Any]
    made: Any = None


def _encode(text: str, codec: str) -> bytes:
    # How pickle's protocol 2 writes bytes.
    if codec not in ('latin1', 'latin-1'):
        raise NotAllowedError(f'encodes text by {codec!r}')
    return _of(str, text).encode('latin-1')


def _bytes() -> bytes:
    return b''


def _set(items: list) -> set:
    return set(map(_key, items))


def _frozenset(items: list) -> frozenset:
    return frozenset(map(_key, items))


def _ordered(items: list | None = None) -> OrderedDict:
    return OrderedDict((_key(key), value) for key, value in items or ())


def _counter(counts: dict) -> Counter:
    return Counter({key: _of(int, count) for key, count in _of(dict, counts).items()})


def _config(content: dict) -> ConfigDict:
    return ConfigDict(_of(dict, content))


def _size(sizes: tuple) -> torch.Size:
    return torch.Size(_whole_numbers(sizes))


def _device(kind: str, index: int | None = None) -> torch.device:
    # A number alone would stand for a device of this machine.
    return torch.device(_of(str, kind)) if index is None else torch.device(_of(str, kind), index)


def _tensor(storage: Storage, offset: int, size: tuple, stride: tuple, *_: Any) -> Tensor:
    """Make a tensor that lies within its storage, which torch would enlarge otherwise."""
    size, stride = _whole_numbers(size), _whole_numbers(stride)
    (offset,) = _whole_numbers((offset,))
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if type(storage) is not Storage or (0 not in size and last >= storage.size):
        raise ValueError('a tensor does not lie within its storage')
    empty = torch.empty(0, dtype=storage.dtype, device=storage.whole.device)
    return empty.set_(storage.whole, storage.start + offset, size, stride)  # type: ignore[call-overload]


def _tensor_v2(
    storage: Storage,
    offset: int,
    size: tuple,
    stride: tuple,
    requires_grad: bool,
    hooks: Any,
    metadata: dict | None = None,
) -> Tensor:
    tensor = _tensor(storage, offset, size, stride)
    for bit in metadata or ():
        if bit not in ('conj', 'neg'):
            raise NotAllowedError(f'sets {bit!r} of a tensor')
    if metadata:
        torch._utils.set_tensor_metadata(tensor, {k: bool(v) for k, v in metadata.items()})
    return tensor.requires_grad_(bool(requires_grad))


def _parameter(data: Tensor, requires_grad: bool, hooks: Any) -> torch.nn.Parameter:
    if type(data) is not Tensor:
        raise ValueError('a parameter without a tensor')
    return torch.nn.Parameter(data, bool(requires_grad))


def _numpy_dtype(spec: str, align: Any = False, copy: Any = True) -> _Unfilled:
    if type(spec) is not str or not re.fullmatch(r'[biufcSUOMmV]\d{1,9}', spec):
        raise ValueError(f'NumPy has no data type {spec!r}')
    return _Unfilled(partial(_filled_dtype, spec))


def _filled_dtype(spec: str, state: tuple) -> np.dtype:
    _, order, part, names, fields, size, *_ = state
    if part is not None:
        return np.dtype((_of(np.dtype, part[0]), _whole_numbers(part[1])))
    if names is not None:
        formats = [_of(np.dtype, fields[name][0]) for name in names]
        offsets = [fields[name][1] for name in names]
        return np.dtype(dict(names=list(names), formats=formats, offsets=offsets, itemsize=size))
    if spec[0] in 'Mm' and len(state) > 8:
        unit, count, *_ = state[8][1]
        unit = unit.decode() if isinstance(unit, bytes) else unit
        if unit != 'generic':
            spec = f'{spec[0]}8[{int(count)}{unit}]'
    return np.dtype(spec).newbyteorder(order) if order in '<>' else np.dtype(spec)


def _numpy_array(kind: Global, shape: tuple, code: Any) -> _Unfilled:
    if kind != _NDARRAY:
        raise NotAllowedError(f'makes an array of {kind}')
    return _Unfilled(_filled_array)


def _filled_array(state: tuple) -> np.ndarray:
    _, shape, dtype, fortran, content = state
    shape, dtype = _whole_numbers(shape), _of(np.dtype, dtype)
    if dtype.hasobject:
        if dtype.kind != 'O' or type(content) is not list:
            raise ValueError('an array of objects without them')
        flat = np.empty(len(content), object)
        for i, value in enumerate(content):
            flat[i] = value
    else:
        flat = np.frombuffer(_of(bytes, content), dtype).astype(dtype.newbyteorder('='))
    return flat.reshape(shape, order='F' if fortran else 'C')


def _numpy_scalar(dtype: np.dtype, content: bytes = b'') -> Any:
    if _of(np.dtype, dtype).hasobject or len(_of(bytes, content)) != dtype.itemsize:
        raise ValueError('a NumPy number without its bytes')
    return np.frombuffer(content, dtype).copy()[0] if dtype.itemsize else dtype.type()


def _numpy_buffer(content: Any, dtype: Any, shape: tuple, order: str) -> np.ndarray:
    # How pickle's protocol 5 writes arrays.
    dtype, content = _of(np.dtype, dtype), _of((bytes, bytearray), content)
    if dtype.hasobject or order not in ('C', 'F'):
        raise ValueError('an array of another kind')
    flat = np.frombuffer(content, dtype).astype(dtype.newbyteorder('='))
    return flat.reshape(_whole_numbers(shape), order='F' if order == 'F' else 'C')


def _function(owner: Global, name: str) -> Any:
    """Return a function of a class, which upstream's checkpoints hold."""
    # mmengine's log buffers carry the names of their class's functions, and would write
    # them into the class. They are left out; their class has them.
    if owner == _HISTORY and name in ('min', 'max', 'mean', 'current'):
        return name
    if owner == _ONE_CYCLE and name in ('_annealing_cos', '_annealing_linear'):
        return getattr(OneCycleParamScheduler, name)
    raise NotAllowedError(f'names {_title(owner)}.{name}')


def _of(kind: type | tuple[type, ...], value: Any) -> Any:
    if not isinstance(value, kind):
        raise TypeError(f'{type(value).__name__} in the place of {kind}')
    return value


def _whole_numbers(values: Any) -> tuple[int, ...]:
    if any(type(value) is not int or value < 0 for value in _of(tuple, values)):
        raise ValueError('sizes that are no whole numbers')
    return tuple(values)


_PLAIN = (str, bytes, int, float, bool, type(None))


def _key(value: Any, depth: int = 2) -> Any:
    """Let pass what can be compared without running anything, and is not nested deeply."""
    if type(value) is tuple and depth:
        return tuple(_key(item, depth - 1) for item in value)
    if type(value) in _PLAIN or isinstance(value, (torch.dtype, torch.device, np.generic)):
        return value
    raise ValueError(f'a {type(value).__name__} as a key')


def _fill_history(buffer: HistoryBuffer, state: dict) -> None:
    # Not by its __setstate__, which writes what the file says into the class.
    logs, counts = (_of(np.ndarray, state[key]) for key in ('_log_history', '_count_history'))
    (buffer.max_length,) = _whole_numbers((state['max_length'],))
    buffer._log_history, buffer._count_history = logs, counts


def _fill_record(target: Any, state: dict) -> None:
    for key, value in state.items():
        if type(key) is not str or hasattr(type(target), key):
            raise NotAllowedError(f'sets {key!r} of a {type(target).__name__}')
        vars(target)[key] = value


_HISTORY = Global('mmengine.logging.history_buffer', 'HistoryBuffer')
_ONE_CYCLE = Global('mmengine.optim.scheduler.param_scheduler', 'OneCycleParamScheduler')
_NDARRAY = Global('numpy', 'ndarray')

#: What weights, the states of optimizers and schedulers, and mmengine's logs are made of: the
#: globals that a file may call, and what answers. Both names of NumPy's core, before and since
#: version 2.
MAKERS: dict[Global, Callable[..., Any]] = {
    Global('collections', 'OrderedDict'): _ordered,
    Global('collections', 'Counter'): _counter,  # the milestones of MultiStepLR
    Global('mmengine.config.config', 'ConfigDict'): _config,  # in a data set's metainfo
    Global('builtins', 'set'): _set,
    Global('builtins', 'frozenset'): _frozenset,
    Global('builtins', 'slice'): slice,
    Global('builtins', 'bytes'): _bytes,
    Global('builtins', 'getattr'): _function,
    Global('_codecs', 'encode'): _encode,
    Global('torch', 'Size'): _size,
    Global('torch', 'device'): _device,
    Global('torch._utils', '_rebuild_tensor'): _tensor,
    Global('torch._utils', '_rebuild_tensor_v2'): _tensor_v2,
    Global('torch._utils', '_rebuild_parameter'): _parameter,
    Global('numpy', 'dtype'): _numpy_dtype,
    Global('numpy.core.multiarray', '_reconstruct'): _numpy_array,
    Global('numpy.core.multiarray', 'scalar'): _numpy_scalar,
    Global('numpy.core.numeric', '_frombuffer'): _numpy_buffer,
    Global('numpy._core.multiarray', '_reconstruct'): _numpy_array,
    Global('numpy._core.multiarray', 'scalar'): _numpy_scalar,
    Global('numpy._core.numeric', '_frombuffer'): _numpy_buffer,
}

#: The classes that a file may make objects of. Authors keep their options beside the
#: weights as a Namespace, which is a plain record.
CLASSES: dict[Global, Callable[[], Any]] = {
    _HISTORY: HistoryBuffer,
    Global('argparse', 'Namespace'): argparse.Namespace,
}

#: What ``BUILD`` may fill: objects that were made here.
_FILLERS: dict[type, Callable[[Any, dict], None]] = {
    HistoryBuffer: _fill_history,
    argparse.Namespace: _fill_record,
    OrderedDict: _fill_record,  # torch keeps the versions of modules in one's _metadata
}

_STORAGES = {
    'DoubleStorage': torch.float64,
    'FloatStorage': torch.float32,
    'HalfStorage': torch.float16,
    'BFloat16Storage': torch.bfloat16,
    'LongStorage': torch.int64,
    'IntStorage': torch.int32,
    'ShortStorage': torch.int16,
    'CharStorage': torch.int8,
    'ByteStorage': torch.uint8,
    'BoolStorage': torch.bool,
    'ComplexDoubleStorage': torch.complex128,
    'ComplexFloatStorage': torch.complex64,
}

_LITERALS = {'INT', 'BININT', 'BININT1', 'BININT2', 'LONG', 'LONG1', 'LONG4', 'FLOAT', 'BINFLOAT'}
_LITERALS |= {'UNICODE', 'SHORT_BINUNICODE', 'BINUNICODE', 'BINUNICODE8'}
_LITERALS |= {'SHORT_BINBYTES', 'BINBYTES', 'BINBYTES8', 'BYTEARRAY8'}
_PYTHON_2_TEXTS = ('STRING', 'BINSTRING', 'SHORT_BINSTRING')
_CONSTANTS = dict(NONE=None, NEWTRUE=True, NEWFALSE=False)
_EMPTY = dict(EMPTY_LIST=list, EMPTY_TUPLE=tuple, EMPTY_DICT=dict, EMPTY_SET=set)
_TUPLES = dict(TUPLE1=1, TUPLE2=2, TUPLE3=3)


def find_global(module: str, name: str) -> Any:
    """Return what stands for a global, or a data type, which is a constant.

    Raises:
        NotAllowedError: If no checkpoint needs it.
    """
    # Protocol 2, which torch writes, has the builtins under their old name.
    found = Global('builtins' if module == '__builtin__' else module, name)
    if found in MAKERS or found in CLASSES or found in (_NDARRAY, _ONE_CYCLE):
        return found
    if module.split('.')[0] == 'torch' and name in _STORAGES:
        return _STORAGES[name]
    owner, dot, function = name.rpartition('.')
    if dot and Global(module, owner) in (_HISTORY, _ONE_CYCLE):
        return _function(Global(module, owner), function)  # protocol 4 has no getattr
    # Not by getattr, for which torch imports some of its modules.
    dtype = vars(torch).get(name) if module == 'torch' else None
    if isinstance(dtype, torch.dtype):
        return dtype
    raise NotAllowedError(f'names {found}')


def unpickle(stream: Any, storage: Callable[[Any], Storage]) -> Any:
    """Read one pickle, and stop behind it.

    Args:
        stream: Where it begins. Reading more than there is returns what there is.
        storage: Returns the storage that a persistent id names.

    Raises:
        NotAllowedError: If it asks for what no checkpoint needs.
        Exception: Any other, if it is no pickle.
    """
    stack: list[Any] = []
    outer: list[list[Any]] = []
    memo: dict[int, Any] = {}
    value: Any
    for opcode, value, _ in pickletools.genops(stream):
        name = opcode.name
        if name in _LITERALS:
            stack.append(value)
        elif name in ('BINPUT', 'LONG_BINPUT', 'PUT'):
            memo[value] = stack[-1]
        elif name == 'MEMOIZE':
            memo[len(memo)] = stack[-1]
        elif name in ('BINGET', 'LONG_BINGET', 'GET'):
            known = memo[value]
            filled = type(known) is _Unfilled and known.made is not None
            stack.append(known.made if filled else known)
        elif name == 'MARK':
            outer.append(stack)
            stack = []
        elif name in _TUPLES:
            count = _TUPLES[name]
            stack[-count:] = [tuple(stack[-count:])] if len(stack) >= count else _missing()
        elif name in ('TUPLE', 'LIST', 'DICT', 'FROZENSET', 'POP_MARK'):
            items, stack = stack, outer.pop()
            if name != 'POP_MARK':
                stack.append(_CONTAINERS[name](items))
        elif name in ('APPENDS', 'SETITEMS', 'ADDITEMS'):
            items, stack = stack, outer.pop()
            _extend(stack[-1], items, name)
        elif name in ('APPEND', 'SETITEM'):
            items = [stack.pop() for _ in range(1 if name == 'APPEND' else 2)]
            _extend(stack[-1], items[::-1], name + 'S')
        elif name in _EMPTY:
            stack.append(_EMPTY[name]())
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in ('GLOBAL', 'STACK_GLOBAL'):
            if name == 'GLOBAL':
                module, _, value = value.partition(' ')
            else:
                value, module = _of(str, stack.pop()), _of(str, stack.pop())
            stack.append(find_global(module, value))
        elif name == 'BINPERSID':
            stack.append(storage(stack.pop()))
        elif name in ('REDUCE', 'NEWOBJ'):
            arguments, called = _of(tuple, stack.pop()), stack.pop()
            makers = MAKERS if name == 'REDUCE' else CLASSES
            if type(called) is not Global or called not in makers:
                raise NotAllowedError(f'calls {_title(called)}')
            if makers is CLASSES and arguments:
                raise NotAllowedError(f'gives arguments to {called}')
            stack.append(makers[called](*arguments))
        elif name == 'BUILD':
            state = stack.pop()
            stack[-1] = _filled(stack[-1], state)
        elif name in _PYTHON_2_TEXTS:
            stack.append(value.encode('latin-1').decode('utf-8'))
        elif name == 'POP':
            stack.pop()
        elif name == 'DUP':
            stack.append(stack[-1])
        elif name == 'STOP':
            return stack.pop()
        elif name not in ('PROTO', 'FRAME'):
            raise NotAllowedError(f'has the pickle opcode {name}')
    raise EOFError('a pickle without an end')


def _missing() -> list:
    raise IndexError('a pickle takes more than it has')


def _filled(target: Any, state: Any) -> Any:
    if type(target) is _Unfilled and target.made is None:
        target.made = target.fill(_of(tuple, state))
        return target.made
    if type(target) not in _FILLERS:
        raise NotAllowedError(f'sets attributes of {_title(target)}')
    _FILLERS[type(target)](target, _of(dict, state))
    return target


def _extend(target: Any, items: list, name: str) -> None:
    kind = type(target)
    if name == 'APPENDS' and kind is list:
        target.extend(items)
    elif name == 'ADDITEMS' and kind is set:
        target.update(map(_key, items))
    elif name == 'SETITEMS' and kind in (dict, OrderedDict):
        target.update(_pairs(items))
    else:
        raise NotAllowedError(f'puts something into {_title(target)}')


def _pairs(items: list) -> list[tuple[Any, Any]]:
    return [(_key(key), value) for key, value in zip(items[::2], items[1::2], strict=True)]


_CONTAINERS: dict[str, Callable[[list], Any]] = dict(
    TUPLE=tuple,
    LIST=list,
    DICT=lambda items: dict(_pairs(items)),
    FROZENSET=_frozenset,
)


def _title(thing: Any) -> str:
    return str(thing) if type(thing) is Global else f'a {type(thing).__name__}'
