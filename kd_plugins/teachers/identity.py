"""What makes the answers of a teacher those of this teacher."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from mmengine.model import BaseModel
from torch import nn

from kd_plugins.files.matching import describe
from kd_plugins.files.paths import files_of_network
from kd_plugins.networks import (
    NetworkCfg,
    initialisations,
    normalisation,
    resolve_network,
    swaps_channels,
)
from kd_plugins.registry import name_of
from kd_plugins.teachers.input import InputSize, declares_input
from kd_plugins.views import RepeatableViews, pipeline_text, samples_hash

#: Packages that change pictures, or what is computed of them.
_PACKAGES = ('torch', 'torchvision', 'mmengine', 'mmcv', 'mmpretrain', 'mmdet', 'numpy', 'cv2',
             'PIL')  # fmt: skip
#: What computes the answers of these backbones.
_OF_BACKBONES = dict(
    TimmFeatures=('timm',), TIMMBackbone=('timm',), HuggingFaceFeatures=('transformers',)
)
_CHUNK = 2**22


def teacher_identity(
    cfg: NetworkCfg,
    ckpt: str | Sequence[str] | None,
    preprocessor: nn.Module,
    input_size: InputSize | None = None,
    dtype: str | None = None,
    class_map: Sequence[int | str] | None = None,
    inplace: bool = False,
) -> dict[str, Any]:
    """Return what decides over a teacher's answers to a picture, as JSON knows it.

    Args:
        cfg: Its config, or a built network.
        ckpt: Its checkpoint, or several.
        preprocessor: The student's, which its input comes from.
        input_size, dtype, class_map, inplace: The algorithm's settings of the teacher.

    Raises:
        ValueError: If it has no weights: every training would ask another one.
    """
    packages: set[str] = set()
    if isinstance(cfg, BaseModel):
        config: Any = describe(cfg)
        declared = declares_input(cfg.data_preprocessor)
        # A checkpoint is loaded into it later.
        weights: Any = _hash_of_files(ckpt) if ckpt else {'its weights': _hash_of(cfg.state_dict())}
    else:
        resolved, pretrained = resolve_network(cfg, 'model.teacher')
        pretrained = _initial(resolved) or pretrained
        backbone = resolved.get('backbone') or {}
        folder = backbone.get('folder')
        given = ckpt or pretrained or folder or ()
        if not given:
            raise ValueError(
                'model.teacher_cache would keep the answers of a teacher without weights, which '
                'is another one in every training: give model.teacher_ckpt.'
            )
        weights = _hash_of_files(given)
        if folder and folder != given:
            # It says the network, and how its input was normalised.
            weights['folder'] = _hash_of_file(folder)
        packages.update(_OF_BACKBONES.get(name_of(backbone.get('type')), ()))
        resolved.pop('init_cfg', None)
        config = plain(resolved)
        declared = bool(resolved.get('data_preprocessor'))
    asked: dict[str, Any] = dict(
        size=plain(input_size),
        pad_size_divisor=getattr(preprocessor, 'pad_size_divisor', None),
        batch_pads=_batch_pads(preprocessor),
    )
    if not declared:
        mean, std = (each.flatten().tolist() for each in normalisation(preprocessor))
        asked.update(mean=mean, std=std, swaps_channels=swaps_channels(preprocessor))
        asked.update(pad_value=plain(getattr(preprocessor, 'pad_value', 0)))
    return dict(
        checkpoint=weights,
        teacher=config,
        input=asked,
        teacher_dtype=dtype,
        class_map=plain(class_map),
        # What is recorded before an activation in place is what comes after it.
        teacher_module_inplace=inplace or None,
        versions=versions(packages),
    )


def data_identity(dataset: Any) -> dict[str, Any]:
    """Return what decides over the pictures of a training set, as JSON knows it.

    Raises:
        ValueError: If its views do not repeat.
    """
    # mmengine's own wrapper, for num_batch_per_epoch.
    found = vars(dataset).get('_dataset', dataset)
    if not isinstance(found, RepeatableViews):
        raise ValueError(
            f'model.teacher_cache: the training set, a {type(found).__name__}, draws its pictures '
            'anew in every epoch, and what is stored of one would never be asked for again: set '
            "train_dataloader.dataset=dict(type='kd_plugins.RepeatableViews', dataset=..., "
            'views=...).'
        )
    return dict(
        samples=len(found),
        views=found.views,
        pipeline=json.loads(pipeline_text(found)),
        sample_list=samples_hash(found.dataset),
    )


def versions(more: Iterable[str] = ()) -> dict[str, str]:
    """Return the versions, without the last number, of the packages that are in use.

    Args:
        more: Packages to name besides, imported or not, where they are installed.
    """
    found = {name: getattr(sys.modules.get(name), '__version__', None) for name in _PACKAGES}
    for name in more:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return {name: '.'.join(said.split('.')[:2]) for name, said in found.items() if said}


def difference(there: Any, here: Any, name: str = '') -> str | None:
    """Say where two identities differ first; None where they do not.

    A file that is not here, a version of what is not in use, differ from nothing.
    """
    if isinstance(there, Mapping) and isinstance(here, Mapping):
        for key in sorted({*there, *here}):
            inner = f'{name}.{key}' if name else str(key)
            if name == 'versions' and not (key in there and key in here):
                continue
            found = difference(there.get(key), here.get(key), inner)
            if found is not None:
                return found
        return None
    if there == here or (name.startswith('checkpoint.') and here == NOT_HERE):
        return None
    return f'{name} was {_short(there)} and is {_short(here)} now'


def plain(value: Any) -> Any:
    """Return a config as JSON knows it; classes are their names, whatever their scope."""
    if isinstance(value, Mapping):
        return {
            str(key): name_of(each) if key == 'type' else plain(each) for key, each in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


#: Stands for the hash of a file that is not on this machine.
NOT_HERE = 'not here'


def _batch_pads(preprocessor: nn.Module) -> list[Any]:
    """Return how mmdet's ``BatchFixedSizePad``, the only augment of batches here, pads."""
    augments = getattr(preprocessor, 'batch_augments', None)
    pads = augments if isinstance(augments, nn.ModuleList) else ()
    names = ('size', 'img_pad_value')
    return [{name: plain(getattr(each, name, None)) for name in names} for each in pads]


def _initial(resolved: Mapping[str, Any]) -> str | None:
    """Return the weights that a network's own config names."""
    if isinstance(resolved.get('pretrained'), str):
        return resolved['pretrained']
    found = [
        each['checkpoint']
        for each in initialisations(resolved.get('init_cfg'))
        if each['type'] == 'Pretrained'
    ]
    # As it is built: the last one counts.
    return found[-1] if found else None


def _hash_of_files(paths: str | Sequence[str]) -> dict[str, str]:
    """Return the hashes of checkpoints, whatever they are called."""
    paths = [paths] if isinstance(paths, str) else paths
    return {f'file {i}': _hash_of_file(path) for i, path in enumerate(paths)}


def _hash_of_file(path: str) -> str:
    """Return a hash of a checkpoint, or of a folder of Hugging Face.

    An address stands for what it leads to.
    """
    if '://' in path:
        return path
    files = [path] if os.path.isfile(path) else files_of_network(path)
    digest = hashlib.sha256()
    for name in files:
        if name != path:
            digest.update(f'\n{os.path.basename(name)}\n'.encode())
        with open(name, 'rb') as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    return digest.hexdigest() if files else NOT_HERE


def _hash_of(weights: Mapping[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(weights.items()):
        digest.update(f'{name} {value.dtype} {tuple(value.shape)}'.encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _short(value: Any) -> str:
    said = 'missing' if value is None else repr(value)
    return said if len(said) <= 60 else f'{said[:40]}...{said[-8:]}'
