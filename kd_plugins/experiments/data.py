"""What a training's data sets hold, so that results of other data are not taken for one."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.dataset import BaseDataset, ConcatDataset
from mmengine.hooks import Hook
from mmengine.runner import Runner

from kd_plugins.experiments.results import Result, read_json
from kd_plugins.files.writing import write_aside
from kd_plugins.registry import name_of

#: Of how many pictures of a data set the size of the file counts, too.
MEASURED = 100


def data_hash(dataset: Any) -> str:
    """Identify what a data set holds: names of pictures, labels, boxes.

    Pictures in memory count by their values, those in files by their names, and
    :data:`MEASURED` of them by the size of the file. Of a data set that is not mmengine's
    only the number of samples counts.

    Args:
        dataset: Built; what repeats or mixes another counts as that.

    Returns:
        16 hexadecimal digits.
    """
    while not isinstance(dataset, BaseDataset | ConcatDataset) and hasattr(dataset, 'dataset'):
        dataset = dataset.dataset
    number = len(dataset) if hasattr(dataset, '__len__') else 0
    digest = hashlib.sha256(str(number).encode())
    if isinstance(dataset, BaseDataset | ConcatDataset):
        step = max(1, number // MEASURED)
        for i in range(number):
            info = dataset.get_data_info(i)
            path = info.get('img_path')
            things = [
                [each.get(key) for key in ('bbox', 'bbox_label', 'ignore_flag')]
                for each in info.get('instances') or ()
            ]
            said = [path, info.get('gt_label'), things]
            digest.update(json.dumps(said, default=_plain).encode())
            if 'img' in info:
                digest.update(np.ascontiguousarray(info['img']).tobytes())
            if i % step == 0 and isinstance(path, str) and os.path.isfile(path):
                digest.update(str(os.path.getsize(path)).encode())
    return digest.hexdigest()[:16]


def other_data(results: Mapping[str, Result]) -> str | None:
    """Say which two results are of other data; None if all are of the same.

    Args:
        results: By what to call them.
    """
    first: dict[str, tuple[str, str]] = {}
    for name, result in results.items():
        for split, found in result.data.items():
            other, before = first.setdefault(split, (name, found))
            if found != before:
                return (
                    f'{other} and {name} are of other data: the {split} set has other pictures or '
                    'labels under the same names'
                )
    return None


class DataRecord(Hook):
    """Note what the data sets hold, and do not go on with a training of others.

    Args:
        path: The JSON object to note it in, under ``'data'``.
        resumed: Whether the training goes on.
    """

    def __init__(self, path: Path, resumed: bool) -> None:
        self.path, self.resumed = path, resumed
        self.found: dict[str, str] = {}

    def before_train(self, runner: Runner) -> None:
        """Look at both.

        Raises:
            RuntimeError: If the training began with others.
        """
        train = runner.train_dataloader.dataset
        # Who has pictures without labels beside the others is compared by the validation set.
        if name_of(type(train)) != 'WithUnlabelled':
            self.found['train'] = data_hash(train)
        if runner.val_loop is not None:
            self.found['val'] = data_hash(runner.val_loop.dataloader.dataset)
        noted = read_json(self.path)
        for split, found in self.found.items():
            if self.resumed and noted.get('data', {}).get(split, found) != found:
                raise RuntimeError(
                    f'the {split} set has other pictures or labels than when this training began: '
                    f'remove {str(self.path.parent)!r}, and it is trained anew.'
                )
        write_aside(json.dumps(dict(noted, data=self.found)).encode(), self.path)


def _plain(value: Any) -> Any:
    return np.asarray(value).tolist()
