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
    for name, term in distiller.distill_losses.items():
        # A term on RoIs holds the loss that gets the logits.
        loss = getattr(term, 'loss', term)
        if not isinstance(loss, LogitsLoss):
            continue
        for record in distiller.loss_forward_mappings[name].values():
            side = 'student' if record['from_student'] else 'teacher'
            network = student if record['from_student'] else teacher
            recorder = getattr(distiller, f'{side}_recorders').get_recorder(record['recorder'])
            head: Any = getattr(network, 'head', None)
            found = protocol_of(network)
            if hasattr(recorder, 'protocol'):
                head, found = getattr(network, 'roi_head', None), recorder.protocol
            if found not in (None, loss.protocol) and 'connector' not in record:
                one = 'excludes the others' if found == 'softmax' else 'may stand beside others'
                use = 'kd_plugins.KDLoss' if found == 'softmax' else 'kd_plugins.SigmoidKDLoss'
                raise ValueError(
                    f'{key}.distill_losses.{name}={type(loss).__name__} is for logits of a '
                    f'{loss.protocol}, and a class of the {side} ({type(head).__name__}) {one}: '
                    f'use {use}.'
                )
