"""Writing the config of a distillation from two upstream configs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.model import BaseModel
from mmengine.registry import DefaultScope
from torch import nn

from kd_plugins.networks import build_network, resolve_network
from kd_plugins.new_config.methods import METHODS, Method

_LABELS = 'head.loss_module'
_CLASSIFIER, _DENSE = 'classifier', 'dense detector'


@dataclass
class Pair:
    """The two networks that a config is to be written for.

    Args:
        student: Config of the student: a path, or ``PACKAGE::PATH``.
        teacher: Config of the teacher, likewise; None for the student alone.
        teacher_ckpt: The teacher's checkpoint; None for the weights that the
            package's model index lists for its config.
        data: A folder with ``train/CLASS/`` and ``val/CLASS/``, in the place of
            the data of the student's config.
    """

    student: str
    teacher: str | None = None
    teacher_ckpt: str | None = None
    data: Path | None = None
    classes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.data is not None:
            self.classes = _classes_in(self.data)

    def cfg(self, path: str) -> dict[str, Any]:
        """Return the config of one of the networks, for these classes."""
        head = dict(head=dict(num_classes=len(self.classes))) if self.classes else {}
        return dict(cfg_path=path, **head)

    def text(self, path: str, **more: Any) -> str:
        """Return the config of a network as Python."""
        items = {**self.cfg(path), **more}
        return f'dict({", ".join(f"{k}={_python(v)}" for k, v in items.items())})'


def new_config(pair: Pair, method: str, out: Path) -> str:
    """Return the text of a config that distils the teacher into the student.

    Both networks are built, to find out what to read of them.

    Args:
        pair: The networks, and the data.
        method: A key of :data:`kd_plugins.new_config.methods.METHODS`.
        out: Where the config will be.

    Raises:
        ValueError: If the two do not fit each other or the method; the message
            names the argument of ``tools/new_config.py``.
    """
    chosen = METHODS[method]
    if pair.teacher is None or method == 'alone':
        if pair.teacher is not None or method != 'alone':
            raise ValueError(
                f'--method {method} and --teacher {pair.teacher!r} do not go together.'
            )
        return _head(pair, out) + _alone(pair)
    student = _build(pair.cfg(pair.student), '--student')
    teacher = _build(pair.cfg(pair.teacher), '--teacher')
    kinds = _kind(student), _kind(teacher)
    if set(kinds) != {_DENSE if chosen.dense else _CLASSIFIER}:
        raise ValueError(
            f'--method {method} is for two {"dense detectors" if chosen.dense else "classifiers"}, '
            f'but --student {pair.student!r} is a {type(student).__name__} ({kinds[0]}) and '
            f'--teacher {pair.teacher!r} a {type(teacher).__name__} ({kinds[1]}).'
        )
    if chosen.dense and pair.data is not None:
        raise ValueError('--data is for classifiers: give a student config that has your data.')
    records = _dense_records() if chosen.dense else _logit_records(pair, student, teacher, chosen)
    weights = (
        f'    teacher={pair.text(pair.teacher)},\n    teacher_ckpt={pair.teacher_ckpt!r},\n'
        if pair.teacher_ckpt
        else f'    teacher={pair.text(pair.teacher, pretrained=True)},\n'
    )
    terms = ''.join(f'            {name}={cfg},\n' for name, cfg in chosen.terms.items())
    mappings = ''.join(f'            {name}={records.mapping},\n' for name in chosen.terms)
    return (
        f'{_head(pair, out)}'
        "custom_imports = dict(imports=['kd_plugins'], allow_failed_imports=False)\n"
        f'{_hooks(chosen)}'
        f'{_data(pair)}\n'
        'model = dict(\n'
        '    _delete_=True,\n'
        "    type='kd_plugins.SingleTeacherDistill',\n"
        f'    architecture={pair.text(pair.student)},\n'
        f'{weights}'
        '    distiller=dict(\n'
        f'        student_recorders=dict({records.student}),\n'
        f'        teacher_recorders=dict({records.teacher}),\n'
        f'        distill_losses=dict(\n{terms}        ),\n'
        f'        loss_forward_mappings=dict(\n{mappings}        ),\n'
        '    ),\n'
        ')\n'
    )


def _head(pair: Pair, out: Path) -> str:
    base = pair.student if '::' in pair.student else os.path.relpath(pair.student, out.parent)
    return f'# python tools/check.py {out}\n# python tools/train.py {out}\n_base_ = [{base!r}]\n\n'


def _alone(pair: Pair) -> str:
    heads = f'model = dict(head=dict(num_classes={len(pair.classes)}))\n' if pair.classes else ''
    return _data(pair).lstrip() + heads


@dataclass(frozen=True)
class _Records:
    student: str
    teacher: str
    mapping: str


def _dense_records() -> _Records:
    head = "head=dict(type='kd_plugins.DenseHead')"
    return _Records(head, head, _mapping('head'))


def _mapping(name: str, *more: str) -> str:
    lines = [
        f"preds_S=dict(recorder='{name}', from_student=True)",
        f"preds_T=dict(recorder='{name}', from_student=False)",
        *more,
    ]
    return 'dict(\n                ' + ',\n                '.join(lines) + ')'


def _logit_records(pair: Pair, student: nn.Module, teacher: nn.Module, method: Method) -> _Records:
    named = [
        (f'--student {pair.student!r}', student),
        (f'--teacher {pair.teacher!r}', teacher),
    ]
    (source_S, classes_S), (source_T, classes_T) = (classifier(n, who) for who, n in named)
    if classes_S != classes_T:
        raise ValueError(
            f'{named[0][0]} has {classes_S} classes and {named[1][0]} has {classes_T}: give a '
            'teacher that was trained on the same classes.'
        )
    logits = "logits=dict(type='ModuleOutputs', source='{}')".format
    if not method.labels:
        return _Records(logits(source_S), logits(source_T), _mapping('logits'))
    if _LABELS not in dict(student.named_modules()):
        raise ValueError(
            f'{named[0][0]} has no {_LABELS} to read the labels from: use --method kd, which '
            'needs none.'
        )
    return _Records(
        f"\n            {logits(source_S)},\n            labels=dict(type='ModuleInputs', "
        f"source='{_LABELS}')",
        logits(source_T),
        _mapping('logits', "gt_labels=dict(recorder='labels', from_student=True, data_idx=1)"),
    )


def classifier(network: nn.Module, name: str = 'the network') -> tuple[str, int]:
    """Return the module whose output are a classifier's logits, and their number.

    Raises:
        ValueError: If its head does not end in one linear layer.
    """
    head = getattr(network, 'head', None)
    linear = [
        (f'head.{key}', module.out_features)
        for key, module in (head.named_modules() if head is not None else ())
        if isinstance(module, nn.Linear) and module.out_features == getattr(head, 'num_classes', 0)
    ]
    if len(linear) != 1:
        raise ValueError(
            f'{name} is a {type(network).__name__} whose head ({type(head).__name__}) has '
            f'{len(linear)} linear layers as wide as its classes, so its logits cannot be found: '
            'start from configs/kd and name the module in the recorders.'
        )
    return linear[0]


def _kind(network: nn.Module) -> str:
    if hasattr(network, 'bbox_head'):
        return _DENSE
    return _CLASSIFIER if hasattr(network, 'head') else 'neither classifier nor dense detector'


def _build(cfg: dict[str, Any], key: str) -> BaseModel:
    network, _ = resolve_network(cfg, key)
    return build_network(network, key)


def _classes_in(data: Path) -> list[str]:
    found = {
        split: sorted(p.name for p in (data / split).glob('*') if p.is_dir())
        for split in ('train', 'val')
    }
    if len(found['train']) < 2 or found['train'] != found['val']:
        raise ValueError(
            f'--data {str(data)!r} needs the same two or more folders of pictures, one a class, in '
            f'train/ and val/, but they hold {len(found["train"])} and {len(found["val"])}.'
        )
    return found['train']


def _hooks(method: Method) -> str:
    named = dict(
        checkpoint='SafeCheckpointHook',
        guard='DistillationGuardHook',
        environment='EnvironmentHook',
        distillation_log='DistillationLogHook',
        # Not in custom_hooks, a list, which would replace the student's own.
        seed_by_progress='SeedByProgressHook',
    )
    lines = [f"    {name}=dict(type='kd_plugins.{hook}'),\n" for name, hook in named.items()]
    return (
        f'default_hooks = dict(\n{"".join(lines)}{method.hook})\n'
        f'randomness = dict(seed=0)\n{method.extra}'
    )


def _data(pair: Pair) -> str:
    if pair.data is None:
        return ''
    with DefaultScope.overwrite_default_scope(pair.student.split('::')[0]):
        base = get_config(pair.student) if '::' in pair.student else Config.fromfile(pair.student)
    return (
        f'\ndata_root = {str(pair.data)!r}\n'
        f'data_preprocessor = dict(num_classes={len(pair.classes)})\n'
        f'{_loader("train", base)}{_loader("val", base)}'
        'test_dataloader = val_dataloader\n'
        "val_evaluator = dict(_delete_=True, type='Accuracy', topk=(1,))\n"
        'test_evaluator = val_evaluator\n'
    )


def _loader(split: str, base: Config) -> str:
    dataset = base[f'{split}_dataloader'].dataset
    if 'pipeline' not in dataset:
        raise ValueError(
            f'--data: {split}_dataloader.dataset of the student is a {dataset.type}, which has no '
            'pipeline of its own: start from a config with a plain dataset.'
        )
    pipeline = f'_base_.{split}_dataloader.dataset.pipeline'
    if not any(step.type.startswith('LoadImage') for step in dataset.pipeline):
        # The base's dataset, CIFAR's say, has its pictures in memory.
        pipeline = f"[dict(type='LoadImageFromFile'), *{pipeline}]"
    return (
        f'{split}_dataloader = dict(\n    dataset=dict(\n        _delete_=True,\n'
        "        type='CustomDataset',\n        data_root=data_root,\n"
        f"        data_prefix='{split}',\n        pipeline={pipeline},\n    ),\n)\n"
    )


def _python(value: Any) -> str:
    if isinstance(value, Mapping):
        return f'dict({", ".join(f"{k}={_python(v)}" for k, v in value.items())})'
    return repr(value)
