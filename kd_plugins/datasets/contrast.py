"""What mmrazor's CRDLoss reads beside the features."""

from __future__ import annotations

from typing import Any

import torch
from mmpretrain.datasets import PackInputs

from kd_plugins.registry import TRANSFORMS

_KEYS = ('sample_idx', 'contrast_sample_idxs')


@TRANSFORMS.register_module()
class PackContrastInputs(PackInputs):
    """mmpretrain's ``PackInputs`` that keeps what ``mmrazor.CRDDataset`` adds.

    ``sample_idx`` (shape ()) and ``contrast_sample_idxs`` (shape (1 + negatives,))
    become int64 tensors of the data sample, as CRDLoss wants them. It is
    mmrazor's ``PackCRDClsInputs`` for mmpretrain; that one needs mmcls.

    Raises:
        KeyError: If the dataset gives none, because it is not in a
            ``mmrazor.CRDDataset``.
    """

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Pack the picture, the label and both indices."""
        missing = [key for key in _KEYS if key not in results]
        if missing:
            raise KeyError(
                f'PackContrastInputs finds no {", ".join(missing)}: put the training dataset into '
                "dict(type='mmrazor.CRDDataset', dataset=..., neg_num=16384, percent=1.0)."
            )
        packed = super().transform({k: v for k, v in results.items() if k != 'sample_idx'})
        for key in _KEYS:
            packed['data_samples'].set_field(torch.as_tensor(results[key]).long(), key)
        return packed
