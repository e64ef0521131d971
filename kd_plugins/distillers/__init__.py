"""Pairing of recorded outputs, on mmrazor's ``ConfigurableDistiller``."""

from kd_plugins.distillers.auto import AutoDistiller, wires_itself
from kd_plugins.distillers.building import (
    ask_teacher,
    build_distiller,
    check_forward,
    check_graphs,
    check_records,
    check_student_loss,
    compute_losses,
    ends_with_features,
    features_suffice,
    mappings_without_labels,
    reset_records,
)

__all__ = [
    'AutoDistiller',
    'ask_teacher',
    'build_distiller',
    'check_forward',
    'check_graphs',
    'check_records',
    'check_student_loss',
    'compute_losses',
    'ends_with_features',
    'features_suffice',
    'mappings_without_labels',
    'reset_records',
    'wires_itself',
]
