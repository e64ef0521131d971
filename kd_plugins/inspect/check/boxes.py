"""Annotations of detectors: whether they parse, and what is wrong with them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config

from kd_plugins.datasets.boxes import AnnotationError, faults_between, faults_of
from kd_plugins.datasets.boxes.coco import parse
from kd_plugins.inspect.check.report import Report
from kd_plugins.registry import name_of

#: Files above this size, in bytes, are left to the training: they would be parsed twice.
LARGE = 200_000_000


def examine_annotations(report: Report, cfg: Config) -> bool:
    """Look at the COCO files of the training and the validation set, before they are used.

    Args:
        report: Gets the findings.
        cfg: The training's config.

    Returns:
        Whether a training can read them.
    """
    parts: dict[str, tuple[dict[str, Any], Path]] = {}
    for split in ('train', 'val'):
        dataset = _innermost((cfg.get(f'{split}_dataloader') or {}).get('dataset'))
        if dataset is None or name_of(dataset.get('type')) != 'CocoDataset':
            continue
        root = dataset.get('data_root') or ''
        file = Path(os.path.join(root, dataset.get('ann_file') or ''))
        if not file.is_file():
            continue  # an address, or what the training itself says
        if file.stat().st_size > LARGE:
            report.add('note', f'{file} is large, so its boxes were not looked at.')
            continue
        try:
            content = parse(file)
        except AnnotationError as error:
            report.add('error', f'{error}.', 'correct the file.')
            return False
        prefix = (dataset.get('data_prefix') or {}).get('img') or ''
        pictures = Path(os.path.join(root, prefix))
        for fault in faults_of(content, pictures if pictures.is_dir() else None, split):
            report.add(fault.level, fault.what, fault.change)
        least = (dataset.get('filter_cfg') or {}).get('min_size') or 0
        small = sum(min(i['width'], i['height']) < least for i in content['images'])
        if small and split == 'train':
            report.add(
                'warning',
                f'{split}: {small} of {len(content["images"])} pictures are smaller than '
                f'train_dataloader.dataset.filter_cfg.min_size={least}, and no training sees them.',
                'lower min_size.',
            )
        parts[split] = content, pictures
    if len(parts) == 2:
        (train, first), (val, second) = parts['train'], parts['val']
        same = os.path.realpath(first) == os.path.realpath(second)
        for fault in faults_between(train, val, same):
            report.add(fault.level, fault.what, fault.change)
    return True


def _innermost(dataset: Any) -> Mapping[str, Any] | None:
    """Return the dataset inside of those that repeat or mix it."""
    while isinstance(dataset, Mapping) and isinstance(dataset.get('dataset'), Mapping):
        dataset = dataset['dataset']
    return dataset if isinstance(dataset, Mapping) else None
