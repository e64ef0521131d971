"""Pairing of recorded outputs, on mmrazor's ``ConfigurableDistiller``."""

from kd_plugins.distillers.building import (
    ask_teacher,
    build_distiller,
    check_graphs,
    check_records,
    check_student_loss,
    compute_losses,
    features_suffice,
    mappings_without_labels,
    reset_records,
)

__all__ = [
    'ask_teacher',
    'build_distiller',
    'check_graphs',
    'check_records',
    'check_student_loss',
    'compute_losses',
    'features_suffice',
    'mappings_without_labels',
    'reset_records',
]
