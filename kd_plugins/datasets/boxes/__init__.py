"""Pictures with boxes, as COCO, PASCAL VOC and YOLO keep them, read as COCO."""

from __future__ import annotations

from pathlib import Path

from kd_plugins.datasets.boxes import coco, voc, yolo
from kd_plugins.datasets.boxes.faults import Fault, faults_between, faults_of
from kd_plugins.datasets.boxes.reading import AnnotationError, Boxes, Split

__all__ = [
    'AnnotationError', 'Boxes', 'Fault', 'Split', 'faults', 'faults_between', 'faults_of',
    'read_boxes',
]  # fmt: skip


def read_boxes(data: Path) -> Boxes:
    """Read a folder of pictures with boxes, whichever of the three forms it has.

    Args:
        data: The folder.

    Raises:
        AnnotationError: If an annotation does not parse; it names file and line.
        ValueError: If it has none of the forms, or no training or validation part.
    """
    for form in (coco, voc, yolo):
        found = form.read(data)
        if found is not None:
            return found
    raise ValueError(
        f'--data {str(data)!r} has no boxes: give a COCO folder (annotations/*train*.json and '
        '*val*.json, or train/_annotations.coco.json), a VOC folder (Annotations/*.xml, JPEGImages '
        'and ImageSets/Main/train.txt), or a YOLO folder (images/train, labels/train/*.txt and a '
        'data.yaml with the names).'
    )


def faults(boxes: Boxes) -> list[Fault]:
    """Return what is wrong with both parts of a data set, worst first."""
    found = [
        *faults_between(
            boxes.train.content, boxes.val.content, boxes.train.pictures == boxes.val.pictures
        ),
        *faults_of(boxes.train.content, boxes.train.pictures, 'train'),
        *faults_of(boxes.val.content, boxes.val.pictures, 'val'),
    ]
    return sorted(found, key=lambda fault: ('error', 'warning', 'note').index(fault.level))
