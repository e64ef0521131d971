"""Draw what trainings have logged, one or several to compare.

    python tools/plot.py work_dirs/kd_digits work_dirs/ctkd_kd_digits --out plots/compare

Writes ``compare.png`` and ``compare.html``, a page that needs nothing else and
opens offline. Panels are there for what was logged: validation, both parts of
the loss, every term, agreement with the teacher, DKD's parts, temperatures (an
instance-wise one as its mean in a band from its smallest to its largest), the
cosine of DOT's gradients, the learning rate.
"""

import argparse
import sys
from pathlib import Path

from kd_plugins import command_line
from kd_plugins.experiments import plot
from kd_plugins.experiments.logs import read_training, short_names


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = command_line.Parser(
        description='Draw what trainings have logged.',
        epilog='example: python tools/plot.py work_dirs/kd_digits work_dirs/ctkd_kd_digits '
        '--out plots/compare',
    )
    parser.add_argument('work_dirs', nargs='+', type=Path, help='work directories of trainings')
    parser.add_argument(
        '--out', type=Path, default=Path('trainings'), help='what to write, without .png and .html'
    )
    return parser.parse()


def main() -> None:
    """Read, draw, write."""
    args = parse_args()
    names = short_names(args.work_dirs)
    try:
        trainings = [read_training(work_dir, names[work_dir]) for work_dir in args.work_dirs]
    except FileNotFoundError as error:
        sys.exit(str(error))
    if not plot.panels_of(trainings):
        sys.exit(
            f'{", ".join(map(str, args.work_dirs))}: nothing was logged that could be drawn: give '
            'trainings that have logged an iteration or a validation.'
        )
    args.out.parent.mkdir(parents=True, exist_ok=True)
    picture, page = (args.out.with_name(args.out.name + end) for end in ('.png', '.html'))
    plot.draw(trainings).savefig(picture, dpi=150)
    page.write_text(plot.page(trainings), encoding='utf-8')
    print(f'wrote {picture} and {page}')


if __name__ == '__main__':
    main()
