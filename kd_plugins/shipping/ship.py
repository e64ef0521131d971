"""A student on its way to where it is used: ONNX, int8, and what is left of its accuracy."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mmengine.config import Config
from torch import nn

from kd_plugins.experiments.metrics import headline
from kd_plugins.files.export_student import build_student
from kd_plugins.shipping.classifier import export_classifier
from kd_plugins.shipping.detector import export_detector
from kd_plugins.shipping.int8 import quantise
from kd_plugins.shipping.measuring import measure
from kd_plugins.shipping.metadata import metadata_of
from kd_plugins.shipping.onnx_file import OnnxNetwork
from kd_plugins.shipping.pictures import (
    calibration_pictures,
    channel_order,
    inputs_of,
    validation_pictures,
)


@dataclass
class Shipment:
    """A student to ship.

    Args:
        cfg: Config of the distillation, or of the student.
        checkpoint: What :func:`kd_plugins.files.export_student.export_student` returns.
        size: Height and width of the pictures. None leaves them free for a detector, and
            takes a classifier's from its first validation picture.
        raw: Write a detector's outputs without decoding and suppression.
        tell: Called with how many pictures are done, of how many, and for what.
    """

    cfg: Config
    checkpoint: Mapping[str, Any]
    size: tuple[int, int] | None = None
    raw: bool = False
    tell: Callable[[int, int, str], None] = lambda done, total, what: None

    def __post_init__(self) -> None:
        self.network: nn.Module = build_student(self.cfg).eval()
        self.network.load_state_dict(self.checkpoint['state_dict'])

    @property
    def is_detector(self) -> bool:
        """Whether the student finds boxes."""
        return hasattr(self.network, 'bbox_head') or hasattr(self.network, 'roi_head')

    def write(self, path: Path) -> str:
        """Write ONNX, compared with torch; return what is to be said of it.

        Raises:
            ImportError: If onnx or onnxruntime is not installed.
            ValueError: If it cannot be written; nothing is, then.
        """
        of_data = self.checkpoint['meta'].get('dataset_meta')
        said = metadata_of(self.network, of_data, channel_order(self.cfg))
        if not self.is_detector:
            if self.size is None:
                images, _ = validation_pictures(self.cfg, self.network).batch([0])
                self.size = (images.shape[-2], images.shape[-1])
            far, free = export_classifier(self.network, path, self.size, said)
            return (
                f'{_pictures(free, self.size)}; onnxruntime and torch agree to {far:.1g} of the '
                'largest logit'
            )
        pictures = validation_pictures(self.cfg, self.network, self.size)
        done = export_detector(self.network, path, pictures, said, self.raw)
        return (
            f'{_pictures(done.free, self.size)}; onnxruntime and torch agree on '
            f'{done.found // 2 or "the"} {done.what} of {done.pictures} validation pictures '
            f'to {done.far}'
        )

    def quantise(self, path: Path, out: Path, count: int) -> int:
        """Write the int8 file of an ONNX file; return how many pictures it was calibrated on."""
        pictures = calibration_pictures(self.cfg, self.network, self.size)
        chosen = pictures.some(count)
        quantise(path, out, self._inputs(pictures, chosen))
        return len(chosen)

    def _inputs(self, pictures: Any, chosen: Sequence[int]) -> Iterator[Any]:
        for done, i in enumerate(chosen):
            self.tell(done, len(chosen), 'pictures to calibrate on')
            yield inputs_of(*pictures.batch([i]))

    def measure(self, path: Path) -> dict[str, float]:
        """Return the metrics of an ONNX file on the validation set."""

        def tell(done: int, total: int) -> None:
            self.tell(done, total, f'validation pictures for {path.name}')

        return measure(self.cfg, self.network, OnnxNetwork(str(path)), self.size, tell)

    def measure_both(self, count: int) -> list[dict[str, float]]:
        """Return the metrics of its files in float32 and int8, which are thrown away."""
        with TemporaryDirectory() as folder:
            path, out = Path(folder, 'alone.onnx'), Path(folder, 'alone_int8.onnx')
            self.write(path)
            self.quantise(path, out, count)
            return [self.measure(path), self.measure(out)]


def table(metrics: Mapping[str, list[dict[str, float]]]) -> str:
    """Return a table of metrics in float32 and int8.

    Args:
        metrics: Those of every student, by what it is called.
    """
    names = list(next(iter(metrics.values()))[0])
    known = headline(names)
    lines = []
    for name in [known.name] if known else names:
        scale = known.percent if known else 1.0
        lines.append(f'{name:24}{"float32":>10}{"int8":>10}{"lost":>10}')
        # mmdet gives no precision where nothing is found.
        none = 0.0 if known else math.nan
        rows = {
            who: [scale * each.get(name, none) for each in both] for who, both in metrics.items()
        }
        for who, (full, small) in rows.items():
            lines.append(f'{who:24}{full:10.2f}{small:10.2f}{full - small:10.2f}')
        if len(rows) == 2:
            first, second = rows.values()
            gained = (f'{a - b:+10.2f}' for a, b in zip(first, second, strict=True))
            lines.append(f'{"gained":24}{"".join(gained)}')
    return '\n'.join(lines)


def _pictures(free: bool, size: tuple[int, int] | None) -> str:
    number = 'any number of' if free else 'one at a time of the'
    sides = 'any size' if size is None else f'{size[0]} x {size[1]}'
    return f'{number} normalised pictures of {sides}'
