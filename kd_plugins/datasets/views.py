"""A second, strong view of an unlabelled picture, for FixMatch and its kin."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from mmcv.transforms import BaseTransform, Compose
from mmpretrain.datasets.transforms import PackInputs

from kd_plugins.registry import TRANSFORMS


@TRANSFORMS.register_module()
class StrongView(BaseTransform):
    """Keep a second view of a picture, as ``strong_view``, (channels, H, W), beside the first.

    It stands in a pipeline where the picture is loaded; what follows makes the weak view. Pack
    both with ``dict(type='PackInputs', algorithm_keys=['strong_view'])``.

    Args:
        transforms: What makes the strong view.

    Raises:
        ValueError: If there are none, so that the view would be the picture itself.
    """

    def __init__(self, transforms: Sequence[Any]) -> None:
        if not transforms:
            raise ValueError(
                f'StrongView.transforms={transforms!r} leaves the picture as it is: give '
                "transforms, such as [dict(type='RandAugment', ...)]."
            )
        self.pipeline = Compose(list(transforms))

    def transform(self, results: dict[str, Any]) -> dict[str, Any] | None:
        """Return the results with ``strong_view``, all else as it was."""
        strong = self.pipeline(copy.deepcopy(results))
        if strong is None:
            return None
        results['strong_view'] = PackInputs.format_input(strong['img'])
        return results


def shows_two_views(dataset: Any) -> bool:
    """Whether a step of a dataset's pipeline is a :class:`StrongView`."""
    steps = getattr(getattr(dataset, 'pipeline', None), 'transforms', ())
    return any(isinstance(step, StrongView) for step in steps)
