"""Labelled pictures beside unlabelled ones, and batches with a ratio of both."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import count
from numbers import Integral
from typing import Any

import numpy as np
from mmengine.dataset import BaseDataset, ConcatDataset
from mmengine.dist import get_dist_info, sync_random_seed
from mmengine.logging import print_log
from torch.utils.data import Sampler

from kd_plugins import checks
from kd_plugins.datasets.picture_folder import mixing_steps
from kd_plugins.registry import DATA_SAMPLERS, DATASETS

#: The fields of a sample that say a class, or objects; those of detectors come in any case.
_LABELS = ('gt_label', 'gt_score', 'gt_instances', 'ignored_instances', 'gt_sem_seg')


@DATASETS.register_module()
class WithUnlabelled(ConcatDataset):
    """A labelled dataset of mmpretrain or mmdet, followed by one whose labels nobody sees.

    It wants :class:`MultiSourceSampler`, so that every batch has some of both, and
    ``data_preprocessor.type='kd_plugins.ClsDataPreprocessor'``, which keeps them apart; of
    detectors ``'kd_plugins.DetDataPreprocessor'``. A folder without labels is
    ``dict(type='CustomDataset', data_prefix=FOLDER, with_label=False, pipeline=...)``; of
    detectors :class:`PictureFolder`. Where upstream exchanges the pipeline of the training set
    (``PipelineSwitchHook``), that of the labelled one changes.

    Args:
        labelled: Config of the labelled dataset, or the dataset; the classes are its.
        unlabelled: The same of the other one. Labels that it has are taken off.
        lazy_init: As in mmengine's ``ConcatDataset``.
        labels_per_class: So many labelled pictures of each class only, to make labels scarce;
            None takes all of them.
        labels_seed: Which ones: they are drawn class by class with numpy's
            ``RandomState``, as TorchSSL and FullMatch draw those of their seed.

    Raises:
        ValueError: If one of both is wrapped or empty, or mixes pictures that a wrapper would give
            it, or a class has fewer labels than asked for, or nobody says the classes;
            or, when a sample is read, if it should have a label and has none, or is not packed.
    """

    def __init__(
        self,
        labelled: Any,
        unlabelled: Any,
        lazy_init: bool = False,
        labels_per_class: int | None = None,
        labels_seed: int = 0,
    ) -> None:
        both = []
        for key, given in dict(labelled=labelled, unlabelled=unlabelled).items():
            try:
                one = DATASETS.build(given) if isinstance(given, Mapping) else given
            except (RuntimeError, FileNotFoundError) as error:
                # mmpretrain's words for an empty folder, and for none.
                raise ValueError(
                    f'WithUnlabelled.{key} has no pictures ({checks.said(error)}): give a dataset '
                    'that has some.'
                ) from error
            both.append(one)
            if not isinstance(one, BaseDataset):
                raise ValueError(
                    f'WithUnlabelled.{key} is a {type(one).__name__}: give a dataset of mmpretrain '
                    'or mmdet itself, with nothing around it (MultiSourceSampler repeats each of '
                    'both as often as it has to).'
                )
            for step in mixing_steps(one):
                if not hasattr(step, 'results_cache'):
                    raise ValueError(
                        f'WithUnlabelled.{key}.pipeline: {type(step).__name__} mixes pictures that '
                        'a MultiImageMixDataset gives it, and there is none: give one that keeps '
                        'pictures itself (CachedMosaic, CachedMixUp), or leave it out.'
                    )
        if labels_per_class is not None:
            both[0] = _scarce(both[0], labels_per_class, labels_seed)
        # Of a folder without labels nobody says the classes.
        keys = sorted({key for one in both for key in one.metainfo})
        super().__init__(both, lazy_init, ignore_keys=keys)

    @property
    def pipeline(self) -> Any:
        """The pipeline of the labelled dataset."""
        return self.datasets[0].pipeline

    @pipeline.setter
    def pipeline(self, pipeline: Any) -> None:
        self.datasets[0].pipeline = pipeline

    def __getitem__(self, idx: int) -> dict[str, Any]:
        """Return a packed sample, with a label if it is of the labelled dataset."""
        data = super().__getitem__(idx)
        source = self._get_ori_dataset_idx(idx)[0]
        if 'data_samples' not in data:
            raise ValueError(
                f'the pipeline of WithUnlabelled.{("labelled", "unlabelled")[source]} packs no '
                "sample: end it with dict(type='PackInputs'), of a detector 'PackDetInputs'."
            )
        sample = data['data_samples']
        labels = [key for key in _LABELS if key in sample]
        if source == 1:
            for key in labels:
                delattr(sample, key)
        # mmdet packs boxes in any case; that some were read their field says.
        elif not labels or 'bboxes' not in sample.get('gt_instances', ('bboxes',)):
            where = sample.get('img_path', f'number {idx}')
            raise ValueError(
                f'the picture {where!r} of WithUnlabelled.labelled has no label: give a dataset '
                'with labels (with_label=True), or put it into WithUnlabelled.unlabelled.'
            )
        return data


def _scarce(dataset: BaseDataset, labels_per_class: int, seed: int) -> BaseDataset:
    """Return a few pictures of each class of a dataset."""
    key = 'WithUnlabelled.labels_per_class'
    checks.whole_number(key, labels_per_class)
    checks.whole_number('WithUnlabelled.labels_seed', seed, least=0)
    dataset.full_init()
    given = [dataset.get_data_info(i).get('gt_label') for i in range(len(dataset))]
    labels, draws = np.array(given, dtype=object), np.random.RandomState(seed)
    names = dataset.metainfo.get('classes')
    if names is None or not all(isinstance(label, Integral) for label in given):
        lacks = 'names no classes' if names is None else 'has pictures without one class each'
        raise ValueError(
            f'{key}={labels_per_class} takes as many pictures of each class, and '
            f'WithUnlabelled.labelled ({type(dataset).__name__}) {lacks}: give it '
            'metainfo=dict(classes=[...]) and one label a picture, or leave labels_per_class out.'
        )
    chosen: list[int] = []
    for label, name in enumerate(names):
        members = np.flatnonzero(labels == label)
        if len(members) < labels_per_class:
            raise checks.refuse(
                key, labels_per_class,
                f'at most {len(members)}, the labelled pictures of the class {name!r}',
            )  # fmt: skip
        chosen.extend(draws.choice(members, labels_per_class, replace=False).tolist())
    return dataset.get_subset(chosen)


@DATA_SAMPLERS.register_module()
class MultiSourceSampler(Sampler):
    """Batches with the same number of samples of each dataset of a ``ConcatDataset``.

    The samples of every dataset come in a random order without end, each of them once
    before any of them again, across epochs, and processes share them. What an
    epoch reads is a function of the seed and the epoch, so that a resume goes on as
    undisturbed. mmdet's sampler of this name, and the same arguments, draws for ever.

    Args:
        dataset: The dataset; it joins as many as there are ratios. The Runner gives it.
        batch_size: Samples in a batch of one process, as ``train_dataloader`` has it.
        source_ratio: The ratio of the datasets, such as ``[1, 7]``, which has to go into
            ``batch_size``. Within a batch they follow each other.
        epoch_of: The dataset, counted from 0, that an epoch goes through once, but for
            rounding up to whole batches, and for ``train_dataloader.num_batch_per_epoch``.
        infinite: Whether to go on for ever, for loops of iterations.
        shuffle: Whether the orders are random.
        seed: Seed of the orders; None draws one for all processes. The Runner gives it.

    Raises:
        ValueError: If a setting is out of range, or batches do not make the ratio.
    """

    def __init__(
        self,
        dataset: ConcatDataset,
        batch_size: int,
        source_ratio: Sequence[int],
        epoch_of: int = 0,
        infinite: bool = False,
        shuffle: bool = True,
        seed: int | None = None,
    ) -> None:
        name = type(self).__name__
        self.sizes = [len(one) for one in getattr(dataset, 'datasets', ())]
        self.batch_size = checks.whole_number(f'{name}.batch_size', batch_size)
        if not isinstance(source_ratio, Sequence):
            raise checks.refuse(f'{name}.source_ratio', source_ratio, 'a list, such as [1, 7]')
        if len(source_ratio) != len(self.sizes) or len(self.sizes) < 2 or 0 in self.sizes:
            raise ValueError(
                f'{name}.source_ratio={list(source_ratio)} is for {len(source_ratio)} datasets, '
                f'and train_dataloader.dataset ({type(dataset).__name__}) joins those of '
                f'{self.sizes} samples: give a number for each, and datasets that are not empty.'
            )
        for i, share in enumerate(source_ratio):
            checks.whole_number(f'{name}.source_ratio[{i}]', share)
        if batch_size % sum(source_ratio):
            raise checks.refuse(
                f'{name}.batch_size', batch_size,
                f'a multiple of {sum(source_ratio)}, which makes the ratio '
                f'{":".join(map(str, source_ratio))}',
            )  # fmt: skip
        checks.one_of(f'{name}.epoch_of', epoch_of, range(len(self.sizes)))
        self.counts = [batch_size // sum(source_ratio) * share for share in source_ratio]
        self.infinite = checks.flag(f'{name}.infinite', infinite)
        self.shuffle = checks.flag(f'{name}.shuffle', shuffle)
        self.seed = sync_random_seed() if seed is None else seed
        self.rank, self.world_size = get_dist_info()
        self.epoch = 0
        # An epoch of few labelled samples needs a few of a long order.
        self._order = lru_cache(2 * len(self.sizes))(self._draw)
        of_all = self.counts[epoch_of] * self.world_size
        self.iterations = math.ceil(self.sizes[epoch_of] / of_all)
        if '_dataset' in getattr(dataset, '__dict__', ()):
            # mmengine's own wrapper, for num_batch_per_epoch.
            fewer = len(dataset) // (batch_size * self.world_size)
            self.iterations = min(self.iterations, fewer)
        seen = [self.iterations * each * self.world_size for each in self.counts]
        print_log(
            f'{name}: an epoch is {self.iterations} iterations with '
            + ' and '.join(
                f'{n} of the {size} samples of {type(one).__name__}'
                for n, size, one in zip(seen, self.sizes, dataset.datasets, strict=True)
            )
            + f', in batches of {" + ".join(map(str, self.counts))} on each of '
            f'{self.world_size} processes.',
            logger='current',
        )

    def __iter__(self) -> Iterator[int]:
        """Yield the indices of this process's batches, one batch after the other."""
        epochs = count(self.epoch) if self.infinite else [self.epoch]
        for epoch in epochs:
            parts = [self._of_source(source, epoch) for source in range(len(self.sizes))]
            yield from np.concatenate(parts, axis=1).flatten().tolist()

    def _of_source(self, source: int, epoch: int) -> np.ndarray:
        """Return the indices of one dataset in an epoch, (iterations, of a batch)."""
        size, each = self.sizes[source], self.counts[source]
        total = self.iterations * self.world_size * each
        places = np.arange(epoch * total, (epoch + 1) * total)
        passes = places // size
        orders = {k: self._order(source, int(k)) for k in np.unique(passes)}
        chosen = np.empty(total, dtype=np.int64)
        for k, order in orders.items():
            chosen[passes == k] = order[places[passes == k] % size]
        first = sum(self.sizes[:source])
        return first + chosen.reshape(self.iterations, self.world_size, each)[:, self.rank]

    def _draw(self, source: int, number: int) -> np.ndarray:
        """Return the order in which a dataset is gone through for the ``number``-th time."""
        if not self.shuffle:
            return np.arange(self.sizes[source])
        generator = np.random.default_rng([self.seed, source, number])
        return generator.permutation(self.sizes[source])

    def __len__(self) -> int:
        """Return the samples of an epoch on this process."""
        return self.iterations * self.batch_size

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose samples come next; mmengine does so."""
        self.epoch = epoch
