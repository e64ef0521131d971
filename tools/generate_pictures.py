"""Draw pictures of every class with a diffusion model, for a training without real ones.

    python tools/generate_pictures.py --pipeline facebook/DiT-XL-2-256 --out data/generated/s2_st100

The pipeline is one of diffusers (``pip install diffusers``), a folder or a name on its
hub, that draws classes by number, or texts: ``--prompts FILE`` then has a line for every
class. The defaults are those of DM-KD: 20 seeds and ten pictures of each for 1,000
classes, guidance 2, 100 steps. What is there is not drawn again, so that the same
command goes on after a kill. Under torchrun, or with ``--process 0/4`` to ``3/4``,
several processes share the work. At the end there is an index,
``s2_st100_200k.txt``, for ``kd_plugins.GeneratedPictures``.
"""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console

import kd_plugins  # noqa: F401  (makes mmrazor importable)
from kd_plugins import command_line
from kd_plugins.datasets import generation
from kd_plugins.experiments.progress import Progress


def numbers(text: str) -> list[int]:
    """Read ``0-9`` or ``0,3,5-7``; each counts once."""
    found: list[int] = []
    for part in text.split(','):
        first, _, last = part.partition('-')
        found += range(int(first), int(last or first) + 1)
    return [*dict.fromkeys(found)]


def share(text: str) -> tuple[int, int]:
    """Read ``0/4``."""
    number, of = map(int, text.split('/'))
    if not 0 <= number < of:
        raise ValueError
    return number, of


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = command_line.Parser(
        description='Draw pictures with a diffusion model.',
        epilog='example: python tools/generate_pictures.py --pipeline facebook/DiT-XL-2-256 '
        '--out data/generated/s2_st100',
    )
    parser.add_argument('--pipeline', required=True, help='of diffusers: a folder or a name')
    parser.add_argument('--out', type=Path, required=True, help='folder for the pictures')
    parser.add_argument(
        '--classes',
        type=numbers,
        default=numbers('0-999'),
        metavar='0-999',
        help='which to draw; by default %(metavar)s',
    )
    parser.add_argument(
        '--seeds',
        type=numbers,
        default=numbers('0-19'),
        metavar='0-19',
        help='how often to draw each; by default %(metavar)s',
    )
    parser.add_argument(
        '--per-seed', type=int, default=10, help='pictures of a class and seed, in one call'
    )
    parser.add_argument('--guidance', type=float, default=2.0, help='scale of the guidance')
    parser.add_argument('--steps', type=int, default=100, help='steps of the sampler')
    parser.add_argument('--prompts', type=Path, help='a file with the text of every class')
    parser.add_argument('--scheduler', default='', help="one of diffusers' instead of its own")
    parser.add_argument('--size', type=int, default=256, help='pixels of a side, for the estimate')
    parser.add_argument(
        '--dtype',
        choices=['float32', 'bfloat16', 'float16'],
        default='float32',
        help='of the model; by default %(default)s',
    )
    parser.add_argument('--device', help='where to draw; by default a GPU if there is one')
    own = int(os.environ.get('RANK', 0)), int(os.environ.get('WORLD_SIZE', 1))
    parser.add_argument(
        '--process', type=share, default=own, metavar='I/N', help='this process, of how many'
    )
    return parser.parse()


def main() -> None:
    """Draw."""
    args = parse_args()
    device = args.device
    if device is None:
        gpu = f'cuda:{os.environ.get("LOCAL_RANK", 0)}'
        device = gpu if torch.cuda.is_available() else 'cpu'
    try:
        prompts = args.prompts and args.prompts.read_text(encoding='utf-8').splitlines()
        what = generation.Generation(
            args.pipeline, args.classes, args.seeds, args.per_seed, args.guidance, args.steps,
            prompts, args.scheduler,
        )  # fmt: skip
        left = len(generation.missing(args.out, what)) * args.per_seed
        size = generation.check_room(args.out, left, args.size**2)
        print(
            f'{what.count:,} pictures of {len(what.classes):,} classes in {args.out}; to draw: '
            f'{left:,}, about {size / 1e9:.3g} GB at {args.size} x {args.size} pixels'
        )
        generation.begin(args.out, what)
        draw: Callable[[int, int], list] = _nothing
        if left:
            pipeline = generation.load_pipeline(what, device, args.dtype)
            draw = generation.drawing(pipeline, what, device)
        # Several processes share a terminal, where lines do not overwrite each other.
        alone = args.process[1] == 1
        with Progress(Console(stderr=True, force_terminal=None if alone else False)) as progress:

            def tell(done: int, total: int) -> None:
                progress.count(done * what.per_seed, total * what.per_seed, 'pictures')

            index = generation.generate(args.out, what, draw, args.process, tell)
    except (ValueError, OSError) as error:
        sys.exit(str(error))
    print(f'wrote {index}' if index else 'this process is done, and others are not yet')


def _nothing(label: int, seed: int) -> list:
    raise AssertionError('there is nothing to draw')


if __name__ == '__main__':
    main()
