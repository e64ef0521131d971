"""Write scenes of real handwritten digits as a COCO data set, once.

    python tools/make_digit_scenes.py

The scans come with scikit-learn; training and validation share none of them.
Options make the scenes larger, fuller or harder. A folder of other scenes is
refused, never overwritten.
"""

import argparse
import dataclasses
import sys
from pathlib import Path

from rich.console import Console

import kd_plugins  # noqa: F401  (makes mmrazor importable)
from kd_plugins import command_line
from kd_plugins.datasets.digit_scenes import make_scenes
from kd_plugins.datasets.scene_drawing import SceneSettings
from kd_plugins.experiments.progress import Progress

HELP = dict(
    train='training scenes',
    val='validation scenes, whose digits no training scene shows',
    size='height and width of a scene in pixels',
    digits='fewest and most digits in a scene',
    side='smallest and largest height of a digit in pixels',
    overlap="how much of a digit's box another's may cover, 0 to 1",
    clutter='most strokes, and most pieces of other digits, behind a scene',
    noise='deviation of the noise in grey levels',
    seed='seed of everything',
)


def parse_args() -> argparse.Namespace:
    """Read the command line; every setting of a scene is an option."""
    parser = command_line.Parser(
        description='Write scenes of digits as a COCO data set.',
        epilog='example: python tools/make_digit_scenes.py --out data/my_scenes --size 256',
    )
    parser.add_argument(
        '--out',
        type=Path,
        default=Path('data/digit_scenes'),
        help='folder to write; by default %(default)s',
    )
    for field in dataclasses.fields(SceneSettings):
        default, said = field.default, f'{HELP[field.name]}; by default %(default)s'
        if isinstance(default, tuple):
            said = f'{HELP[field.name]}; by default {" ".join(map(str, default))}'
            parser.add_argument(
                f'--{field.name}',
                type=int,
                nargs=2,
                default=default,
                metavar=('LEAST', 'MOST'),
                help=said,
            )
        else:
            parser.add_argument(f'--{field.name}', type=type(default), default=default, help=said)
    return parser.parse()


def main() -> None:
    """Write, or say that they are there."""
    args = vars(parse_args())
    out = args.pop('out')
    ranges = {
        name: tuple(value) for name, value in args.items() if isinstance(value, (list, tuple))
    }
    drawn = 0

    def tick() -> None:
        nonlocal drawn
        drawn += 1
        progress.count(drawn, settings.train + settings.val, 'scenes')

    try:
        settings = SceneSettings(**{**args, **ranges})
        with Progress(Console(stderr=True)) as progress:
            make_scenes(out, settings, tick)
    except (ValueError, FileExistsError) as error:
        sys.exit(str(error))
    print(
        f'{"wrote" if drawn else "kept"} {out}: {settings.train} training and {settings.val} '
        'validation scenes'
    )


if __name__ == '__main__':
    main()
