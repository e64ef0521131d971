"""Datasets: real data that needs no download; pictures without labels; packing and sampling."""

from kd_plugins.datasets.contrast import PackContrastInputs
from kd_plugins.datasets.digits import Digits
from kd_plugins.datasets.dmkd import GeneratedPictures
from kd_plugins.datasets.picture_folder import PictureFolder
from kd_plugins.datasets.pictures import LoadImageFromFile
from kd_plugins.datasets.svhn_stl10 import STL10, SVHN
from kd_plugins.datasets.unlabelled import MultiSourceSampler, WithUnlabelled
from kd_plugins.datasets.views import StrongView

__all__ = [
    'STL10',
    'SVHN',
    'Digits',
    'GeneratedPictures',
    'LoadImageFromFile',
    'MultiSourceSampler',
    'PackContrastInputs',
    'PictureFolder',
    'StrongView',
    'WithUnlabelled',
]
