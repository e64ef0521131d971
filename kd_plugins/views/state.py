"""Transforms and datasets that keep something from one sample to the next."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch

#: What generates random numbers of its own, and so none of those that are seeded.
_GENERATORS = (random.Random, np.random.Generator, np.random.RandomState, torch.Generator)
#: Hooks of mmdet and mmpretrain that exchange pipelines.
_SWITCHES = ('PipelineSwitchHook', 'YOLOXModeSwitchHook', 'SwitchRecipeHook')
#: Where datasets keep what they wrap, and their transforms.
_INNER = ('dataset', 'datasets', 'pipeline')
#: Deeper than any transform that holds transforms.
_DEPTH = 12


def check_stateless(dataset: Any, key: str = 'train_dataloader.dataset') -> None:
    """Refuse a dataset whose samples depend on those before them.

    That is a cache of earlier pictures (mmdet's ``CachedMosaic`` and ``CachedMixUp``, and
    whatever else keeps ``results_cache``), or a random generator of its own. What it cannot
    see, RepeatableViews finds when it makes the first samples of a process twice.

    Args:
        dataset: A built dataset, with whatever it wraps.
        key: What the config calls it.

    Raises:
        ValueError: Naming the transform.
    """
    found = find_state(dataset, key)
    if found is not None:
        raise ValueError(found)


def check_one_pipeline(hooks: Iterable[Any], beside: str) -> None:
    """Refuse hooks that exchange the augmentation in the course of a training.

    A view is then another picture than before. Alone, RepeatableViews does as the hook says.

    Args:
        hooks: Those of a runner.
        beside: What they do not go with, for the message: a config key.

    Raises:
        ValueError: Naming the hook.
    """
    for hook in hooks:
        if any(kind.__name__ in _SWITCHES for kind in type(hook).__mro__):
            raise ValueError(
                f'{type(hook).__name__} exchanges the augmentation in the course of the training, '
                f'and {beside} needs pictures that come again: leave it out, or train both parts '
                'as two trainings, the second with load_from.'
            )


def check_one_view(dataset: Any, beside: str) -> None:
    """Refuse a dataset whose samples have a second view, which has the first one's number.

    Args:
        dataset: A built dataset, with whatever it wraps.
        beside: What it does not go with, for the message: a config key.

    Raises:
        ValueError: Naming the transform.
    """
    for path, part in _parts(dataset, 'train_dataloader.dataset', set()):
        if type(part).__name__ == 'StrongView':
            raise ValueError(
                f'{path}=StrongView shows a picture a second time in one batch, and {beside} keeps '
                'one answer for both: take a live teacher, or leave the strong view out.'
            )


def find_state(dataset: Any, key: str = 'train_dataloader.dataset') -> str | None:
    """Return what :func:`check_stateless` says; None if there is no state."""
    for path, part in _parts(dataset, key, set()):
        name = type(part).__name__
        attributes = _attributes(part)
        # mmyolo's mosaic always has a cache, and a flag for it.
        if 'results_cache' in attributes and attributes.get('use_cached', True):
            instead = {'CachedMosaic': 'Mosaic', 'CachedMixUp': 'MixUp'}.get(name)
            remedy = (
                f'a {instead} in the pipeline of a MultiImageMixDataset'
                if instead
                else 'one without a cache'
            )
            return (
                f'{path}={name} keeps pictures of earlier samples, so that a view depends on '
                f'what was drawn before it: give {remedy}.'
            )
        for attribute, value in attributes.items():
            if isinstance(value, _GENERATORS) and not _is_global(value):
                return (
                    f'{path}={name} draws from a random generator of its own ({attribute}), so '
                    'that a view depends on what was drawn before it: give a transform that draws '
                    "from python's, numpy's or torch's own."
                )
    return None


def forget_pictures(dataset: Any) -> None:
    """Empty the caches of earlier pictures that transforms of this process keep.

    Args:
        dataset: A built dataset, with whatever it wraps.
    """
    for _, part in _parts(dataset, '', set()):
        cache = _attributes(part).get('results_cache')
        if isinstance(cache, list):
            cache.clear()


def _parts(part: Any, path: str, seen: set[int], depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Yield datasets and transforms with what the config calls them."""
    if id(part) in seen or depth > _DEPTH:
        return
    seen.add(id(part))
    # mmengine has one, mmcv another, and albumentations one with a generator.
    is_compose = type(part).__name__ == 'Compose'
    if is_compose:
        yield path, part
    if is_compose or isinstance(part, (list, tuple)):
        for i, each in enumerate(getattr(part, 'transforms', part)):
            yield from _parts(each, f'{path}[{i}]', seen, depth + 1)
        return
    if isinstance(part, Mapping):
        for name, each in part.items():
            yield from _parts(each, f'{path}[{name!r}]', seen, depth + 1)
        return
    attributes = _attributes(part)
    if not attributes:
        return
    yield path, part
    if hasattr(part, '__getitem__') and hasattr(part, '__len__'):
        # A dataset: what else it has are data.
        attributes = {name: attributes[name] for name in _INNER if name in attributes}
    for name, value in attributes.items():
        if name in _INNER or isinstance(value, (list, tuple, Mapping)) or callable(value):
            yield from _parts(value, f'{path}.{name}', seen, depth + 1)


def _attributes(part: Any) -> dict[str, Any]:
    if isinstance(part, type) or type(part).__module__ in ('builtins', 'numpy', 'torch'):
        return {}
    return getattr(part, '__dict__', {})


def _is_global(generator: Any) -> bool:
    return generator is torch.default_generator or generator is np.random.mtrand._rand
