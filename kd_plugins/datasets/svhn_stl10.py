"""SVHN and STL-10, read by torchvision, as mmpretrain datasets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmengine import dist
from mmpretrain.datasets import BaseDataset

from kd_plugins import checks
from kd_plugins.registry import DATASETS


class _OfTorchvision(BaseDataset):
    """A dataset whose pictures torchvision reads, RGB, into memory.

    Args:
        data_root: Folder of its files.
        splits: Which of its splits, one after the other.
        download: Whether to get what is missing.
        **kwargs: As in mmpretrain's ``BaseDataset``, such as ``pipeline``.

    Each sample has ``img``, uint8 of shape (H, W, 3), and, where there is one, ``gt_label``.

    Raises:
        ValueError: On an unknown split.
    """

    SPLITS: tuple[str, ...]

    def __init__(
        self,
        data_root: str,
        splits: Sequence[str],
        download: bool = True,
        pipeline: Sequence = (),
        **kwargs: Any,
    ) -> None:
        name = type(self).__name__
        if isinstance(splits, str) or not splits:
            raise checks.refuse(f'{name}.splits', splits, f'a list of {list(self.SPLITS)}')
        for i, split in enumerate(splits):
            checks.one_of(f'{name}.splits[{i}]', split, self.SPLITS)
        self.splits = tuple(splits)
        self.download = checks.flag(f'{name}.download', download)
        super().__init__(ann_file='', data_root=data_root, pipeline=pipeline, **kwargs)

    def load_data_list(self) -> list[dict[str, Any]]:
        """Return the samples of the splits."""
        import torchvision

        kind = getattr(torchvision.datasets, type(self).__name__)
        samples = []
        for split in self.splits:
            if self.download and dist.is_main_process():
                kind(self.data_root, split=split, download=True)
            dist.barrier()
            read = kind(self.data_root, split=split)
            for picture, label in zip(read.data.transpose(0, 2, 3, 1), read.labels, strict=True):
                known = dict(gt_label=int(label)) if label >= 0 else {}
                samples.append(dict(img=picture, **known))
        return samples


@DATASETS.register_module()
class SVHN(_OfTorchvision):
    """House numbers, 32 x 32 pixels, ten classes.

    ``splits`` are of ``'train'`` (73,257), ``'extra'`` (531,131) and ``'test'`` (26,032); for the
    other arguments see mmpretrain's ``BaseDataset``; ``download=False`` fetches nothing.

    Source: Netzer et al., "Reading Digits in Natural Images with Unsupervised Feature
    Learning", 2011.
    """

    METAINFO = {'classes': tuple('0123456789')}
    SPLITS = ('train', 'extra', 'test')


@DATASETS.register_module()
class STL10(_OfTorchvision):
    """Photographs, 96 x 96 pixels, ten classes.

    ``splits`` are of ``'train'`` (5,000), ``'unlabeled'`` (100,000, of other classes, too)
    and ``'test'`` (8,000); otherwise as :class:`SVHN`.

    Source: Coates, Lee, Ng, "An Analysis of Single Layer Networks in Unsupervised Feature
    Learning", AISTATS 2011.
    """

    METAINFO = {
        'classes': (
            'airplane', 'bird', 'car', 'cat', 'deer', 'dog', 'horse', 'monkey', 'ship', 'truck',
        ),
    }  # fmt: skip
    SPLITS = ('train', 'unlabeled', 'test')
