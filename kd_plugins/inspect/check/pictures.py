"""A page of the pictures that a training is fed, as its pipeline makes them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from kd_plugins.inspect.compare.drawing import displayed
from kd_plugins.inspect.compare.loading import reads_files
from kd_plugins.networks import swaps_channels

#: Pictures of a page.
SHOWN = 16
_COLUMNS = 4


@dataclass
class Shown:
    """A training picture.

    Args:
        picture: (H, W, 3) in red, green and blue.
        boxes: Corners in its pixels, (x1, y1, x2, y2), each with the number of its class.
        title: The class of a classifier's picture.
    """

    picture: np.ndarray
    boxes: list[tuple[tuple[float, ...], int]] = field(default_factory=list)
    title: str = ''


@dataclass
class Pictures:
    """The first pictures of a training.

    Args:
        shown: They.
        names: Of the classes.
    """

    shown: list[Shown] = field(default_factory=list)
    names: list[str] = field(default_factory=list)

    def add(self, batch: Any, runner: Any) -> None:
        """Add those of a batch, until there are :data:`SHOWN`.

        Args:
            batch: As the data loader gives it.
            runner: The Runner that trains on it.
        """
        classes = getattr(runner.train_dataloader.dataset, 'metainfo', {}).get('classes')
        self.names = [str(name) for name in classes or ()]
        bgr = reads_files(runner.cfg, 'train') or swaps_channels(
            getattr(runner.model, 'data_preprocessor', None)
        )
        self.shown += [*shown_in(batch, bgr, self.names)][: SHOWN - len(self.shown)]

    def draw(self) -> Figure:
        """Draw a page of them with their boxes and classes; there is at least one."""
        return draw(self.shown, self.names)


def shown_in(batch: Any, bgr: bool, names: Sequence[str]) -> Iterator[Shown]:
    """Yield the pictures of a batch as a data loader gives it; none of a batch of another kind.

    Args:
        batch: The batch; it is not changed.
        bgr: Whether its pictures are blue first.
        names: Of the classes.
    """
    if not isinstance(batch, Mapping) or isinstance(batch.get('inputs'), Mapping):
        return
    for image, sample in zip(batch['inputs'], batch.get('data_samples') or (), strict=False):
        if not isinstance(image, Tensor) or image.dim() != 3:
            return
        shown = Shown(displayed(image, bgr))
        objects = getattr(sample, 'gt_instances', None)
        if objects is not None and 'bboxes' in objects:
            corners = getattr(objects.bboxes, 'tensor', objects.bboxes)
            shown.boxes = [
                (tuple(map(float, box)), int(label))
                for box, label in zip(corners, objects.labels, strict=True)
            ]
        label = getattr(sample, 'gt_label', None)
        if isinstance(label, Tensor):
            shown.title = ', '.join(_name(int(each), names) for each in label.flatten())
        yield shown


def draw(pictures: Sequence[Shown], names: Sequence[str]) -> Figure:
    """Draw a page of pictures with their boxes and classes.

    Args:
        pictures: At least one.
        names: Of the classes.
    """
    rows = -(-len(pictures) // _COLUMNS)
    figure = Figure(figsize=(3.2 * _COLUMNS, 3.2 * rows), layout='constrained')
    grid = figure.subplots(rows, _COLUMNS, squeeze=False).flat
    for axes in grid:
        axes.axis('off')
    for axes, shown in zip(figure.axes, pictures, strict=False):
        axes.imshow(shown.picture)
        axes.set_title(shown.title, fontsize=8)
        for (x1, y1, x2, y2), label in shown.boxes:
            colour = matplotlib.colormaps['tab20'](label % 20)
            frame = matplotlib.patches.Rectangle(
                (x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=colour, linewidth=1.5
            )
            axes.add_patch(frame)
            axes.text(
                x1, y1, _name(label, names), fontsize=7, va='bottom',
                bbox=dict(facecolor=colour, edgecolor='none', pad=0.8),
            )  # fmt: skip
    return figure


def _name(label: int, names: Sequence[str]) -> str:
    # A dollar would begin mathematics.
    return str(names[label]).replace('$', r'\$') if label < len(names) else str(label)
