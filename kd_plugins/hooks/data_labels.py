"""Whether labels are where one is needed, and nothing mixes pictures up that have none."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

from kd_plugins import checks
from kd_plugins.datasets.picture_folder import PictureFolder
from kd_plugins.datasets.unlabelled import MultiSourceSampler, WithUnlabelled
from kd_plugins.datasets.views import shows_two_views
from kd_plugins.hooks.data_classes import datasets_inside, joined_datasets
from kd_plugins.registry import name_of
from kd_plugins.views.dataset import without_views


def check_labels(loader: Any, model: nn.Module, hooks: Iterable[Any] = ()) -> None:
    """Refuse pictures without labels where something needs one, or nothing keeps them apart.

    Args:
        loader: The loader of the training.
        model: The model without what wraps it.
        hooks: Those of the Runner, some of which exchange what mixes batches.

    Raises:
        ValueError: Naming the setting.
    """
    dataset = without_views(getattr(loader, 'dataset', None))
    augments = _augments(model, hooks)
    if any(isinstance(inner, WithUnlabelled) for inner in datasets_inside(dataset)):
        raise ValueError(
            f'train_dataloader.dataset is a {type(dataset).__name__} around WithUnlabelled, which '
            'MultiSourceSampler would not see: give WithUnlabelled itself (MultiSourceSampler '
            'repeats each of its datasets as often as it has to).'
        )
    if name_of(type(dataset)) == 'WithUnlabelled':
        sampler = getattr(loader, 'sampler', None)
        kinds = {kind.__name__ for kind in type(sampler).__mro__}
        size, of_sampler = loader.batch_size, getattr(sampler, 'batch_size', None)
        if size is None:
            raise ValueError(
                f'train_dataloader.batch_sampler is a {type(loader.batch_sampler).__name__}, which '
                'makes batches of its own, and the dataset WithUnlabelled wants some labelled and '
                'some unlabelled pictures in every batch, as kd_plugins.MultiSourceSampler gives '
                'them: set batch_sampler=None.'
            )
        if 'MultiSourceSampler' not in kinds or size != of_sampler:
            raise ValueError(
                f'train_dataloader.sampler is a {type(sampler).__name__} of batches of '
                f'{of_sampler}, and its dataset WithUnlabelled wants some labelled and some '
                "unlabelled pictures in every batch: give sampler=dict(type='kd_plugins."
                f"MultiSourceSampler', batch_size={size}, source_ratio=[1, 1]) or another ratio."
            )
        network = {kind.__name__ for kind in type(model.architecture).__mro__}
        wanted = 'DetDataPreprocessor' if 'BaseDetector' in network else 'ClsDataPreprocessor'
        preprocessor = model.data_preprocessor
        if wanted not in _of_ours(preprocessor):
            raise ValueError(
                f'data_preprocessor ({type(preprocessor).__name__}) does not keep the labelled '
                'and the unlabelled pictures of train_dataloader.dataset apart for a '
                f"{type(model.architecture).__name__}: give data_preprocessor.type='kd_plugins."
                f"{wanted}'."
            )
        if shows_two_views(dataset.datasets[1]):
            _check_two_views(model, augments)
        if getattr(model, 'pseudo_boxes', None) is not None and not model.calculate_student_loss:
            raise ValueError(
                'model.calculate_student_loss=False lets the teacher alone teach, and '
                'train_dataloader.dataset (WithUnlabelled) has labelled pictures, whose boxes '
                'model.pseudo_boxes would pass over: give the one dataset that is to teach, or '
                'leave calculate_student_loss out.'
            )
        model.check_unlabelled()
        for name, part in getattr(model.distiller, 'connectors', {}).items():
            if hasattr(part, 'check_unlabelled'):
                number = len(dataset.datasets[1])
                part.check_unlabelled(f'model.distiller.connectors.{name}', number)
        return
    _check_views(loader, model)
    if getattr(model, 'pseudo_boxes', None) is not None and model.calculate_student_loss:
        raise ValueError(
            'model.pseudo_boxes is for pictures without labels, and train_dataloader.dataset '
            f'({type(dataset).__name__}) has none beside labelled ones: give '
            "dict(type='kd_plugins.WithUnlabelled', labelled=..., unlabelled=...), or set "
            'model.calculate_student_loss=False where all of them are to teach as if unlabelled.'
        )
    _check_without_labels(dataset, model, augments)


def _check_two_views(model: nn.Module, augments: bool) -> None:
    """Refuse what cannot see labelled pictures and two views of unlabelled ones as one batch."""
    if augments:
        raise checks.mixed_views('kd_plugins.StrongView')
    without = model.check_unlabelled()
    for name, mapping in model.distiller.loss_forward_mappings.items():
        loss = model.distiller.distill_losses[name]
        while hasattr(loss, 'loss'):  # within Weighted and its kin
            loss = loss.loss
        # All others are given labels only so that terms can be exchanged in a config.
        reads = hasattr(loss, 'needs_labels')
        for argument in mapping.keys() - without[name].keys() if reads else ():
            raise ValueError(
                f'model.distiller.loss_forward_mappings.{name}.{argument} gives labels of the '
                'labelled pictures alone, and a kd_plugins.StrongView makes one batch of these and '
                'of two views of the unlabelled ones: leave it out, and the term does without '
                'labels.'
            )


def _check_without_labels(dataset: Any, model: nn.Module, augments: bool) -> None:
    """Refuse pictures without labels, beside no others, where something reads or mixes them."""
    learns = getattr(model, 'calculate_student_loss', False)
    instead = (
        'set model.calculate_student_loss=False, or put it beside a labelled one with '
        "dict(type='kd_plugins.WithUnlabelled', labelled=..., unlabelled=...)."
    )
    mixes = augments and not _of_ours(model.data_preprocessor)
    joined = [*joined_datasets(dataset)]
    some = any(getattr(each, 'with_label', True) is not False for each in joined)
    for inner in joined:
        kind = type(inner).__name__
        if isinstance(inner, PictureFolder):
            for each in (dataset, *datasets_inside(dataset)):
                if name_of(type(each)) == 'MultiImageMixDataset':
                    raise ValueError(
                        'train_dataloader.dataset has a MultiImageMixDataset, which mixes pictures '
                        'that have boxes, around a PictureFolder, whose have none: leave it out.'
                    )
            if learns:
                raise ValueError(
                    'train_dataloader.dataset (PictureFolder) has no boxes, and the student would '
                    f'learn that there is nothing: {instead}'
                )
            if mixes:
                raise ValueError(
                    'data_preprocessor.batch_augments change the boxes of every picture, and those '
                    'of train_dataloader.dataset (PictureFolder) have none: give '
                    "data_preprocessor.type='kd_plugins.DetDataPreprocessor'."
                )
        # What mmpretrain's datasets call it.
        if getattr(inner, 'with_label', True) is not False or not hasattr(
            model.architecture, 'head'
        ):
            continue
        if learns:
            raise ValueError(
                f'train_dataloader.dataset ({kind}, with_label=False) has no labels, and the '
                f"student's own loss needs them: {instead}"
            )
        if some and not _of_ours(model.data_preprocessor):
            raise ValueError(
                f'train_dataloader.dataset joins pictures with labels and without ({kind}, '
                "with_label=False): give data_preprocessor.type='kd_plugins.ClsDataPreprocessor', "
                'which keeps them apart.'
            )
        if mixes:
            raise ValueError(
                'data_preprocessor.batch_augments (or train_cfg.augments of the student) would '
                f'leave the pictures of train_dataloader.dataset ({kind}, with_label=False) as '
                "they are: give data_preprocessor.type='kd_plugins.ClsDataPreprocessor', which "
                'mixes them, or leave it out.'
            )


def _augments(model: nn.Module, hooks: Iterable[Any]) -> bool:
    """Whether something mixes or changes whole batches, now or later."""
    later = (
        recipe.get('batch_augments')
        for hook in hooks
        if name_of(type(hook)) == 'SwitchRecipeHook'
        for recipe in hook.schedule.values()
    )
    return any((getattr(model.data_preprocessor, 'batch_augments', None), *later))


def _of_ours(module: nn.Module) -> set[str]:
    """Return the names of those of our classes that it is of."""
    kinds = type(module).__mro__
    return {kind.__name__ for kind in kinds if kind.__module__.startswith('kd_plugins.')}


def _check_views(loader: Any, model: nn.Module) -> None:
    """Refuse recorders of two views of unlabelled pictures where the data have none."""
    if isinstance(getattr(loader, 'sampler', None), MultiSourceSampler):
        return
    for side in ('student', 'teacher'):
        recorders = getattr(getattr(model, 'distiller', None), f'{side}_recorders', None)
        for name, recorder in getattr(recorders, 'recorders', {}).items():
            if not hasattr(recorder, 'rows'):
                continue
            raise ValueError(
                f'model.distiller.{side}_recorders.{name} reads two views of unlabelled pictures, '
                f'and train_dataloader.dataset is a {type(loader.dataset).__name__}: give '
                "dict(type='kd_plugins.WithUnlabelled', labelled=..., unlabelled=...), and a "
                'kd_plugins.MultiSourceSampler.'
            )
