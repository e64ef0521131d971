"""Which view of a sample a loader asks for: the epoch's, told with every index.

A worker loads ahead of the training, in a loop without epochs across the end of one pass
over the data. So the number of the view cannot be told to workers beside the
indices: it comes with them, from the sampler, which is in the training's own process.
"""

from __future__ import annotations

import operator
from array import array
from collections.abc import Iterable, Iterator
from typing import Any

from torch.utils.data import DataLoader, Sampler

from kd_plugins import checks


class SampleView(int):
    """The index of a sample that also says which view of it is asked for.

    Args:
        index: Of the sample; to everything else this is that number.
        view: From 0.
    """

    view: int

    def __new__(cls, index: int, view: int) -> SampleView:
        self = super().__new__(cls, index)
        self.view = view
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (int(self), self.view)

    def __repr__(self) -> str:
        return f'{type(self).__name__}({int(self)}, {self.view})'


class ViewNumbering:
    """Says of every index that a sampler draws which of V views is asked for.

    Epoch e asks for view e modulo V.

    - A sampler that is told the epoch (``epoch``, set by mmengine's ``DistSamplerSeedHook``)
      is in that epoch.
    - One that never ends and takes no epoch (``InfiniteSampler``) begins the next epoch when
      all ranks together have drawn as many samples as there are. A resumed loop without
      epochs draws from the beginning, or skips what was drawn, and so counts right.
    - Of any other, every pass is an epoch; a resumed training says how many there were.

    An index that comes again in the same epoch gets the next view. With mmpretrain's
    ``RepeatAugSampler``, which draws a sample R times an epoch, that holds over all
    ranks: epoch e uses the views e R to e R + R - 1, modulo V.

    Args:
        views: V, at least 1.
        of_passes: Whether every pass is an epoch.
    """

    def __init__(self, views: int, of_passes: bool = False) -> None:
        self.views = views
        self._of_passes = of_passes
        self._passes = 0
        self._drawn = 0

    def begin(self, sampler: Any, indices: Iterable[int]) -> Iterator[SampleView]:
        """Return the indices of one pass with their views.

        Args:
            sampler: That draws them; its epoch is read now.
            indices: What it draws.
        """
        epoch = getattr(sampler, 'epoch', None)
        if epoch is None and self._of_passes:
            epoch = self._passes
        self._passes += 1
        return self._number(sampler, indices, epoch)

    def set_epoch(self, epoch: int) -> None:
        """Count the next pass as this epoch."""
        self._passes = epoch

    def skip(self, num_samples: int) -> None:
        """Go on as if a rank had drawn so many samples.

        The maintained continuation of mmengine resumes a loop without epochs so: its
        ``InfiniteSampler.skip`` passes over the indices of before, counted from the first.
        """
        self._drawn = num_samples

    def _number(
        self, sampler: Any, indices: Iterable[int], told: int | None
    ) -> Iterator[SampleView]:
        rank, ranks = getattr(sampler, 'rank', 0), getattr(sampler, 'world_size', 1)
        repeats, size = getattr(sampler, 'num_repeats', None), len(sampler)
        before, seen = None, array('L')
        for position, index in enumerate(indices):
            try:
                # Also numpy's, and those of tensors.
                index = operator.index(index)
            except TypeError:
                raise ValueError(
                    f'train_dataloader.sampler is a {type(sampler).__name__}, which draws '
                    f'{index!r}, and RepeatableViews numbers single samples: give a sampler of '
                    'whole numbers, such as DefaultSampler.'
                ) from None
            epoch = (self._drawn * ranks + rank) // size if told is None else told
            self._drawn += 1
            if repeats:
                view = epoch * repeats + (position * ranks + rank) % repeats
            else:
                if epoch != before:
                    before, seen = epoch, array('L', [0]) * size
                if index >= len(seen):
                    seen.extend(array('L', [0]) * (index + 1 - len(seen)))
                view = epoch + seen[index]
                seen[index] += 1
            yield SampleView(index, view % self.views)


def number_views(loader: DataLoader, views: int | None = None) -> DataLoader:
    """Let a loader ask for the view of its epoch; call it before the loader is first iterated.

    A Runner does this to every loader that it builds, if its dataset is a
    :class:`kd_plugins.views.RepeatableViews`. Loaders that are built otherwise need it.
    The sampler stays the same object, of a subclass of its class, because upstream asks what
    kind it is, and sets the epoch on it.

    Args:
        loader: With a sampler of its own, or a batch sampler around one.
        views: Their number; by default the dataset's.

    Returns:
        The loader.

    Raises:
        ValueError: If nothing draws single samples in it.
    """
    dataset: Any = loader.dataset
    views = checks.whole_number('views', dataset.views if views is None else views)
    sampler: Any = sampler_of(loader)
    if isinstance(getattr(sampler, 'view_numbering', None), ViewNumbering):
        sampler.view_numbering.views = views
        return loader
    if not isinstance(sampler, Sampler):
        raise ValueError(
            f'train_dataloader.batch_sampler={type(loader.batch_sampler).__name__} draws from a '
            f'{type(sampler).__name__}, and RepeatableViews numbers what a sampler draws: give a '
            'batch sampler around a sampler.'
        )
    kind: Any = type(sampler)

    def numbered(self: Any) -> Iterator[SampleView]:
        return self.view_numbering.begin(self, kind.__iter__(self))

    def skipped(self: Any, num_samples: int) -> None:
        kind.skip(self, num_samples)
        self.view_numbering.skip(num_samples)

    def told(self: Any, epoch: int) -> None:
        self.view_numbering.set_epoch(epoch)

    added: dict[str, Any] = {'__iter__': numbered}
    of_passes = not hasattr(kind, 'set_epoch')
    if of_passes:
        added['set_epoch'] = told
    if hasattr(kind, 'skip'):
        added['skip'] = skipped
    changed = type(kind.__name__, (kind,), added)
    vars(sampler).update(view_numbering=ViewNumbering(views, of_passes))
    sampler.__class__ = changed
    return loader


def sampler_of(loader: DataLoader) -> Any:
    """Return what draws single samples for a loader; None if it does not say."""
    if loader.batch_sampler is None:
        return loader.sampler
    return getattr(loader.batch_sampler, 'sampler', None)
