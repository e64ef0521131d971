"""Importing mmpretrain beside a transformers that its models of text and pictures do not know.

They need transformers 4. Beside 5, which removed names that they import, no module of
``mmpretrain.models`` can be imported, classifiers neither. mmpretrain has placeholders
for environments without transformers; they take the models' places here, too.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from types import ModuleType

from kd_plugins.compat.loading import complete

#: The first release of transformers without what mmpretrain imports.
_TOO_NEW = 5


def install() -> None:
    """Let mmpretrain be imported beside any transformers; calling it twice is fine."""
    complete({'mmpretrain.utils.dependency': _without_text})


def _without_text(module: ModuleType) -> None:
    try:
        newest = int(version('transformers').split('.')[0])
    except PackageNotFoundError:
        return
    if newest >= _TOO_NEW:
        vars(module)['WITH_MULTIMODAL'] = False
