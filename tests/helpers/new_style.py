"""Configs whose types are classes, as mmengine's new-style files write them."""

import mmdet.registry  # noqa: F401  (scopes are found once they are imported)
import mmpretrain.registry  # noqa: F401
import mmrazor.registry  # noqa: F401
from mmengine.registry import (
    DATA_SAMPLERS,
    DATASETS,
    HOOKS,
    METRICS,
    MODELS,
    OPTIM_WRAPPERS,
    OPTIMIZERS,
    PARAM_SCHEDULERS,
    TASK_UTILS,
    TRANSFORMS,
    VISBACKENDS,
    VISUALIZERS,
)  # fmt: skip

_REGISTRIES = [
    MODELS, DATASETS, TRANSFORMS, HOOKS, DATA_SAMPLERS, METRICS, OPTIM_WRAPPERS, OPTIMIZERS,
    PARAM_SCHEDULERS, TASK_UTILS, VISBACKENDS, VISUALIZERS,
]  # fmt: skip


def new_style(cfg):
    """Return the text of a new-style file that says what a classic config says."""
    imports = {}

    def found(name):
        for registry in _REGISTRIES:
            for scope in ('', 'mmpretrain.', 'mmrazor.'):
                for suffix in ('', 'Recorder'):  # mmrazor adds it
                    kind = registry.get(scope + name + suffix)
                    if kind is not None:
                        return kind
        raise KeyError(name)

    def said(value):
        if isinstance(value, dict):
            items = []
            for key, item in value.items():
                if key == 'type' and isinstance(item, str):
                    kind = found(item)
                    imports[kind.__name__] = kind.__module__
                    items.append(f"'type': {kind.__name__}")
                else:
                    items.append(f'{key!r}: {said(item)}')
            return 'dict(**{' + ', '.join(items) + '})'
        if isinstance(value, (list, tuple)):
            inner = ', '.join(said(item) for item in value)
            return f'[{inner}]' if isinstance(value, list) else f'({inner},)'
        return repr(value)

    body = [f'{key} = {said(value)}' for key, value in cfg.to_dict().items()]
    lines = [f'from {module} import {name}' for name, module in sorted(imports.items())]
    return '\n'.join([*lines, '', *body, ''])
