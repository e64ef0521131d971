"""Reading the config that a tool is given."""

from __future__ import annotations

import ast
import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config


def read_config(path: str | Path, options: Mapping[str, Any] | None = None) -> Config:
    """Return a config with some settings overridden.

    Args:
        path: The config file.
        options: What to override in it, as ``--cfg-options`` gives it.

    Raises:
        ValueError: If it, or a config that it inherits, is no Python, or needs a package
            that is missing, or an override does not fit.
        FileNotFoundError: If one that it inherits is not there.
    """
    try:
        cfg = Config.fromfile(path)
    except SyntaxError as error:
        raise ValueError(_no_python(path, error)) from None
    except ImportError as error:
        # mmengine adds all of sys.path, a line each.
        said = str(error).partition(', the current sys.path')[0]
        raise ValueError(f'config {str(path)!r} needs what cannot be imported: {said}') from None
    try:
        cfg.merge_from_dict(copy.deepcopy(dict(options or {})))
    except (KeyError, TypeError) as error:
        why = error.args[0] if error.args else error
        raise ValueError(
            f'--cfg-options {" ".join(options or ())} does not fit {path}: {why}'
        ) from None
    if not isinstance(cfg.get('model', {}), Mapping):
        raise ValueError(f'{path}: model={cfg.model!r} is no model: give a dict with its type.')
    return cfg


def _no_python(path: str | Path, error: SyntaxError) -> str:
    """Say which config is no Python: mmengine does not."""
    try:
        ast.parse(Path(path).read_text(encoding='utf-8'))
    except SyntaxError as own:
        return f'config {str(path)!r}, line {own.lineno}, is no Python: {own.msg}.'
    return f'a config that {str(path)!r} inherits is no Python, line {error.lineno}: {error.msg}.'
