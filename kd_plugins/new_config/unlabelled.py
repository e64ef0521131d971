"""Pictures without labels beside those of a detector."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmengine.config import Config

from kd_plugins.new_config.python import Code
from kd_plugins.registry import name_of

#: Boxes of the teacher count from this score on.
SCORE = 0.4
#: Steps that read boxes, or mix pictures with others, for which there would have to be boxes.
LEFT_OUT = (
    'LoadAnnotations', 'LoadPanopticAnnotations', 'FilterAnnotations', 'Mosaic', 'CachedMosaic',
    'MixUp', 'CachedMixUp', 'CopyPaste', 'InstaBoost', 'RandomAffine', 'RandomShift',
    'RandomCenterCropPad', 'MinIoURandomCrop',
)  # fmt: skip


def pseudo_boxes(distiller: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``model.pseudo_boxes`` where a recorder reads targets; else nothing."""
    kinds = {name_of(each['type']) for each in distiller['student_recorders'].values()}
    return dict(pseudo_boxes=dict(score=SCORE)) if kinds & {'DetectionHead', 'RoIHead'} else {}


def folder_of_detector(base: Config, folder: str) -> dict[str, Any]:
    """Return the dataset of a folder of pictures, as those of a detector are augmented.

    Args:
        base: The student's config.
        folder: Its path as it stands in the config.

    Raises:
        ValueError: If the dataset of ``base`` has no pipeline that reads pictures.
    """
    dataset = base.train_dataloader.dataset
    reads = (name_of(step.type) for step in dataset.get('pipeline', ()))
    if not any(name.startswith('LoadImage') for name in reads):
        raise ValueError(
            f'--unlabelled: train_dataloader.dataset of the student is a {name_of(dataset.type)}, '
            'which has no pipeline of its own that reads pictures: start from a config with a '
            'plain dataset.'
        )
    steps = '_base_.train_dataloader.dataset.pipeline'
    left_out = f"step['type'].split('.')[-1] not in {LEFT_OUT}"
    return dict(
        type='kd_plugins.PictureFolder',
        data_root=folder,
        pipeline=Code(f'[step for step in {steps} if {left_out}]'),
    )
