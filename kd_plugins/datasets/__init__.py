"""Datasets: real data that needs no download."""

from kd_plugins.datasets.digits import Digits

__all__ = ['Digits']
