"""The registries of kd_plugins: children of mmengine's, scope ``kd_plugins``.

A config names a type as ``kd_plugins.KDLoss`` from any scope. The modules that
hold the types are listed as ``locations`` and imported on the first look-up.
"""

import sys
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from mmengine.registry import DATA_SAMPLERS as MMENGINE_DATA_SAMPLERS
from mmengine.registry import DATASETS as MMENGINE_DATASETS
from mmengine.registry import FUNCTIONS as MMENGINE_FUNCTIONS
from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import OPTIM_WRAPPERS as MMENGINE_OPTIM_WRAPPERS
from mmengine.registry import OPTIMIZERS as MMENGINE_OPTIMIZERS
from mmengine.registry import TASK_UTILS as MMENGINE_TASK_UTILS
from mmengine.registry import TRANSFORMS as MMENGINE_TRANSFORMS
from mmengine.registry import Registry


def name_of(kind: Any) -> str:
    """Return the bare name of a config's ``type``, which is a name or, in new-style files, a class.

    Args:
        kind: ``'EMAHook'``, ``'mmengine.EMAHook'``, the class itself, or None.
    """
    return (kind if isinstance(kind, str) else getattr(kind, '__name__', '')).split('.')[-1]


def gather(package: str) -> list[str]:
    """Import all modules of a package, which registers their types, and put their names into it.

    So a file that is added to it is found, and no list has to be kept in step.

    Args:
        package: Name of the package, whose modules say in ``__all__`` what they offer.

    Returns:
        The names, for the package's own ``__all__``.
    """
    namespace, names = vars(sys.modules[package]), []
    for found in iter_modules(namespace['__path__'], f'{package}.'):
        module = import_module(found.name)
        for name in getattr(module, '__all__', ()):
            namespace[name] = getattr(module, name)
            names.append(name)
    return sorted(names)


class ModelRegistry(Registry):
    """Imports the networks last, and only for a name that is not found without them.

    They build on mmpretrain, which a training of detectors need not have, and the preprocessor of
    detectors on mmdet.
    """

    def get(self, key: str) -> type | None:
        """Return the class of a name, or None; see mmengine's ``Registry.get``."""
        found = super().get(key)
        if found is None and self.split_scope_key(key)[0] in (None, self.scope):
            import_module('kd_plugins.models')
            if self.split_scope_key(key)[1] == 'DetDataPreprocessor':
                import_module('kd_plugins.models.det_data_preprocessor')
            found = super().get(key)
        return found


MODELS = ModelRegistry(
    'model',
    parent=MMENGINE_MODELS,
    scope='kd_plugins',
    locations=[
        'kd_plugins.algorithms',
        'kd_plugins.connectors',
        'kd_plugins.distillers',
        'kd_plugins.losses',
        'kd_plugins.temperatures',
    ],
)
DATA_SAMPLERS = Registry(
    'data sampler',
    parent=MMENGINE_DATA_SAMPLERS,
    scope='kd_plugins',
    locations=['kd_plugins.datasets'],
)
DATASETS = Registry(
    'dataset',
    parent=MMENGINE_DATASETS,
    scope='kd_plugins',
    locations=['kd_plugins.datasets', 'kd_plugins.views'],
)
TRANSFORMS = Registry(
    'transform',
    parent=MMENGINE_TRANSFORMS,
    scope='kd_plugins',
    locations=['kd_plugins.datasets'],
)
HOOKS = Registry('hook', parent=MMENGINE_HOOKS, scope='kd_plugins', locations=['kd_plugins.hooks'])
FUNCTIONS = Registry(
    'function', parent=MMENGINE_FUNCTIONS, scope='kd_plugins', locations=['kd_plugins.hooks']
)
OPTIMIZERS = Registry(
    'optimizer',
    parent=MMENGINE_OPTIMIZERS,
    scope='kd_plugins',
    locations=['kd_plugins.optim'],
)
OPTIM_WRAPPERS = Registry(
    'optimizer wrapper',
    parent=MMENGINE_OPTIM_WRAPPERS,
    scope='kd_plugins',
    locations=['kd_plugins.optim'],
)
TASK_UTILS = Registry(
    'task util',
    parent=MMENGINE_TASK_UTILS,
    scope='kd_plugins',
    locations=['kd_plugins.recorders', 'kd_plugins.batch_parts'],
)

__all__ = [
    'DATA_SAMPLERS',
    'DATASETS',
    'FUNCTIONS',
    'HOOKS',
    'MODELS',
    'OPTIMIZERS',
    'OPTIM_WRAPPERS',
    'TASK_UTILS',
    'TRANSFORMS',
    'gather',
    'name_of',
]
