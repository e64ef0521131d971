"""Pairing of recorded outputs, on mmrazor's ``ConfigurableDistiller``."""

from kd_plugins.distillers.building import build_distiller, check_records, reset_records

__all__ = ['build_distiller', 'check_records', 'reset_records']
