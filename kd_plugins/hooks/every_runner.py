"""What the model of every Runner is told of its training, whatever hooks a config has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from kd_plugins.files.matching import TERMS
from kd_plugins.hooks.of_runner import trained_model
from kd_plugins.structures import Progress


def before_train(runner: Any) -> None:
    """Give the optimizer wrapper the runner's message hub, and look at the config's names.

    mmengine's wrapper takes the hub that was made last, which may be another runner's.

    Raises:
        ValueError: If ``paramwise_cfg`` names what the optimizer does not see, or the
            teacher knows the classes in another order.
    """
    wrapper = runner.optim_wrapper
    for each in getattr(wrapper, 'optim_wrappers', dict(all=wrapper)).values():
        each.message_hub = runner.message_hub
    model = trained_model(runner)
    if hasattr(model, 'set_progress'):
        check_custom_keys(runner.cfg.get('optim_wrapper') or {}, model)
        check_layer_decay(runner.cfg.get('optim_wrapper'), model)
        check_class_order(model, getattr(runner.train_dataloader, 'dataset', None))


def before_train_iter(runner: Any) -> None:
    """Tell a distillation how far the training is that trains it."""
    model = trained_model(runner)
    if hasattr(model, 'set_progress'):
        model.set_progress(Progress.from_message_hub(runner.message_hub))


def check_class_order(model: Any, dataset: Any) -> None:
    """Refuse a teacher that was trained on the same classes in another order.

    Raises:
        ValueError: If its checkpoint names them so, and no recorder has a ``class_map``.
    """
    teacher = vars(model).get('teacher')
    known = getattr(teacher, 'classes', None)
    names = [str(name) for name in (getattr(dataset, 'metainfo', None) or {}).get('classes') or ()]
    if not known or known == names or sorted(known) != sorted(names):
        return
    recorders = model.distiller.teacher_recorders.recorders.values()
    if any(getattr(recorder, 'class_map', None) is not None for recorder in recorders):
        return
    at = next(i for i, pair in enumerate(zip(known, names, strict=True)) if len(set(pair)) > 1)
    raise ValueError(
        f'model.teacher_ckpt={teacher.weights!r} was trained on the classes of the training set in '
        f'another order: class {at} is {known[at]!r} of the teacher and {names[at]!r} of the '
        'student; give a teacher of the same order, or, for two-stage detectors, class_map to its '
        'kd_plugins.RoIHead.'
    )


def check_custom_keys(optim_wrapper: Mapping[str, Any], model: nn.Module) -> None:
    """Refuse mmrazor's names of parameters, which upstream would silently pass over.

    Raises:
        ValueError: If a key of ``paramwise_cfg.custom_keys`` says ``architecture``
            and no parameter is called so.
    """
    names = [name for name, _ in model.named_parameters()]
    for key in _custom_keys(optim_wrapper):
        if 'architecture' in key and not any(key in name for name in names):
            bare = key.removeprefix('architecture').removeprefix('.')
            instead = f'write {bare!r}' if bare else 'set it for the whole optimizer'
            raise ValueError(
                f'optim_wrapper.paramwise_cfg.custom_keys[{key!r}] matches no parameter: the '
                f'parameters of a distillation have the names of the student alone, so {instead}.'
            )


def check_layer_decay(optim_wrapper: Any, model: nn.Module) -> None:
    """Refuse settings of the terms' parameters that upstream's layer decay passes over.

    mmpretrain's constructor takes no ``lr_mult``, mmdet's no ``custom_keys`` at all.

    Raises:
        ValueError: If ``paramwise_cfg.custom_keys`` has such a setting for ``distiller``.
    """
    if not isinstance(optim_wrapper, Mapping):
        return
    names = [name for name, _ in model.named_parameters() if name.startswith(TERMS)]
    constructor = optim_wrapper.get('constructor')
    keys = (optim_wrapper.get('paramwise_cfg') or {}).get('custom_keys') or {}
    for key, settings in keys.items():
        passed_over = {
            'LearningRateDecayOptimWrapperConstructor': 'lr_mult' in settings,
            'LearningRateDecayOptimizerConstructor': True,
        }.get(str(getattr(constructor, '__name__', constructor)).split('.')[-1])
        if passed_over and any(key in name for name in names):
            raise ValueError(
                f'optim_wrapper.paramwise_cfg.custom_keys[{key!r}]={dict(settings)} has no effect: '
                f'constructor={constructor!r} passes it over. Leave it out, or give the terms '
                'their rate without layer-wise decay.'
            )
    for each in optim_wrapper.values():
        check_layer_decay(each, model)


def _custom_keys(cfg: Any) -> Iterator[str]:
    """Yield the keys of every ``custom_keys``; there may be several optimizers."""
    if isinstance(cfg, Mapping):
        yield from cfg.get('custom_keys') or ()
        for value in cfg.values():
            yield from _custom_keys(value)
