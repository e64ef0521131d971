"""Loading every weight of a network, or none."""

from __future__ import annotations

import os
import re
from collections import OrderedDict
from collections.abc import Mapping, Set
from typing import Any

from mmengine.runner import CheckpointLoader
from torch import Tensor, nn

from kd_plugins import checks
from kd_plugins.files.matching import MMRAZOR_STUDENT, TERMS, Mismatch, describe
from kd_plugins.files.paths import relative_to
from kd_plugins.files.published import classifier_weights

#: A key of a batch norm that checkpoints older than torch 0.4.1 lack.
_OPTIONAL = 'num_batches_tracked'
#: How torch complains about weights of other shapes.
_SIZES = re.compile(
    r'size mismatch for (\S+): .*?torch\.Size\(\[(.*?)\]\).*?torch\.Size\(\[(.*?)\]\)', re.DOTALL
)


def need_checkpoint(path: str, key: str, role: str) -> None:
    """Raise a FileNotFoundError if a path is no address, and no file; see :func:`load_weights`."""
    if '://' not in path and not os.path.isfile(path):
        raise FileNotFoundError(
            f'{key}={path!r} is not a file{relative_to(path)}: train the {role} first, or give '
            'the path or address of its checkpoint.'
        )


def load_weights(
    network: nn.Module, path: str, key: str = 'model.teacher_ckpt', role: str = 'teacher'
) -> dict[str, Any]:
    """Load every weight of a network, or say what does not fit.

    Takes what mmengine writes, a bare state dict, and one under another key where it
    is the only one, with or without ``module.``, torch.compile's ``_orig_mod.``, or
    any prefix that all names share. A distillation's
    checkpoint gives its student: what kd_plugins wrote without ``distiller.*``,
    what mmrazor wrote without ``teacher.*`` and the prefix ``architecture.``.
    The network's own way of loading applies: a transformer takes the weights of
    another input size where upstream resizes them. Classifiers also take the
    checkpoints of the networks that they were published as (see
    :func:`kd_plugins.files.published.classifier_weights`).

    Args:
        network: The network to load into.
        path: A file, or an address that mmengine's loader knows; a folder for a network of
            Hugging Face's.
        key: The config key, for error messages.
        role: What the network is, for error messages.

    Returns:
        The checkpoint as it was read.

    Raises:
        FileNotFoundError: If there is no such file, or it cannot be fetched.
        ValueError: If a weight is missing, left over or of another shape.
    """
    load_folder = getattr(getattr(network, 'backbone', None), 'load_folder', None)
    if load_folder is not None and os.path.isdir(path):
        _check(load_folder(path), network, path, key, role)
        return {}
    need_checkpoint(path, key, role)
    try:
        checkpoint = CheckpointLoader.load_checkpoint(path, map_location='cpu', logger='silent')
    except FileNotFoundError as error:
        said = str(error)
        said = f'{key}={said}' if said.startswith(repr(path)) else f'{key}={path!r}: {said}'
        raise FileNotFoundError(said) from error
    except (KeyError, ImportError) as error:
        # What mmengine's loaders of other schemes say of a name that they lack, or need.
        raise FileNotFoundError(
            f'{key}={path!r} is no checkpoint that mmengine finds ({type(error).__name__}: '
            f'{checks.said(error)}): give the path or address of a file.'
        ) from error
    plain = _state_dict_of(checkpoint, f'{key}={path!r}', set(network.state_dict()))
    weights = classifier_weights(plain, network)
    _check(_load(network, weights, role), network, path, key, role)
    return checkpoint


def _check(mismatch: Mismatch, network: nn.Module, path: str, key: str, role: str) -> None:
    if mismatch:
        raise ValueError(
            f'{key}={path!r} does not fit the {role} ({describe(network)}): {mismatch}. Give the '
            'checkpoint of this architecture and class count.'
        )


def _load(network: nn.Module, weights: Mapping[str, Tensor], role: str) -> Mismatch:
    """Load by the network's own rules, and return what does not fit.

    Networks rename, resize and leave out weights while they load them: position
    embeddings of another input size, heads of earlier versions, indices that
    are computed anew.
    """
    expected = network.state_dict()
    sizes = ''
    try:
        missing, unexpected = network.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        sizes = str(error)
        if 'size mismatch for' not in sizes:
            raise
        # Torch names these alone; the others are of interest all the same.
        missing = [k for k in expected if k not in weights]
        unexpected = [k for k in weights if k not in expected]
    computed = {name for name, _ in network.named_buffers()} & set(weights)
    missing = [k for k in missing if not k.endswith(_OPTIONAL) and k not in computed]
    reshaped = [
        f'{name} is ({given}) in the file and ({wanted}) in the {role}'
        for name, given, wanted in _SIZES.findall(sizes)
    ]
    return Mismatch(tuple(missing), tuple(unexpected), tuple(reshaped))


def _state_dict_of(checkpoint: Any, name: str, expected: Set[str]) -> dict[str, Tensor]:
    if not isinstance(checkpoint, dict):
        raise ValueError(f'{name} is not a checkpoint, but a {type(checkpoint).__name__}.')
    if not _holds_weights(checkpoint):
        inside = _state_dicts_in(checkpoint)
        found = [*inside]
        known = [key for key in ('state_dict', 'model') if key in found]
        if not known and len(found) != 1:
            others = [key for key, value in checkpoint.items() if not isinstance(value, Tensor)]
            if len(others) < len(checkpoint):
                raise ValueError(
                    f'{name} holds tensors, and beside them what is none, under {others[:10]}: '
                    'save the tensors as a file of their own.'
                )
            said = f'several state dicts, under {found}' if found else 'no state dict of tensors'
            raise ValueError(
                f'{name} holds {said} (its keys: {[*checkpoint][:10]}): save the one that is meant '
                'as a file of its own, torch.save(torch.load(FILE)[KEY], OTHER_FILE).'
            )
        checkpoint = inside[(known or found)[0]]
    metadata = getattr(checkpoint, '_metadata', None)
    plain = _plain(checkpoint)
    # The names of modules, the network's own being empty.
    versions = _plain({f'{k}.': v for k, v in metadata.items()} if metadata else {})
    mmrazors = any(key.startswith(MMRAZOR_STUDENT) for key in plain)
    prefix = MMRAZOR_STUDENT if mmrazors else _shared_prefix(plain, expected)
    plain, versions = _below(prefix, plain), _below(prefix, versions)
    weights = OrderedDict((k, v) for k, v in plain.items() if not k.startswith(TERMS))
    if versions:
        # Networks look at the version of a module before they rename its weights.
        weights._metadata = OrderedDict(  # type: ignore[attr-defined]
            (key.removesuffix('.'), value) for key, value in versions.items()
        )
    return weights


def _state_dicts_in(checkpoint: Mapping[Any, Any]) -> dict[str, Any]:
    """Return the state dicts inside of a checkpoint by their keys, of the first level with any."""
    level = {str(key): value for key, value in checkpoint.items()}
    for _ in range(3):
        found = {key: value for key, value in level.items() if _holds_weights(value)}
        if found:
            return found
        level = {
            f'{key}.{inner}': value
            for key, mapping in level.items()
            if isinstance(mapping, Mapping)
            for inner, value in mapping.items()
        }
    return {}


def _holds_weights(value: Any) -> bool:
    """Whether something is a state dict: names, and tensors only."""
    return (
        isinstance(value, Mapping)
        and len(value) > 0
        and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in value.items())
    )


def _shared_prefix(names: Mapping[str, Any], expected: Set[str]) -> str:
    """Return what stands before every name, if the rest are names of the network."""
    parts = next(iter(names), '').split('.')
    for i in range(1, len(parts)):
        prefix = '.'.join(parts[:i]) + '.'
        everywhere = all(name.startswith(prefix) for name in names)
        if everywhere and expected >= set(_below(prefix, names)):
            return prefix
    return ''


def _plain(names: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what wrappers have put into names: DDP in front, torch.compile anywhere."""
    return {
        key.replace('_orig_mod.', '').removeprefix('module.'): value for key, value in names.items()
    }


def _below(prefix: str, names: Mapping[str, Any]) -> dict[str, Any]:
    return {k.removeprefix(prefix): v for k, v in names.items() if k.startswith(prefix)}
