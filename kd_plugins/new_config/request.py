"""What a config is asked for, and the configs that it names."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.registry import DefaultScope

from kd_plugins import checks
from kd_plugins.datasets.boxes import Boxes, read_boxes
from kd_plugins.datasets.picture_folder import pictures_in
from kd_plugins.new_config.classes import of_classes
from kd_plugins.new_config.detection import heads_of, teachers_order
from kd_plugins.registry import name_of

#: The method of a training without a teacher.
ALONE = 'alone'


@dataclass
class Request:
    """What a config is asked for.

    Args:
        student: Config of the student: a path, or ``PACKAGE::PATH``.
        method: ``'alone'``, or a key of :func:`kd_plugins.new_config.methods.methods`.
        out: Where the config will be. Paths in it count from there, so that it
            works from any working directory.
        teacher: Config of the teacher, like the student's; None for the student alone.
        teacher_ckpt: The teacher's checkpoint; None for the weights that the
            package's model index lists for its config.
        data: In the place of the data of the student's config. For a classifier a
            folder with ``train/CLASS/`` and ``val/CLASS/``, for a detector one of
            :func:`kd_plugins.datasets.boxes.read_boxes`. With ``unlabelled``, ``train/``
            may be missing.
        batch_size: Of a detector's training on ``data``, on one process; None for
            that of the student's config.
        student_logits: The module whose output are the student's logits; None to
            look for the network's own answer.
        teacher_logits: The teacher's.
        unlabelled: A folder of pictures without labels, for a method that needs none; of
            detectors, any method.
        where: The part of both networks whose maps a term on maps compares:
            ``'neck'``, ``'backbone'`` or ``'head'``; None to choose.
        unlabelled_ratio: How many of them there are in a batch for each labelled
            picture; ``'all'`` for no labelled ones, as where ``data`` has no ``train/``.
    """

    student: str
    method: str
    out: Path
    teacher: str | None = None
    teacher_ckpt: str | None = None
    data: Path | None = None
    batch_size: int | None = None
    student_logits: str | None = None
    teacher_logits: str | None = None
    unlabelled: Path | None = None
    unlabelled_ratio: int | str = 1
    where: str | None = None
    classes: list[str] = field(default_factory=list, init=False)
    boxes: Boxes | None = field(default=None, init=False)
    teachers_classes: list[str] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        if (self.teacher is None) != (self.method == ALONE):
            raise ValueError(
                f'--method {self.method} and --teacher {self.teacher!r} do not go together.'
            )
        if self.teacher is not None and self.teacher_ckpt is None and '::' not in self.teacher:
            raise ValueError(
                f'--teacher {self.teacher!r} is a file of yours, for which no package lists '
                'weights: give --teacher-ckpt.'
            )
        if os.path.isfile(self.student) and _is_new_style(self.student):
            raise ValueError(
                f'--student {self.student!r} is a new-style config (read_base, classes as types), '
                'which the classic file that is written here cannot inherit: make a classic one of '
                'it with mmengine.config.Config.fromfile(FILE).dump(OTHER_FILE), and give that.'
            )
        if self.data is None and self.batch_size is not None:
            raise ValueError(
                f'--batch-size {self.batch_size} is for --data of detectors: without it, set '
                'train_dataloader.batch_size in the config.'
            )
        if self.data is None and self.unlabelled is None:
            return
        network = whole_config(self.student, '--student').get('model', {})
        if self.unlabelled is not None:
            if not any(key in network for key in ('head', 'bbox_head', 'roi_head')):
                raise ValueError(
                    '--unlabelled is for classifiers and detectors, but --student '
                    f'{self.student!r} is a {name_of(network.get("type"))}.'
                )
            self._check_unlabelled(self.unlabelled, 'head' in network)
        if self.data is None:
            return
        if 'head' in network:
            if self.batch_size is not None:
                raise ValueError(
                    f'--batch-size {self.batch_size} is for detectors, and --student '
                    f'{self.student!r} is a {name_of(network.get("type"))}.'
                )
            self.classes = _classes_in(self.data, self.unlabelled_alone)
        else:
            self.boxes = read_boxes(self.data)
            self.classes = self.boxes.classes
            if self.unlabelled is not None:
                self._check_val_apart(self.unlabelled, self.boxes.val.pictures)
            self.teachers_classes = teachers_order(self.teacher_ckpt, self.classes)

    @property
    def unlabelled_alone(self) -> bool:
        """Whether no picture of the training has a label."""
        return self.unlabelled is not None and self.unlabelled_ratio == 'all'

    def _check_unlabelled(self, folder: Path, of_classifier: bool) -> None:
        if self.method == ALONE:
            raise ValueError(
                f'--unlabelled {str(folder)!r} teaches by the answers of a teacher, and --method '
                'alone has none: give --teacher and another method, such as kd.'
            )
        try:
            pictures_in(folder)
        except ValueError as error:
            raise ValueError(f'--unlabelled {error}') from None
        if self.data is not None and of_classifier:
            self._check_val_apart(folder, self.data / 'val')
            if not (self.data / 'train').is_dir():
                self.unlabelled_ratio = 'all'
        if self.unlabelled_ratio != 'all':
            checks.whole_number(
                '--unlabelled-ratio', self.unlabelled_ratio, right='a whole number, or all'
            )

    def _check_val_apart(self, folder: Path, val: Path) -> None:
        """Refuse to train on the pictures that measure the training."""
        one, other = folder.resolve(), val.resolve()
        if one.is_relative_to(other) or other.is_relative_to(one):
            raise ValueError(
                f'--unlabelled {str(folder)!r} and {str(val)!r}, which measures the student, have '
                'pictures in common: give a folder apart from it.'
            )

    def network(self, side: str, whole: Config, path: str, **more: Any) -> dict[str, Any]:
        """Return the config of one of the networks, for these classes.

        Args:
            side: 'student' or 'teacher', which may know other classes beside these.
            whole: Its config.
            path: Where that is.
            **more: More of it; ``cfg_path`` as it shall stand there.
        """
        changes: dict[str, Any] = {}
        if self.boxes is not None:
            classes = (side == 'teacher' and self.teachers_classes) or self.classes
            changes = heads_of(path, len(classes), f'--{side}')
        elif self.classes:
            changes = of_classes(whole.model, len(self.classes), f'--{side}')
        return {**dict(cfg_path=path, **changes), **more}

    @property
    def annotations(self) -> Path:
        """Where annotations of another form go as COCO files: beside the config."""
        assert self.data is not None
        return self.out.parent / f'{self.data.resolve().name}_coco'

    def path(self, path: str | Path, prefix: str = '{{ fileDirname }}/') -> str:
        """Return a path as it stands in the config, where relative ones count from its folder.

        Args:
            path: A path, an address or ``PACKAGE::PATH``.
            prefix: What to put before a relative path; mmengine fills in the folder.
        """
        path = str(path)
        if '::' in path or '://' in path or os.path.isabs(path):
            return path
        folder = os.path.abspath(self.out.parent)
        counted = os.path.relpath(path, folder)
        if os.path.realpath(os.path.join(folder, counted)) != os.path.realpath(path):
            # Through a link `..` leads elsewhere, and mmengine and the system disagree where.
            return os.path.abspath(path)
        return prefix + counted


def _classes_in(data: Path, only_val: bool) -> list[str]:
    found = {
        split: sorted(p.name for p in (data / split).glob('*') if p.is_dir())
        for split in ('train', 'val')
    }
    if only_val:
        found['train'] = found['val']
    if len(found['train']) < 2 or found['train'] != found['val']:
        raise ValueError(
            f'--data {str(data)!r} needs the same two or more folders of pictures, one a class, in '
            f'train/ and val/, but they hold {len(found["train"])} and {len(found["val"])}.'
        )
    return found['train']


def _is_new_style(path: str) -> bool:
    try:
        return Config._is_lazy_import(path)
    except SyntaxError:
        return False  # which reading it will tell


def whole_config(path: str, option: str) -> Config:
    """Read the config of a training.

    Raises:
        ValueError: Whatever upstream throws, as one sentence.
    """
    try:
        with DefaultScope.overwrite_default_scope(path.split('::')[0] if '::' in path else None):
            return get_config(path) if '::' in path else Config.fromfile(path)
    except Exception as error:
        raise cannot(f'{option} {path!r} cannot be read', error) from error


def cannot(what: str, error: Exception) -> ValueError:
    """Return what upstream, or a network's own code, stopped at, as one sentence."""
    if isinstance(error, (ValueError, FileNotFoundError)):
        return ValueError(f'{what}: {checks.said(error)}')
    return ValueError(f'{what}: {type(error).__name__}: {checks.said(error)}')
