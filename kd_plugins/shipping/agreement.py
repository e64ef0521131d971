"""How far what ONNX computes is from what torch computes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

#: Largest difference of an output, relative to the largest value of it.
RELATIVE = 1e-4
#: Largest difference of a corner, in pixels, and of a score.
PIXELS, SCORE = 0.05, 1e-3
#: The share of detections that rounding may take or give, at the very threshold of an
#: overlap or a score.
LOST = 0.01
#: How many of one batch it may take or give anyway: more is no rounding, but a batch size or a
#: size of pictures that the file does not compute.
FEW = 4


def relative_difference(expected: Sequence[Tensor], computed: Sequence[Tensor]) -> float:
    """Return the largest difference of outputs, each relative to its largest value.

    Infinite where a shape differs, or a value is not finite in one of both only.
    """
    worst = 0.0
    for first, second in zip(expected, computed, strict=True):
        if first.shape != second.shape:
            return float('inf')
        if first.numel():
            far = (first - second).abs().max() / first.abs().max().clamp(min=1e-6)
            worst = max(worst, float(torch.nan_to_num(far, nan=float('inf'), posinf=float('inf'))))
    return worst


@dataclass
class Agreement:
    """Rows of torch's and onnxruntime's, each with its partner or none.

    A row is a detection, or a proposal with what is computed of it.

    Args:
        rows: How many both have together.
        lost: How many of them have no partner.
        pixels: Largest difference of partners' corners, in pixels.
        rest: Largest difference of the rest of them: of scores, or of logits and
            deltas relative to the largest.
    """

    rows: int = 0
    lost: int = 0
    pixels: float = 0.0
    rest: float = 0.0
    _is_uneven: bool = field(default=False, repr=False)

    @property
    def agrees(self) -> bool:
        """Whether no more rows than :data:`LOST` have no partner, in all and in every batch."""
        return self.lost <= LOST * self.rows and not self._is_uneven

    def add_detections(
        self, expected: Sequence[Any], boxes: Tensor, scores: Tensor, labels: Tensor
    ) -> None:
        """Count what a detector predicted for pictures, and what its file computed."""
        before = self.rows, self.lost
        for i, each in enumerate(expected):
            found = labels[i] >= 0
            # A label is no number: another one is as far away as another picture.
            self._add(
                each.bboxes / PIXELS,
                torch.stack([each.scores / SCORE, each.labels * 10.0], 1),
                boxes[i][found] / PIXELS,
                torch.stack([scores[i][found] / SCORE, labels[i][found] * 10.0], 1),
                SCORE,
            )
        self._judge(*before)

    def add_proposals(self, expected: Sequence[Tensor], computed: Sequence[Tensor]) -> None:
        """Count proposals, logits and deltas of both."""
        before = self.rows, self.lost
        largest = (each.abs().max().clamp(min=1e-6) for each in expected[1:])
        scales = [PIXELS, *(10 * RELATIVE * each for each in largest)]
        for i in range(len(expected[0])):
            sides = []
            for output in (expected, computed):
                own = [each[i] / scale for each, scale in zip(output, scales, strict=True)]
                found = own[0].any(-1)
                sides.append((own[0][found], torch.cat(own[1:], 1)[found]))
            self._add(*sides[0], *sides[1], unit=10 * RELATIVE)
        self._judge(*before)

    def _judge(self, rows: int, lost: int) -> None:
        """Look at a batch, before which there were so many rows."""
        if self.lost - lost > max(FEW, LOST * (self.rows - rows)):
            self._is_uneven = True

    def _add(
        self, boxes: Tensor, values: Tensor, found: Tensor, computed: Tensor, unit: float
    ) -> None:
        """Count rows of a picture, in units of what is tolerated."""
        self.rows += len(boxes) + len(found)
        if not len(boxes) or not len(found):
            self.lost += len(boxes) + len(found)
            return
        # Detections that share a box are told apart by the rest.
        far = torch.cdist(boxes, found, p=float('inf'))
        far = torch.maximum(far, torch.cdist(values, computed, p=float('inf')))
        # What is no number is far from everything; torch.cdist passes over it.
        far[~(boxes.isfinite().all(1) & values.isfinite().all(1))] = float('inf')
        far[:, ~(found.isfinite().all(1) & computed.isfinite().all(1))] = float('inf')
        lost = int((far.amin(1) > 1).sum() + (far.amin(0) > 1).sum())
        # Two that share a partner leave none for one of them.
        self.lost += max(lost, abs(len(boxes) - len(found)))
        same, near = far.amin(1) <= 1, far.argmin(1)
        if same.any():
            corners, rest = boxes - found[near], values - computed[near]
            self.pixels = max(self.pixels, PIXELS * float(corners[same].abs().max()))
            self.rest = max(self.rest, unit * float(rest[same].abs().max()))
