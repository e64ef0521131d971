"""mmpretrain's preprocessor for batches of which some pictures, or all, have no label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmpretrain.models import ClsDataPreprocessor as UpstreamClsDataPreprocessor
from mmpretrain.structures import DataSample
from torch import Tensor

from kd_plugins import checks
from kd_plugins.registry import MODELS


@MODELS.register_module()
class ClsDataPreprocessor(UpstreamClsDataPreprocessor):
    """mmpretrain's preprocessor, which keeps pictures with and without labels apart.

    In training the pictures without labels of a batch come back under the key
    ``unlabelled``, as a batch of their own, which
    :class:`kd_plugins.algorithms.SingleTeacherDistill` takes. Mixup and the other
    ``batch_augments`` mix labelled with labelled and unlabelled with unlabelled
    pictures; upstream's would leave the latter as they are. A batch of one kind comes
    back as upstream's does. Where the unlabelled pictures have a strong view beside
    (:class:`kd_plugins.datasets.StrongView`), it is ``unlabelled['strong']``. Arguments and
    results are upstream's.

    Raises:
        ValueError: If there are strong views without labelled pictures, or beside
            ``batch_augments``.
    """

    def forward(self, data: Mapping[str, Any], training: bool = False) -> dict[str, Any]:
        """Return ``inputs`` and ``data_samples``, and ``unlabelled`` where there are both.

        Args:
            data: A batch as the data loader gives it.
            training: Whether to augment, and to keep both kinds apart.
        """
        unlabelled = self.without_labels(data)
        if not training or not any(unlabelled):
            return super().forward(data, training)
        if all(unlabelled):
            batch = self._without_labels(data)
            if 'strong' in batch:
                raise ValueError(
                    'a batch has strong views (kd_plugins.StrongView) and no labelled picture: put '
                    'a labelled dataset beside, train_dataloader.dataset=dict(type='
                    "'kd_plugins.WithUnlabelled', labelled=..., unlabelled=...)."
                )
            return batch
        batch = super().forward(part_of(data, unlabelled, False), training)
        return dict(batch, unlabelled=self._without_labels(part_of(data, unlabelled, True)))

    def without_labels(self, data: Mapping[str, Any]) -> list[bool]:
        """Say of each picture of a batch whether it has no label."""
        samples = data.get('data_samples') or ()
        return [isinstance(each, DataSample) and not is_labelled(each) for each in samples]

    def _without_labels(self, data: Mapping[str, Any]) -> dict[str, Any]:
        batch = super().forward(data, training=True)
        if 'strong_view' in batch['data_samples'][0]:
            if self.batch_augments is not None:
                raise checks.mixed_views('kd_plugins.StrongView')
            # The samples keep them: a batch may be asked more than once.
            views = [sample.strong_view for sample in batch['data_samples']]
            strong = torch.stack(views) if isinstance(data['inputs'], Tensor) else views
            batch['strong'] = super().forward(dict(inputs=strong), training=True)['inputs']
        elif self.batch_augments is not None:
            inputs = batch['inputs']
            batch['inputs'], _ = self.batch_augments(inputs, inputs.new_zeros(len(inputs), 1))
        return batch


def is_labelled(sample: DataSample) -> bool:
    """Whether a sample has a label."""
    return 'gt_label' in sample or 'gt_score' in sample


def part_of(data: Mapping[str, Any], kinds: Sequence[bool], wanted: bool) -> dict[str, Any]:
    """Return the pictures of one kind of a batch of both.

    Args:
        data: The batch.
        kinds: Of each picture whether it has no label.
        wanted: Which kind.
    """
    chosen = [i for i, kind in enumerate(kinds) if kind is wanted]
    inputs = data['inputs']
    return dict(
        inputs=inputs[chosen] if isinstance(inputs, Tensor) else [inputs[i] for i in chosen],
        data_samples=[data['data_samples'][i] for i in chosen],
    )
