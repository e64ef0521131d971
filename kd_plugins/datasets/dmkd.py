"""DM-KD: pictures that a diffusion model has drawn, as it lays them out."""

from __future__ import annotations

import os.path
import re
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from mmengine.fileio import get_file_backend
from mmpretrain.datasets import CustomDataset

from kd_plugins import checks
from kd_plugins.registry import DATASETS

#: How a picture is called: its class, the seed of its noise, its number in that noise.
NAME = 'class_{label}_seed_{seed}_num_{number}.png'
_LABEL = re.compile(r'class_(\d+)_')


@DATASETS.register_module()
class GeneratedPictures(CustomDataset):
    """Pictures whose class is in the file name, as in ``class_7_seed_0_num_3.png``.

    The file names and index files are those of DM-KD; ``tools/generate_pictures.py``
    writes both. Pictures in a folder for each class are a ``CustomDataset`` of
    mmpretrain. Where the teacher alone teaches (``model.calculate_student_loss=False``)
    the classes only measure it.

    Args:
        num_classes: How many classes there are.
        ann_file: An index, one path a line, that counts from ``data_prefix``; without
            one, all pictures at any depth.
        **kwargs: As in ``CustomDataset``, such as ``data_root``, ``data_prefix``,
            ``metainfo`` and ``pipeline``.

    Raises:
        ValueError: If a name tells no class of these, if the index names files that are
            missing, or if there are no pictures.

    Source: Li et al., "Is Synthetic Data From Diffusion Models Ready for Knowledge
    Distillation?", arXiv 2305.12954; github.com/zhengli97/DM-KD.
    """

    def __init__(self, num_classes: int, ann_file: str = '', **kwargs: Any) -> None:
        self.num_classes = checks.whole_number('GeneratedPictures.num_classes', num_classes, 2)
        super().__init__(ann_file=ann_file, **kwargs)
        names = self.metainfo.get('classes')
        if names is not None and len(names) != num_classes:
            raise ValueError(
                f'GeneratedPictures.num_classes={num_classes}, and its metainfo names '
                f'{len(names)} classes: give as many.'
            )

    def load_data_list(self) -> list[dict[str, Any]]:
        """Return the path and the class of every picture."""
        try:
            # Upstream would look for the class behind the path, or in the folder's name.
            self.with_label = False
            data = super().load_data_list()
        except RuntimeError:
            data = []  # upstream's word for an empty folder
        finally:
            self.with_label = True
        where = self.ann_file or self.img_prefix
        data = [each for each in data if os.path.basename(each['img_path']).strip()]
        if not data:
            raise ValueError(
                f'GeneratedPictures: {str(where)!r} has no pictures: give data_root (and ann_file) '
                'of what tools/generate_pictures.py has written.'
            )
        for each in data:
            each['gt_label'] = self._label(each['img_path'])
        if self.ann_file:
            self._check_files([each['img_path'] for each in data])
        return data

    def _label(self, path: str) -> int:
        found = _LABEL.match(os.path.basename(path))
        if found is None:
            raise ValueError(
                f'GeneratedPictures: the name of {path!r} tells no class: it would be called '
                f'{NAME.format(label=7, seed=0, number=3)!r}. Pictures in a folder for each class '
                "are dict(type='CustomDataset')."
            )
        label = int(found[1])
        if label >= self.num_classes:
            raise ValueError(
                f'GeneratedPictures.num_classes={self.num_classes}, and {path!r} is of class '
                f'{label}, counted from 0: give the number of classes that were drawn, in the '
                "order of the teacher's."
            )
        return label

    def _check_files(self, paths: Sequence[str]) -> None:
        """Look at the folders once: asking for every file takes minutes for a million."""
        folders = defaultdict(list)
        for path in paths:
            folders[os.path.dirname(path)].append(os.path.basename(path))
        missing = []
        for folder, names in folders.items():
            backend = get_file_backend(folder, enable_singleton=True)
            there: set[str] = set()
            if backend.isdir(folder or '.'):
                there = {*backend.list_dir_or_file(folder or '.', list_dir=False)}
            missing += [os.path.join(folder, name) for name in names if name not in there]
        if missing:
            raise ValueError(
                f'GeneratedPictures.ann_file={self.ann_file!r} names {len(missing)} of '
                f'{len(paths)} files that are not there, such as {missing[0]!r}: go on with '
                'tools/generate_pictures.py, or give the data_prefix that its paths count from.'
            )
