"""mmpretrain's preprocessor for batches of which some pictures, or all, have no label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmpretrain.models import ClsDataPreprocessor as UpstreamClsDataPreprocessor
from mmpretrain.structures import DataSample
from torch import Tensor

from kd_plugins.registry import MODELS


@MODELS.register_module()
class ClsDataPreprocessor(UpstreamClsDataPreprocessor):
    """mmpretrain's preprocessor, which keeps pictures with and without labels apart.

    In training the pictures without labels of a batch come back under the key
    ``unlabelled``, as a batch of their own, which
    :class:`kd_plugins.algorithms.SingleTeacherDistill` takes. Mixup and the other
    ``batch_augments`` mix labelled with labelled and unlabelled with unlabelled
    pictures; upstream's would leave the latter as they are. A batch of one kind comes
    back as upstream's does. Arguments and results are upstream's.
    """

    def forward(self, data: Mapping[str, Any], training: bool = False) -> dict[str, Any]:
        """Return ``inputs`` and ``data_samples``, and ``unlabelled`` where there are both.

        Args:
            data: A batch as the data loader gives it.
            training: Whether to augment, and to keep both kinds apart.
        """
        samples = data.get('data_samples')
        if not training or not samples or not isinstance(samples[0], DataSample):
            return super().forward(data, training)
        unlabelled = [not is_labelled(sample) for sample in samples]
        if not any(unlabelled):
            return super().forward(data, training)
        if all(unlabelled):
            return self._without_labels(data)
        batch = super().forward(_part(data, unlabelled, False), training)
        return dict(batch, unlabelled=self._without_labels(_part(data, unlabelled, True)))

    def _without_labels(self, data: Mapping[str, Any]) -> dict[str, Any]:
        batch = super().forward(data, training=True)
        if self.batch_augments is not None:
            inputs = batch['inputs']
            batch['inputs'], _ = self.batch_augments(inputs, inputs.new_zeros(len(inputs), 1))
        return batch


def is_labelled(sample: DataSample) -> bool:
    """Whether a sample has a label."""
    return 'gt_label' in sample or 'gt_score' in sample


def _part(data: Mapping[str, Any], kinds: Sequence[bool], wanted: bool) -> dict[str, Any]:
    """Return the pictures of one kind."""
    chosen = [i for i, kind in enumerate(kinds) if kind is wanted]
    inputs = data['inputs']
    return dict(
        inputs=inputs[chosen] if isinstance(inputs, Tensor) else [inputs[i] for i in chosen],
        data_samples=[data['data_samples'][i] for i in chosen],
    )
