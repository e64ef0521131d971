"""What the model of every Runner is told of its training, whatever hooks a config has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mmengine.dataset import InfiniteSampler
from mmengine.dist import broadcast_object_list
from mmengine.hooks import DistSamplerSeedHook
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop
from torch import nn

from kd_plugins.datasets.unlabelled import MultiSourceSampler
from kd_plugins.files.matching import TERMS
from kd_plugins.hooks.data_classes import (
    check_categories,
    check_classes,
    check_measured_classes,
    with_names,
)
from kd_plugins.hooks.data_colours import check_colours
from kd_plugins.hooks.data_labels import check_labels
from kd_plugins.hooks.of_runner import teacher_in, trained_model
from kd_plugins.networks import classes_of
from kd_plugins.registry import name_of
from kd_plugins.structures import Progress
from kd_plugins.teachers.upstreams import check_upstreams_teacher
from kd_plugins.views.mixing import SampleMix
from kd_plugins.views.sampling import sampler_of

#: What the log says of terms.
_OF_TERMS = (
    'train/distill.', 'train/distill_loss', 'train/unlabelled_', 'train/student.unlabelled_',
    'train/pseudo_boxes', 'train/grad_cosine',
)  # fmt: skip

#: Seconds for which mmengine's loop of iterations sleeps when its loader has ended, and how many
#: in all are worth a warning.
SLEEP, LONG = 2.0, 60.0


def before_train(runner: Any) -> None:
    """Give the optimizer wrapper the runner's message hub, and look at the config's names.

    mmengine's wrapper takes the hub that was made last, which may be another runner's.
    Tell all ranks of a distillation one seed, and averages of weights what they begin with.

    Raises:
        ValueError: If ``paramwise_cfg`` names what the optimizer does not see, or
            the teacher's classes stand in another order than the data's, or those of the
            training set in another one than the validation's, or if
            annotations lack a class, or pictures come as RGB and as BGR, or if the last
            batch of an epoch has one sample and a term normalises over the batch, or if
            pictures without labels come where one is needed, or the sampler would never
            end an epoch, or the distillation end with nothing left; or if the teacher that
            a model of upstream keeps does not fit; or if a hook would end mosaics that there
            are none of; or if nobody tells the sampler of
            repeatable views its epoch, or pictures would be mixed twice.
    """
    wrapper = runner.optim_wrapper
    for each in getattr(wrapper, 'optim_wrappers', dict(all=wrapper)).values():
        each.message_hub = runner.message_hub
    begin_averages(runner)
    model = trained_model(runner)
    check_views(runner)
    if hasattr(model, 'set_progress'):
        share_seed(runner)
        check_custom_keys(runner.cfg.get('optim_wrapper') or {}, model)
        check_layer_decay(runner.cfg.get('optim_wrapper'), model)
        of_val = getattr(runner.val_loop, 'dataloader', None)
        for loader in (runner.train_dataloader, of_val):
            check_categories(getattr(loader, 'dataset', None))
        teacher = teacher_in(model)
        check_classes(
            with_names(runner.train_dataloader, of_val),
            teacher.classes,
            teacher.class_map,
            classes_of(getattr(model, 'architecture', model)),
        )
        check_measured_classes(runner.train_dataloader, of_val)
        check_last_batch(runner.train_dataloader, model)
        check_labels(runner.train_dataloader, model, runner.hooks)
        check_colours(runner.train_dataloader, of_val)
        check_end(runner)
        check_stop(runner, model)
        check_mosaics(runner)
        teacher.begin(getattr(runner.train_dataloader, 'dataset', None), runner.hooks)
    elif 'teacher_model' in vars(model):
        classes = check_upstreams_teacher(model, runner.cfg.get('model') or {})
        check_classes(runner.train_dataloader, classes)


def begin_averages(runner: Any) -> None:
    """Show averages of weights that begin with the start of a training the start."""
    for hook in runner.hooks:
        average = getattr(hook, 'ema_model', None)
        if average is not None and hasattr(average, 'begin'):
            average.begin(hook.src_model)


def check_views(runner: Any) -> None:
    """Refuse a loader of repeatable views that would ask for the first ones in every epoch.

    Raises:
        ValueError: If no hook tells the sampler its epoch; or if its dataset mixes pictures, and
            something else mixes them again.
    """
    _check_mixing(runner.train_dataloader.dataset, trained_model(runner))
    sampler = sampler_of(runner.train_dataloader)
    views = getattr(getattr(sampler, 'view_numbering', None), 'views', 1)
    if views == 1 or not hasattr(sampler, 'epoch') or runner.train_loop.max_epochs == 1:
        return
    if not any(isinstance(hook, DistSamplerSeedHook) for hook in runner.hooks):
        raise ValueError(
            'default_hooks.sampler_seed is no DistSamplerSeedHook, so that nobody tells the '
            f'sampler its epoch, and RepeatableViews.views={views} would show one view: '
            "set default_hooks.sampler_seed=dict(type='DistSamplerSeedHook')."
        )


def _check_mixing(dataset: Any, model: nn.Module) -> None:
    if not isinstance(getattr(dataset, 'mix', None), SampleMix):
        return
    again = [type(p).__name__ for p in getattr(model, 'batch_parts', ()) if p.mixes_labels]
    preprocessor = getattr(model, 'data_preprocessor', None)
    if getattr(preprocessor, 'batch_augments', None) is not None:
        again.append('data_preprocessor.batch_augments (train_cfg.augments)')
    if again:
        raise ValueError(
            f'train_dataloader.dataset.mix mixes pictures, and {again[0]} would mix them again: '
            'leave out one of both.'
        )


def share_seed(runner: Any) -> None:
    """Tell all ranks one seed: with ``diff_rank_seed`` every rank has one of its own."""
    seed = [runner.seed]
    broadcast_object_list(seed)
    runner.message_hub.update_info('shared_seed', seed[0])


def before_train_epoch(runner: Any) -> None:
    """Have the teacher write what it has said in the epoch before."""
    teacher_in(trained_model(runner)).flush()


def after_train(runner: Any) -> None:
    """Tell the teacher that the training is over."""
    teacher_in(trained_model(runner)).end()


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
        if name.startswith(_OF_TERMS):
            del hub.log_scalars[name]


def check_last_batch(loader: Any, model: nn.Module) -> None:
    """Refuse a last batch of one sample beside terms that normalise over the batch.

    Torch would stop at the end of the first epoch. Norms of maps of one position raise
    in the first step.

    Raises:
        ValueError: Naming the term and the batch.
    """
    # Where batches are put together by a sampler of their own, the loader says nothing of them.
    of = loader if getattr(loader, 'batch_size', None) else getattr(loader, 'batch_sampler', None)
    size, sampler = getattr(of, 'batch_size', None), getattr(of, 'sampler', None)
    if isinstance(sampler, MultiSourceSampler) and 1 in sampler.counts:
        for name in _norms_of_vectors(getattr(model, 'distiller', nn.Module())):
            raise ValueError(
                'train_dataloader.sampler (MultiSourceSampler) puts one sample of a dataset into a '
                f'batch, which the student sees alone, and model.distiller.{name} normalises over '
                'the batch: set a larger batch_size, or another source_ratio.'
            )
    if not isinstance(size, int) or getattr(of, 'drop_last', False) or _never_ends(sampler):
        return
    if len(sampler) % size != 1 and size != 1:  # type: ignore[arg-type]
        return
    distiller = getattr(model, 'distiller', nn.Module())
    said = (
        f'train_dataloader.batch_size={size} leaves a last batch of one sample (of '
        f'{len(sampler)} on this process), and model.distiller.{{}} normalises over the '  # type: ignore[arg-type]
        'batch: set train_dataloader.drop_last=True (or that of its batch_sampler), or another '
        'batch_size.'
    )
    for name in _norms_of_vectors(distiller):
        raise ValueError(said.format(name))
    for name, module in distiller.named_modules():
        # Whether its maps have one position the first step tells.
        if module.training and type(module) is nn.BatchNorm2d:
            _refuse_points(module, said.format(name))


def _refuse_points(norm: nn.Module, said: str) -> None:
    """Look once whether a norm of maps is given maps of one position."""

    def look(norm: nn.Module, args: tuple) -> None:
        handle.remove()
        if args[0].shape[2:].numel() == 1:
            raise ValueError(said)

    handle = norm.register_forward_pre_hook(look)


def check_end(runner: Any) -> None:
    """Refuse a sampler that would never end an epoch in a loop of epochs.

    Warn of one that ends so often in a loop of iterations that mmengine mostly waits.

    Raises:
        ValueError: Naming the setting.
    """
    sampler = sampler_of(runner.train_dataloader)
    if isinstance(runner.train_loop, IterBasedTrainLoop):
        _warn_of_waiting(runner, sampler)
    if not isinstance(runner.train_loop, EpochBasedTrainLoop) or not _never_ends(sampler):
        return
    instead = "give sampler=dict(type='DefaultSampler', shuffle=True)"
    if isinstance(sampler, MultiSourceSampler):
        if not sampler.infinite:
            return
        instead = 'leave its infinite=True out'
    raise ValueError(
        f'train_dataloader.sampler ({type(sampler).__name__}) draws for ever, and '
        f'train_cfg.by_epoch=True waits for the end of an epoch: {instead}, or train by iterations.'
    )


def _warn_of_waiting(runner: Any, sampler: Any) -> None:
    """Say how long mmengine's loop of iterations sleeps after all passes through the data."""
    ours = isinstance(sampler, MultiSourceSampler)
    if not hasattr(sampler, '__len__') or (sampler.infinite if ours else _never_ends(sampler)):
        return
    iterations, of_all = len(runner.train_dataloader), runner.train_loop.max_iters
    seconds = SLEEP * ((of_all - 1) // max(iterations, 1))
    if seconds < LONG:
        return
    instead = "give sampler=dict(type='InfiniteSampler', shuffle=True)"
    runner.logger.warning(
        f'train_dataloader.sampler ({type(sampler).__name__}) ends every {iterations} iterations, '
        f'and mmengine then waits {SLEEP:g} s, {seconds / 60:.3g} minutes in the '
        f'{of_all:,} iterations of train_cfg.max_iters: '
        f'{"set its infinite=True" if ours else instead}.'
    )


def check_stop(runner: Any, model: nn.Module) -> None:
    """Refuse to stop a distillation that is all that the student learns by, or in no epoch.

    One that would stop after the end is told in the log.

    Raises:
        ValueError: Naming the hook.
    """
    loop = runner.train_loop
    for hook in runner.hooks:
        if name_of(type(hook)) != 'StopDistillHook':
            continue
        stop = hook.stop_epoch
        if isinstance(loop, IterBasedTrainLoop) and stop > 0:
            raise ValueError(
                f'custom_hooks: StopDistillHook.stop_epoch={stop} counts epochs, of which '
                'train_cfg.by_epoch=False has none, so that the distillation would never stop: '
                'train by epochs, or leave the hook out.'
            )
        if stop >= loop.max_epochs:
            runner.logger.warning(
                f'custom_hooks: StopDistillHook.stop_epoch={stop} is after the end '
                f'(train_cfg.max_epochs={loop.max_epochs}), so that the distillation never stops.'
            )
        elif not getattr(model, 'calculate_student_loss', True):
            raise ValueError(
                f'custom_hooks: StopDistillHook.stop_epoch={stop} leaves the student nothing to '
                'learn by, because of model.calculate_student_loss=False: leave one of them out.'
            )


def check_mosaics(runner: Any) -> None:
    """Refuse a hook that would end the mosaics of a dataset that has none, epochs later.

    Raises:
        ValueError: Naming the hook.
    """
    dataset = runner.train_dataloader.dataset
    for hook in runner.hooks:
        switches = name_of(type(hook)) == 'YOLOXModeSwitchHook'
        if switches and not hasattr(dataset, 'update_skip_type_keys'):
            raise ValueError(
                'custom_hooks: YOLOXModeSwitchHook ends the mosaics of a MultiImageMixDataset, and '
                f'train_dataloader.dataset is a {type(dataset).__name__}: leave the hook out, or '
                'exchange the pipeline with a PipelineSwitchHook.'
            )


def _never_ends(sampler: Any) -> bool:
    """Whether a sampler draws for ever, or has whole batches, so that every batch is full."""
    mmdets = {'MultiSourceSampler', 'GroupMultiSourceSampler'}
    return isinstance(sampler, InfiniteSampler) or any(
        kind.__name__ in mmdets for kind in type(sampler).__mro__
    )


def _norms_of_vectors(distiller: nn.Module) -> Iterator[str]:
    """Yield the norms of a distiller that have one value a channel of each sample.

    Maps of several positions have several, and synchronised norms those of other processes.
    """
    vectors = []
    for mapping in getattr(distiller, 'loss_forward_mappings', {}).values():
        for record in mapping.values():
            side = distiller.student_recorders if record['from_student'] else None
            recorder = side and side.get_recorder(record['recorder'])
            if getattr(recorder, 'gives_vectors', False):
                vectors.append(f'connectors.{record.get("connector")}.')
    for name, module in distiller.named_modules():
        of_vectors = isinstance(module, nn.BatchNorm2d) and name.startswith(tuple(vectors))
        if module.training and (of_vectors or isinstance(module, nn.BatchNorm1d)):
            yield name


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
