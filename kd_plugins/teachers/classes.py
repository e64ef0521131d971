"""Which classes a teacher knows, and bringing them into the student's order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from kd_plugins import checks
from kd_plugins.networks import classes_of, classifier

#: Layers of detection heads with a row for each class, by the names that mmdet gives them.
_CLASS_LAYERS = (
    'retina_cls', 'atss_cls', 'gfl_cls', 'conv_cls', 'rtm_cls', 'tood_cls', 'vfnet_cls',
    'multi_level_conv_cls', 'cls_branches', 'fc_cls', 'conv_logits', 'fc_mask_iou',
)  # fmt: skip
#: Heads that know the number of classes, and have no layer for it that answers.
_WITHOUT = ('YOLACTProtonet', 'GlobalContextHead')
KEY = 'model.teacher_class_map'


def classes_in(checkpoint: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Return the names of the classes that a checkpoint was trained on; None if it says none."""
    meta = checkpoint.get('meta') if isinstance(checkpoint, Mapping) else None
    if not isinstance(meta, Mapping):
        return None
    named = dict(meta.get('dataset_meta') or {})
    # mmdet 2 and mmcls wrote them there.
    found = named.get('classes') or named.get('CLASSES') or meta.get('CLASSES')
    names = isinstance(found, (list, tuple)) and all(isinstance(name, str) for name in found)
    return tuple(found) if names else None  # type: ignore[arg-type]


def difference(
    teacher: Sequence[str] | None,
    student: Sequence[Any] | None,
    class_map: Sequence[int | str] | None = None,
) -> str | None:
    """Say how two lists of class names contradict each other; None if they do not.

    They do where a class of the student is another one of the teacher's, and
    where most names differ. A few renamed classes do not matter, nor does case.
    Who gives a ``teacher_class_map`` says that a name may be another one, and who
    gives indices there, which class is meant, whatever its name.

    Args:
        teacher: The teacher's, after the ``teacher_class_map``.
        student: The training set's.
        class_map: The ``teacher_class_map``, if there is one.
    """
    if teacher is None or student is None or len(teacher) != len(student):
        return None  # numbers are compared elsewhere
    known, wanted = ([str(name).lower() for name in names] for names in (teacher, student))
    renamed = [i for i, (a, b) in enumerate(zip(known, wanted, strict=True)) if a != b]
    if class_map is not None:
        renamed = [i for i in renamed if isinstance(class_map[i], str)]
    moved = [i for i in renamed if known.count(wanted[i]) == 1]
    if not moved and (class_map is not None or 2 * len(renamed) <= len(student)):
        return None
    first = (moved or renamed)[0]
    said = f'class {first} is {student[first]!r} in the data and {teacher[first]!r} of the teacher'
    return said + (f', whose class {known.index(wanted[first])} it is' if moved else '')


def choose(
    class_map: Sequence[int | str], network: nn.Module, names: Sequence[str] | None
) -> list[int]:
    """Return the indices that a ``teacher_class_map`` names.

    Raises:
        ValueError: If it names a class that the teacher has not, or has twice.
    """
    count = classes_of(network)
    if not isinstance(class_map, (list, tuple)) or not class_map:
        raise ValueError(
            f'{KEY}={class_map!r} needs a list: for every class of the student, in its order, the '
            "teacher's class, by its name or its index."
        )
    if count is None:
        raise ValueError(f'{KEY}: how many classes {type(network).__name__} has cannot be told.')
    index = []
    for i, entry in enumerate(class_map):
        if isinstance(entry, str):
            found = [] if names is None else [k for k, n in enumerate(names) if n == entry]
            if len(found) != 1:
                why = (
                    "the teacher's checkpoint names no classes: give indices"
                    if names is None
                    else f"the teacher's classes have it {len(found)} times: they are {[*names]}"
                )
                raise ValueError(f'{KEY}[{i}]={entry!r} cannot be found, {why}.')
            index += found
        elif checks.is_number(entry) and int(entry) == entry and 0 <= entry < count:
            index.append(int(entry))
        else:
            raise ValueError(
                f'{KEY}[{i}]={entry!r} is no class of the teacher: give a name, or an index from 0 '
                f'to {count - 1}.'
            )
    return index


@torch.no_grad()
def keep_classes(network: nn.Module, index: Sequence[int]) -> None:
    """Let a network tell these of its classes apart, in this order.

    Rows of its last layers are chosen, so that whatever reads the network, its
    own predictions included, sees the classes so. Background stays as it is.

    Raises:
        ValueError: If its layers cannot be found.
    """
    count, seen = classes_of(network), False
    assert count is not None
    heads = [(head, [*_layers(head, count)]) for head in _heads(network, count)]
    for head, layers in heads:
        agnostic = getattr(head, 'class_agnostic', False) or type(head).__name__ in _WITHOUT
        if not layers and not agnostic:
            raise ValueError(
                f'{KEY} cannot choose classes of {type(network).__name__}: the layers of its '
                f'{type(head).__name__} with a row for each class are not known. Give a teacher of '
                'the same classes in this order.'
            )
    for head, layers in heads:
        for layer, columns, per in layers:
            _choose_rows(layer, count, columns, per, index)
            seen = True
        for name in ('num_classes', 'cls_out_channels'):
            value = getattr(head, name, None)
            if isinstance(value, int):
                setattr(head, name, value - count + len(index))
    if not seen and getattr(network, 'head', None) is not None:
        layer = network.get_submodule(classifier(network, f'the teacher of {KEY}').name)
        _choose_rows(layer, count, count, 1, index)
        network.head.num_classes = len(index)  # type: ignore[union-attr]
        seen = True
    if not seen:
        raise ValueError(
            f'{KEY} cannot choose classes of {type(network).__name__}: its class layers are none '
            f'of {", ".join(_CLASS_LAYERS)}. Give a teacher of the same classes in this order.'
        )


def _heads(network: nn.Module, count: int) -> Iterator[nn.Module]:
    """Yield the heads of a detector that tell these classes apart, each once."""
    for owner in (network, getattr(network, 'roi_head', None)):
        for name, child in owner.named_children() if owner is not None else ():
            for head in child if isinstance(child, nn.ModuleList) else [child]:
                known = [getattr(head, key, None) for key in ('num_classes', 'num_things_classes')]
                if name.endswith('_head') and name != 'rpn_head' and count in known:
                    yield head


def _layers(head: nn.Module, count: int) -> Iterator[tuple[Any, int, int]]:
    """Yield the layers of a head with rows for its classes.

    With each, how many columns an anchor's classes have, the background's included,
    and how many rows a column has.
    """
    if getattr(getattr(head, 'loss_cls', None), 'custom_cls_channels', False):
        return
    found: dict[int, Any] = {}
    for name in _CLASS_LAYERS:
        layer = getattr(head, name, None)
        for each in layer if isinstance(layer, nn.ModuleList) else [layer]:
            if isinstance(each, nn.Module):
                found[id(each)] = each
    dense = getattr(head, 'cls_out_channels', None)
    for each in found.values():
        rows = each.weight.shape[0]
        if rows > 1 or count == 1:  # a mask head that tells no classes apart has one row
            yield each, dense if isinstance(dense, int) else rows, 1
    boxes = getattr(head, 'fc_reg', None)
    if isinstance(boxes, nn.Module) and not getattr(head, 'reg_class_agnostic', True):
        yield boxes, count, boxes.weight.shape[0] // count  # type: ignore[index, operator]


def _choose_rows(layer: Any, count: int, columns: int, per: int, index: Sequence[int]) -> None:
    """Keep the rows of some classes; anchors come before classes, background after them."""
    rows = layer.weight.shape[0]
    if columns - count not in (0, 1) or rows % (columns * per):
        raise ValueError(
            f"{KEY} cannot choose classes of a layer with {rows} rows for the teacher's {count} "
            'classes: give a teacher of the same classes in this order.'
        )
    keep = torch.tensor([*index, *range(count, columns)])
    for name in ('weight', 'bias'):
        old = getattr(layer, name, None)
        if old is not None:
            blocks = old.unflatten(0, (-1, columns, per))
            new = blocks[:, keep.to(old.device)].flatten(0, 2).clone()
            setattr(layer, name, nn.Parameter(new, requires_grad=False))
    for name in ('out_features', 'out_channels'):
        if hasattr(layer, name):
            setattr(layer, name, layer.weight.shape[0])
