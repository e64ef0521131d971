"""Networks of the papers' benchmarks that mmpretrain lacks, as its backbones and heads.

Their parameters carry the names of the published networks wherever those are
good names, so that published checkpoints load (see
:mod:`kd_plugins.files.published`). ResNet-18 and ResNet-50 for 32 x 32
pixels are mmpretrain's own ``ResNet_CIFAR`` with ``zero_init_residual=False``.
"""

from kd_plugins.models.cifar_mobilenet_v2 import CIFARMobileNetV2
from kd_plugins.models.cifar_preact_resnet import CIFARPreActResNet
from kd_plugins.models.cifar_pyramid_net import CIFARPyramidNet
from kd_plugins.models.cifar_resnet import CIFARResNet
from kd_plugins.models.cifar_resnext import CIFARResNeXt
from kd_plugins.models.cifar_shufflenet_v1 import CIFARShuffleNetV1
from kd_plugins.models.cifar_shufflenet_v2 import CIFARShuffleNetV2
from kd_plugins.models.cifar_vgg import CIFARVGG
from kd_plugins.models.cifar_wide_resnet import CIFARWideResNet
from kd_plugins.models.data_preprocessor import ClsDataPreprocessor
from kd_plugins.models.distilled_vit_head import DistilledViTHead
from kd_plugins.models.fixmatch_wide_resnet import FixMatchWideResNet
from kd_plugins.models.foundation import HuggingFaceFeatures, TimmFeatures
from kd_plugins.models.mobilenet_v1 import MobileNetV1
from kd_plugins.models.tiny_imagenet_mobilenet_v2 import TinyImageNetMobileNetV2

__all__ = [
    'CIFARMobileNetV2',
    'CIFARPreActResNet',
    'CIFARPyramidNet',
    'CIFARResNet',
    'CIFARResNeXt',
    'CIFARShuffleNetV1',
    'CIFARShuffleNetV2',
    'CIFARVGG',
    'CIFARWideResNet',
    'ClsDataPreprocessor',
    'DistilledViTHead',
    'FixMatchWideResNet',
    'HuggingFaceFeatures',
    'MobileNetV1',
    'TimmFeatures',
    'TinyImageNetMobileNetV2',
]
