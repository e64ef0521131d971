"""Saying where a file was looked for."""

from __future__ import annotations

import os


def relative_to(path: str) -> str:
    """Say which folder a relative path was looked for in; nothing for other paths."""
    relative = '://' not in path and not os.path.isabs(path)
    return f' (looked for in {os.getcwd()!r})' if relative else ''
