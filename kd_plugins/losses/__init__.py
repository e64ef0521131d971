"""Distillation losses: a pure function and a thin registered class a method."""

from kd_plugins.losses.anl import ANLLoss, anl_loss
from kd_plugins.losses.bckd import (
    BCKDClassificationLoss,
    BCKDLocalizationLoss,
    binary_classification_kd,
    localization_weight,
)
from kd_plugins.losses.cosine import CosineLoss, GramLoss, cosine_loss, gram_loss
from kd_plugins.losses.crosskd import (
    CrossKDCenternessLoss,
    CrossKDClassificationLoss,
    CrossKDLocalizationLoss,
    align,
)
from kd_plugins.losses.cskd import CSKDLoss, fused_target
from kd_plugins.losses.ctc import CTCLoss, nce_loss
from kd_plugins.losses.cwd import CWDLoss, cwd_loss
from kd_plugins.losses.deit import DeiTLoss, hard_loss
from kd_plugins.losses.dist_kd import DISTLoss, dist_loss
from kd_plugins.losses.dkd import DKDLoss, dkd_loss
from kd_plugins.losses.eekd import EEKDLoss, eekd_loss
from kd_plugins.losses.eml import EMLLoss, eml_loss
from kd_plugins.losses.fixmatch import FixMatchLoss, fixmatch_loss
from kd_plugins.losses.kd import KDLoss, kd_loss
from kd_plugins.losses.ld import LDLoss
from kd_plugins.losses.mgd import MGDLoss, mgd_loss
from kd_plugins.losses.mse import MSELoss, mse_loss
from kd_plugins.losses.ofa import OFALoss, ofa_loss
from kd_plugins.losses.pkd import PKDLoss, pkd_loss
from kd_plugins.losses.pkt import PKTLoss, pkt_loss
from kd_plugins.losses.recursive_mix import (
    RecursiveMixLoss,
    consistency_loss,
    pool_region,
)
from kd_plugins.losses.reviewkd import ReviewKDLoss, hcl_loss
from kd_plugins.losses.roi import RoILoss
from kd_plugins.losses.sigmoid_kd import SigmoidKDLoss, sigmoid_kd_loss
from kd_plugins.losses.sl2 import SL2Loss, sl2_loss
from kd_plugins.losses.sp import SPLoss, sp_loss
from kd_plugins.losses.srrl import SRRLLoss, srrl_loss
from kd_plugins.losses.vid import VIDLoss, vid_loss
from kd_plugins.losses.vkd import VkDLoss, vkd_loss
from kd_plugins.losses.weighted import Weighted
from kd_plugins.losses.with_temperature import WithTemperature
from kd_plugins.losses.wttm import WTTMLoss, wttm_loss
from kd_plugins.losses.zipf import ZipfLoss, vote_ranks, zipf_loss, zipf_target

#: Names that they had first, for configs that import classes.
BinaryClassificationKDLoss = BCKDClassificationLoss
IoULocalizationKDLoss = BCKDLocalizationLoss
LocalizationDistillationLoss = LDLoss

__all__ = [
    'ANLLoss',
    'BCKDClassificationLoss',
    'BCKDLocalizationLoss',
    'CSKDLoss',
    'CTCLoss',
    'CWDLoss',
    'CosineLoss',
    'CrossKDCenternessLoss',
    'CrossKDClassificationLoss',
    'CrossKDLocalizationLoss',
    'DISTLoss',
    'DKDLoss',
    'DeiTLoss',
    'EEKDLoss',
    'EMLLoss',
    'FixMatchLoss',
    'GramLoss',
    'KDLoss',
    'LDLoss',
    'MGDLoss',
    'MSELoss',
    'OFALoss',
    'PKDLoss',
    'PKTLoss',
    'RecursiveMixLoss',
    'ReviewKDLoss',
    'RoILoss',
    'SL2Loss',
    'SPLoss',
    'SRRLLoss',
    'SigmoidKDLoss',
    'VIDLoss',
    'VkDLoss',
    'WTTMLoss',
    'Weighted',
    'WithTemperature',
    'ZipfLoss',
    'align',
    'anl_loss',
    'binary_classification_kd',
    'consistency_loss',
    'cosine_loss',
    'cwd_loss',
    'dist_loss',
    'dkd_loss',
    'eekd_loss',
    'eml_loss',
    'fixmatch_loss',
    'fused_target',
    'gram_loss',
    'hard_loss',
    'hcl_loss',
    'kd_loss',
    'localization_weight',
    'mgd_loss',
    'mse_loss',
    'nce_loss',
    'ofa_loss',
    'pkd_loss',
    'pkt_loss',
    'pool_region',
    'sigmoid_kd_loss',
    'sl2_loss',
    'sp_loss',
    'srrl_loss',
    'vid_loss',
    'vkd_loss',
    'vote_ranks',
    'wttm_loss',
    'zipf_loss',
    'zipf_target',
]
