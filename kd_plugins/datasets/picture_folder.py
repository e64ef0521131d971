"""A folder of pictures that nobody has labelled."""

from __future__ import annotations

import os
from pathlib import Path
from traceback import walk_tb
from typing import Any

from mmengine.dataset import BaseDataset

from kd_plugins import checks
from kd_plugins.registry import DATASETS

#: The endings of the pictures that are found; those of mmpretrain's ``CustomDataset``.
PICTURES = ('.jpg', '.jpeg', '.png', '.ppm', '.bmp', '.pgm', '.tif')

#: What steps that miss labels say first.
_OF_LABELS = ('gt_', 'instances')


def pictures_in(folder: str | Path) -> list[str]:
    """Return the paths of the pictures in a folder, at any depth, sorted.

    Raises:
        ValueError: If there is no such folder, or no picture in it.
    """
    found = sorted(
        os.path.join(where, name)
        for where, _, names in os.walk(folder, followlinks=True)
        for name in names
        if name.lower().endswith(PICTURES)
    )
    if not found:
        endings = ', '.join(PICTURES)
        what, right = 'is no folder', f'one with pictures ({endings})'
        if os.path.isdir(folder):
            what, right = f'holds no pictures ({endings})', 'a folder that has some'
        raise ValueError(f'{str(folder)!r} {what}: give {right}, at any depth.')
    return found


def mixing_steps(dataset: Any) -> list[Any]:
    """Return the steps of a dataset's pipeline that mix its pictures, as mosaics do."""
    steps = getattr(getattr(dataset, 'pipeline', None), 'transforms', ())
    return [step for step in steps if hasattr(step, 'get_indexes')]


@DATASETS.register_module()
class PictureFolder(BaseDataset):
    """The pictures of a folder, at any depth, for :class:`WithUnlabelled` beside detectors.

    ``CustomDataset`` with ``with_label=False`` is the same for classifiers. What it gives a
    pipeline are ``img_path`` and ``img_id``, and no ``instances``: the pipeline loads no
    annotations.

    Args:
        data_root: The folder.
        **kwargs: Those of mmengine's ``BaseDataset``, ``pipeline`` above all.

    Raises:
        ValueError: If there is no such folder, or no picture in it, or a step of the pipeline mixes
            pictures; or, when a sample is read, if it loads none, or a step reads boxes.
    """

    def __init__(self, data_root: str, **kwargs: Any) -> None:
        super().__init__(data_root=data_root, **kwargs)
        # Some would keep a few pictures first, and miss boxes only then.
        for step in mixing_steps(self):
            raise ValueError(
                f'PictureFolder.pipeline: {type(step).__name__} mixes pictures that have boxes, '
                'and these have none: leave it out.'
            )

    def load_data_list(self) -> list[dict[str, Any]]:
        """Return the path and the number of every picture."""
        paths = pictures_in(self.data_root)
        return [dict(img_path=path, img_id=i) for i, path in enumerate(paths)]

    def prepare_data(self, idx: int) -> Any:
        """Return what the pipeline makes of a picture."""
        why = None
        try:
            data = super().prepare_data(idx)
        except (KeyError, AssertionError) as error:
            if error.args != ('img',):
                self._explain(error)
                raise
            data, why = {}, error
        # Not every step misses it.
        if data is not None and 'img' not in data and 'inputs' not in data:
            steps = [type(step).__name__ for step in self.pipeline.transforms]
            raise ValueError(
                f'PictureFolder.pipeline ({", ".join(steps)}) loads no picture: begin it with '
                "dict(type='LoadImageFromFile')."
            ) from why
        return data

    def _explain(self, error: Exception) -> None:
        """Say which step misses what pictures without labels do not have.

        Raises:
            ValueError: If it is one of those.
        """
        steps = {id(step): type(step).__name__ for step in self.pipeline.transforms}
        owners = [frame.f_locals.get('self') for frame, _ in walk_tb(error.__traceback__)]
        names = [steps[id(owner)] for owner in owners if id(owner) in steps]
        # FilterAnnotations asserts without a word.
        missed = not error.args or str(error.args[0]).strip('`').startswith(_OF_LABELS)
        if names and missed:
            raise ValueError(
                f'PictureFolder.pipeline: {names[-1]} reads boxes, and these pictures have none '
                f'({checks.said(error)}): leave it out.'
            ) from error
