"""What the config of a detector says of data of one's own."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.runner import CheckpointLoader

from kd_plugins.datasets.boxes import Boxes, Split
from kd_plugins.files.writing import write_aside
from kd_plugins.networks import resolve_network
from kd_plugins.new_config.python import Code
from kd_plugins.registry import name_of
from kd_plugins.teachers.classes import classes_in


def count_of(network: Mapping[str, Any], key: str) -> int:
    """Return how many classes the config of a detector has.

    Args:
        network: The model's config.
        key: The argument that it was given by, for the error message.

    Raises:
        ValueError: If it does not say.
    """
    head = network.get('bbox_head') or (network.get('roi_head') or {}).get('bbox_head')
    head = head[-1] if isinstance(head, list) else head
    count = (head or {}).get('num_classes')
    if not isinstance(count, int):
        raise ValueError(
            f'{key}: the config of this {name_of(network.get("type"))} does not say its number of '
            'classes (bbox_head.num_classes), so it cannot be set: write it yourself.'
        )
    return count


def heads_of(path: str, classes: int, key: str = '--student') -> dict[str, Any]:
    """Return what has to be overridden in a detector's config for so many classes.

    Every ``num_classes`` of its heads that is that of its boxes is set; a list, such as
    the heads of a cascade, is written whole.

    Args:
        path: Its config.
        classes: How many.
        key: The argument that it was given by, for error messages.
    """
    network, _ = resolve_network(dict(cfg_path=path), key)
    plain = Config(dict(model=network)).to_dict()['model']
    count = count_of(plain, key)
    return {
        part: changed
        for part, value in plain.items()
        if part.endswith('head') and (changed := _with_classes(value, count, classes)) is not None
    }


def _with_classes(value: Any, old: int, new: int) -> Any:
    """Return the parts of a config that have to change; None if there is none."""
    if isinstance(value, Mapping):
        found = {
            key: new if key == 'num_classes' and item == old else _with_classes(item, old, new)
            for key, item in value.items()
        }
        return {key: item for key, item in found.items() if item is not None} or None
    if isinstance(value, list) and any(_with_classes(item, old, new) for item in value):
        whole = copy.deepcopy(value)
        for item in whole:
            _set_classes(item, old, new)
        return whole
    return None


def _set_classes(value: Any, old: int, new: int) -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            if key == 'num_classes' and item == old:
                value[key] = new
            else:
                _set_classes(item, old, new)
    elif isinstance(value, list):
        for item in value:
            _set_classes(item, old, new)


def teachers_order(checkpoint: str | None, classes: Sequence[str]) -> list[str] | None:
    """Return the classes of a checkpoint that needs a ``teacher_class_map``; None if it needs none.

    It is needed where the checkpoint names all of these classes in another order, or
    beside others.

    Args:
        checkpoint: A file or an address; one that is not there yet says nothing.
        classes: Those of the data.
    """
    if checkpoint is None or not ('://' in checkpoint or Path(checkpoint).is_file()):
        return None
    read = CheckpointLoader.load_checkpoint(checkpoint, map_location='cpu', logger='silent')
    named = classes_in(read)
    if named is None or list(named) == list(classes) or not set(classes) <= set(named):
        return None  # what contradicts the data the training's own check says
    return list(named)


def write_annotations(boxes: Boxes, folder: Path) -> dict[str, Path]:
    """Write both parts as COCO files where they are in another form; return where they are.

    Raises:
        ValueError: If those of another folder of pictures are there.
    """
    found: dict[str, Path] = {}
    source = str(root_of(boxes).resolve())
    for name, part in (('train', boxes.train), ('val', boxes.val)):
        if part.ann_file is None:
            path = folder / f'{name}.json'
            kept = json.loads(path.read_text(encoding='utf-8')) if path.is_file() else {}
            there = kept.get('info', {}).get('made_from', source)
            if there != source:
                raise ValueError(
                    f'{path} was made from {there}, and other configs may use it: give another '
                    'folder for --out, or remove it if none does.'
                )
            folder.mkdir(parents=True, exist_ok=True)
            content = dict(info=dict(made_from=source), **part.content)
            write_aside(json.dumps(content).encode(), path)
        found[name] = part.ann_file or path
    return found


def sections_of_data(
    base: Config, boxes: Boxes, paths: Mapping[str, str], batch_size: int | None, name: str
) -> dict[str, Any]:
    """Return the sections of a config about the data, and what follows from the batch size.

    Args:
        base: The student's config.
        boxes: The data.
        paths: As they stand in the config: ``root``, ``train`` and ``val``.
        batch_size: On one process; None for that of ``base``.
        name: Of the student's config file.

    Raises:
        ValueError: If the datasets of ``base`` are of a kind that cannot be replaced.
    """
    size = batch_size or base.train_dataloader.get('batch_size') or 1
    evaluator = dict(_delete_=True, type='CocoMetric', ann_file=paths['val'], metric='bbox')
    if _wants_masks(base):
        evaluator['metric'] = ['bbox', 'segm']
    train = _loader(base, 'train', boxes.train, boxes)
    sections = dict(
        data_root=paths['root'],
        train_annotations=paths['train'],
        val_annotations=paths['val'],
        metainfo=dict(classes=list(boxes.classes)),
        train_dataloader=dict(batch_size=size, **train),
        val_dataloader=_loader(base, 'val', boxes.val, boxes),
        test_dataloader=Code('val_dataloader'),
        val_evaluator=dict(evaluator, ann_file=Code('val_annotations')),
        test_evaluator=Code('val_evaluator'),
    )
    return {**sections, **_steps(base, size, len(boxes.train.content['images']), name)}


def _loader(base: Config, split: str, part: Split, boxes: Boxes) -> dict[str, Any]:
    dataset, keys = base[f'{split}_dataloader'].dataset, [f'{split}_dataloader', 'dataset']
    while 'dataset' in dataset:
        dataset, keys = dataset.dataset, [*keys, 'dataset']
    if 'pipeline' not in dataset:
        raise ValueError(
            f'--data: {split}_dataloader.dataset of the student is a {name_of(dataset.type)}, '
            'which has no pipeline of its own: start from a config with a plain dataset.'
        )
    inner: dict[str, Any] = dict(
        _delete_=True,
        type='CocoDataset',
        data_root=Code('data_root'),
        metainfo=Code('metainfo'),
        ann_file=Code(f'{split}_annotations'),
        data_prefix=dict(img=_prefix(part, boxes)),
        pipeline=Code(f'_base_.{".".join(keys)}.pipeline'),
    )
    if split == 'train' and dataset.get('filter_cfg'):
        inner['filter_cfg'] = Code(f'_base_.{".".join(keys)}.filter_cfg')
    if split == 'val':
        inner['test_mode'] = True
    for _ in keys[1:]:
        inner = dict(dataset=inner)
    return inner


def _prefix(part: Split, boxes: Boxes) -> str:
    """Return where the pictures of a part are, from the folder of the data."""
    root = root_of(boxes)
    return '' if part.pictures == root else f'{part.pictures.relative_to(root).as_posix()}/'


def root_of(boxes: Boxes) -> Path:
    """Return the folder that holds the pictures of both parts."""
    both = (boxes.train.pictures, boxes.val.pictures)
    return both[0] if both[0] == both[1] else Path(*_common(both[0].parts, both[1].parts))


def _common(first: Sequence[str], second: Sequence[str]) -> list[str]:
    same = []
    for a, b in zip(first, second, strict=False):
        if a != b:
            break
        same.append(a)
    return same


def _steps(base: Config, size: int, pictures: int, name: str) -> dict[str, Any]:
    """Return what follows from the batch size: the learning rate, the warm-up."""
    found: dict[str, Any] = {}
    meant = batch_meant(base, name)
    lr = ((base.get('optim_wrapper') or {}).get('optimizer') or {}).get('lr')
    schedule = base.get('param_scheduler') or []
    schedules = [dict(each) for each in (schedule if isinstance(schedule, list) else [schedule])]
    ends = []
    if meant and lr and meant != size:
        found['optim_wrapper'] = dict(optimizer=dict(lr=_scaled(lr, size, meant)))
        # On several processes --auto-scale-lr goes on from here.
        found['auto_scale_lr'] = dict(base_batch_size=size)
        # A rate that a schedule ends at is absolute, too.
        ends = [each for each in schedules
                if each.get('eta_min') and name_of(each.get('type')).endswith('LR')]  # fmt: skip
        for each in ends:
            each['eta_min'] = _scaled(each['eta_min'], size, meant)
    an_epoch = max(1, -(-pictures * _times(base.train_dataloader.dataset) // size))
    late = [
        each
        for each in schedules
        if each.get('by_epoch') is False and each.get('end', 0) > 0 and an_epoch < each['end']
        and each.get('begin', 0) == 0 and 'max_epochs' in (base.get('train_cfg') or {})
        and name_of(each.get('type')).startswith(('Linear', 'Constant'))
    ]  # fmt: skip
    # A warm-up in iterations that is longer than an epoch of these pictures.
    for each in late:
        each['end'] = an_epoch
    if late or ends:
        found['param_scheduler'] = schedules
    return found


def _times(dataset: Mapping[str, Any]) -> int:
    """Return how often an epoch has each picture of a dataset."""
    inner = dataset.get('dataset')
    return dataset.get('times', 1) * _times(inner) if inner else 1


def _scaled(rate: float, size: int, meant: int) -> float:
    return float(f'{rate * size / meant:.4g}')


def batch_meant(base: Config, name: str) -> int | None:
    """Return the batch that the learning rate of a config is for; None if it does not say.

    RTMDet's inherit a ``base_batch_size`` of 16, and one of their 8 processes has 32.
    Where one process has more than all are said to have, the name counts (``8xb32``).
    """
    meant = (base.get('auto_scale_lr') or {}).get('base_batch_size')
    own = base.train_dataloader.get('batch_size') or 0
    said = re.search(r'(\d+)xb(\d+)', name)
    if said and int(said[2]) == own and (meant is None or own > meant):
        return int(said[1]) * own
    return meant


def _wants_masks(base: Config) -> bool:
    evaluator = base.get('val_evaluator') or {}
    metric = evaluator.get('metric') if isinstance(evaluator, Mapping) else None
    return 'segm' in ([metric] if isinstance(metric, str) else metric or [])


def check_masks(base: Config, boxes: Boxes, student: str) -> None:
    """Refuse a network that learns masks where the data have none.

    Raises:
        ValueError: Naming the student and the data's form.
    """
    steps = str((base.get('train_dataloader') or {}).get('dataset'))
    masks = "'with_mask': True" in steps
    has = boxes.form == 'COCO' and all(
        thing.get('segmentation') for thing in boxes.train.content['annotations']
    )
    if masks and not has:
        raise ValueError(
            f'--student {student!r} learns masks, and --data ({boxes.form}) has boxes only: give a '
            'config that learns boxes.'
        )
