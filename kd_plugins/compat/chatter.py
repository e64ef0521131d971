"""What upstream packages say about themselves while somebody else's tool runs."""

from __future__ import annotations

import argparse
import logging
import re
import warnings
from typing import Any

#: What they say of calls that are theirs, and of packages that nobody asked for.
#: A word that is part of a path or a name is somebody else's.
CHATTER = re.compile(
    r'(?<![\w/\\.-])deprecat[a-z]*(?![\w/\\-])|is the alias of|could not import onedl'
    r'|faster_coco_eval is not installed',
    re.I,
)

#: Whether everything is to be heard: what ``--verbose`` said last.
verbose = False


def add_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--verbose``, for :func:`hush`."""
    parser.add_argument(
        '--verbose',
        action='store_true',
        help='let upstream packages say what they are going to drop, too, and show where an error '
        'comes from',
    )


def hush(unless: bool = False) -> None:
    """Keep back, for the rest of the process, what upstream says of its own deprecated calls.

    Warnings, log records and lines printed by ``print_log`` that :data:`CHATTER`
    finds are dropped; everything else is heard. For tools; a library leaves this
    to whoever runs it.

    Args:
        unless: Keep nothing back, and let :func:`kd_plugins.inspect.quiet.silence` keep
            nothing back.
    """
    global verbose
    verbose = unless
    if unless:
        return
    # Late, because they take their time.
    from mmengine import logging as mmengine_logging
    from mmengine.logging import logger as module

    warnings.filterwarnings('ignore', category=DeprecationWarning)
    warnings.filterwarnings('ignore', f'(?is).*({CHATTER.pattern})')
    module.MMLogger.filter = _filter  # type: ignore[method-assign]
    if not isinstance(module.print_log, _Saying):
        module.print_log = mmengine_logging.print_log = _Saying(module.print_log)


def _filter(logger: logging.Logger, record: logging.LogRecord) -> Any:
    try:
        said = record.getMessage()
    except Exception:  # a message that does not fit its arguments: logging says so, and goes on
        said = ''
    return not CHATTER.search(said) and logging.Logger.filter(logger, record)


class _Saying:
    """Stands for ``print_log``, which without a logger prints."""

    def __init__(self, say: Any) -> None:
        self._say = say

    def __call__(self, msg: Any, *args: Any, **kwargs: Any) -> None:
        if not CHATTER.search(str(msg)):
            self._say(msg, *args, **kwargs)
