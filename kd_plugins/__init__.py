"""Knowledge distillation for OpenMMLab.

Importing this package is cheap and has one effect: mmrazor becomes importable
on the torch and mmcv releases that kd_plugins supports (see
:mod:`kd_plugins.compat`). Algorithms, losses, hooks and datasets are imported
by the registries of :mod:`kd_plugins.registry` when a config first names one.
"""

from kd_plugins import compat
from kd_plugins.version import __version__

compat.install()

__all__ = ['__version__']
