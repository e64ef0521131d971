"""What the result of a run depends on, as one short text."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config

from kd_plugins.files.paths import files_of_network
from kd_plugins.networks import resolve_network
from kd_plugins.version import __version__

#: Keys of what a training writes, which it does not depend on.
_WRITTEN = re.compile(r'^(out|save_dir$|work_dir$)')


def config_hash(cfg: Config) -> str:
    """Identify what a result depends on.

    Covered are:

    * the config with all that it inherits, but for ``work_dir``;
    * networks as they are built: what is behind a ``cfg_path``, wherever it stands,
      and where its ``pretrained=True`` takes the weights from;
    * the content of every local file that the config, or a network behind it,
      names: ``teacher_ckpt``, ``load_from``, the ``checkpoint`` of an
      ``init_cfg`` at any depth, annotations (below their ``data_root`` too), the
      modules of ``custom_imports``; of a folder of Hugging Face, its weights and settings;
    * the version of kd_plugins.

    Weights at an address (``https://``, ``torchvision://``) count by their
    name, in which upstream puts a hash of the content. Not covered are code that nothing
    above names, environment variables, the pictures, and the versions of other packages;
    the last two are kept with a result, see :func:`~kd_plugins.experiments.data.data_hash`
    and :func:`~kd_plugins.experiments.results.other_versions`.

    Args:
        cfg: The config of a training.

    Returns:
        16 hexadecimal digits.

    Raises:
        ValueError, FileNotFoundError: If a network cannot be resolved.
    """
    built = _resolve(cfg.to_dict(), '')
    built.pop('work_dir', None)
    digest = hashlib.sha256(json.dumps([__version__, _canonical(built)]).encode())
    for name, path in sorted({*_named_files(built), *_imported_files(built)}):
        digest.update(f'\n{name}\n'.encode())
        with open(path, 'rb') as stream:
            while chunk := stream.read(1 << 22):
                digest.update(chunk)
    return digest.hexdigest()[:16]


def _resolve(value: Any, key: str) -> Any:
    """Put what is behind every ``cfg_path`` in its place."""
    if isinstance(value, Mapping):
        if isinstance(value.get('cfg_path'), str) and 'type' not in value:
            network, weights = resolve_network(value, key)
            return _resolve(dict(network, _weights_=weights), key)
        return {k: _resolve(v, f'{key}.{k}' if key else str(k)) for k, v in value.items()}
    if _is_list(value):
        return [_resolve(v, f'{key}.{i}') for i, v in enumerate(value)]
    return value


def _canonical(value: Any) -> Any:
    """Return what JSON can hold, the same in every process and for every order of keys."""
    if isinstance(value, Mapping):
        return sorted([repr(k), _canonical(v)] for k, v in value.items())
    if isinstance(value, (set, frozenset)):
        return sorted(map(repr, value))
    if _is_list(value):
        return [_canonical(v) for v in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if hasattr(value, '__qualname__'):
        return f'{value.__module__}.{value.__qualname__}'
    return re.sub(r' at 0x[0-9a-f]+', '', repr(value))


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes))


def _named_files(value: Any, root: str = '', key: str = '') -> Iterator[tuple[str, str]]:
    """Yield strings that name a file, from here or below the ``data_root`` beside them."""
    if isinstance(value, Mapping):
        below = value.get('data_root')
        for name, item in value.items():
            if not _WRITTEN.match(str(name)):
                yield from _named_files(item, below if isinstance(below, str) else '', str(name))
    elif _is_list(value):
        for item in value:
            yield from _named_files(item, root, key)
    elif isinstance(value, str) and value and '://' not in value:
        # mmengine's loader expands the home directory as well.
        for path in {os.path.expanduser(value), os.path.join(root, value)}:
            if os.path.isfile(path):
                yield value, path
            elif os.path.isdir(path):
                for file in files_of_network(path):
                    yield f'{value}/{os.path.basename(file)}', file


def _imported_files(built: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    names = (built.get('custom_imports') or {}).get('imports') or []
    for name in [names] if isinstance(names, str) else names:
        try:
            spec = importlib.util.find_spec(name)
        except (ImportError, ValueError):
            continue
        if spec is not None and spec.origin and Path(spec.origin).is_file():
            yield name, spec.origin
