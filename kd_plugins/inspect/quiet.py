"""Building a training's Runner to look at it, without a trace."""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import sys
import time
import warnings
from collections.abc import Iterator

from mmengine.config import Config

from kd_plugins.compat import chatter


def quiet(cfg: Config, folder: str) -> Config:
    """Return a config whose Runner works on one process and writes to ``folder`` only.

    Args:
        cfg: The config of a training; it is not changed.
        folder: A directory that may be thrown away.
    """
    cfg = copy.deepcopy(cfg)
    cfg.work_dir = folder
    cfg.launcher = 'none'
    cfg.log_level = 'ERROR'
    cfg.visualizer = None
    cfg.resume = False
    cfg.experiment_name = f'inspect_{time.time_ns()}'
    return cfg


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Keep back what upstream prints, logs below errors, and warns of.

    After ``--verbose`` it goes to the error output instead, apart from the tool's own.
    """
    if chatter.verbose:
        with contextlib.redirect_stdout(sys.stderr):
            yield
        return
    before = logging.root.manager.disable
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter('ignore')
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(before)
