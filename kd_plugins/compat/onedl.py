"""Importing the datasets of OpenMMLab's maintained continuation without a word.

mmpretrain and mmdet of ``onedl-*`` say, for debugging, that a data format of their own is not
installed; since ``print_log`` without a logger prints whatever the level, it stands on the
standard output, where the page of ``tools/check.py --json`` is.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from types import ModuleType

from kd_plugins.compat.loading import run_within

_TALKING = ('mmpretrain.datasets', 'mmdet.datasets', 'mmdet.datasets.transforms')


def install() -> None:
    """Keep what they print to themselves; calling it twice is fine."""
    run_within(dict.fromkeys(_TALKING, _silently))


@contextmanager
def _silently(module: ModuleType) -> Iterator[None]:
    with redirect_stdout(io.StringIO()):
        yield
