"""Reading what a training has logged, from its work directory."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path


def read_curves(
    work_dir: Path, wanted: Callable[[str], bool], what: str, advice: str
) -> dict[str, dict[int, float]]:
    """Return scalars of a training: name -> iteration -> value.

    Where a resumed run logged an iteration again, the later value counts.

    Args:
        work_dir: The work directory, where mmengine's ``LocalVisBackend`` has
            written a ``<time>/vis_data/scalars.json`` for every start.
        wanted: Whether a name is one of those to return.
        what: What they are, for the error message,
        advice: and where there would be some.

    Raises:
        SystemExit: If the directory holds none.
    """
    curves: dict[str, dict[int, float]] = {}
    files = sorted(work_dir.glob('*/vis_data/scalars.json'))
    for file in files:
        for line in file.read_text(encoding='utf-8').splitlines():
            row = json.loads(line)
            # What validations log has a step, and no iteration.
            for name in filter(wanted, row if 'iter' in row else ()):
                curves.setdefault(name, {})[row['iter']] = row[name]
    if not curves:
        raise SystemExit(f'{str(work_dir)!r} holds no {what} ({len(files)} logs read): {advice}.')
    return curves


def short_names(work_dirs: Iterable[Path]) -> dict[Path, str]:
    """Name directories by their last part, or by two where seeds end alike."""
    parts = {work_dir: work_dir.resolve().parts for work_dir in work_dirs}
    alike = len({names[-1] for names in parts.values()}) < len(parts)
    return {work_dir: '/'.join(names[-1 - alike :]) for work_dir, names in parts.items()}
