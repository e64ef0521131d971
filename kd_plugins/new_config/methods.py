"""What each method adds to a student and a teacher, as the config folders say it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmengine.fileio import load

from kd_plugins.wiring import TERMS

#: The tasks of the two networks, as model indices name them.
CLASSIFICATION, DETECTION = 'Image Classification', 'Object Detection'
#: For terms on maps, which any two networks may have.
ANY = 'Any'


@dataclass(frozen=True)
class Method:
    """What a method adds to two networks.

    Args:
        task: What both networks are for: :data:`CLASSIFICATION`,
            :data:`DETECTION` with dense heads, or :data:`ANY`.
        distill_losses: The distillation terms: name -> config; none for any task.
        settings: More of the config: top-level name -> value.
        term: For any task, the term that is wired, see :mod:`kd_plugins.wiring`.
    """

    task: str
    distill_losses: Mapping[str, Mapping[str, Any]]
    settings: Mapping[str, Any] = field(default_factory=dict)
    term: str | None = None


def configs_folder() -> Path:
    """Return the folder of the configs, which a wheel carries and a checkout has outside."""
    package = Path(__file__).resolve().parents[1]
    carried = package / '.mim' / 'configs'
    return carried if carried.is_dir() else package.parent / 'configs'


def methods(configs: Path | None = None) -> dict[str, Method]:
    """Return the methods by name, which is that of their folder.

    A folder's method is the ``New Config`` of the collection in its
    ``metafile.yml``; a folder without one has no method that fits any two networks.

    Args:
        configs: Where the folders lie; None for those of the package.

    Raises:
        ValueError: If what a metafile says is no method; the message names it.
    """
    found = {}
    for path in sorted((configs or configs_folder()).glob('*/metafile.yml')):
        for collection in load(path).get('Collections', []):
            if 'New Config' in collection:
                found[path.parent.name] = _method(collection['New Config'], path)
    return found


def _method(says: Mapping[str, Any], path: Path) -> Method:
    settings = dict(says)
    task, terms = settings.pop('Task', None), settings.pop('distill_losses', None)
    if task == ANY and settings.get('Term') in TERMS and not terms:
        return Method(task, {}, term=settings.pop('Term'), settings=settings)
    if task not in (CLASSIFICATION, DETECTION) or not terms:
        raise ValueError(
            f'{path}: New Config has Task={task!r} and distill_losses={terms!r}, but needs Task '
            f'{CLASSIFICATION!r} or {DETECTION!r}, and one or more terms, or Task {ANY!r} and Term '
            f'{" or ".join(TERMS)}.'
        )
    return Method(task, terms, settings)
