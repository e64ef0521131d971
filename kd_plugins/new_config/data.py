"""The sections of a config that say what to train on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmengine.config import Config

from kd_plugins.datasets.boxes import Boxes
from kd_plugins.new_config.detection import (
    batch_meant,
    check_masks,
    root_of,
    sections_of_data,
)
from kd_plugins.new_config.logits import picture_size
from kd_plugins.new_config.python import Code
from kd_plugins.new_config.request import Request
from kd_plugins.new_config.unlabelled import folder_of_detector
from kd_plugins.registry import name_of


def data_sections(request: Request, base: Config) -> dict[str, Any]:
    """Return the sections of the config that say what to train on, if it is not the student's own.

    Raises:
        ValueError: If the data do not fit the student's config; the message names the argument of
            ``tools/new_config.py``.
    """
    if request.data is None and request.unlabelled is None:
        return {}
    sections: dict[str, Any] = {}
    if request.boxes is not None:
        sections = _boxes(request, request.boxes, base)
    elif request.data is not None:
        sections = dict(
            data_root=request.path(request.data),
            data_preprocessor=dict(_own_preprocessor(base), num_classes=len(request.classes)),
            train_dataloader=dict(dataset=_folders('train', base)),
            val_dataloader=dict(dataset=_folders('val', base)),
            test_dataloader=Code('val_dataloader'),
            val_evaluator=dict(_delete_=True, type='Accuracy', topk=Code('(1,)')),
            test_evaluator=Code('val_evaluator'),
        )
    if request.unlabelled is not None:
        _add_unlabelled(sections, request, request.unlabelled, base)
    return sections


def _own_preprocessor(base: Config) -> dict[str, Any]:
    """Return the preprocessor inside of a model, which counts before that at the top level."""
    return dict(base.model.get('data_preprocessor') or {})


def _add_unlabelled(sections: dict[str, Any], request: Request, folder: Path, base: Config) -> None:
    """Put pictures without labels beside the labelled ones, or in their place."""
    of_detector = 'head' not in base.model
    loader = sections.setdefault('train_dataloader', {})
    if of_detector:
        unlabelled = folder_of_detector(base, request.path(folder))
        # Upstream's sorts pictures by their shape, across both kinds.
        loader['batch_sampler'] = None
    else:
        unlabelled = dict(
            type='CustomDataset',
            data_root=request.path(folder),
            with_label=False,
            pipeline=Code(_pipeline('train', base, resize=True)),
        )
    preprocessor = sections.setdefault('data_preprocessor', _own_preprocessor(base))
    preprocessor['type'] = f'kd_plugins.{"Det" if of_detector else "Cls"}DataPreprocessor'
    if request.unlabelled_alone:
        if request.classes:
            # The checkpoint says them, and the teacher's are compared with them.
            unlabelled['metainfo'] = dict(classes=request.classes)
        loader['dataset'] = dict(_delete_=True, **unlabelled)
        return
    labelled: Any = Code('_base_.train_dataloader.dataset')
    if request.data is not None:
        labelled = loader['dataset']
        del labelled['_delete_']
    parts = [1, int(request.unlabelled_ratio)]
    size = loader.get('batch_size', base.train_dataloader.batch_size)
    if size % sum(parts):
        raise ValueError(
            f'--unlabelled-ratio {parts[1]}: the batches of --student {request.student!r} have '
            f'{size} pictures, which {sum(parts)} does not divide: give a ratio R for which 1 + R '
            'does.'
        )
    endless = name_of(base.train_dataloader.sampler.type) == 'InfiniteSampler' or not (
        base.train_cfg.get('by_epoch', True)
    )
    loader.update(
        dataset=dict(
            _delete_=True,
            type='kd_plugins.WithUnlabelled',
            labelled=labelled,
            unlabelled=unlabelled,
        ),
        sampler=dict(
            _delete_=True,
            type='kd_plugins.MultiSourceSampler',
            batch_size=size,
            source_ratio=parts,
            **(dict(infinite=True) if endless else {}),
        ),
    )


def _boxes(request: Request, boxes: Boxes, base: Config) -> dict[str, Any]:
    check_masks(base, boxes, request.student)
    files = {
        name: part.ann_file or request.annotations / f'{name}.json'
        for name, part in (('train', boxes.train), ('val', boxes.val))
    }
    paths = {name: request.path(path) for name, path in files.items()}
    name, own = Path(request.student).name, base.train_dataloader.get('batch_size')
    if request.batch_size not in (None, own) and batch_meant(base, name) is None:
        boxes.notes = [
            *boxes.notes,
            f'--batch-size {request.batch_size}: the learning rate stays as it is, since --student '
            'does not say for which batch it is (auto_scale_lr.base_batch_size)',
        ]
    root = request.path(root_of(boxes))
    return sections_of_data(base, boxes, dict(root=root, **paths), request.batch_size, name)


def _folders(split: str, base: Config) -> dict[str, Any]:
    return dict(
        _delete_=True,
        type='CustomDataset',
        data_root=Code('data_root'),
        data_prefix=split,
        pipeline=Code(_pipeline(split, base)),
    )


def _pipeline(split: str, base: Config, resize: bool = False) -> str:
    """Return the pipeline of the student's config, with what reads files where it has nothing.

    Args:
        split: 'train' or 'val'.
        base: The student's config.
        resize: Whether to bring pictures of any size to its size, if nothing in it does.
    """
    dataset = base[f'{split}_dataloader'].dataset
    if 'pipeline' not in dataset:
        raise ValueError(
            f'--data, --unlabelled: {split}_dataloader.dataset of the student is a '
            f'{name_of(dataset.type)}, which has no pipeline of its own: start from a config with '
            'a plain dataset.'
        )
    pipeline = f'_base_.{split}_dataloader.dataset.pipeline'
    if any(name_of(step.type).startswith('LoadImage') for step in dataset.pipeline):
        return pipeline
    # The base's dataset, CIFAR's say, has its pictures in memory, as RGB.
    load = "dict(type='LoadImageFromFile')"
    if not (base.get('data_preprocessor') or {}).get('to_rgb', False):
        load = "dict(type='kd_plugins.LoadImageFromFile', channel_order='rgb')"
    size = picture_size(base)
    if resize and size and not any('Resize' in name_of(step.type) for step in dataset.pipeline):
        # Else crops of 32 x 32, say, would be cut out of photographs.
        load += f", dict(type='Resize', scale={size[::-1]}, backend='pillow')"
    return f'[{load}, *{pipeline}]'
