"""Writing what a detector finds in pictures as a COCO file."""

from __future__ import annotations

import copy
import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.registry import DATASETS, init_default_scope
from torch import nn

from kd_plugins import checks
from kd_plugins.datasets.picture_folder import pictures_in
from kd_plugins.files.weights import load_weights
from kd_plugins.files.writing import write_aside
from kd_plugins.networks import build_network, classes_of, resolve_network, score_threshold
from kd_plugins.registry import name_of
from kd_plugins.teachers.classes import choose, classes_in, keep_classes

#: A side of a box has at least so many pixels, as in mmdet's ``FilterAnnotations``.
THINNEST = 1.0


@dataclass
class Pictures:
    """Pictures that get labels.

    Args:
        folder: From where their names count.
        images: COCO's entries, with ``id`` and ``file_name``.
    """

    folder: Path
    images: list[dict[str, Any]]


@dataclass
class Labelled:
    """What has come of it.

    Args:
        pictures: How many pictures were read.
        empty: How many of them have no box.
        boxes: How many boxes all have.
        unreadable: The names of the pictures that could not be read, and why.
    """

    pictures: int = 0
    empty: int = 0
    boxes: int = 0
    unreadable: dict[str, str] = field(default_factory=dict)


class Labeller:
    """A detector, with the pipeline of its config and the names of its classes.

    Args:
        cfg: Config of a training of mmdet, or of a distillation, whose teacher is taken.
        checkpoint: Its checkpoint.
        device: Where it computes.

    Raises:
        ValueError: If it is no detector, or nobody says its classes or how to read a picture.
        FileNotFoundError: If there is no such checkpoint.
    """

    def __init__(self, cfg: Config, checkpoint: str, device: str = 'cpu') -> None:
        init_default_scope(cfg.get('default_scope') or 'mmdet')
        self.network, classes = _detector(cfg, checkpoint)
        self.network.to(device).eval()
        dataset = _dataset(cfg)
        count = classes_of(self.network)
        for names in (classes, _named(dataset)):
            if names is not None and len(names) == count:
                self.classes = list(names)
                break
        else:
            raise ValueError(
                f'the detector knows {count} classes, and neither the checkpoint {checkpoint!r} '
                'nor the config (test_dataloader.dataset.metainfo.classes) names as many: give the '
                'names there.'
            )
        self.pipeline = Compose(_reading(dataset.get('pipeline') or ()))

    def read(self, path: Path) -> dict[str, Any]:
        """Return a picture as the network's preprocessor takes it.

        Raises:
            ValueError: If it cannot be read.
        """
        return self.pipeline(dict(img_path=str(path), img_id=0))

    @torch.no_grad()
    def label(self, pictures: Sequence[dict[str, Any]], score: float) -> list[dict[str, Any]]:
        """Return of each picture its width and height, and its boxes.

        Args:
            pictures: As :meth:`read` gives them.
            score: The least score of a box.

        Returns:
            ``width``, ``height`` and ``boxes``: x, y, width and height in pixels of the
            picture, then the number of the class and the score.
        """
        labelled = []
        network: Any = self.network
        for sample in network.test_step(pseudo_collate(list(pictures))):
            height, width = sample.ori_shape[:2]
            found = sample.pred_instances
            bound = found.bboxes.new_tensor([width, height, width, height])
            corners = found.bboxes.float().clamp(min=0).minimum(bound)
            sides = corners[:, 2:] - corners[:, :2]
            kept = (found.scores >= score) & (sides >= THINNEST).all(dim=1)
            rows = torch.cat([corners[:, :2], sides], dim=1)[kept].tolist()
            labels, scores = found.labels[kept].tolist(), found.scores[kept].tolist()
            boxes = [
                [*(round(x, 2) for x in row), label, round(sure, 4)]
                for row, label, sure in zip(rows, labels, scores, strict=True)
            ]
            labelled.append(dict(width=width, height=height, boxes=boxes))
        return labelled


def settings_of(cfg: Config) -> str:
    """Return what tells configs apart that would label otherwise, whatever files say it.

    Args:
        cfg: As :class:`Labeller` takes it.

    Raises:
        ValueError: As there.
    """
    _, network = _network_settings(cfg)
    class_map = cfg.model.get('teacher_class_map')
    return _short(repr(_plain([network, class_map, _dataset(cfg)])))


def _plain(value: Any) -> Any:
    """Return nested settings as what prints alike in every process."""
    if isinstance(value, Mapping):
        return sorted((str(key), _plain(each)) for key, each in value.items())
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return getattr(value, '__qualname__', value)


def pictures_of(where: Path, folder: Path | None = None) -> Pictures:
    """Return the pictures of a folder, at any depth, or those of a COCO file.

    Args:
        where: The folder, or the file.
        folder: Where the pictures of the file are; None for the folder of the file.

    Raises:
        ValueError: If there are none, or it is no COCO file.
    """
    if where.suffix.lower() != '.json':
        if folder is not None:
            raise ValueError(
                f'--pictures {str(folder)!r} is for a COCO file, and {str(where)!r} is none: leave '
                'it out.'
            )
        names = [os.path.relpath(path, where) for path in pictures_in(where)]
        return Pictures(
            where, [dict(id=i, file_name=Path(n).as_posix()) for i, n in enumerate(names, 1)]
        )
    try:
        images = json.loads(where.read_text(encoding='utf-8'))['images']
        kept = [{k: v for k, v in image.items() if k != 'coco_url'} for image in images]
        assert kept and all('id' in image and 'file_name' in image for image in kept)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, AssertionError) as error:
        raise ValueError(
            f'{str(where)!r} is no COCO file with pictures ({checks.said(error)}): give one that '
            'has images, each with id and file_name.'
        ) from None
    return Pictures(folder or where.parent, kept)


def label_pictures(
    labeller: Callable[[], Labeller],
    pictures: Pictures,
    out: Path,
    score: float,
    batch_size: int,
    source: Mapping[str, str],
    tell: Callable[[int, int], None] = lambda done, of: None,
) -> Labelled:
    """Write a COCO file of what a detector finds.

    What is done is kept beside it until it is complete, so that the same call goes on after a kill.

    Args:
        labeller: Builds the detector; it is called if a picture is left to label.
        pictures: The pictures.
        out: The file.
        score: Boxes count from this score on.
        batch_size: Pictures that are shown at once.
        source: What the file says of its making: ``checkpoint``, a file, and all that the
            detector is built with beside it, such as :func:`settings_of`.
        tell: Called with how many of the pictures are done, and of how many.

    Raises:
        ValueError: If ``score`` is below that from which the detector keeps boxes, no
            picture can be read, or what was kept is of another detector, score or data, or
            another process writes it.
    """
    made = dict(source, score=score, pictures=str(pictures.folder.resolve()))
    made['weights'] = _digest(source['checkpoint'])
    with _Record(out.with_name(out.name + '.progress'), made) as record:
        left = [image for image in pictures.images if image['file_name'] not in record.done]
        total = len(pictures.images)
        tell(total - len(left), total)
        if left:
            detector = labeller()
            _check_score(detector.network, score)
            record.add('', dict(classes=detector.classes))
            names = [image['file_name'] for image in left]
            for batch in _batches(detector, pictures.folder, names, batch_size, record):
                found = detector.label([data for _, data in batch], score) if batch else []
                for (name, _), each in zip(batch, found, strict=True):
                    record.add(name, each)
                tell(len(record.done) - 1, total)  # one line says the classes
        result, content = _content(pictures, record.done, made)
        if not result.pictures:
            name, why = next(iter(result.unreadable.items()))
            raise ValueError(
                f'none of the {len(result.unreadable)} pictures of {str(pictures.folder)!r} can be '
                f'read ({name}: {why}): give others.'
            )
        write_aside(json.dumps(content), out)
        record.path.unlink()
    return result


class _Record:
    """What is done so far, a line a picture, behind a line that says by what.

    It is one process's: the system frees it however that ends.
    """

    def __init__(self, path: Path, made: Mapping[str, Any]) -> None:
        self.path = path
        self.done: dict[str, dict[str, Any]] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        self.file = open(path, 'a+', encoding='utf-8')  # noqa: SIM115
        try:
            self._lock()
            self._read(made)
        except BaseException:
            self.file.close()
            raise

    def __enter__(self) -> _Record:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def _lock(self) -> None:
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f'{str(self.path)!r} is in use: another process labels for the same --out; wait '
                'until that has ended, or give another --out.'
            ) from None
        except OSError:
            pass  # a file system without locks

    def _read(self, made: Mapping[str, Any]) -> None:
        self.file.seek(0)
        *lines, broken = self.file.read().split('\n')  # the last may be in pieces
        if broken:
            self.file.truncate(sum(len(line.encode()) + 1 for line in lines))
        if not lines:
            self._write(dict(made))
            return
        before = json.loads(lines[0])
        different = [
            f'other {key}' if key.endswith('s') else f'another {key}'
            for key in made
            if before.get(key) != made[key]
        ]
        if different:
            raise ValueError(
                f'{str(self.path)!r} holds what was done with {", ".join(different)}: give another '
                '--out, or remove it.'
            )
        done = dict(json.loads(line) for line in lines[1:])
        # What could not be read may be there by now.
        self.done = {name: what for name, what in done.items() if 'unreadable' not in what}

    def add(self, name: str, what: dict[str, Any]) -> None:
        self.done[name] = what
        self._write([name, what])

    def _write(self, line: Any) -> None:
        self.file.write(json.dumps(line) + '\n')
        self.file.flush()


def _batches(
    detector: Labeller, folder: Path, names: Sequence[str], size: int, record: _Record
) -> Iterator[list[tuple[str, dict[str, Any]]]]:
    """Yield pictures that can be read, and record the others."""
    for first in range(0, len(names), size):
        batch = []
        for name in names[first : first + size]:
            try:
                batch.append((name, detector.read(folder / name)))
            except ValueError as error:
                record.add(name, dict(unreadable=checks.said(error)))
        yield batch


def _content(
    pictures: Pictures, done: Mapping[str, dict[str, Any]], made: Mapping[str, Any]
) -> tuple[Labelled, dict[str, Any]]:
    """Return what has come of it, and the file."""
    result = Labelled()
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image in pictures.images:
        of = done[image['file_name']]
        if 'unreadable' in of:
            result.unreadable[image['file_name']] = of['unreadable']
            continue
        images.append(dict(image, width=of['width'], height=of['height']))
        for x, y, width, height, label, sure in of['boxes']:
            annotations.append(
                dict(
                    id=len(annotations) + 1, image_id=image['id'], category_id=label + 1,
                    bbox=[x, y, width, height], area=round(width * height, 2), iscrowd=0,
                    score=sure,
                )
            )  # fmt: skip
        result.empty += not of['boxes']
    result.pictures, result.boxes = len(images), len(annotations)
    names = done.get('', {}).get('classes', [])
    categories = [dict(id=i, name=name) for i, name in enumerate(names, 1)]
    info = dict(description='boxes of a detector, by kd_plugins', **made)
    return result, dict(info=info, images=images, annotations=annotations, categories=categories)


def _check_score(network: nn.Module, score: float) -> None:
    path, least = score_threshold(network)
    if least > score:
        raise ValueError(
            f'--score {score:g} is below the score from which the detector keeps boxes at all '
            f'({path}={least:g}): give at least that, or --cfg-options model.{path}={score:g}.'
        )


def _network_settings(cfg: Config) -> tuple[str, dict[str, Any]]:
    """Return the key of the detector in a config, and the settings to build it by."""
    model = copy.deepcopy(cfg.get('model') or {})
    key = 'model.teacher' if isinstance(model.get('teacher'), Mapping) else 'model'
    settings = model['teacher'] if key == 'model.teacher' else model
    size = model.get('teacher_input_size')
    if key == 'model.teacher' and size is not None:
        raise ValueError(
            f'{cfg.filename!r} has model.teacher_input_size={size}, and its test_dataloader reads '
            "pictures of the student's size: give the teacher's own config."
        )
    resolved, _ = resolve_network(settings, key)
    resolved.pop('init_cfg', None)
    preprocessor = cfg.get('data_preprocessor') or model.get('data_preprocessor')
    if preprocessor is not None:
        resolved.setdefault('data_preprocessor', preprocessor)
    return key, resolved


def _detector(cfg: Config, checkpoint: str) -> tuple[nn.Module, Sequence[str] | None]:
    key, settings = _network_settings(cfg)
    network: Any = build_network(settings, key)
    if not hasattr(network, 'extract_feat') or not (
        hasattr(network, 'bbox_head') or hasattr(network, 'roi_head')
    ):
        raise ValueError(
            f'{cfg.filename!r} has a {type(network).__name__}, which finds no boxes: give the '
            'config of a detector, or of the distillation of one.'
        )
    classes = classes_in(load_weights(network, checkpoint, 'CHECKPOINT', 'detector'))
    class_map = cfg.model.get('teacher_class_map')
    if key == 'model.teacher' and class_map is not None:
        index = choose(list(class_map), network, classes)
        keep_classes(network, index)
        classes = classes and tuple(classes[i] for i in index)
    return network, classes


def _dataset(cfg: Config) -> Config:
    """Return the settings of the dataset whose pipeline reads pictures as in a test."""
    loader = cfg.get('test_dataloader') or cfg.get('val_dataloader')
    if loader is None:
        raise ValueError(
            f'{cfg.filename!r} has neither test_dataloader nor val_dataloader, whose pipeline says '
            'how to read a picture: give a config that has.'
        )
    settings = loader.dataset
    while 'pipeline' not in settings and ('dataset' in settings or settings.get('datasets')):
        settings = settings.get('dataset') or settings.datasets[0]
    return settings


def _named(dataset: Any) -> Sequence[str] | None:
    """Return the names of classes that a dataset's settings, or its kind, say."""
    given = (dataset.get('metainfo') or {}).get('classes')
    if given is None:
        kind = DATASETS.get(dataset.type) if isinstance(dataset.type, str) else dataset.type
        given = getattr(kind, 'METAINFO', {}).get('classes')
    return given


def _reading(pipeline: Sequence[Any]) -> list[dict[str, Any]]:
    """Return a pipeline that reads no annotations, and names a picture it cannot read."""
    steps = []
    for step in pipeline:
        name = name_of(step['type'])
        if name.startswith(('LoadAnnotations', 'FilterAnnotations')):
            continue
        plain = name == 'LoadImageFromFile'
        steps.append(dict(step, type='kd_plugins.LoadImageFromFile') if plain else dict(step))
        if name == 'PackDetInputs':
            keys = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')
            steps[-1]['meta_keys'] = tuple({**dict.fromkeys(step.get('meta_keys') or ()),
                                            **dict.fromkeys(keys)})  # fmt: skip
    if not steps or not name_of(pipeline[0]['type']).startswith('LoadImage'):
        raise ValueError(
            'the pipeline of test_dataloader.dataset reads no pictures from files: give a config '
            'whose pipeline does (LoadImageFromFile).'
        )
    return steps


def _digest(path: str) -> str:
    """Return what tells a file from others, as far as its size and date do."""
    stat = os.stat(path) if os.path.isfile(path) else None
    return _short(f'{stat.st_size} {stat.st_mtime_ns}' if stat else '')


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
