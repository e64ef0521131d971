"""Distillation losses: a pure function and a thin registered class a method."""

from kd_plugins.losses.bckd import (
    BCKDClassificationLoss,
    BCKDLocalizationLoss,
    binary_classification_kd,
    localization_weight,
)
from kd_plugins.losses.cskd import CSKDLoss, fused_target
from kd_plugins.losses.deit import DeiTLoss, hard_loss
from kd_plugins.losses.dkd import DKDLoss, dkd_loss
from kd_plugins.losses.kd import KDLoss, kd_loss
from kd_plugins.losses.ld import LDLoss
from kd_plugins.losses.pkt import PKTLoss, pkt_loss
from kd_plugins.losses.reviewkd import ReviewKDLoss, hcl_loss
from kd_plugins.losses.roi import RoILoss
from kd_plugins.losses.sp import SPLoss, sp_loss
from kd_plugins.losses.srrl import SRRLLoss, srrl_loss
from kd_plugins.losses.vid import VIDLoss, vid_loss
from kd_plugins.losses.weighted import Weighted
from kd_plugins.losses.with_temperature import WithTemperature

#: Names that they had first, for configs that import classes.
BinaryClassificationKDLoss = BCKDClassificationLoss
IoULocalizationKDLoss = BCKDLocalizationLoss
LocalizationDistillationLoss = LDLoss

__all__ = [
    'BCKDClassificationLoss',
    'BCKDLocalizationLoss',
    'CSKDLoss',
    'DKDLoss',
    'DeiTLoss',
    'KDLoss',
    'LDLoss',
    'PKTLoss',
    'ReviewKDLoss',
    'RoILoss',
    'SPLoss',
    'SRRLLoss',
    'VIDLoss',
    'Weighted',
    'WithTemperature',
    'binary_classification_kd',
    'dkd_loss',
    'fused_target',
    'hard_loss',
    'hcl_loss',
    'kd_loss',
    'localization_weight',
    'pkt_loss',
    'sp_loss',
    'srrl_loss',
    'vid_loss',
]
