"""Draw what CSKD hands to the patches, and what they say.

    python tools/plot_dense.py CONFIG CHECKPOINT --images 3 250 871 --out dense.png

For chosen validation pictures, side by side: what the teacher answers at every
position, the target at some moments of the training, and the answers of the
student's patches. CONFIG is that of a distillation with kd_plugins.CSKDLoss,
CHECKPOINT what it trained.
"""

import argparse
import sys
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine.config import Config, DictAction
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS
from torch import Tensor

import kd_plugins  # noqa: F401  (makes mmrazor importable)
from kd_plugins.files.weights import load_weights
from kd_plugins.inspect.classifiers import build_pair
from kd_plugins.losses import CSKDLoss, fused_target

#: A colour for each of the most frequent answers; the rest share a grey.
MOST_COLOURS = 20


class Pictures(NamedTuple):
    """What is drawn of the chosen pictures."""

    images: list[np.ndarray]  # (H, W, 3), 0 to 255
    labels: list[int]
    answers: list[tuple[int, int]]  # of the teacher and of the student
    columns: dict[str, Tensor]  # dense logits, (N, C, H, W), by what they are


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('config', help='config of the distillation')
    parser.add_argument('checkpoint', help='what it trained')
    parser.add_argument(
        '--images', type=int, nargs='+', help='numbers of validation pictures; by default five'
    )
    parser.add_argument(
        '--moments', type=float, nargs='+', default=[0.25, 0.5, 1.0],
        help='parts of the training that are over, 0 to 1, to draw the target at',
    )  # fmt: skip
    parser.add_argument('--out', type=Path, default=Path('dense.png'))
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE')
    args = parser.parse_args()
    if not Path(args.config).is_file():
        parser.error(f'config {args.config!r} is not a file: give the path of a config.')
    if any(not 0 <= moment <= 1 for moment in args.moments):
        parser.error(f'--moments {args.moments} are parts of a training: give numbers from 0 to 1.')
    return args


def look(args: argparse.Namespace) -> tuple[Pictures, tuple[str, ...]]:
    """Run both networks on the pictures; return what to draw, and the classes' names."""
    cfg = Config.fromfile(args.config)
    cfg.merge_from_dict(args.cfg_options or {})
    model = build_pair(cfg)
    terms = model.distiller.distill_losses.items()
    found = [(name, loss) for name, loss in terms if isinstance(loss, CSKDLoss)]
    if not found:
        raise ValueError(
            f'{args.config!r} has no kd_plugins.CSKDLoss among model.distiller.distill_losses: '
            'give the config of a CSKD training.'
        )
    name, loss = found[0]
    load_weights(model.student, args.checkpoint, 'checkpoint', 'student')
    dataset = DATASETS.build(cfg.val_dataloader.dataset)
    numbers = args.images or np.linspace(0, len(dataset) - 1, 5).astype(int).tolist()
    if max(numbers) >= len(dataset) or min(numbers) < 0:
        raise ValueError(
            f'--images {numbers} are not all among the {len(dataset)} validation pictures: give '
            f'numbers from 0 to {len(dataset) - 1}.'
        )
    items = [dataset[number] for number in numbers]
    batch = model.data_preprocessor(pseudo_collate(items), training=False)
    answers, records = forward(model, batch, model.distiller.loss_forward_mappings[name])
    dense_T, whole = records['preds_T'], records['preds_T'].mean(dim=(2, 3))
    columns = {'teacher, everywhere': dense_T}
    for moment in args.moments:
        target = fused_target(dense_T, whole, loss.decay.at(moment))
        columns[f'target at {moment:.0%}'] = target
    columns["student's patches"] = records['preds_S']
    images = [displayed(item['inputs'], model.data_preprocessor) for item in items]
    labels = [int(item['data_samples'].gt_label) for item in items]
    classes = dataset.metainfo.get('classes') or range(dense_T.shape[1])
    return Pictures(images, labels, answers, columns), tuple(map(str, classes))


@torch.no_grad()
def forward(
    model: Any, batch: dict[str, Any], mapping: dict[str, Any]
) -> tuple[list[tuple[int, int]], dict[str, Tensor]]:
    """Return both networks' answers, and what the term would be given."""
    inputs, samples, distiller = batch['inputs'], batch['data_samples'], model.distiller
    with distiller.teacher_recorders, distiller.student_recorders:
        logits_T = model.teacher.look(inputs, samples)
        logits_S = model.student(inputs, samples, mode='tensor')
    records = {key: distiller.get_record(**record) for key, record in mapping.items()}
    answers = (logits.argmax(dim=1).tolist() for logits in (logits_T, logits_S))
    return list(zip(*answers, strict=True)), {key: x.float() for key, x in records.items()}


def displayed(inputs: Tensor, preprocessor: Any) -> np.ndarray:
    """Return a picture as the dataset gives it, (C, H, W), in red, green, blue."""
    picture = inputs.flip(0) if getattr(preprocessor, 'to_rgb', False) else inputs
    low, high = picture.min(), picture.max()
    if picture.dtype != torch.uint8:
        picture = (picture - low) / (high - low).clamp(min=1e-6) * 255
    return picture.expand(3, -1, -1).permute(1, 2, 0).to(torch.uint8).numpy()


def draw(pictures: Pictures, classes: tuple[str, ...], path: Path) -> None:
    """Draw a row for every picture: the class of every position, the fainter the less sure."""
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot as plt
    from matplotlib.patches import Patch

    answers = {name: dense.softmax(dim=1).max(dim=1) for name, dense in pictures.columns.items()}
    counts = Counter(c for a in answers.values() for c in a.indices.flatten().tolist())
    shown = sorted(c for c, _ in counts.most_common(MOST_COLOURS))
    palette = plt.get_cmap('tab10' if len(shown) <= 10 else 'tab20')
    colours = {c: palette(i)[:3] for i, c in enumerate(shown)}
    grey = (0.6, 0.6, 0.6)
    rows, wide = len(pictures.images), len(answers) + 1
    figure, axes = plt.subplots(
        rows, wide, figsize=(1.75 * wide, 1.9 * rows + 0.7), squeeze=False, layout='constrained'
    )
    for row, image in enumerate(pictures.images):
        teacher, student = (classes[i] for i in pictures.answers[row])
        axes[row, 0].imshow(image)
        axes[row, 0].set_title(classes[pictures.labels[row]], fontsize=9)
        axes[row, 0].set_xlabel(f'teacher: {teacher}\nstudent: {student}', fontsize=7)
        height, width = image.shape[:2]
        for axis, (name, answer) in zip(axes[row, 1:], answers.items(), strict=True):
            axis.imshow(image.mean(axis=2), cmap='gray', alpha=0.35)
            sure, index = answer.values[row], answer.indices[row]
            cells = [[(*colours.get(c, grey), 0.0) for c in line] for line in index.tolist()]
            layer = np.array(cells)
            layer[..., 3] = 0.15 + 0.75 * sure.numpy()
            axis.imshow(layer, extent=(-0.5, width - 0.5, height - 0.5, -0.5))
            mark(axis, index, width, height)
            if row == 0:
                axis.set_title(name, fontsize=9)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
    handles = [Patch(color=colours[c], label=f'{c} {classes[c]}') for c in shown]
    if len(counts) > len(shown):
        handles.append(Patch(color=grey, label='others'))
    figure.legend(
        handles=handles, loc='outside lower center', ncols=min(len(handles), 6), fontsize=8,
        frameon=False,
    )  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def mark(axis: Any, index: Tensor, width: int, height: int) -> None:
    """Write the class into the cells of a grid that is coarse enough, beside its colour."""
    rows, columns = index.shape
    if max(rows, columns) > 8:
        return
    for row in range(rows):
        for column in range(columns):
            x, y = (column + 0.5) * width / columns - 0.5, (row + 0.5) * height / rows - 0.5
            number = str(int(index[row, column]))
            axis.text(x, y, number, fontsize=6 if rows > 4 else 8, ha='center', va='center')


def main() -> None:
    """Draw."""
    args = parse_args()
    try:
        pictures, classes = look(args)
    except (FileNotFoundError, ValueError) as error:
        sys.exit(str(error))
    draw(pictures, classes, args.out)
    print(f'wrote {args.out}')


if __name__ == '__main__':
    main()
