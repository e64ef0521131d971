"""Saying where a file was looked for, and what a folder of a network holds."""

from __future__ import annotations

import os


def relative_to(path: str) -> str:
    """Say which folder a relative path was looked for in; nothing for other paths."""
    relative = '://' not in path and not os.path.isabs(path)
    return f' (looked for in {os.getcwd()!r})' if relative else ''


def files_of_network(folder: str) -> list[str]:
    """Return what decides over the network of a folder of Hugging Face, sorted.

    These are its weights, its config, and how its input was normalised. Of another folder, one
    without ``config.json``, nothing does.
    """
    if not os.path.isfile(os.path.join(folder, 'config.json')):
        return []
    return sorted(
        entry.path for entry in os.scandir(folder) if entry.name.endswith(('.json', '.safetensors'))
    )
