"""What the command lines of all tools have in common."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from mmengine.config import DictAction
from rich.console import Console

from kd_plugins import checks
from kd_plugins.compat import chatter


class Parser(argparse.ArgumentParser):
    """A parser that says in one sentence what is wrong, without the list of options before it."""

    def error(self, message: str) -> NoReturn:
        """Say it, and end with the exit code 2."""
        # argparse's own sentences have no full stop, and do not tell what would be right.
        hint = '' if message.endswith('.') else f'; {self.prog} --help lists the options.'
        self.exit(2, f'{message}{hint}\n')

    def parse(self) -> argparse.Namespace:
        """Read the command line, and refuse what its common arguments cannot mean."""
        args = self.parse_args()
        self.need_files(*getattr(args, 'configs', ()), getattr(args, 'config', None))
        if hasattr(args, 'jobs'):
            self._check_runs(args)
        return args

    def _check_runs(self, args: argparse.Namespace) -> None:
        if len(set(args.seeds)) < len(args.seeds):
            self.error(f'--seeds {args.seeds} repeats a seed, which would only repeat its result.')
        if any(not 0 <= seed < 2**32 for seed in args.seeds):
            self.error(f'--seeds {args.seeds} are no seeds: give numbers from 0 to 2**32 - 1.')
        if args.jobs is not None and args.jobs < 1:
            self.error(f'--jobs {args.jobs} is not a number of runs above 0.')
        if args.work_dir and args.work_dir.exists() and not args.work_dir.is_dir():
            self.error(f'--work-dir {str(args.work_dir)!r} is a file: give a folder.')

    def need_files(self, *configs: str | Path | None) -> None:
        """Refuse configs that are no files; None is passed over."""
        for config in configs:
            if config is not None and not Path(config).is_file():
                self.error(f'config {str(config)!r} is not a file: give the path of a config.')


class _Settings(DictAction):
    def __call__(self, parser: Any, namespace: Any, values: Any, option: str | None = None) -> None:
        for value in values:
            if '=' not in value:
                parser.error(f'{option} {value!r} is no setting: give KEY=VALUE.')
        super().__call__(parser, namespace, values, option)


def add_cfg_options(parser: argparse.ArgumentParser, where: str = 'of the config') -> None:
    """Add ``--cfg-options``.

    Args:
        parser: Of the tool.
        where: What has the settings.
    """
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=_Settings,
        default={},
        metavar='KEY=VALUE',
        help=f'settings {where} to override, for example train_cfg.max_epochs=2; lists are written '
        'as key="[a,b]"',
    )


def add_runs_options(
    parser: argparse.ArgumentParser, seeds: Sequence[int], work_dir: str, known: bool = True
) -> None:
    """Add the options of tools that train over seeds: ``--seeds``, ``--jobs``, ``--work-dir``.

    Args:
        parser: Of the tool.
        seeds: Those by default.
        work_dir: Where results go by default.
        known: Whether that is a folder; else words, and the default is None.
    """
    said = f'by default {" ".join(map(str, seeds))}'
    parser.add_argument('--seeds', type=int, nargs='+', default=[*seeds], help=said)
    parser.add_argument(
        '--jobs', type=int, help='runs at a time; by default one for each GPU, or for each core'
    )
    parser.add_argument(
        '--work-dir',
        type=Path,
        default=Path(work_dir) if known else None,
        help=f'where results go; by default {work_dir}',
    )


def console() -> Console:
    """Return where a tool prints: in a file, sentences are not broken into lines."""
    width = None if sys.stdout.isatty() else 120
    return Console(file=sys.stdout, width=width, highlight=False, soft_wrap=True)


def call_of(tool: str) -> str:
    """Return how to start another tool, as this one was started."""
    return f'python {Path(sys.argv[0]).with_name(tool)}'


@contextmanager
def refusing(*kinds: type[Exception]) -> Iterator[None]:
    """End a tool by the sentence of an error, without a traceback, unless ``--verbose`` is given.

    Args:
        kinds: Errors that say all that there is to say, whoever raises them; of others see
            :func:`kd_plugins.checks.sentence_of`.
    """
    try:
        yield
    except Exception as error:
        sentence = checks.sentence_of(error) or (str(error) if isinstance(error, kinds) else None)
        if sentence is None or chatter.verbose:
            raise
        raise SystemExit(sentence) from None


def start(main: Callable[[], None]) -> None:
    """Run the ``main`` of a tool that goes on where it was interrupted."""
    try:
        main()
    except KeyboardInterrupt:
        sys.exit('interrupted; the same command goes on where this one stopped')
