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
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, DefaultScope

from kd_plugins import checks
from kd_plugins.datasets.boxes import Boxes, read_boxes
from kd_plugins.datasets.picture_folder import PICTURES
from kd_plugins.files.writing import write_aside
from kd_plugins.networks import build_network, resolve_network, size_made_for
from kd_plugins.new_config.classes import classes_in_cfg, of_classes
from kd_plugins.new_config.detection import (
    check_masks,
    count_of,
    heads_of,
    root_of,
    sections_of_data,
    teachers_order,
    write_annotations,
)
from kd_plugins.new_config.logits import Logits, picture_size
from kd_plugins.new_config.methods import methods
from kd_plugins.new_config.python import Code, statement
from kd_plugins.new_config.reading import CLASSIFIER, Named, distiller, logits_of
from kd_plugins.new_config.unlabelled import folder_of_detector, pseudo_boxes
from kd_plugins.registry import name_of
from kd_plugins.teachers.classes import keep_classes

#: The method of a training without a teacher.
ALONE = 'alone'
#: What a network is tried on where no config says the size of its pictures.
SIZE = (224, 224)
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
        network = _whole(self.student, '--student').get('model', {})
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
        if not any(path.suffix.lower() in PICTURES for path in folder.rglob('*')):
            raise ValueError(
                f'--unlabelled {str(folder)!r} holds no pictures ({", ".join(PICTURES)}): give a '
                'folder that has some, at any depth.'
            )
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


def write_config(request: Request) -> None:
    """Write the config, once its model has been built from it.

    Raises:
        ValueError: If the two do not fit each other or the method; the message
            names the argument of ``tools/new_config.py``.
        OSError: If it cannot be written.
    """
    text = new_config(request)
    request.out.parent.mkdir(parents=True, exist_ok=True)
    _try(text, request)
    if request.boxes is not None:
        write_annotations(request.boxes, request.annotations)
    write_aside(text.encode(), request.out)


def new_config(request: Request) -> str:
    """Return the text of the config.

    Both networks are built, to find out what to read of them.

    Raises:
        ValueError: As :func:`write_config`.
    """
    base = _whole(request.student, '--student')
    if 'train_dataloader' not in base or 'train_cfg' not in base:
        raise ValueError(
            f'--student {request.student!r} says how to test and not how to train (it has no '
            'train_dataloader): give a config that trains, with that architecture.'
        )
    student = _named(request, 'student', request.student, base)
    if request.teacher is None:
        sections = _data(request, base)
        if request.classes:
            if request.boxes is not None:
                model = request.network('student', base, request.student)
                model.pop('cfg_path')
                sections['model'] = model
            else:
                _check_classes(request, logits_of(student, trains=True))
                sections['model'] = of_classes(base.model, len(request.classes), '--student')
    else:
        sections = _distillation(request, base, student, request.teacher)
    sections = dict(_base_=[request.path(request.student, prefix='')], **sections)
    head = f'# python tools/check.py {request.out}\n# python tools/train.py {request.out}\n'
    if 'optim_wrapper' in sections and request.boxes is not None:
        size = sections['train_dataloader']['batch_size']
        head += (
            f'# The learning rate is for batches of {size}: where more processes train, pass '
            '--auto-scale-lr.\n'
        )
    return head + '\n'.join(statement(name, value) for name, value in sections.items())


def _distillation(request: Request, base: Config, student: Named, path: str) -> dict[str, Any]:
    says = methods()[request.method]
    whole = _whole(path, '--teacher')
    teacher = _named(request, 'teacher', path, whole)
    recorded = distiller(
        request.method, says, student, teacher, request.unlabelled is not None, request.where
    )
    model = dict(
        _delete_=True,
        type='kd_plugins.SingleTeacherDistill',
        architecture=request.network(
            'student', base, request.student, cfg_path=request.path(request.student)
        ),
    )
    if request.unlabelled is not None:
        model.update(pseudo_boxes(recorded))
    if request.unlabelled_alone:
        if name_of(says.settings.get('optim_wrapper', {}).get('type')) == 'DOTOptimWrapper':
            raise ValueError(
                f"--method {request.method} keeps the gradient of the student's own loss apart, "
                'and without labels there is none: give --method kd, or labelled pictures too.'
            )
        model['calculate_student_loss'] = False
    if request.teacher_ckpt is None:
        _check_listed_weights(request, path)
        model['teacher'] = request.network('teacher', whole, path, pretrained=True)
    else:
        model['teacher'] = request.network('teacher', whole, path, cfg_path=request.path(path))
        model['teacher_ckpt'] = request.path(request.teacher_ckpt)
    if request.teachers_classes:
        model['teacher_class_map'] = list(request.classes)
    made_for, given = size_made_for(teacher.network), picture_size(base)
    if teacher.kind == CLASSIFIER and made_for and given and made_for != given:
        model['teacher_input_size'] = list(made_for)
    settings = dict(says.settings)
    hooks = {name: dict(type=f'kd_plugins.{kind}') for name, kind in _HOOKS.items()}
    return dict(
        custom_imports=dict(imports=['kd_plugins'], allow_failed_imports=False),
        default_hooks=dict(**hooks, **settings.pop('default_hooks', {})),
        randomness=dict(seed=0),
        **settings,
        **_data(request, base),
        model=dict(model, distiller=recorded),
    )


def _is_new_style(path: str) -> bool:
    try:
        return Config._is_lazy_import(path)
    except SyntaxError:
        return False  # which reading it will tell


def _whole(path: str, option: str) -> Config:
    """Read the config of a training.

    Raises:
        ValueError: Whatever upstream throws, as one sentence.
    """
    try:
        with DefaultScope.overwrite_default_scope(path.split('::')[0] if '::' in path else None):
            return get_config(path) if '::' in path else Config.fromfile(path)
    except Exception as error:
        raise _cannot(f'{option} {path!r} cannot be read', error) from error


def _named(request: Request, side: str, path: str, whole: Config) -> Named:
    """Build one of the networks from a config."""
    option = f'--{side}'
    if 'model' not in whole:
        raise ValueError(f'{option} {path!r} has no model: give a config with one.')
    cfg = request.network(side, whole, path)
    if request.classes and 'num_classes' in whole.get('data_preprocessor', {}):
        # As the new config will say at its top level.
        cfg['data_preprocessor'] = dict(num_classes=len(request.classes))
    try:
        network = _build(cfg)
    except Exception as error:
        raise _cannot(f'{option} {path!r} cannot be built', error) from error
    chosen = getattr(request, f'{side}_logits')
    size = size_made_for(network) or picture_size(whole) or SIZE
    return Named(f'{option} {path!r}', network, size, f'{option}-logits', chosen)


def _cannot(what: str, error: Exception) -> ValueError:
    """Return what upstream, or a network's own code, stopped at, as one sentence."""
    if isinstance(error, (ValueError, FileNotFoundError)):
        return ValueError(f'{what}: {checks.said(error)}')
    return ValueError(f'{what}: {type(error).__name__}: {checks.said(error)}')


def _build(cfg: Mapping[str, Any]) -> BaseModel:
    network, _ = resolve_network(cfg, cfg['cfg_path'])
    return build_network(network, cfg['cfg_path'])


def _check_classes(request: Request, found: Logits) -> None:
    """Refuse a network that would not have the classes of the data."""
    if found.classes != len(request.classes):
        raise ValueError(
            f'--data has {len(request.classes)} classes, and {found.source!r} of --student '
            f'{request.student!r} gives {found.classes} whatever its config says: give a config '
            'whose num_classes is that of its logits.'
        )


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
        count_of(network, '--teacher') if request.boxes is not None else classes_in_cfg(network)
    )
    if request.classes and listed != len(request.classes):
        raise ValueError(
            f'--teacher {teacher!r}: the weights that its package lists know {listed} classes, and '
            f'--data has {len(request.classes)}: train the teacher on your data first, with '
            '--method alone, and give its checkpoint by --teacher-ckpt.'
        )


def _try(text: str, request: Request) -> None:
    """Build the model of the config, read from its own folder, but load no weights."""
    folder = request.out.parent
    with NamedTemporaryFile('w', suffix='.py', dir=folder, encoding='utf-8') as file:
        file.write(text)
        file.flush()
        cfg = Config.fromfile(file.name)
    model = dict(cfg.model)
    if 'data_preprocessor' in cfg:
        model['data_preprocessor'] = cfg.data_preprocessor
    try:
        with DefaultScope.overwrite_default_scope(cfg.get('default_scope')):
            if 'teacher' in model:
                # A network that is built already needs no weights.
                teacher = _build(dict(model['teacher'], pretrained=False))
                if chosen := model.pop('teacher_class_map', None):
                    # Which classes they are is of no matter here, as many as the student's.
                    keep_classes(teacher, range(len(chosen)))
                model.update(teacher=teacher, teacher_ckpt=None)
            built = MODELS.build(model)
            if name_of(cfg.optim_wrapper.get('type')) == 'DOTOptimWrapper':
                build_optim_wrapper(built, cfg.optim_wrapper)
    except Exception as error:
        what = f'--method {request.method} cannot be built for --student {request.student!r}'
        raise _cannot(what, error) from error


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


def _data(request: Request, base: Config) -> dict[str, Any]:
    if request.data is None and request.unlabelled is None:
        return {}
    sections: dict[str, Any] = {}
    if request.boxes is not None:
        sections = _boxes(request, request.boxes, base)
    elif request.data is not None:
        sections = dict(
            data_root=request.path(request.data),
            data_preprocessor=dict(_own_preprocessor(base), num_classes=len(request.classes)),
            train_dataloader=dict(dataset=_folders('train', base)),
            val_dataloader=dict(dataset=_folders('val', base)),
            test_dataloader=Code('val_dataloader'),
            val_evaluator=dict(_delete_=True, type='Accuracy', topk=Code('(1,)')),
            test_evaluator=Code('val_evaluator'),
        )
    if request.unlabelled is not None:
        _add_unlabelled(sections, request, request.unlabelled, base)
    return sections


def _own_preprocessor(base: Config) -> dict[str, Any]:
    """Return the preprocessor inside of a model, which counts before that at the top level."""
    return dict(base.model.get('data_preprocessor') or {})


def _add_unlabelled(sections: dict[str, Any], request: Request, folder: Path, base: Config) -> None:
    """Put pictures without labels beside the labelled ones, or in their place."""
    of_detector = 'head' not in base.model
    loader = sections.setdefault('train_dataloader', {})
    if of_detector:
        unlabelled = folder_of_detector(base, request.path(folder))
        # Upstream's sorts pictures by their shape, across both kinds.
        loader['batch_sampler'] = None
    else:
        unlabelled = dict(
            type='CustomDataset',
            data_root=request.path(folder),
            with_label=False,
            pipeline=Code(_pipeline('train', base, resize=True)),
        )
    preprocessor = sections.setdefault('data_preprocessor', _own_preprocessor(base))
    preprocessor['type'] = f'kd_plugins.{"Det" if of_detector else "Cls"}DataPreprocessor'
    if request.unlabelled_alone:
        if request.classes:
            # The checkpoint says them, and the teacher's are compared with them.
            unlabelled['metainfo'] = dict(classes=request.classes)
        loader['dataset'] = dict(_delete_=True, **unlabelled)
        return
    labelled: Any = Code('_base_.train_dataloader.dataset')
    if request.data is not None:
        labelled = loader['dataset']
        del labelled['_delete_']
    parts = [1, int(request.unlabelled_ratio)]
    size = loader.get('batch_size', base.train_dataloader.batch_size)
    if size % sum(parts):
        raise ValueError(
            f'--unlabelled-ratio {parts[1]}: the batches of --student {request.student!r} have '
            f'{size} pictures, which {sum(parts)} does not divide: give a ratio R for which 1 + R '
            'does.'
        )
    endless = name_of(base.train_dataloader.sampler.type) == 'InfiniteSampler' or not (
        base.train_cfg.get('by_epoch', True)
    )
    loader.update(
        dataset=dict(
            _delete_=True,
            type='kd_plugins.WithUnlabelled',
            labelled=labelled,
            unlabelled=unlabelled,
        ),
        sampler=dict(
            _delete_=True,
            type='kd_plugins.MultiSourceSampler',
            batch_size=size,
            source_ratio=parts,
            **(dict(infinite=True) if endless else {}),
        ),
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


def _folders(split: str, base: Config) -> dict[str, Any]:
    return dict(
        _delete_=True,
        type='CustomDataset',
        data_root=Code('data_root'),
        data_prefix=split,
        pipeline=Code(_pipeline(split, base)),
    )


def _pipeline(split: str, base: Config, resize: bool = False) -> str:
    """Return the pipeline of the student's config, with what reads files where it has nothing.

    Args:
        split: 'train' or 'val'.
        base: The student's config.
        resize: Whether to bring pictures of any size to its size, if nothing in it does.
    """
    dataset = base[f'{split}_dataloader'].dataset
    if 'pipeline' not in dataset:
        raise ValueError(
            f'--data, --unlabelled: {split}_dataloader.dataset of the student is a '
            f'{name_of(dataset.type)}, which has no pipeline of its own: start from a config with '
            'a plain dataset.'
        )
    pipeline = f'_base_.{split}_dataloader.dataset.pipeline'
    if any(name_of(step.type).startswith('LoadImage') for step in dataset.pipeline):
        return pipeline
    # The base's dataset, CIFAR's say, has its pictures in memory, as RGB.
    load = "dict(type='LoadImageFromFile')"
    if not (base.get('data_preprocessor') or {}).get('to_rgb', False):
        load = "dict(type='kd_plugins.LoadImageFromFile', channel_order='rgb')"
    size = picture_size(base)
    if resize and size and not any('Resize' in name_of(step.type) for step in dataset.pipeline):
        # Else crops of 32 x 32, say, would be cut out of photographs.
        load += f", dict(type='Resize', scale={size[::-1]}, backend='pillow')"
    return f'[{load}, *{pipeline}]'
