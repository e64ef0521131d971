"""What a trained student and its teacher make of the same pictures."""

from __future__ import annotations

import torch
from matplotlib.figure import Figure
from mmengine.config import Config

from kd_plugins.inspect.compare.loading import load
from kd_plugins.inspect.compare.views import VIEWS, Choice

__all__ = ['VIEWS', 'Choice', 'compare', 'load']


@torch.no_grad()
def compare(
    cfg: Config, checkpoint: str, view: str = 'answers', choice: Choice | None = None
) -> tuple[Figure, list[str]]:
    """Run a trained student and its teacher on pictures, and draw what they say.

    Args:
        cfg: The config of the distillation.
        checkpoint: The student's checkpoint.
        view: A key of :data:`VIEWS`.
        choice: Which pictures.

    Returns:
        A figure of matplotlib, and lines to print beside it.

    Raises:
        FileNotFoundError: If there is no such checkpoint.
        ValueError: If the config, the checkpoint or the pictures do not fit the view.
    """
    return VIEWS[view](load(cfg, checkpoint), choice or Choice())
