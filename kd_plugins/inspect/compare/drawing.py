"""Drawing what a student and its teacher make of pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from kd_plugins.inspect.compare.classifiers import Answers
from kd_plugins.inspect.compare.detectors import Detections
from kd_plugins.inspect.compare.patches import Patches

#: A colour for each of the most frequent classes of patches; the rest share a grey.
MOST_COLOURS = 20

_GREY = (0.6, 0.6, 0.6)


def draw_answers(
    pictures: Sequence[np.ndarray],
    titles: Sequence[str],
    answers: Answers,
    names: Sequence[str],
) -> Figure:
    """Draw a row for every picture: it, and both networks' five first classes."""
    rows = len(answers.labels)
    figure = Figure(figsize=(9, 1.7 * rows + 0.4), layout='constrained')
    grid = figure.subplots(rows, 3, squeeze=False, width_ratios=(1, 1.6, 1.6))
    for i, (picture, teacher, student) in enumerate(grid):
        picture.imshow(pictures[i])
        picture.axis('off')
        picture.set_title(titles[i], fontsize=8)
        for axes, preds in ((teacher, answers.preds_T[i]), (student, answers.preds_S[i])):
            _bars(axes, preds.softmax(0), names, int(answers.labels[i]))
    grid[0][1].set_title('teacher', fontsize=9)
    grid[0][2].set_title('student', fontsize=9)
    return figure


def draw_correlation(difference: Tensor, samples: int, names: Sequence[str]) -> Figure:
    """Draw the difference of both networks' correlations between the classes, (C, C)."""
    figure = Figure(figsize=(6, 5), layout='constrained')
    axes = figure.subplots()
    image = axes.imshow(difference, cmap='RdBu', vmin=-1, vmax=1)
    if len(names) <= 20:
        axes.set_xticks(range(len(names)), names, rotation=45, ha='right')
        axes.set_yticks(range(len(names)), names)
    axes.set_title(
        f'correlation of classes, teacher minus student\nmean size '
        f'{difference.abs().mean().item():.3f} over {samples} samples',
        fontsize=10,
    )
    figure.colorbar(image)
    return figure


def draw_tsne(answers: Answers, names: Sequence[str]) -> Figure:
    """Draw both networks' penultimate features in two dimensions, coloured by class."""
    from sklearn.manifold import TSNE

    figure = Figure(figsize=(10, 4.6), layout='constrained')
    panels = figure.subplots(1, 2)
    sides = {'teacher': answers.features_T, 'student': answers.features_S}
    perplexity = min(30, len(answers.labels) // 4)
    for axes, (title, features) in zip(panels, sides.items(), strict=True):
        places = TSNE(perplexity=perplexity, random_state=0).fit_transform(features.numpy())
        for label in sorted(set(answers.labels.tolist())):
            mine = (answers.labels == label).numpy()
            axes.scatter(*places[mine].T, s=8, color=_colour(label), label=names[label])
        axes.set_title(f'{title}, {len(answers.labels)} samples', fontsize=10)
        axes.set_xticks([])
        axes.set_yticks([])
    if len(names) <= 20:
        panels[1].legend(loc='center left', bbox_to_anchor=(1, 0.5), fontsize=8, frameon=False)
    return figure


def draw_boxes(pictures: Sequence[np.ndarray], found: Sequence[Detections]) -> Figure:
    """Draw a row for every picture: both detectors' boxes, and where the two differ."""
    figure = Figure(figsize=(9, 3 * len(found)), layout='constrained')
    grid = figure.subplots(len(found), 3, squeeze=False)
    for axes, each, picture in zip(grid, found, pictures, strict=True):
        for panel, (boxes, labels, scores) in zip(axes, (each.teacher, each.student), strict=False):
            panel.imshow(picture)
            for (x1, y1, x2, y2), label, score in zip(boxes, labels, scores, strict=True):
                colour = _colour(int(label))
                frame = matplotlib.patches.Rectangle(
                    (x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=colour
                )
                panel.add_patch(frame)
                panel.text(
                    x1, y1, f'{int(label)}: {score:.2f}', fontsize=7, va='bottom',
                    bbox=dict(facecolor=colour, edgecolor='none', pad=0.8),
                )  # fmt: skip
        axes[2].imshow(picture)
        weights = axes[2].imshow(each.weights, cmap='magma', alpha=0.7, vmin=0, vmax=1)
        figure.colorbar(weights, ax=axes[2], fraction=0.046)
        for panel in axes:
            panel.axis('off')
    for panel, title in zip(grid[0], ('teacher', 'student', 'weight of boxes'), strict=True):
        panel.set_title(title, fontsize=10)
    return figure


def draw_patches(
    pictures: Sequence[np.ndarray],
    titles: Sequence[str],
    patches: Patches,
    names: Sequence[str],
) -> Figure:
    """Draw a row for every picture: the class of every position, the fainter the less sure."""
    answers = {name: dense.softmax(dim=1).max(dim=1) for name, dense in patches.columns.items()}
    counts = Counter(c for a in answers.values() for c in a.indices.flatten().tolist())
    shown = sorted(c for c, _ in counts.most_common(MOST_COLOURS))
    palette = matplotlib.colormaps['tab10' if len(shown) <= 10 else 'tab20']
    colours = {c: palette(i)[:3] for i, c in enumerate(shown)}
    rows, wide = len(pictures), len(answers) + 1
    figure = Figure(figsize=(1.75 * wide, 2.2 * rows + 0.7), layout='constrained')
    grid = figure.subplots(rows, wide, squeeze=False)
    for row, (axes, picture) in enumerate(zip(grid, pictures, strict=True)):
        teacher, student = (names[int(p[row])] for p in (patches.preds_T, patches.preds_S))
        axes[0].imshow(picture)
        axes[0].set_title(titles[row], fontsize=9)
        axes[0].set_xlabel(f'teacher: {teacher}\nstudent: {student}', fontsize=7)
        height, width = picture.shape[:2]
        for axis, (name, answer) in zip(axes[1:], answers.items(), strict=True):
            axis.imshow(picture.mean(axis=2), cmap='gray', alpha=0.35)
            sure, index = answer.values[row], answer.indices[row]
            layer = np.array(
                [[(*colours.get(c, _GREY), 0.0) for c in line] for line in index.tolist()]
            )
            layer[..., 3] = 0.15 + 0.75 * sure.numpy()
            axis.imshow(layer, extent=(-0.5, width - 0.5, height - 0.5, -0.5))
            _mark(axis, index, width, height)
            if row == 0:
                axis.set_title(name, fontsize=9)
    for axis in grid.flat:
        axis.set(xticks=[], yticks=[])
    labels = {c: str(c) if names[c] == str(c) else f'{c} {names[c]}' for c in shown}
    handles = [matplotlib.patches.Patch(color=colours[c], label=labels[c]) for c in shown]
    if len(counts) > len(shown):
        handles.append(matplotlib.patches.Patch(color=_GREY, label='others'))
    figure.legend(
        handles=handles, loc='outside lower center', ncols=min(len(handles), 6), fontsize=8,
        frameon=False,
    )  # fmt: skip
    return figure


def displayed(image: Tensor, bgr: bool) -> np.ndarray:
    """Return a picture of a data loader, (C, H, W), as (H, W, 3) in red, green and blue."""
    image = image.flip(0) if bgr and len(image) == 3 else image
    if image.dtype != torch.uint8:
        low, high = image.min(), image.max()
        image = (image - low) / (high - low).clamp(min=1e-6) * 255
    return image.expand(3, -1, -1).permute(1, 2, 0).to(torch.uint8).numpy()


def _colour(label: int) -> Any:
    return matplotlib.colormaps['tab20'](label % 20)


def _bars(axes: Any, probabilities: Tensor, names: Sequence[str], label: int) -> None:
    values, classes = probabilities.topk(min(5, len(names)))
    colours = ['#009E73' if int(c) == label else '#999999' for c in classes]
    axes.barh(range(len(values)), values, color=colours)
    axes.set_yticks(range(len(values)), [names[int(c)] for c in classes], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.tick_params(axis='x', labelsize=7)
    axes.spines[['top', 'right']].set_visible(False)


def _mark(axis: Any, index: Tensor, width: int, height: int) -> None:
    """Write the class into the cells of a grid that is coarse enough, beside its colour."""
    rows, columns = index.shape
    if max(rows, columns) > 8:
        return
    for row in range(rows):
        for column in range(columns):
            x, y = (column + 0.5) * width / columns - 0.5, (row + 0.5) * height / rows - 0.5
            number = str(int(index[row, column]))
            axis.text(x, y, number, fontsize=6 if rows > 4 else 8, ha='center', va='center')
