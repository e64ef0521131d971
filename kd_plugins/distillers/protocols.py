"""Whether the classes of a classifier exclude each other, and whether a term thinks so, too."""

from __future__ import annotations

from typing import Any

from torch import nn

from kd_plugins.losses.base import LogitsLoss


def protocol_of(network: nn.Module | None) -> str | None:
    """Return ``'softmax'`` or ``'sigmoid'``, what a classifier's head makes of its logits.

    None where it cannot be told: single-label recipes that train by binary
    cross-entropy predict by softmax, and users distil them either way.
    """
    head = getattr(network, 'head', None)
    names = {kind.__name__ for kind in type(head).__mro__}
    if 'MultiLabelClsHead' in names:
        return 'sigmoid'
    loss = getattr(head, 'loss_module', None)
    if 'ClsHead' in names and getattr(loss, 'use_sigmoid', True) is False:
        return 'softmax'
    return None


def check_protocols(
    distiller: Any, student: nn.Module, teacher: nn.Module | None, key: str
) -> None:
    """Refuse terms on logits whose classes share a softmax where the head's have sigmoids, or so.

    Args:
        distiller: The distiller, built.
        student: The student.
        teacher: The teacher's network.
        key: The config key of the distiller.

    Raises:
        ValueError: Naming the term, the network and what to use.
    """
    for name, loss in distiller.distill_losses.items():
        if not isinstance(loss, LogitsLoss):
            continue
        for record in distiller.loss_forward_mappings[name].values():
            network = student if record['from_student'] else teacher
            found = protocol_of(network)
            if found not in (None, loss.protocol) and 'connector' not in record:
                side = 'student' if record['from_student'] else 'teacher'
                one = 'excludes the others' if found == 'softmax' else 'may stand beside others'
                use = 'kd_plugins.KDLoss' if found == 'softmax' else 'kd_plugins.SigmoidKDLoss'
                raise ValueError(
                    f'{key}.distill_losses.{name}={type(loss).__name__} is for logits of a '
                    f'{loss.protocol}, and a class of the {side} '
                    f'({type(network.head).__name__}) {one}: use {use}.'  # type: ignore[union-attr]
                )
