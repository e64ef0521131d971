"""A dataset whose augmented pictures come again."""

from __future__ import annotations

import copy
import operator
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mmengine.registry import DATASETS as UPSTREAM_DATASETS
from mmengine.structures import BaseDataElement
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from kd_plugins import checks
from kd_plugins.registry import DATASETS
from kd_plugins.views.flips import PairedFlips
from kd_plugins.views.hashing import picture_hash
from kd_plugins.views.mixing import SampleMix
from kd_plugins.views.randomness import Seeds, kept_random_states, seed_all, seeds_of
from kd_plugins.views.sampling import SampleView, number_views
from kd_plugins.views.state import check_stateless

#: How many samples every process makes twice, to see that it can.
_TRIALS = 2


@DATASETS.register_module()
class RepeatableViews(Dataset):
    """A training set of which each sample has V augmented pictures, the same in every run.

    The augmentation of a sample is a function of the seed, its index and the number of
    the view: python's, numpy's and torch's generators are seeded with the three before the
    sample is made, and put back after. Workers, ranks, the size of the batch, the order and a
    resume do not matter. A ``RandomFlip`` with probability 0.5 in the pipeline flips one of
    the views 2 m and 2 m + 1, and which is drawn: with two views, both are
    seen. Epoch e uses view e modulo V (see
    :class:`kd_plugins.views.ViewNumbering`). A sample that comes back None is replaced by another
    one that the same seed draws; it keeps the index that was asked for.

    Every data sample says in its meta information which it is: ``sample_index``, the index
    in ``dataset``; ``view``, from 0 to V - 1; ``view_hash``, a hash of ``inputs``, from 0 to
    2**64 - 1 (:func:`kd_plugins.views.picture_hash`); ``view_size``, their height and width
    in pixels. Boxes and labels are not hashed: a teacher does not see them.

    It stands outermost. What else is asked of it, ``dataset`` answers. An index without a view,
    as in ``dataset[5]``, is view 0; a loader of several views must say which
    (:func:`kd_plugins.views.number_views`), and a Runner's does.

    Args:
        dataset: The config of a training set of mmpretrain or mmdet, whatever it wraps. Its
            pipeline ends with packing.
        views: V, at least 1.
        seed: Of the augmentation. It is not the training's: every training with this
            number sees the same pictures.
        mix: Arguments of :class:`kd_plugins.views.SampleMix`, in place of the batch augments of
            mmpretrain's preprocessor: ``dict(augments=[dict(type='Mixup', alpha=0.8),
            dict(type='CutMix', alpha=1.0)])``. Every mixed picture is loaded together with
            its partner.

    Raises:
        ValueError: If a setting is wrong, if a transform keeps state between samples, or
            if a sample turns out another one when it is made again.

    The idea of few views that repeat is that of F. Faghri et al., "Reinforce Data, Multiply
    Impact", ICCV 2023.
    """

    def __init__(
        self, dataset: Any, views: int, seed: int = 0, mix: Mapping[str, Any] | None = None
    ) -> None:
        name = type(self).__name__
        self.views = checks.whole_number(f'{name}.views', views)
        self.seed = checks.whole_number(f'{name}.seed', seed, least=0)
        if seed >= 2**63:
            raise checks.refuse(f'{name}.seed', seed, 'a whole number below 2**63')
        is_config = isinstance(dataset, Mapping)
        #: What a view depends on, as the config has it; None if a built dataset was given.
        self.cfg = (
            dict(dataset=copy.deepcopy(dataset), seed=seed, mix=copy.deepcopy(mix))
            if is_config
            else None
        )
        self.dataset = UPSTREAM_DATASETS.build(dataset) if is_config else dataset
        if any(isinstance(inner, RepeatableViews) for _, inner in _wrapped(self)):
            raise ValueError(f'{name}.dataset has a {name} in it: give the training set itself.')
        check_stateless(self.dataset, f'{name}.dataset')
        if not isinstance(mix, (Mapping, type(None))) or (
            mix is not None and 'augments' not in mix
        ):
            raise checks.refuse(f'{name}.mix', mix, "dict(augments=[dict(type='Mixup', ...), ...])")
        self.mix = None if mix is None else SampleMix(**mix)
        self._trials: tuple[int, int] = (0, 0)

    @property
    def metainfo(self) -> Any:
        """Meta information of the wrapped dataset, a copy."""
        return copy.deepcopy(self.dataset.metainfo)

    @property
    def pipeline(self) -> Any:
        """The wrapped dataset's; hooks of upstream exchange it."""
        return self.dataset.pipeline

    @pipeline.setter
    def pipeline(self, pipeline: Any) -> None:
        check_stateless(pipeline, 'RepeatableViews.dataset.pipeline')
        self.dataset.pipeline = pipeline

    def full_init(self) -> None:
        """Let the wrapped dataset read its annotations."""
        if hasattr(self.dataset, 'full_init'):
            self.dataset.full_init()

    def __len__(self) -> int:
        return len(self.dataset)

    def __getattr__(self, name: str) -> Any:
        # Also asked for while nothing is set yet, when a copy is unpickled.
        if name == 'dataset' or name.startswith('__'):
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def __getitem__(self, index: int) -> Any:
        return self._views([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        """Return a batch; torch's loader asks so. The generators are put back once for all."""
        if self.views > 1 and not all(isinstance(index, SampleView) for index in indices):
            raise ValueError(
                f'RepeatableViews.views={self.views!r}, and the loader does not say which of them '
                'it asks for: let the Runner build it from a config, or call '
                'kd_plugins.views.number_views(loader).'
            )
        return self._views(indices)

    def _views(self, indices: Sequence[int]) -> list[Any]:
        asked = [(self._from_begin(index), getattr(index, 'view', 0)) for index in indices]
        for _, view in asked:
            if not 0 <= view < self.views:
                raise checks.refuse('view', view, f'one from 0 to {self.views - 1}')
        # Whatever can be is done for a batch in one go, before and after: between two samples
        # the processor has forgotten how.
        with kept_random_states(), PairedFlips(self.dataset, self.seed) as flips:
            plan = [
                (index, seeds_of(self.seed, index, view), flips.of(index, view))
                for index, view in asked
            ]
            samples = [self._make(flips, *each) for each in plan]
            # A worker is a process of its own, with a copy of what this one has counted.
            process, done = self._trials if self._trials[0] == os.getpid() else (os.getpid(), 0)
            for i in range(min(_TRIALS - done, len(plan))):
                self._compare(samples[i], self._make(flips, *plan[i]), *asked[i])
                done += 1
            self._trials = process, done
        return [self._told(sample, *key) for key, sample in zip(asked, samples, strict=True)]

    def _from_begin(self, index: int) -> int:
        """Return the index of a sample that may be counted from the end."""
        number = operator.index(index)
        number += len(self) if number < 0 else 0
        if number < 0:
            raise IndexError(f'there are {len(self)} samples, and none is number {int(index)}')
        return number

    def _make(self, flips: PairedFlips, index: int, seeds: Seeds, flip: float) -> Any:
        seed_all(seeds)
        flips.tell(flip)
        sample = self.dataset[index]
        if not isinstance(sample, dict) or 'inputs' not in sample:
            raise ValueError(
                f'RepeatableViews.dataset gives {type(sample).__name__} without inputs and '
                'data_samples: end its pipeline with PackInputs or PackDetInputs.'
            )
        if self.mix is not None:
            flips.tell(0.5)
            sample = self.mix(sample, self.dataset)
        return sample

    def _told(self, sample: dict[str, Any], index: int, view: int) -> dict[str, Any]:
        picture = sample['inputs']
        told: dict[str, Any] = dict(
            sample_index=index,
            view=view,
            view_hash=picture_hash(picture),
        )
        if isinstance(picture, Tensor) and picture.dim() > 1:
            told['view_size'] = tuple(picture.shape[-2:])
        return dict(sample, data_samples=_tell(sample.get('data_samples'), told))

    def _compare(self, first: dict, second: dict, index: int, view: int) -> None:
        if picture_hash(first['inputs']) != picture_hash(second['inputs']):
            raise ValueError(
                f'RepeatableViews.dataset={type(self.dataset).__name__} makes another picture of '
                f'sample {index} when view {view} is made again: a transform keeps state, or draws '
                "from a generator that is none of python's, numpy's and torch's own; leave it out."
            )


def _tell(data_samples: Any, told: Mapping[str, Any]) -> Any:
    """Write meta information into a data sample, or into several."""
    if isinstance(data_samples, BaseDataElement):
        if 'view_hash' in data_samples:
            # The dataset gives an object away that it keeps.
            data_samples = data_samples.clone()
        # Not by set_metainfo, which copies what it is given.
        for name, value in told.items():
            data_samples.set_field(value, name, field_type='metainfo')
        return data_samples
    if isinstance(data_samples, dict):
        return {key: _tell(each, told) for key, each in data_samples.items()}
    raise ValueError(
        f'RepeatableViews.dataset gives data_samples of type {type(data_samples).__name__}, which '
        'cannot say which view they are: end its pipeline with PackInputs or PackDetInputs.'
    )


def without_views(dataset: Any) -> Any:
    """Return the dataset whose pictures come again in a :class:`RepeatableViews`; else itself."""
    # mmengine's own wrapper, for num_batch_per_epoch.
    found = getattr(dataset, '__dict__', {}).get('_dataset', dataset)
    return found.dataset if isinstance(found, RepeatableViews) else found


def number_if_repeatable(loader: DataLoader) -> DataLoader:
    """Number the views of a loader whose dataset is a :class:`RepeatableViews`.

    Raises:
        ValueError: If that dataset is inside of another one, which would lose the views.
    """
    # mmengine's own wrapper, for num_batch_per_epoch.
    dataset = vars(loader.dataset).get('_dataset', loader.dataset)
    if isinstance(dataset, RepeatableViews):
        return number_views(loader)
    for outer, inner in _wrapped(dataset):
        if isinstance(inner, RepeatableViews):
            raise ValueError(
                f'train_dataloader.dataset={type(outer).__name__} wraps a RepeatableViews, and '
                'does not tell it which view is asked for: let '
                "dict(type='kd_plugins.RepeatableViews', views=V, dataset=...) be outermost."
            )
    return loader


def _wrapped(dataset: Any) -> Iterator[tuple[Any, Any]]:
    """Yield the datasets that a dataset wraps or joins, each after what it is in."""
    attributes = getattr(dataset, '__dict__', {})
    for inner in (*(attributes.get('datasets') or ()), attributes.get('dataset')):
        if inner is not None and inner is not dataset:
            yield dataset, inner
            yield from _wrapped(inner)
