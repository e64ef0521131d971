"""The student alone: what a distillation is to be compared with, made from its config."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmengine.config import Config

from kd_plugins.networks import initialisations, resolve_network
from kd_plugins.registry import name_of

#: Hooks of a distillation, which have nothing to do without one.
_DISTILLS = ('CurriculumTemperatureHook', 'GradientCosineHook', 'StopDistillHook')
#: Hooks that change how the student itself learns: without them it is another training.
_TRAINS = ('CTCHook',)
#: Settings of :class:`kd_plugins.DOTOptimWrapper` that no other wrapper has.
_DOTS_OWN = ('delta', 'distill_keys')
#: Hooks that change no figure: they look, log, save, or are there in every training.
_LOOK_ON = (
    'IterTimerHook', 'LoggerHook', 'ParamSchedulerHook', 'RuntimeInfoHook', 'DistSamplerSeedHook',
    'CheckpointHook', 'SafeCheckpointHook', 'EvenCheckpointHook', 'EmptyCacheHook', 'ProfilerHook',
    'VisualizationHook', 'DetVisualizationHook', 'NumClassCheckHook', 'CheckInvalidLossHook',
    'DistillationLogHook', 'DistillationGuardHook', 'EnvironmentHook', 'MemoryProfilerHook',
)  # fmt: skip
#: What has to be the same in two trainings for their figures to be compared: data, steps.
_SAME = (
    ('data', 'data_preprocessor'),
    ('data', 'train_dataloader.dataset'),
    ('data', 'val_dataloader.dataset'),
    ('data', 'val_dataloader.drop_last'),
    ('data', 'val_dataloader.num_batch_per_epoch'),
    ('data', 'val_evaluator'),
    ('steps', 'train_dataloader.batch_size'),
    ('steps', 'train_dataloader.sampler'),
    ('steps', 'train_dataloader.batch_sampler'),
    ('steps', 'train_dataloader.drop_last'),
    ('steps', 'train_dataloader.num_batch_per_epoch'),
    ('steps', 'train_cfg'),
    ('steps', 'optim_wrapper.accumulative_counts'),
)
#: What a method may have its own of, and what is worth saying where it has.
_TOLD = (
    'optim_wrapper', 'param_scheduler', 'load_from', 'hooks', 'auto_scale_lr',
    'train_dataloader.collate_fn', 'val_cfg.fp16',
)  # fmt: skip
#: Parts of these that change no figure, or are looked at by themselves.
_ELSEWHERE = (
    'val_interval', 'val_begin', 'dynamic_intervals', 'accumulative_counts', '_scope_',
)  # fmt: skip


@dataclass(frozen=True)
class Alone:
    """The config of a student alone.

    Args:
        cfg: The config of its training.
        notes: What was changed in it that does not go without saying.
    """

    cfg: Config
    notes: list[str]


@dataclass(frozen=True)
class Difference:
    """A setting that two configs have otherwise.

    Args:
        of: ``'data'``, ``'steps'``, ``'student'`` or ``'training'``.
        key: The config key.
        first, second: What the one and the other say; None where it says nothing.
    """

    of: str
    key: str
    first: Any
    second: Any

    def __str__(self) -> str:
        return f'{self.key} is {_short(self.first)} and {_short(self.second)}'


def student_alone(cfg: Config) -> Alone:
    """Return the config of the student alone, with the same data, steps and random numbers.

    The model is ``model.architecture``; DOT's optimizer wrapper becomes an ordinary
    one; hooks of the distillation are left out. The weight of a classifier's own
    loss, which a method may have lowered, is what it is without one: that of the
    config behind ``cfg_path``, and 1 for a head that is written out. The weights of a
    detector's losses, which balance several, stay.

    Args:
        cfg: The config of a distillation; it is not changed.

    Raises:
        ValueError: If it has no student alone in it.
    """
    model = cfg.get('model') or {}
    if 'architecture' not in model or 'distiller' not in model:
        raise ValueError(
            f'{cfg.filename}: model.type={name_of(model.get("type"))!r} has no model.architecture '
            'beside a distiller, so there is no student alone to take out of it: give the config '
            'of the student alone by --alone.'
        )
    pictures = _at(cfg, 'train_dataloader.dataset')
    while isinstance(pictures, Mapping):
        if _has_unlabelled(pictures) or pictures.get('with_label') is False:
            raise ValueError(
                f'{cfg.filename}: pictures of train_dataloader.dataset '
                f'({name_of(pictures.get("type"))}) have no label, and the student alone can only '
                'learn of those that have one: give the config of its training by --alone.'
            )
        pictures = pictures.get('dataset')
    # Of a new-style config the names of its types, which a file can hold.
    alone, notes = Config(copy.deepcopy(cfg.to_dict())), []
    for hook in _hooks_of(cfg):
        if name_of(hook.get('type')) in _TRAINS:
            raise ValueError(
                f'{cfg.filename}: {name_of(hook["type"])} sets how the student itself trains, and '
                'without it this is another training: give the config of the student alone by '
                '--alone.'
            )
    alone.model, weights = _student(alone)
    if weights:
        notes.append(
            f"the weight of the student's own loss, {', '.join(f'{w:g}' for w in weights)} in the "
            'distillation, is what it is without one'
        )
    for name, hook in list((alone.get('default_hooks') or {}).items()):
        if hook and name_of(hook.get('type')) in _DISTILLS:
            alone.default_hooks.pop(name)
    if alone.get('custom_hooks'):
        alone.custom_hooks = [
            hook for hook in alone.custom_hooks if name_of(hook.get('type')) not in _DISTILLS
        ]
    wrapper = alone.get('optim_wrapper') or {}
    if name_of(wrapper.get('type')) == 'DOTOptimWrapper':
        alone.optim_wrapper = _without_dot(wrapper)
        notes.append('it trains with plain SGD, without DOT')
    return Alone(alone, notes)


def _student(cfg: Config) -> tuple[dict[str, Any], list[float]]:
    """Return the student's config, and which weights of its loss were undone."""
    model, weights, usual = cfg.model, [], 1.0
    student = copy.deepcopy(dict(model.architecture))
    if 'cfg_path' in student:
        path = student['cfg_path']
        network, pretrained = resolve_network(student, 'model.architecture')
        student = dict(network)
        if pretrained:
            student['init_cfg'] = dict(type='Pretrained', checkpoint=pretrained)
        plain, _ = resolve_network(dict(cfg_path=path), 'model.architecture')
        usual = _loss_of(plain).get('loss_weight', 1.0)
    loss = _loss_of(student)
    if loss.get('loss_weight', 1.0) != usual:
        weights = [loss.get('loss_weight', 1.0)]
        loss['loss_weight'] = usual
    preprocessor = model.get('data_preprocessor')
    if preprocessor is not None:
        student['data_preprocessor'] = preprocessor
    elif cfg.get('data_preprocessor') is not None:
        # The Runner puts it only where there is none, and in a distillation it counts first.
        student.pop('data_preprocessor', None)
    if model.get('init_cfg'):
        own = student.get('init_cfg')
        student['init_cfg'] = [*initialisations(model.init_cfg), *initialisations(own)]
    return student, weights


def _loss_of(network: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config of a classifier's loss; an empty one of any other network."""
    head = network.get('head')
    loss = head.get('loss') if isinstance(head, Mapping) else None
    return loss if isinstance(loss, dict) else {}


def _without_dot(wrapper: Mapping[str, Any]) -> dict[str, Any]:
    plain = {key: value for key, value in wrapper.items() if key not in _DOTS_OWN}
    if plain.get('dtype'):
        plain['type'] = 'AmpOptimWrapper'
    else:
        # mmengine's OptimWrapper is what it takes where there is no type.
        for key in ('type', 'dtype', 'loss_scale'):
            plain.pop(key, None)
    optimizer = dict(plain['optimizer'])
    if name_of(optimizer.get('type')) == 'DOTSGD':
        optimizer['type'] = 'SGD'
        optimizer.pop('delta', None)
    plain['optimizer'] = optimizer
    return plain


def differences(first: Config, second: Config, of_students: bool = False) -> list[Difference]:
    """Return what two trainings differ in, as far as it may change their figures.

    Args:
        first, second: The configs.
        of_students: Whether both are students alone, whose models have to agree.

    Returns:
        The first difference below each key, those of data and steps first.
    """
    wanted = [*_SAME, *([('student', 'model')] if of_students else []),
              *(('training', key) for key in _TOLD)]  # fmt: skip
    found: list[Difference] = []
    of_train = [_at(cfg, 'train_dataloader.dataset') for cfg in (first, second)]
    # A batch with unlabelled pictures beside is made otherwise than one of the labelled alone.
    beside = _has_unlabelled(of_train[0]) != _has_unlabelled(of_train[1])
    for of, key in wanted:
        if any(key.startswith(each.key) for each in found):
            continue
        both = [_plain(_at(cfg, key)) for cfg in (first, second)]
        if key.endswith(('drop_last', 'fp16')):
            both = [bool(value) for value in both]
        if beside and key == 'train_dataloader.dataset':
            both = [_plain(_labelled(d) if _has_unlabelled(d) else d) for d in of_train]
        elif beside and key.startswith('train_dataloader'):
            of = 'training'
        if key == 'model':
            both = [{k: v for k, v in each.items() if k != 'data_preprocessor'} for each in both]
        elif key == 'hooks':
            both = [_plain(_hooks_that_train(cfg)) for cfg in (first, second)]
        elif key == 'data_preprocessor' and not all(each and each.get('type') for each in both):
            # Networks of mmpretrain add the type themselves.
            both = [each and {k: v for k, v in each.items() if k != 'type'} for each in both]
        found += [Difference(of, *each) for each in _unlike(key, *both)][:1]
    return found


def another_network(alone: Config, distilled: Config) -> Difference | None:
    """Return what a distillation's student has otherwise than a student alone that is given.

    Args:
        alone: The config of the student alone.
        distilled: That of the distillation; one without ``model.architecture`` has no
            student to compare.
    """
    if 'architecture' not in (distilled.get('model') or {}):
        return None
    student, _ = _student(Config(copy.deepcopy(distilled.to_dict())))
    both = [_plain(Config(dict(model=m)).to_dict()['model']) for m in (alone.model, student)]
    for model in both:
        model.pop('data_preprocessor', None)
        model['init_cfg'] = initialisations(model.get('init_cfg'))
        loss = _loss_of(model)
        if loss:
            loss.setdefault('loss_weight', 1.0)
    return next((Difference('student', *each) for each in _unlike('model', *both)), None)


def _has_unlabelled(dataset: Any) -> bool:
    return isinstance(dataset, Mapping) and name_of(dataset.get('type')) == 'WithUnlabelled'


def _labelled(dataset: Mapping[str, Any]) -> dict[str, Any]:
    """Return the labelled part of WithUnlabelled, with what leaves some of it out."""
    scarce = {k: v for k, v in dataset.items() if k == 'labels_per_class' and v is not None}
    return dict(dataset['labelled'], **scarce)


def _preprocessor(cfg: Config) -> Any:
    """Return the student's preprocessor, wherever it is."""
    model = cfg.get('model') or {}
    own, top = model.get('data_preprocessor'), cfg.get('data_preprocessor')
    if 'architecture' not in model or own or top:
        return own or top
    architecture = model['architecture']
    if 'cfg_path' in architecture:
        architecture, _ = resolve_network(architecture, 'model.architecture')
    return architecture.get('data_preprocessor')


def _at(cfg: Config, key: str) -> Any:
    if key == 'data_preprocessor':
        return _preprocessor(cfg)
    value: Any = cfg
    for part in key.split('.'):
        value = value.get(part) if isinstance(value, Mapping | Config) else None
    return value


def _plain(value: Any) -> Any:
    """Return plain values, with names in the place of classes."""
    if isinstance(value, Mapping):
        return {
            str(k): name_of(v) if k == 'type' else _plain(v)
            for k, v in value.items()
            if k not in _ELSEWHERE
        }
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(item) for item in value]
    return value


def _hooks_that_train(cfg: Config) -> dict[str, Any]:
    """Return the hooks that may change how a student learns, by their names."""
    found: dict[str, Any] = {}
    for hook in _hooks_of(cfg):
        name = name_of(hook.get('type'))
        if name not in (*_DISTILLS, *_LOOK_ON):
            found.setdefault(name, []).append(hook)
    return {name: hooks[0] if len(hooks) == 1 else hooks for name, hooks in found.items()}


def _unlike(key: str, first: Any, second: Any) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(first, dict) and isinstance(second, dict):
        for name in dict.fromkeys([*first, *second]):
            yield from _unlike(f'{key}.{name}', first.get(name), second.get(name))
    elif isinstance(first, list) and isinstance(second, list) and len(first) == len(second):
        for i, pair in enumerate(zip(first, second, strict=True)):
            yield from _unlike(f'{key}[{i}]', *pair)
    elif first != second:
        yield key, first, second


def _short(value: Any) -> str:
    said = repr(value)
    return said if len(said) <= 80 else f'{said[:77]}...'


def _hooks_of(cfg: Config) -> list[Mapping[str, Any]]:
    return [
        hook
        for hook in [*(cfg.get('default_hooks') or {}).values(), *(cfg.get('custom_hooks') or ())]
        if isinstance(hook, Mapping)
    ]
