"""What the model of every Runner is told of its training, whatever hooks a config has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mmengine.dataset import InfiniteSampler
from mmengine.dist import broadcast_object_list
from mmengine.fileio import load
from torch import nn

from kd_plugins.files.matching import TERMS
from kd_plugins.hooks.of_runner import teacher_in, trained_model
from kd_plugins.structures import Progress
from kd_plugins.teachers.classes import difference
from kd_plugins.teachers.upstreams import check_upstreams_teacher


def before_train(runner: Any) -> None:
    """Give the optimizer wrapper the runner's message hub, and look at the config's names.

    mmengine's wrapper takes the hub that was made last, which may be another runner's.
    Tell all ranks of a distillation one seed.

    Raises:
        ValueError: If ``paramwise_cfg`` names what the optimizer does not see, or
            the teacher's classes stand in another order than the data's, or if
            annotations lack a class, or if the last batch of an epoch has one
            sample and a term normalises over the batch; or if the teacher that a
            model of upstream keeps does not fit.
    """
    wrapper = runner.optim_wrapper
    for each in getattr(wrapper, 'optim_wrappers', dict(all=wrapper)).values():
        each.message_hub = runner.message_hub
    model = trained_model(runner)
    if hasattr(model, 'set_progress'):
        share_seed(runner)
        check_custom_keys(runner.cfg.get('optim_wrapper') or {}, model)
        check_layer_decay(runner.cfg.get('optim_wrapper'), model)
        for loader in (runner.train_dataloader, getattr(runner.val_loop, 'dataloader', None)):
            check_categories(getattr(loader, 'dataset', None))
        check_classes(runner.train_dataloader, teacher_in(model).classes)
        check_last_batch(runner.train_dataloader, model)
    elif 'teacher_model' in vars(model):
        classes = check_upstreams_teacher(model, runner.cfg.get('model') or {})
        check_classes(runner.train_dataloader, classes)


def share_seed(runner: Any) -> None:
    """Tell all ranks one seed: with ``diff_rank_seed`` every rank has one of its own."""
    seed = [runner.seed]
    broadcast_object_list(seed)
    runner.message_hub.update_info('shared_seed', seed[0])


def before_train_iter(runner: Any) -> None:
    """Tell a distillation how far the training is that trains it."""
    model = trained_model(runner)
    if hasattr(model, 'set_progress'):
        model.set_progress(Progress.from_message_hub(runner.message_hub))
        if model.distillation_stopped:
            _forget_terms(runner.message_hub)


def _forget_terms(hub: Any) -> None:
    """Take the terms out of the log, which would repeat their last values for ever."""
    for name in [*hub.log_scalars]:
        if name.startswith(('train/distill.', 'train/distill_loss')):
            del hub.log_scalars[name]


def check_classes(loader: Any, teacher: Sequence[str] | None) -> None:
    """Compare the names of the teacher's classes with those of the training set.

    Raises:
        ValueError: If the same number stands for another class.
    """
    meta = getattr(getattr(loader, 'dataset', None), 'metainfo', None) or {}
    found = difference(teacher, meta.get('classes') or meta.get('CLASSES'))
    if found is not None:
        raise ValueError(
            f"the classes in the teacher's checkpoint are not those of the training set: {found}. "
            "Set model.teacher_class_map to the teacher's class, by name or index, for every class "
            'of the training set, or give a teacher that was trained on these classes.'
        )


def check_categories(dataset: Any) -> None:
    """Refuse class names that the annotations of a COCO file lack.

    mmdet leaves such a class out and numbers the later ones anew, so that every
    label after it is that of another class.

    Raises:
        ValueError: Naming the classes and the categories of the file.
    """
    for inner in (*(getattr(dataset, 'datasets', None) or ()), getattr(dataset, 'dataset', None)):
        if inner is not None:
            check_categories(inner)
    categories = getattr(dataset, 'cat_ids', None)
    classes = (getattr(dataset, 'metainfo', None) or {}).get('classes')
    if categories is None or classes is None or len(categories) == len(classes):
        return
    file = str(getattr(dataset, 'ann_file', ''))
    known = [category['name'] for category in load(file).get('categories', ())]
    missing = [name for name in classes if name not in known]
    raise ValueError(
        f'metainfo.classes of {type(dataset).__name__} has {missing or [*classes]}, and the '
        f'categories of {file!r} are {known}: mmdet would leave them out and number every later '
        'class anew. Give the names as the file has them.'
    )


def check_last_batch(loader: Any, model: nn.Module) -> None:
    """Refuse a last batch of one sample beside terms that normalise over the batch.

    Torch would stop at the end of the first epoch.

    Raises:
        ValueError: Naming the term and the batch.
    """
    size, sampler = getattr(loader, 'batch_size', None), getattr(loader, 'sampler', None)
    if not size or getattr(loader, 'drop_last', False) or isinstance(sampler, InfiniteSampler):
        return
    if len(sampler) % size != 1 and size != 1:  # type: ignore[arg-type]
        return
    for name, module in getattr(model, 'distiller', nn.Module()).named_modules():
        # Maps of several positions have several values a channel.
        if isinstance(module, (nn.BatchNorm1d, nn.SyncBatchNorm)) and module.training:
            raise ValueError(
                f'train_dataloader.batch_size={size} leaves a last batch of one sample (of '
                f'{len(sampler)} on this process), and model.distiller.{name} normalises over the '  # type: ignore[arg-type]
                'batch: set train_dataloader.drop_last=True, or another batch_size.'
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
