"""The text of a config that distils one upstream config's network into another's."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.model import BaseModel
from mmengine.registry import MODELS, DefaultScope

from kd_plugins.datasets.boxes import Boxes, read_boxes
from kd_plugins.files.writing import write_aside
from kd_plugins.networks import build_network, resolve_network
from kd_plugins.new_config.detection import (
    check_masks,
    count_of,
    heads_of,
    root_of,
    sections_of_data,
    teachers_order,
    write_annotations,
)
from kd_plugins.new_config.methods import methods
from kd_plugins.new_config.python import Code, statement
from kd_plugins.new_config.reading import Named, distiller
from kd_plugins.registry import name_of
from kd_plugins.teachers.classes import keep_classes

#: The method of a training without a teacher.
ALONE = 'alone'
_HOOKS = dict(
    checkpoint='SafeCheckpointHook',
    guard='DistillationGuardHook',
    environment='EnvironmentHook',
    distillation_log='DistillationLogHook',
    # Not in custom_hooks, a list, which would replace the student's own.
    seed_by_progress='SeedByProgressHook',
)


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
            :func:`kd_plugins.datasets.boxes.read_boxes`.
        batch_size: Of a detector's training on ``data``, on one process; None for
            that of the student's config.
    """

    student: str
    method: str
    out: Path
    teacher: str | None = None
    teacher_ckpt: str | None = None
    data: Path | None = None
    batch_size: int | None = None
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
        if os.path.isfile(self.student) and Config._is_lazy_import(self.student):
            raise ValueError(
                f'--student {self.student!r} is a new-style config (read_base, classes as types), '
                'which the classic file that is written here cannot inherit: make a classic one of '
                'it with mmengine.config.Config.fromfile(FILE).dump(OTHER_FILE), and give that.'
            )
        if self.data is None:
            if self.batch_size is not None:
                raise ValueError(
                    f'--batch-size {self.batch_size} is for --data of detectors: without it, set '
                    'train_dataloader.batch_size in the config.'
                )
            return
        network, _ = resolve_network(dict(cfg_path=self.student), '--student')
        if 'head' in network:
            if self.batch_size is not None:
                raise ValueError(
                    f'--batch-size {self.batch_size} is for detectors, and --student '
                    f'{self.student!r} is a {name_of(network.type)}.'
                )
            self.classes = _classes_in(self.data)
        else:
            self.boxes = read_boxes(self.data)
            self.classes = self.boxes.classes
            self.teachers_classes = teachers_order(self.teacher_ckpt, self.classes)

    def network(self, path: str, teaches: bool = False, **more: Any) -> dict[str, Any]:
        """Return the config of one of the networks, for these classes.

        Args:
            path: Its config.
            teaches: Whether it is the teacher, which may know other classes beside these.
            **more: More of it; ``cfg_path`` as it shall stand there.
        """
        cfg: dict[str, Any] = dict(cfg_path=path)
        if self.boxes is not None:
            key = '--teacher' if teaches else '--student'
            classes = (teaches and self.teachers_classes) or self.classes
            cfg.update(heads_of(path, len(classes), key))
        elif self.classes:
            cfg['head'] = dict(num_classes=len(self.classes))
        return {**cfg, **more}

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


def write_config(request: Request) -> None:
    """Write the config, once its model has been built from it.

    Raises:
        ValueError: If the two do not fit each other or the method; the message
            names the argument of ``tools/new_config.py``.
        OSError: If it cannot be written.
    """
    text = new_config(request)
    request.out.parent.mkdir(parents=True, exist_ok=True)
    _try(text, request.out)
    if request.boxes is not None:
        write_annotations(request.boxes, request.annotations)
    write_aside(text.encode(), request.out)


def new_config(request: Request) -> str:
    """Return the text of the config.

    Both networks are built, to find out what to read of them.

    Raises:
        ValueError: As :func:`write_config`.
    """
    student = Named(f'--student {request.student!r}', _build(request.network(request.student)))
    if request.teacher is None:
        sections = _data(request)
        if request.classes:
            model = request.network(request.student)
            model.pop('cfg_path')
            sections['model'] = model
    else:
        sections = _distillation(request, student, request.teacher)
    head = f'# python tools/check.py {request.out}\n# python tools/train.py {request.out}\n'
    if 'optim_wrapper' in sections and request.boxes is not None:
        size = sections['train_dataloader']['batch_size']
        head += (
            f'# The learning rate is for batches of {size}: where more processes train, pass '
            '--auto-scale-lr.\n'
        )
    sections = dict(_base_=[request.path(request.student, prefix='')], **sections)
    return head + '\n'.join(statement(name, value) for name, value in sections.items())


def _distillation(request: Request, student: Named, path: str) -> dict[str, Any]:
    says = methods()[request.method]
    teacher = Named(f'--teacher {path!r}', _build(request.network(path, teaches=True)))
    recorded = distiller(request.method, says, student, teacher)
    model = dict(
        _delete_=True,
        type='kd_plugins.SingleTeacherDistill',
        architecture=request.network(request.student, cfg_path=request.path(request.student)),
    )
    if request.teacher_ckpt is None:
        _check_listed_weights(request, path)
        model['teacher'] = request.network(path, teaches=True, pretrained=True)
    else:
        model['teacher'] = request.network(path, teaches=True, cfg_path=request.path(path))
        model['teacher_ckpt'] = request.path(request.teacher_ckpt)
    if request.teachers_classes:
        model['teacher_class_map'] = list(request.classes)
    settings = dict(says.settings)
    hooks = {name: dict(type=f'kd_plugins.{kind}') for name, kind in _HOOKS.items()}
    return dict(
        custom_imports=dict(imports=['kd_plugins'], allow_failed_imports=False),
        default_hooks=dict(**hooks, **settings.pop('default_hooks', {})),
        randomness=dict(seed=0),
        **settings,
        **_data(request),
        model=dict(model, distiller=recorded),
    )


def _build(cfg: Mapping[str, Any]) -> BaseModel:
    network, _ = resolve_network(cfg, cfg['cfg_path'])
    return build_network(network, cfg['cfg_path'])


def _check_listed_weights(request: Request, teacher: str) -> None:
    """Refuse a teacher whose package lists no weights for it, or weights of other classes."""
    try:
        network, _ = resolve_network(dict(cfg_path=teacher, pretrained=True), '--teacher')
    except ValueError:
        raise ValueError(
            f'--teacher {teacher!r}: {teacher.split("::")[0]} lists no weights for it: give '
            '--teacher-ckpt.'
        ) from None
    listed = (
        count_of(network, '--teacher')
        if request.boxes is not None
        else network.get('head', {}).get('num_classes')
    )
    if request.classes and listed != len(request.classes):
        raise ValueError(
            f'--teacher {teacher!r}: the weights that its package lists know {listed} classes, and '
            f'--data has {len(request.classes)}: train the teacher on your data first, with '
            '--method alone, and give its checkpoint by --teacher-ckpt.'
        )


def _try(text: str, out: Path) -> None:
    """Build the model of the config, read from its own folder, but load no weights."""
    with NamedTemporaryFile('w', suffix='.py', dir=out.parent, encoding='utf-8') as file:
        file.write(text)
        file.flush()
        cfg = Config.fromfile(file.name)
    model = dict(cfg.model)
    if 'data_preprocessor' in cfg:
        model['data_preprocessor'] = cfg.data_preprocessor
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope')):
        if 'teacher' in model:
            # A network that is built already needs no weights.
            teacher = _build(dict(model['teacher'], pretrained=False))
            if chosen := model.pop('teacher_class_map', None):
                # Which classes they are is of no matter here, as many as the student's.
                keep_classes(teacher, range(len(chosen)))
            model.update(teacher=teacher, teacher_ckpt=None)
        MODELS.build(model)


def _classes_in(data: Path) -> list[str]:
    found = {
        split: sorted(p.name for p in (data / split).glob('*') if p.is_dir())
        for split in ('train', 'val')
    }
    if len(found['train']) < 2 or found['train'] != found['val']:
        raise ValueError(
            f'--data {str(data)!r} needs the same two or more folders of pictures, one a class, in '
            f'train/ and val/, but they hold {len(found["train"])} and {len(found["val"])}.'
        )
    return found['train']


def _data(request: Request) -> dict[str, Any]:
    if request.data is None:
        return {}
    with DefaultScope.overwrite_default_scope(request.student.split('::')[0]):
        get = get_config if '::' in request.student else Config.fromfile
        base = get(request.student)
    if 'train_dataloader' not in base:
        raise ValueError(
            f'--student {request.student!r} says how to test and not how to train (it has no '
            'train_dataloader): give a config that trains, with that architecture.'
        )
    if request.boxes is not None:
        return _boxes(request, request.boxes, base)
    return dict(
        data_root=request.path(request.data),
        data_preprocessor=dict(num_classes=len(request.classes)),
        train_dataloader=_loader('train', base),
        val_dataloader=_loader('val', base),
        test_dataloader=Code('val_dataloader'),
        val_evaluator=dict(_delete_=True, type='Accuracy', topk=Code('(1,)')),
        test_evaluator=Code('val_evaluator'),
    )


def _boxes(request: Request, boxes: Boxes, base: Config) -> dict[str, Any]:
    check_masks(base, boxes, request.student)
    files = {
        name: part.ann_file or request.annotations / f'{name}.json'
        for name, part in (('train', boxes.train), ('val', boxes.val))
    }
    paths = {name: request.path(path) for name, path in files.items()}
    return sections_of_data(
        base,
        boxes,
        dict(root=request.path(root_of(boxes)), **paths),
        request.batch_size,
        Path(request.student).name,
    )


def _loader(split: str, base: Config) -> dict[str, Any]:
    dataset = base[f'{split}_dataloader'].dataset
    if 'pipeline' not in dataset:
        raise ValueError(
            f'--data: {split}_dataloader.dataset of the student is a {name_of(dataset.type)}, '
            'which has no pipeline of its own: start from a config with a plain dataset.'
        )
    pipeline = f'_base_.{split}_dataloader.dataset.pipeline'
    if not any(name_of(step.type).startswith('LoadImage') for step in dataset.pipeline):
        # The base's dataset, CIFAR's say, has its pictures in memory.
        pipeline = f"[dict(type='LoadImageFromFile'), *{pipeline}]"
    return dict(
        dataset=dict(
            _delete_=True,
            type='CustomDataset',
            data_root=Code('data_root'),
            data_prefix=split,
            pipeline=Code(pipeline),
        )
    )
