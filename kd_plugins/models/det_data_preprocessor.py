"""mmdet's preprocessor for batches of which some pictures have no boxes that anybody knows."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from mmdet.models import DetDataPreprocessor as UpstreamDetDataPreprocessor
from mmengine.structures import InstanceData

from kd_plugins.models.data_preprocessor import part_of
from kd_plugins.registry import MODELS


@MODELS.register_module()
class DetDataPreprocessor(UpstreamDetDataPreprocessor):
    """mmdet's preprocessor, which keeps pictures with and without labels apart.

    In training the pictures whose samples have no ``gt_instances.bboxes``, as those of
    ``WithUnlabelled.unlabelled``, come back under the key ``unlabelled``, as a batch of their own,
    padded to its own size, which :class:`kd_plugins.algorithms.SingleTeacherDistill` takes. The
    ``batch_augments`` (BatchSyncRandomResize, for example) do the same to both: they draw the
    numbers that they would draw of the labelled pictures alone. A
    batch of one kind comes back as upstream's does. Arguments and results are upstream's.
    """

    batch_augments: Any

    def forward(self, data: Mapping[str, Any], training: bool = False) -> dict[str, Any]:
        """Return ``inputs`` and ``data_samples``, and ``unlabelled`` where there are both.

        Args:
            data: A batch as the data loader gives it.
            training: Whether to augment, and to keep both kinds apart.
        """
        kinds = self.without_labels(data)
        if not training or not any(kinds):
            return super().forward(data, training)
        if all(kinds):
            return self._without_labels(data)
        with self._drawing_again():
            others = self._without_labels(part_of(data, kinds, True))
        batch = super().forward(part_of(data, kinds, False), training)
        return dict(batch, unlabelled=others)

    def without_labels(self, data: Any) -> list[bool]:
        """Say of each picture of a batch whether nobody knows its boxes."""
        samples = data.get('data_samples') if isinstance(data, Mapping) else None
        # mmdet packs objects in any case; that some were read their field says.
        return ['bboxes' not in sample.get('gt_instances', ()) for sample in samples or ()]

    @contextmanager
    def _drawing_again(self) -> Iterator[None]:
        """Leave the augments, and the numbers that they draw, to another batch as they are."""
        augments = self.batch_augments
        states = random.getstate(), np.random.get_state(), torch.get_rng_state()
        self.batch_augments = copy.deepcopy(augments)
        try:
            yield
        finally:
            self.batch_augments = augments
            random.setstate(states[0])
            np.random.set_state(states[1])
            torch.set_rng_state(states[2])

    def _without_labels(self, data: Mapping[str, Any]) -> dict[str, Any]:
        # The given ones stay without.
        samples = [sample.new() for sample in data['data_samples']]
        for sample in samples:
            sample.pop('ignored_instances', None)
            # Upstream's batch augments resize the boxes of every sample.
            sample.gt_instances = InstanceData(
                bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long)
            )
        batch = super().forward(dict(data, data_samples=samples), training=True)
        for sample in batch['data_samples']:
            del sample.gt_instances
        return batch
