"""The handwritten digits that scikit-learn ships, as an mmpretrain dataset."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from mmpretrain.datasets import BaseDataset

from kd_plugins.registry import DATASETS

#: scikit-learn's scans have values from 0 to 16.
_LEVELS = 16


@DATASETS.register_module()
class Digits(BaseDataset):
    """1,797 scans of handwritten digits, 8 x 8 pixels, in ten classes.

    The split is stratified by class and the same on every machine: of each
    class, the first scans in an order drawn once with ``split_seed`` are for
    training, the rest for testing. No file is read or downloaded beside
    scikit-learn's own.

    Args:
        split: ``'train'`` or ``'test'``.
        test_fraction: Share of every class kept for testing.
        train_per_class: Scans of every class in the training split, to make
            labels scarce; None takes all of them.
        split_seed: Seed of the split.
        **kwargs: As in mmpretrain's ``BaseDataset``, such as ``pipeline``.

    Each sample has ``img``, uint8 of shape (8, 8, 1), and ``gt_label``.

    Raises:
        ValueError: On an unknown split, or more scans than there are.

    Source: E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten
    Digits", UCI Machine Learning Repository, 1998 (the test part of it).
    """

    METAINFO = {'classes': tuple('0123456789')}

    def __init__(
        self,
        split: str,
        test_fraction: float = 0.4,
        train_per_class: int | None = None,
        split_seed: int = 0,
        pipeline: Sequence = (),
        **kwargs: Any,
    ) -> None:
        if split not in ('train', 'test'):
            raise ValueError(f"Digits.split={split!r} is unknown: it is 'train' or 'test'.")
        self.split = split
        self.test_fraction = test_fraction
        self.train_per_class = train_per_class
        self.split_seed = split_seed
        super().__init__(ann_file='', pipeline=pipeline, **kwargs)

    def load_data_list(self) -> list[dict[str, Any]]:
        """Return the samples of the split."""
        from sklearn.datasets import load_digits

        scans = load_digits()
        images = np.round(scans.images * (255 / _LEVELS)).astype(np.uint8)[..., None]
        generator = np.random.default_rng(self.split_seed)
        chosen: list[int] = []
        for label in range(10):
            members = generator.permutation(np.flatnonzero(scans.target == label))
            n_train = len(members) - round(len(members) * self.test_fraction)
            if self.split == 'test':
                chosen.extend(members[n_train:])
                continue
            take = n_train if self.train_per_class is None else self.train_per_class
            if not 0 < take <= n_train:
                raise ValueError(
                    f'Digits.train_per_class={take} is out of range: class {label} has {n_train} '
                    f'scans for training with test_fraction={self.test_fraction}.'
                )
            chosen.extend(members[:take])
        return [{'img': images[i], 'gt_label': int(scans.target[i])} for i in chosen]
