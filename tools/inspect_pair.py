"""Show what a trained student and its teacher make of the same pictures.

    python tools/inspect_pair.py CONFIG CHECKPOINT --view answers --images a.png b.png
    python tools/inspect_pair.py CONFIG CHECKPOINT --view correlation
    python tools/inspect_pair.py CONFIG CHECKPOINT --view tsne
    python tools/inspect_pair.py CONFIG CHECKPOINT --view boxes

``answers``: both networks' first classes for some pictures, and the value of
every distillation term for each alone. ``correlation``: how differently both
relate the classes, the matrix that the DKD paper shows. ``tsne``: both networks'
penultimate features, by class. ``boxes``, for dense detectors: what both find, and
how much every place tells them apart, which is what BCKD weighs boxes with.
Without ``--images``, pictures of the validation set.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import matplotlib
import torch
from mmengine.config import Config, DictAction
from torch import Tensor

import kd_plugins  # noqa: F401  (makes mmrazor importable)
from kd_plugins.algorithms import SingleTeacherDistill
from kd_plugins.inspect import classifiers
from kd_plugins.inspect.detectors import detect


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description='Compare a student with its teacher.')
    parser.add_argument('config', help='config of the distillation')
    parser.add_argument('checkpoint', help="the student's checkpoint")
    parser.add_argument('--view', choices=VIEWS, default='answers')
    parser.add_argument(
        '--images', nargs='+', metavar='FILE', help='pictures for --view answers or boxes'
    )
    parser.add_argument('--samples', type=int, help='of the validation set; by default 6 or 1000')
    parser.add_argument('--out', type=Path, help='picture to write, by default VIEW.png')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, metavar='KEY=VALUE')
    args = parser.parse_args()
    for path in (args.config, *(args.images or ())):
        if not Path(path).is_file():
            parser.error(f'{path!r} is not a file.')
    args.samples = args.samples or (6 if args.view in ('answers', 'boxes') else 1000)
    args.out = args.out or Path(f'{args.view}.png')
    return args


def draw_answers(algorithm: SingleTeacherDistill, cfg: Config, args: argparse.Namespace) -> Any:
    """Draw pictures, both networks' five first classes, and what the terms say of each."""
    batch = _batch(cfg, args)
    answers = classifiers.ask(algorithm, [batch])
    known = bool((answers.labels >= 0).all())
    terms = classifiers.term_values(algorithm, cfg, batch) if known else {}
    names = classifiers.class_names(cfg, answers.preds_S.shape[1])
    rows = len(answers.labels)
    figure, grid = _pyplot().subplots(
        rows, 3, figsize=(9, 1.7 * rows + 0.4), layout='constrained', squeeze=False,
        width_ratios=(1, 1.6, 1.6),
    )  # fmt: skip
    for i, (picture, teacher, student) in enumerate(grid):
        picture.imshow(_picture(batch['inputs'][i]), cmap='gray')
        picture.axis('off')
        label = int(answers.labels[i])
        said = [names[label]] if label >= 0 else [Path(args.images[i]).name if args.images else '']
        said += [f'{name} {values[i]:.3g}' for name, values in terms.items()]
        picture.set_title('\n'.join(said), fontsize=8)
        for axes, preds in ((teacher, answers.preds_T[i]), (student, answers.preds_S[i])):
            _bars(axes, preds.softmax(0), names, label)
    grid[0][1].set_title('teacher', fontsize=9)
    grid[0][2].set_title('student', fontsize=9)
    return figure


def draw_correlation(algorithm: SingleTeacherDistill, cfg: Config, args: argparse.Namespace) -> Any:
    """Draw the difference of both networks' correlations between the classes."""
    answers = classifiers.ask(algorithm, classifiers.validation_batches(cfg, args.samples))
    difference = classifiers.correlation_difference(answers)
    mean = difference.abs().mean().item()
    figure, axes = _pyplot().subplots(figsize=(6, 5), layout='constrained')
    image = axes.imshow(difference, cmap='RdBu', vmin=-1, vmax=1)
    names = classifiers.class_names(cfg, len(difference))
    if len(names) <= 20:
        axes.set_xticks(range(len(names)), names, rotation=45, ha='right')
        axes.set_yticks(range(len(names)), names)
    axes.set_title(
        f'correlation of classes, teacher minus student\nmean size {mean:.3f} over '
        f'{len(answers.labels)} samples',
        fontsize=10,
    )
    figure.colorbar(image)
    print(f'mean size of the difference: {mean:.4f}')
    return figure


def draw_tsne(algorithm: SingleTeacherDistill, cfg: Config, args: argparse.Namespace) -> Any:
    """Draw both networks' penultimate features in two dimensions, coloured by class."""
    from sklearn.manifold import TSNE

    answers = classifiers.ask(algorithm, classifiers.validation_batches(cfg, args.samples))
    if len(answers.labels) < 10:
        sys.exit(f'--view tsne needs 10 samples or more, and there are {len(answers.labels)}.')
    names = classifiers.class_names(cfg, answers.preds_S.shape[1])
    figure, panels = _pyplot().subplots(1, 2, figsize=(10, 4.6), layout='constrained')
    sides = {'teacher': answers.features_T, 'student': answers.features_S}
    perplexity = min(30, len(answers.labels) // 4)
    for axes, (title, features) in zip(panels, sides.items(), strict=True):
        places = TSNE(perplexity=perplexity, random_state=0).fit_transform(features.numpy())
        for label in sorted(set(answers.labels.tolist())):
            mine = (answers.labels == label).numpy()
            colour = matplotlib.colormaps['tab20'](label % 20)
            axes.scatter(*places[mine].T, s=8, color=colour, label=names[label])
        axes.set_title(f'{title}, {len(answers.labels)} samples', fontsize=10)
        axes.set_xticks([])
        axes.set_yticks([])
    if len(names) <= 20:
        panels[1].legend(loc='center left', bbox_to_anchor=(1, 0.5), fontsize=8, frameon=False)
    return figure


def draw_boxes(algorithm: SingleTeacherDistill, cfg: Config, args: argparse.Namespace) -> Any:
    """Draw what both detectors find in pictures, and where they differ."""
    batch = _batch(cfg, args)
    found = detect(algorithm, batch)
    figure, grid = _pyplot().subplots(
        len(found), 3, figsize=(9, 3 * len(found)), layout='constrained', squeeze=False
    )
    for i, (axes, each) in enumerate(zip(grid, found, strict=True)):
        picture = _picture(batch['inputs'][i])
        for panel, (boxes, labels, scores) in zip(axes, (each.teacher, each.student), strict=False):
            panel.imshow(picture, cmap='gray')
            for (x1, y1, x2, y2), label, score in zip(boxes, labels, scores, strict=True):
                colour = matplotlib.colormaps['tab20'](int(label) % 20)
                frame = matplotlib.patches.Rectangle(
                    (x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=colour
                )
                panel.add_patch(frame)
                panel.text(
                    x1, y1, f'{int(label)}: {score:.2f}', fontsize=7, va='bottom',
                    bbox=dict(facecolor=colour, edgecolor='none', pad=0.8),
                )  # fmt: skip
        axes[2].imshow(picture, cmap='gray')
        weights = axes[2].imshow(each.weights, cmap='magma', alpha=0.7, vmin=0, vmax=1)
        figure.colorbar(weights, ax=axes[2], fraction=0.046)
        for panel in axes:
            panel.axis('off')
    for panel, title in zip(grid[0], ('teacher', 'student', 'weight of boxes'), strict=True):
        panel.set_title(title, fontsize=10)
    return figure


def _batch(cfg: Config, args: argparse.Namespace) -> dict[str, Any]:
    """Return one batch: the pictures that were named, or some of the validation set."""
    if args.images:
        return classifiers.picture_batch(cfg, args.images)
    batches = list(classifiers.validation_batches(cfg, args.samples))
    return {key: sum((list(b[key]) for b in batches), [])[: args.samples] for key in batches[0]}


VIEWS = {
    'answers': draw_answers,
    'correlation': draw_correlation,
    'tsne': draw_tsne,
    'boxes': draw_boxes,
}


def _bars(axes: Any, probabilities: Tensor, names: list[str], label: int) -> None:
    values, classes = probabilities.topk(min(5, len(names)))
    colours = ['#009E73' if int(c) == label else '#999999' for c in classes]
    axes.barh(range(len(values)), values, color=colours)
    axes.set_yticks(range(len(values)), [names[int(c)] for c in classes], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.tick_params(axis='x', labelsize=7)
    axes.spines[['top', 'right']].set_visible(False)


def _picture(image: Tensor) -> Any:
    """Return a picture as matplotlib wants it, from the loader's BGR or grey one."""
    image = image.float() - image.min()
    image = (image / image.max().clamp(min=1)).movedim(0, -1)
    return image.flip(-1) if image.shape[-1] == 3 else image[..., 0]


def _pyplot() -> Any:
    matplotlib.use('Agg')
    from matplotlib import pyplot

    return pyplot


def main() -> None:
    """Load, draw, write."""
    args = parse_args()
    cfg = Config.fromfile(args.config)
    cfg.merge_from_dict(args.cfg_options or {})
    try:
        algorithm = classifiers.load_pair(cfg, args.checkpoint)
        with torch.no_grad():
            figure = VIEWS[args.view](algorithm, cfg, args)
    except (FileNotFoundError, ValueError) as error:
        sys.exit(str(error))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.out, dpi=150)
    print(f'wrote {args.out}')


if __name__ == '__main__':
    main()
