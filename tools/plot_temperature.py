"""Draw the temperature over training from one or several work directories.

    python tools/plot_temperature.py work_dirs/ctkd_kd_digits --out temperature.png

Reads what ``kd_plugins.CurriculumTemperatureHook`` has logged. An instance-wise
temperature is drawn as its mean in a band from its smallest to its largest.
"""

import argparse
from pathlib import Path

from kd_plugins.scalars import read_curves, short_names


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description='Draw the temperature over training.')
    parser.add_argument('work_dirs', nargs='+', type=Path, help='work directories of trainings')
    parser.add_argument(
        '--out', type=Path, default=Path('temperature.png'), help='picture to write'
    )
    return parser.parse_args()


def read_temperatures(work_dir: Path) -> dict[str, dict[int, float]]:
    """Return the logged temperatures of a training: name -> iteration -> value."""
    return read_curves(
        work_dir,
        lambda name: name.split('.')[0].removesuffix('_min').removesuffix('_max') == 'tau',
        'logged temperature',
        'give the work directory of a training whose config has the hook '
        'kd_plugins.CurriculumTemperatureHook',
    )


def main() -> None:
    """Draw."""
    args = parse_args()
    curves = {work_dir: read_temperatures(work_dir) for work_dir in args.work_dirs}
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot as plt

    labels = short_names(curves)
    figure, axes = plt.subplots(figsize=(6, 4), layout='constrained')
    for work_dir, named in curves.items():
        for name, curve in sorted(named.items()):
            if name.endswith(('_min', '_max')):
                continue
            steps = sorted(curve)
            label = labels[work_dir] + name.removeprefix('tau').replace('.', ' ')
            (line,) = axes.plot(steps, [curve[step] for step in steps], label=label)
            low, high = named.get(f'{name}_min'), named.get(f'{name}_max')
            if low and high:
                band = [low[step] for step in steps], [high[step] for step in steps]
                axes.fill_between(steps, *band, color=line.get_color(), alpha=0.2, linewidth=0)
    axes.set(xlabel='iteration', ylabel='temperature')
    axes.grid(alpha=0.3)
    axes.legend()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.out, dpi=150)
    print(f'wrote {args.out}')


if __name__ == '__main__':
    main()
