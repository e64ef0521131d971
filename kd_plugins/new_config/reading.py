"""What a method reads of two networks: recorders, and what of them goes into each term."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mmengine.registry import MODELS
from torch import nn

from kd_plugins.losses.base import needed_arguments
from kd_plugins.new_config.logits import Logits, find_logits
from kd_plugins.new_config.methods import CLASSIFICATION, DETECTION, Method
from kd_plugins.wiring import Side, wire

#: What a network is that a task is for.
CLASSIFIER, DETECTOR = 'classifier', 'dense detector'
TWO_STAGE = 'two-stage detector'
_KINDS = {CLASSIFICATION: CLASSIFIER, DETECTION: DETECTOR}
_GIVEN = ('preds_S', 'preds_T', 'gt_labels')


@dataclass(frozen=True)
class Named:
    """A network, and what error messages call it.

    Args:
        name: What messages call it.
        network: The network; the search for its logits changes its running statistics.
        size: Height and width of its pictures.
        option: The option that chooses the module of its logits.
        chosen: That module; None to look for it.
    """

    name: str
    network: nn.Module
    size: tuple[int, int] = (224, 224)
    option: str = '--student-logits'
    chosen: str | None = None

    @property
    def blank(self) -> tuple[int, int] | None:
        """The size of a blank picture that shows the strides; None for that of any detector."""
        return self.size if self.kind == CLASSIFIER else None

    @property
    def kind(self) -> str:
        """What it is: ``'classifier'``, ``'dense detector'``, ``'two-stage detector'`` or none."""
        if hasattr(self.network, 'roi_head'):
            return TWO_STAGE
        if hasattr(self.network, 'bbox_head'):
            return DETECTOR
        mmpretrains = {kind.__name__ for kind in type(self.network).__mro__}
        if hasattr(self.network, 'head') or 'BaseClassifier' in mmpretrains:
            return CLASSIFIER
        return 'neither classifier nor detector'


def distiller(
    method: str,
    says: Method,
    student: Named,
    teacher: Named,
    unlabelled: bool = False,
    where: str | None = None,
) -> dict[str, Any]:
    """Return the ``distiller`` of a method between two networks.

    Args:
        method: The method's name, for error messages.
        says: What the method adds.
        student: The student.
        teacher: The teacher.
        unlabelled: Whether pictures without labels come.
        where: The part of both networks whose maps a term on maps compares, see
            :func:`kd_plugins.wiring.wire`.

    Raises:
        ValueError: If the two do not fit each other or the method; the message
            names the argument of ``tools/new_config.py``.
    """
    both = (student, teacher)
    if says.term is not None:
        left, right = (Side(one.name, one.network, one.blank) for one in both)
        return wire(left, right, says.term, where, f'--method {method}').distiller()
    if where is not None:
        raise ValueError(
            f'--where {where} chooses the maps of a term on maps, and --method {method} is none: '
            'leave it out.'
        )
    wanted = _KINDS[says.task]
    if any(one.kind != wanted for one in both):
        who = [f'{one.name} is a {type(one.network).__name__} ({one.kind})' for one in both]
        instead = ''
        if all(one.kind == TWO_STAGE for one in both):
            instead = ' For these, begin with configs/_base_/distill/dkd_rois.py.'
        raise ValueError(
            f'--method {method} is for two {wanted}s, but {" and ".join(who)}.{instead}'
        )
    needs = {name: _arguments(cfg) for name, cfg in says.distill_losses.items()}
    for name, arguments in needs.items():
        if unlabelled and 'gt_labels' in arguments:
            kind = says.distill_losses[name]['type']
            raise ValueError(
                f'--method {method} needs labels ({kind}), and the pictures of --unlabelled have '
                'none: give --method kd, or write this method without --unlabelled and see '
                'missing_label of the loss.'
            )
    if says.task == DETECTION:
        recorders = _dense_heads()
    else:
        found = logits_of(student, trains=True), logits_of(teacher, trains=False)
        recorders = _logits(student, teacher, *found)
        if any('gt_labels' in arguments for arguments in needs.values()):
            recorders[0]['labels'] = _labels(student, found[0])
    source = next(iter(recorders[1]))
    reads = dict(
        preds_S=dict(recorder=source, from_student=True),
        preds_T=dict(recorder=source, from_student=False),
        gt_labels=dict(recorder='labels', from_student=True, data_idx=1),
    )
    return dict(
        student_recorders=recorders[0],
        teacher_recorders=recorders[1],
        distill_losses=dict(says.distill_losses),
        loss_forward_mappings={
            name: {argument: reads[argument] for argument in arguments}
            for name, arguments in needs.items()
        },
    )


def _arguments(loss: Mapping[str, Any]) -> list[str]:
    """Return the arguments that a term cannot do without."""
    kind = MODELS.get(loss['type']) if isinstance(loss['type'], str) else loss['type']
    if kind is None:
        raise ValueError(f'{loss["type"]} is no registered loss: import the module that has it.')
    needed = needed_arguments(kind)
    unknown = [name for name in needed if name not in _GIVEN]
    if unknown:
        raise ValueError(
            f'{loss["type"]} needs {", ".join(unknown)}, of which this tool does not know where to '
            f'read it; it knows {", ".join(_GIVEN)}: start from a config of the method.'
        )
    return needed


def _dense_heads() -> tuple[dict[str, Any], dict[str, Any]]:
    head = dict(type='kd_plugins.DetectionHead')
    return dict(head=head), dict(head=head)


def logits_of(one: Named, trains: bool) -> Logits:
    """Find the logits of a classifier; see :func:`find_logits`."""
    return find_logits(one.network, one.size, one.name, one.option, one.chosen, trains)


def _logits(
    student: Named, teacher: Named, of_student: Logits, of_teacher: Logits
) -> tuple[dict[str, Any], dict[str, Any]]:
    if of_student.classes != of_teacher.classes:
        raise ValueError(
            f'{student.name} has {of_student.classes} classes and {teacher.name} has '
            f'{of_teacher.classes}: give a teacher that was trained on the same classes.'
        )
    recorders = [
        dict(logits=dict(type='ModuleOutputs', source=found.source))
        for found in (of_student, of_teacher)
    ]
    return recorders[0], recorders[1]


def _labels(student: Named, found: Logits) -> dict[str, Any]:
    if found.labels is None:
        raise ValueError(
            f'{student.name} has no loss module to read the labels from: use --method kd, which '
            'needs none.'
        )
    return dict(type='ModuleInputs', source=found.labels)
