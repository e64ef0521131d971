"""Draw the task and the distillation loss over training, to compare trainings.

    python tools/plot_losses.py work_dirs/kd_digits work_dirs/dot_kd_digits --out losses.png

Reads the ``task_loss`` and ``distill_loss`` that every distillation with
kd_plugins logs, and any model trained with ``kd_plugins.DOTOptimWrapper``. The
vertical axes are logarithmic.
"""

import argparse
from pathlib import Path

from kd_plugins.scalars import read_curves, short_names

PARTS = {'task_loss': 'task loss', 'distill_loss': 'distillation loss'}


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description='Draw both losses over training.')
    parser.add_argument('work_dirs', nargs='+', type=Path, help='work directories of trainings')
    parser.add_argument('--out', type=Path, default=Path('losses.png'), help='picture to write')
    return parser.parse_args()


def main() -> None:
    """Draw."""
    args = parse_args()
    advice = 'give the work directory of a training of a kd_plugins algorithm, or one with DOT'
    trainings = {
        work_dir: read_curves(work_dir, PARTS.__contains__, 'task_loss or distill_loss', advice)
        for work_dir in args.work_dirs
    }
    labels = short_names(trainings)
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(9, 4), layout='constrained')
    for axes, (name, title) in zip(panels, PARTS.items(), strict=True):
        for work_dir, curves in trainings.items():
            curve = curves.get(name, {})
            steps = sorted(curve)
            axes.plot(steps, [curve[step] for step in steps], label=labels[work_dir])
        axes.set(xlabel='iteration', ylabel=title, yscale='log')
        axes.grid(alpha=0.3)
    panels[0].legend()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.out, dpi=150)
    print(f'wrote {args.out}')


if __name__ == '__main__':
    main()
