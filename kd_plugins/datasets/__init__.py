"""Datasets: real data that needs no download; packing for contrastive losses."""

from kd_plugins.datasets.contrast import PackContrastInputs
from kd_plugins.datasets.digits import Digits

__all__ = ['Digits', 'PackContrastInputs']
