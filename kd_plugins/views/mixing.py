"""Mixup, CutMix and ResizeMix of single samples, so that a mixture can come again."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from kd_plugins import checks

#: mmdet's batch augments that draw nothing.
_FIXED = ('BatchFixedSizePad',)


class SampleMix:
    """Mixes a sample with another one of the dataset, as mmpretrain's batch augments mix a batch.

    It draws from numpy's generator, so that with seeded generators the partner, the
    augment and its ratio are a function of the seed. Each has the law that it has in mmpretrain's
    ``RandomBatchAugment``: the same augment with the same probability, the same ratio, the
    same box. Two things differ. Upstream draws augment, ratio and box once for all
    pictures of a batch; here every picture has its own. Upstream's partner is one of the
    batch, itself with probability 1 / N of N pictures; here it is any of the dataset, made
    anew, so that every mixed picture costs the loading of two.

    The picture becomes float32, mixed or not. Upstream mixes after the normalisation, which
    comes to the same: a mixture of normalised pictures is the normalised mixture, to rounding.

    Args:
        augments: Configs of ``Mixup``, ``CutMix`` or ``ResizeMix``, or one, as in mmpretrain's
            ``train_cfg``.
        probs: Their probabilities, together 1 at most; what is missing to 1 mixes nothing. By
            default all are equally likely.
        num_classes: Classes of the labels; by default those in the dataset's ``metainfo``.

    Raises:
        ValueError: If an augment is another one, or a number is wrong.
    """

    def __init__(self, augments: Any, probs: Any = None, num_classes: int | None = None) -> None:
        key = 'RepeatableViews.mix'
        # They stand in for mmpretrain's, and so may need it; detectors do not.
        from mmpretrain.models import CutMix, Mixup, ResizeMix
        from mmpretrain.models.utils.batch_augments import RandomBatchAugment
        from mmpretrain.registry import BATCH_AUGMENTS

        augments = augments if isinstance(augments, (list, tuple)) else [augments]
        built = [BATCH_AUGMENTS.build(copy.deepcopy(each)) for each in augments]
        for i, augment in enumerate(built):
            if type(augment) not in (Mixup, CutMix, ResizeMix):
                raise checks.refuse(
                    f'{key}.augments[{i}].type', type(augment).__name__,
                    "'Mixup', 'CutMix' or 'ResizeMix' of mmpretrain",
                )  # fmt: skip
        probs = [probs] if isinstance(probs, float) else probs
        if probs is not None:
            right = all(checks.is_number(p) and p >= 0 for p in probs)
            if not right or len(probs) != len(built) or sum(probs) > 1 + 1e-9:
                raise checks.refuse(
                    f'{key}.probs', probs, f'{len(built)} probabilities, together 1 at most'
                )
            # Upstream adds to the list that it is given.
            probs = [*probs]
        choice = RandomBatchAugment(built, probs)
        #: The augments, None for none, and their probabilities.
        self.augments, self.probs = choice.augments, choice.probs
        if num_classes is not None:
            checks.whole_number(f'{key}.num_classes', num_classes)
        self.num_classes = num_classes

    def __call__(self, sample: dict[str, Any], dataset: Any) -> dict[str, Any]:
        """Return a sample with its ``inputs`` mixed, and the mixed labels as ``gt_score``.

        Args:
            sample: With ``inputs``, a picture (C, H, W), and ``data_samples`` with a label.
            dataset: That gives partners.

        Raises:
            ValueError: If pictures have several sizes, or no labels.
        """
        picture, score = self._read(sample, dataset)
        augment = self.augments[np.random.choice(len(self.augments), p=self.probs)]
        if augment is not None:
            partner, partners_score = self._read(dataset[np.random.randint(len(dataset))], dataset)
            if partner.shape != picture.shape:
                raise ValueError(
                    f'RepeatableViews.mix mixes pictures of one size, and two have '
                    f'{tuple(picture.shape)} and {tuple(partner.shape)}: end the pipeline with a '
                    'crop or a resize to one size.'
                )
            picture, share = _mixed(augment, picture, partner)
            score = share * score + (1 - share) * partners_score
        sample['inputs'] = picture
        sample['data_samples'].set_gt_score(score)
        return sample

    def _read(self, sample: dict[str, Any], dataset: Any) -> tuple[Tensor, Tensor]:
        picture, said = sample['inputs'], sample['data_samples']
        classes = self.num_classes or said.get('num_classes')
        if classes is None:
            names = (getattr(dataset, 'metainfo', None) or {}).get('classes')
            classes = len(names) if names is not None else None
        if not isinstance(picture, Tensor) or not ('gt_label' in said or 'gt_score' in said):
            raise ValueError(
                f'RepeatableViews.mix mixes pictures with classes, and the dataset gives '
                f'{type(picture).__name__} with {sorted(said.keys())}: leave mix out.'
            )
        if 'gt_score' in said:
            return picture.float(), said.gt_score.float()
        if classes is None:
            raise ValueError(
                'RepeatableViews.mix needs the number of classes, and the dataset says none: give '
                'mix.num_classes.'
            )
        return picture.float(), F.one_hot(said.gt_label.long(), classes).sum(0).float()


def _mixed(augment: Any, picture: Tensor, partner: Tensor) -> tuple[Tensor, float]:
    """Return a mixture, and the share that the first picture's label has in it."""
    share = float(np.random.beta(augment.alpha, augment.alpha))
    if not hasattr(augment, 'cutmix_bbox_and_lam'):
        return share * picture + (1 - share) * partner, share
    resized = hasattr(augment, 'lam_min')
    if resized:
        share = share * (augment.lam_max - augment.lam_min) + augment.lam_min
    (y1, y2, x1, x2), share = augment.cutmix_bbox_and_lam(picture.shape[-2:], share)
    if resized and y2 > y1 and x2 > x1:
        patch = F.interpolate(
            partner[None], (int(y2 - y1), int(x2 - x1)), mode=augment.interpolation,
            align_corners=False,
        )[0]  # fmt: skip
    else:
        patch = partner[:, y1:y2, x1:x2]
    # The picture may be one that the dataset keeps.
    picture = picture.clone()
    picture[:, y1:y2, x1:x2] = patch
    return picture, float(share)


def check_no_batch_augments(
    preprocessor: Any, beside: str, key: str = 'model.data_preprocessor'
) -> None:
    """Refuse a preprocessor that changes pictures by what it draws for a whole batch.

    Args:
        preprocessor: A built ``data_preprocessor`` of mmpretrain or mmdet.
        beside: What it does not go with, for the message: a config key.
        key: What the config calls the preprocessor.

    Raises:
        ValueError: Naming the augments and what to do instead.
    """
    found = getattr(preprocessor, 'batch_augments', None)
    if found is None:
        return
    augments = getattr(found, 'augments', found)
    augments = [augments] if isinstance(augments, Mapping) else [*augments]
    names = [type(a).__name__ for a in augments if a is not None]
    names = [name for name in names if name not in _FIXED]
    if not names:
        return
    mixes = type(found).__name__ == 'RandomBatchAugment'
    remedy = (
        "write them into train_dataloader.dataset=dict(type='kd_plugins.RepeatableViews', "
        'mix=dict(augments=...), ...) and leave train_cfg.augments out'
        if mixes
        else 'leave them out, and put RandomResize or RandomChoiceResize into the pipeline'
    )
    raise ValueError(
        f'{key}.batch_augments={names} draw for a whole batch, and {beside} needs pictures that '
        f'come again: {remedy}.'
    )
