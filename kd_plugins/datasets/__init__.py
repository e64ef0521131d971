"""Datasets: real data that needs no download; packing for contrastive losses."""

from kd_plugins.datasets.contrast import PackContrastInputs
from kd_plugins.datasets.digits import Digits
from kd_plugins.datasets.pictures import LoadImageFromFile

__all__ = ['Digits', 'LoadImageFromFile', 'PackContrastInputs']
