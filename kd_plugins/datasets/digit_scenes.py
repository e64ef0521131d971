"""Scenes of handwritten digits: real scans to detect, in COCO's format.

Nothing is downloaded, and the pictures are small enough to train a detector on
a CPU. What is written is an ordinary COCO data set, for mmdet's ``CocoDataset``
and ``CocoMetric`` or for any other reader.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np

from kd_plugins.datasets.digits import Digits
from kd_plugins.datasets.scene_drawing import SceneSettings, draw_scene

CLASSES = Digits.METAINFO['classes']
#: Where the settings stand that a folder was made with.
SETTINGS = 'scenes.json'


def make_scenes(
    root: str | Path,
    settings: SceneSettings | None = None,
    tick: Callable[[], None] = lambda: None,
) -> Path:
    """Write a COCO data set once; a folder that has it already is left alone.

    Leaves ``ROOT/{train,val}/*.png``, ``ROOT/annotations/{train,val}.json`` and
    the settings. All of it appears at once when it is complete, so that an
    interrupted call leaves no folder of this name.

    Args:
        root: The folder to make.
        settings: Of the scenes; the defaults of :class:`SceneSettings` if None.
        tick: Called after every scene that was written.

    Returns:
        The folder.

    Raises:
        FileExistsError: If the folder holds something else, or other scenes.
    """
    root, settings = Path(root), settings or SceneSettings()
    if _is_made(root, settings):
        return root
    root.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f'.{root.name}-', dir=root.parent))
    try:
        part.chmod(0o755)  # mkdtemp's folders are their owner's alone
        for number, split in enumerate(('train', 'val')):
            _write_split(part, split, number, settings, tick)
        (part / SETTINGS).write_text(json.dumps(asdict(settings)))
        try:
            os.rename(part, root)
        except OSError:  # somebody else was faster
            if not _is_made(root, settings):
                raise
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return root


def _is_made(root: Path, settings: SceneSettings) -> bool:
    """Whether the folder holds these scenes; another one's content is never touched."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    wanted = json.loads(json.dumps(asdict(settings)))
    path = root / SETTINGS
    made = json.loads(path.read_text()) if path.is_file() else None
    if made == wanted:
        return True
    if not isinstance(made, dict):
        what = f'something else than digit scenes (it has no {SETTINGS})'
    else:
        names = sorted(k for k in {**made, **wanted} if made.get(k) != wanted.get(k))
        what = 'scenes with ' + ', '.join(f'{k}={made.get(k)} (not {wanted.get(k)})' for k in names)
    raise FileExistsError(f'{root} holds {what}: name another folder, or remove this one.')


def _write_split(
    root: Path, split: str, number: int, settings: SceneSettings, tick: Callable[[], None]
) -> None:
    samples = Digits('train' if split == 'train' else 'test').load_data_list()
    scans = np.stack([sample['img'][..., 0] for sample in samples])
    labels = np.array([sample['gt_label'] for sample in samples])
    (root / split).mkdir()
    images: list[dict] = []
    annotations: list[dict] = []
    for index in range(getattr(settings, split)):
        random = np.random.default_rng([settings.seed, number, index])
        scene = draw_scene(scans, labels, settings, random)
        name = f'{index:06d}.png'
        if not cv2.imwrite(str(root / split / name), scene.picture):
            raise OSError(f'{root / split / name} could not be written.')
        images.append(dict(id=index, file_name=name, width=settings.size, height=settings.size))
        for box, label in zip(scene.boxes.tolist(), scene.labels.tolist(), strict=True):
            annotations.append(
                dict(
                    id=len(annotations) + 1,  # COCO's evaluation takes 0 for "none"
                    image_id=index,
                    category_id=label + 1,
                    bbox=box,
                    area=box[2] * box[3],
                    iscrowd=0,
                )
            )
        tick()
    categories = [
        dict(id=i + 1, name=name, supercategory='digit') for i, name in enumerate(CLASSES)
    ]
    (root / 'annotations').mkdir(exist_ok=True)
    (root / 'annotations' / f'{split}.json').write_text(
        json.dumps(dict(images=images, annotations=annotations, categories=categories))
    )
