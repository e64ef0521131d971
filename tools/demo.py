"""A teacher teaches a student to read handwritten digits, in about three minutes.

    python tools/demo.py

Trains the teacher of ``configs/vanilla/digits_teacher.py`` once, then the same
small student alone and with every method, over several seeds, all on the
upstream runner. The teacher has seen 1,078 labelled scans, a student sees 200 of
them. Prints a table and draws the curves.
"""

import argparse
import statistics
import time
from pathlib import Path

import matplotlib

matplotlib.use('Agg')
import matplotlib.pyplot as plt
from demo_common import CONFIGS, student_runs, train
from rich.table import Table

import kd_plugins  # noqa: F401  (makes mmrazor importable)
from kd_plugins import command_line
from kd_plugins.experiments.results import Result, Run
from kd_plugins.experiments.summary import gain, over_seeds, said
from kd_plugins.experiments.timing import duration

TEACHER = Run('teacher', str(CONFIGS / 'vanilla/digits_teacher.py'), 0, 'work_dirs/digits_teacher')
STUDENTS = {
    'student alone': 'vanilla/digits_student.py',
    'KD': 'kd/kd_digits.py',
    'DKD': 'dkd/dkd_digits.py',
    'CTKD + KD': 'ctkd/ctkd_kd_digits.py',
    'KD + DOT': 'dot/dot_kd_digits.py',
    'KD, stored teacher': 'kd/kd-stored_digits.py',
}
#: Dark enough on white, and apart for the colour-blind (Okabe and Ito).
COLOURS = ('#555555', '#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00')


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = command_line.Parser(
        description=__doc__.split('\n')[0],
        epilog='example: python tools/demo.py --seeds 0 1',
    )
    command_line.add_runs_options(parser, range(5), 'work_dirs/demo')
    return parser.parse()


def summarise(results: dict[str, list[Result]], teacher: Result) -> Table:
    """Return the table of all methods."""
    seeds = len(next(iter(results.values())))
    table = Table(title=f'Digits, test accuracy in %, {over_seeds(seeds)}')
    for column in ('', 'last epoch', 'best epoch', 'gain', 'as teacher', 'parameters', 's/run'):
        table.add_column(column, justify='right' if column else 'left')
    table.add_row(
        'teacher', f'{teacher.last:.2f}', f'{teacher.best:.2f}', '', '100.0',
        f'{teacher.parameters:,}', f'{teacher.seconds:.0f}', end_section=True,
    )  # fmt: skip
    alone = [result.last for result in results['student alone']]
    for name, runs in results.items():
        last = [run.last for run in runs]
        over = '' if name == 'student alone' else gain(last, alone)
        table.add_row(
            name,
            said(last),
            said([run.best for run in runs]),
            over,
            f'{statistics.mean(agreement(run, teacher) for run in runs):.1f}',
            f'{runs[0].parameters:,}',
            f'{statistics.mean(run.seconds for run in runs):.0f}',
        )
    return table


def agreement(result: Result, teacher: Result) -> float:
    """Percentage of test scans on which the student answers as the teacher."""
    pairs = zip(result.predictions, teacher.predictions, strict=True)
    return 100 * statistics.mean(a == b for a, b in pairs)


def draw(results: dict[str, list[Result]], teacher: Result, path: Path) -> None:
    """Draw accuracy over epochs: mean of the seeds, and their range."""
    figure, axis = plt.subplots(figsize=(7, 4.2), layout='constrained')
    axis.axhline(teacher.last, color='black', linestyle=':', linewidth=1)
    middles = []
    for colour, (name, runs) in zip(COLOURS, results.items(), strict=False):
        curves = list(zip(*(run.accuracy for run in runs), strict=True))
        epochs = runs[0].steps
        middles.append(curves[len(curves) // 2])
        axis.plot(epochs, [statistics.mean(c) for c in curves], color=colour, label=name)
        low, high = [min(c) for c in curves], [max(c) for c in curves]
        axis.fill_between(epochs, low, high, color=colour, alpha=0.15, linewidth=0)
    axis.annotate(
        f'teacher {teacher.last:.1f} %', (epochs[0], teacher.last), (6, -12),
        textcoords='offset points',
    )  # fmt: skip
    # From where the slower half of the training starts; the first epochs tell nothing.
    axis.set_ylim(min(statistics.mean(c) for c in middles) - 5, 100.9)
    axis.set_xlim(epochs[0], epochs[-1])
    axis.set_xlabel('epoch')
    axis.set_ylabel('test accuracy in %')
    axis.set_title(
        'The same small student, alone and taught (mean and range of the seeds)', fontsize=10
    )
    axis.legend(loc='lower right', frameon=False)
    axis.spines[['top', 'right']].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def main() -> None:
    """Train, print, draw."""
    args = parse_args()
    console = command_line.console()
    start = time.monotonic()
    log = args.work_dir / 'output.log'
    console.print('Training the teacher (once; later runs reuse it).')
    teacher = train([TEACHER], 1, log, console)[TEACHER]
    methods = '; '.join(STUDENTS)
    console.print(f'Training the student with {len(args.seeds)} seeds each: {methods}.')
    runs = student_runs(STUDENTS, args.seeds, args.work_dir)
    done = train(runs, args.jobs, log, console)
    results = {name: [done[run] for run in runs if run.name == name] for name in STUDENTS}
    figure = args.work_dir / 'curves.png'
    draw(results, teacher, figure)
    console.print(summarise(results, teacher), soft_wrap=False)
    console.print(
        'gain: over the student alone; "?" where it is within two standard errors of zero.\n'
        'as teacher: test scans on which the last student answers as the teacher does, in %.\n'
        's/run: seconds in iterations; loading and saving come on top.'
    )
    console.print(
        f'wrote {figure}; logs and checkpoints are in {args.work_dir}; '
        f'{duration(time.monotonic() - start)} in all'
    )


if __name__ == '__main__':
    command_line.start(main)
