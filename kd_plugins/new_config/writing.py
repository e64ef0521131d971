"""The text of a config that distils one upstream config's network into another's."""

from __future__ import annotations

from collections.abc import Mapping
from tempfile import NamedTemporaryFile
from typing import Any

from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, DefaultScope

from kd_plugins.files.writing import write_aside
from kd_plugins.networks import build_network, resolve_network, size_made_for
from kd_plugins.new_config.classes import classes_in_cfg, of_classes
from kd_plugins.new_config.data import data_sections
from kd_plugins.new_config.detection import count_of, write_annotations
from kd_plugins.new_config.logits import Logits, picture_size
from kd_plugins.new_config.methods import methods
from kd_plugins.new_config.python import statement
from kd_plugins.new_config.reading import CLASSIFIER, Named, distiller, logits_of
from kd_plugins.new_config.request import Request, cannot, whole_config
from kd_plugins.new_config.unlabelled import pseudo_boxes
from kd_plugins.registry import name_of
from kd_plugins.teachers.classes import keep_classes

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
    base = whole_config(request.student, '--student')
    if 'train_dataloader' not in base or 'train_cfg' not in base:
        raise ValueError(
            f'--student {request.student!r} says how to test and not how to train (it has no '
            'train_dataloader): give a config that trains, with that architecture.'
        )
    student = _named(request, 'student', request.student, base)
    if request.teacher is None:
        sections = data_sections(request, base)
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
    if says.term is not None and request.unlabelled_alone:
        raise ValueError(
            f"--method {request.method} compares maps, which teaches the student's head nothing, "
            'and without labels nothing else does: give --method kd, for detectors bckd, or '
            'labelled pictures too.'
        )
    if request.method == 'ld' and request.unlabelled_alone:
        raise ValueError(
            '--method ld compares boxes, and without labels nothing teaches the student classes: '
            'give --method bckd, or labelled pictures too.'
        )
    whole = whole_config(path, '--teacher')
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
        **data_sections(request, base),
        model=dict(model, distiller=recorded),
    )


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
        raise cannot(f'{option} {path!r} cannot be built', error) from error
    chosen = getattr(request, f'{side}_logits')
    size = size_made_for(network) or picture_size(whole) or SIZE
    return Named(f'{option} {path!r}', network, size, f'{option}-logits', chosen)


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
        raise cannot(what, error) from error
