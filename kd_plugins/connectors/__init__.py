"""Connectors: what learns between student and teacher, train-time only.

They stand in a distiller's ``connectors``, beside mmrazor's own, and change what a
recorder has recorded before a term gets it. Their weights are ``distiller.connectors.*``
in a checkpoint, never the student's.

A connector that knows before the first step what it takes and gives has a method
``check_spec(key, spec)``: it gets the ``spec`` of the recorder, a
:class:`kd_plugins.structures.FeaturesSpec` for instance, refuses what it cannot take and
returns what it will give, which the term's own ``check_specs`` then gets.

What is to pass some frozen layers of the teacher behind a connector is asked of the teacher:
see :class:`kd_plugins.recorders.TeacherPartRecorder`.
"""

from kd_plugins.connectors.crosskd import CrossKDConnector
from kd_plugins.connectors.maps import MapsConnector
from kd_plugins.connectors.ofa import OFAMapBranch, OFATokenBranch
from kd_plugins.connectors.pseudo_labels import (
    FlexiblePseudoLabels,
    PseudoLabels,
    class_thresholds,
    label_rank,
)
from kd_plugins.connectors.reviewkd import ReviewKDConnector

__all__ = [
    'CrossKDConnector',
    'FlexiblePseudoLabels',
    'MapsConnector',
    'OFAMapBranch',
    'OFATokenBranch',
    'PseudoLabels',
    'ReviewKDConnector',
    'class_thresholds',
    'label_rank',
]
