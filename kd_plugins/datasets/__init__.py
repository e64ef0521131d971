"""Datasets: real data that needs no download; pictures without labels; packing and sampling."""

from kd_plugins.datasets.contrast import PackContrastInputs
from kd_plugins.datasets.digits import Digits
from kd_plugins.datasets.dmkd import GeneratedPictures
from kd_plugins.datasets.pictures import LoadImageFromFile
from kd_plugins.datasets.unlabelled import MultiSourceSampler, WithUnlabelled

__all__ = [
    'Digits',
    'GeneratedPictures',
    'LoadImageFromFile',
    'MultiSourceSampler',
    'PackContrastInputs',
    'WithUnlabelled',
]
