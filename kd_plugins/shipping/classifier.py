"""Classifiers as ONNX, compared with torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kd_plugins.files.writing import write_aside
from kd_plugins.shipping.agreement import RELATIVE, relative_difference
from kd_plugins.shipping.metadata import channels_of, metadata_of
from kd_plugins.shipping.onnx_file import OnnxNetwork, first_sentence, write_onnx


def export_classifier(
    student: nn.Module,
    path: Path,
    size: tuple[int, int],
    metadata: Mapping[str, str] | None = None,
    opset: int = 17,
) -> tuple[float, bool]:
    """Write a classifier as ONNX, and compare what it computes with torch.

    Input ``images``: a normalised batch, (N, channels, H, W). Output ``logits``:
    (N, C). Batch norms, dropout and drop-path are as in evaluation, and the student stays
    in that mode. N is free where
    the network allows it, else 1: tracing turns a batch size that windowed attention
    computes with into a constant.

    Args:
        student: An mmpretrain classifier, with its weights.
        path: Where to.
        size: Height and width of the pictures.
        metadata: What the file says besides, by default what its preprocessor knows.
        opset: ONNX operator set.

    Returns:
        The largest difference between both, relative to the largest logit, and
        whether N is free.

    Raises:
        ImportError: If onnx or onnxruntime is not installed.
        ValueError: If the network is no classifier, has what ONNX cannot hold, or both
            differ by over 1e-4.
    """
    # As a whole: torch's exporter puts all of it back into the mode of what it was given.
    network = _Logits(student.cpu()).eval()
    metadata = metadata_of(student) if metadata is None else metadata
    # Two pictures, apart: an export that mixes up the batch does not agree.
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, channels_of(student), *size, generator=generator)
    with torch.no_grad():
        logits = network(images)
    if not isinstance(logits, Tensor) or logits.dim() != 2:
        raise ValueError(
            f'{type(student).__name__} returns no logits of shape (N, C): only classifiers and '
            'detectors are written as ONNX.'
        )
    for free in (True, False):
        axes = dict(images={0: 'N'}, logits={0: 'N'}) if free else {}
        traced = dict(images=images if free else images[:1])
        try:
            content = write_onnx(network, traced, ['logits'], axes, opset, metadata)
        except ImportError:
            raise
        except Exception as error:  # many kinds, of torch's exporter
            raise ValueError(
                f'{str(path)!r} was not written: it cannot be exported ({first_sentence(error)}).'
            ) from None
        difference = _difference(OnnxNetwork(content), images, logits, [2, 1] if free else [1])
        if difference < RELATIVE:
            write_aside(content, path)
            return difference, free
    raise ValueError(
        f'what was written as {str(path)!r} differs from torch by {difference:.1g} of the largest '
        'logit: this network cannot be exported by this torch release.'
    )


def _difference(file: OnnxNetwork, images: Tensor, logits: Tensor, batches: list[int]) -> float:
    """Return the largest difference for batches of these sizes, relative to the largest logit."""
    worst = 0.0
    for number in batches:
        # The last pictures: the first ones are what was traced with.
        try:
            computed = file(images=images[-number:])
        except Exception:  # onnxruntime's own, where a constant does not fit the batch
            return float('inf')
        worst = max(worst, relative_difference([logits[-number:]], computed))
    return worst


class _Logits(nn.Module):
    """A classifier as a function of pictures."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Any:
        return self.network(images, mode='tensor')
