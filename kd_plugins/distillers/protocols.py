"""Whether the classes of a classifier exclude each other, and whether a term thinks so, too."""

from __future__ import annotations

from typing import Any

from torch import nn

from kd_plugins.losses.base import LogitsLoss

#: mmrazor's terms that give classes, the second dimension, a softmax.
_MMRAZORS = ('KLDivergence', 'DKDLoss', 'DISTLoss', 'WSLD', 'KDSoftCELoss')


def protocol_of(network: nn.Module | None, recorder: Any = None) -> str | None:
    """Return ``'softmax'`` or ``'sigmoid'``, what a classifier's head makes of its logits.

    None where it cannot be told: single-label recipes that train by binary
    cross-entropy predict by softmax, and users distil them either way.

    Args:
        network: The classifier.
        recorder: What records them, which tells one head of several tasks from another.
    """
    head = _head_of(network, recorder)
    names = {kind.__name__ for kind in type(head).__mro__}
    if 'MultiLabelClsHead' in names:
        return 'sigmoid'
    loss = getattr(head, 'loss_module', None)
    # Label smoothing has a cross-entropy inside.
    loss = getattr(loss, 'ce', loss)
    if 'ClsHead' in names and getattr(loss, 'use_sigmoid', True) is False:
        return 'softmax'
    return None


def _head_of(network: nn.Module | None, recorder: Any) -> Any:
    """Return the head that gives what is recorded; of several tasks, that of the one."""
    path = str(getattr(recorder, 'source', '')).split('.')
    path += ['task_heads', recorder.task] if hasattr(recorder, 'task') else []
    if network is None or 'task_heads' not in path:
        return getattr(network, 'head', None)
    last = len(path) - path[::-1].index('task_heads')
    return dict(network.named_modules()).get('.'.join(path[: last + 1]))


def _protocol_wanted(loss: nn.Module, recorder: Any) -> str | None:
    """Return what a term takes logits for; None where it says nothing, or reads none."""
    if isinstance(loss, LogitsLoss):
        return loss.protocol
    # On maps these terms compare channels.
    of_head = str(getattr(recorder, 'source', '')).split('.')[0] == 'head'
    kind = type(loss)
    razors = kind.__name__ in _MMRAZORS and kind.__module__.startswith('mmrazor.')
    return 'softmax' if razors and of_head else None


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
        # A term on RoIs, or with a temperature or weight, holds the loss that gets the logits.
        loss = term
        while isinstance(getattr(loss, 'loss', None), nn.Module):
            loss = loss.loss
        for record in distiller.loss_forward_mappings[name].values():
            side = 'student' if record['from_student'] else 'teacher'
            network = student if record['from_student'] else teacher
            recorder = getattr(distiller, f'{side}_recorders').get_recorder(record['recorder'])
            wanted = _protocol_wanted(loss, recorder)
            head = _head_of(network, recorder)
            found = protocol_of(network, recorder)
            if hasattr(recorder, 'protocol'):
                head, found = getattr(network, 'roi_head', None), recorder.protocol
            if None not in (wanted, found) and wanted != found and 'connector' not in record:
                one = 'excludes the others' if found == 'softmax' else 'may stand beside others'
                use = 'kd_plugins.KDLoss' if found == 'softmax' else 'kd_plugins.SigmoidKDLoss'
                raise ValueError(
                    f'{key}.distill_losses.{name}={type(loss).__name__} is for logits of a '
                    f'{wanted}, and a class of the {side} ({type(head).__name__}) {one}: '
                    f'use {use}.'
                )
