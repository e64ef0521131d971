"""The terms on maps, with the settings that were published for each kind of network."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mmengine.registry import MODELS
from torch import nn

from kd_plugins import checks
from kd_plugins.losses.base import needed_arguments
from kd_plugins.losses.maps import MapsLoss
from kd_plugins.registry import name_of

#: What can be wired.
ARGUMENTS = {'preds_S', 'preds_T', 'head_T'}


@dataclass(frozen=True)
class Term:
    """A term on maps.

    Args:
        type: The registered loss.
        settings: Of all kinds of networks, as published.
        two_stage, classifier: What is published otherwise for these.
        first_of_five: Whether only the first four of five levels take part, of any detector
            (True), of two-stage ones, whose fifth is every second position of the fourth
            (``'two-stage'``), or of none.
        norm: Whether a norm follows a projector; a term that standardises needs none.
    """

    type: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    two_stage: Mapping[str, Any] = field(default_factory=dict)
    classifier: Mapping[str, Any] = field(default_factory=dict)
    first_of_five: bool | str = False
    norm: bool = True


#: By the name of the method; sources are in each loss.
TERMS = {
    'cwd': Term('kd_plugins.CWDLoss', dict(tau=1.0, loss_weight=10.0)),
    'pkd': Term(
        'kd_plugins.PKDLoss',
        dict(loss_weight=10.0),
        two_stage=dict(loss_weight=6.0),
        first_of_five=True,
        norm=False,
    ),
    'mgd': Term(
        'kd_plugins.MGDLoss',
        dict(loss_weight=2e-5, mask_ratio=0.65),
        two_stage=dict(loss_weight=5e-7, mask_ratio=0.45),
        classifier=dict(loss_weight=7e-5, mask_ratio=0.15, mask_on='channels'),
        first_of_five='two-stage',
    ),
    'sl2': Term('kd_plugins.SL2Loss', dict(loss_weight=6.0)),
    'cosine': Term(
        'kd_plugins.CosineLoss',
        dict(loss_weight=5.0),
        classifier=dict(loss_weight=1.0),
        norm=False,
    ),
    'mse': Term('kd_plugins.MSELoss', dict(loss_weight=1.0)),
}


def resolve_term(
    term: str | Mapping[str, Any], student: nn.Module, key: str
) -> tuple[Term, dict[str, Any]]:
    """Return a term and the config of its loss.

    Args:
        term: A name of :data:`TERMS`, or the config of a loss on maps.
        student: The student, whose kind chooses the settings of a name.
        key: What the user calls the setting.

    Raises:
        ValueError: If it is neither, or wants something that cannot be wired, such as labels.
    """
    if isinstance(term, str):
        named = TERMS[checks.one_of(key, term, TERMS, 'or the config of a loss on maps')]
        more: Mapping[str, Any] = {}
        if hasattr(student, 'roi_head'):
            more = named.two_stage
        elif not hasattr(student, 'bbox_head') and hasattr(student, 'head'):
            more = named.classifier
        return named, dict(type=named.type, **{**named.settings, **more})
    if not isinstance(term, Mapping) or 'type' not in term:
        raise checks.refuse(key, term, f'{" or ".join(map(repr, TERMS))}, or a config of a loss')
    cfg = dict(term)
    kind = class_of(cfg)
    if kind is None:
        raise ValueError(f'{key}.type={cfg["type"]!r} is no registered loss.')
    unknown = [name for name in needed_arguments(kind) if name not in ARGUMENTS]
    if unknown or not issubclass(kind, MapsLoss):
        wants = f' wants {", ".join(unknown)}' if unknown else ' is no loss on maps'
        raise ValueError(
            f'{key}={name_of(cfg["type"])}{wants}, and maps of the student and the teacher are all '
            f'that is wired: take {", ".join(TERMS)}, or write recorders for it.'
        )
    settings = inspect.signature(kind).parameters
    for name in cfg:
        if name not in settings and name not in ('type', '_scope_'):
            raise ValueError(
                f'{key}.{name}={cfg[name]!r} is no setting of {kind.__name__}: it has '
                f'{", ".join(settings)}.'
            )
    known = next((t for t in TERMS.values() if name_of(t.type) == kind.__name__), Term(''))
    # What is given counts, also which levels.
    return Term(known.type, norm=known.norm), cfg


def class_of(loss: Mapping[str, Any]) -> Any:
    """Return the class of a loss's config; None if it is not registered."""
    return MODELS.get(loss['type']) if isinstance(loss['type'], str) else loss['type']
