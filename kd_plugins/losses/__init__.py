"""Distillation losses: a pure function and a thin registered class a method."""

from kd_plugins.losses.cskd import CSKDLoss, fused_target
from kd_plugins.losses.deit import DeiTLoss, hard_loss
from kd_plugins.losses.dkd import DKDLoss, dkd_loss
from kd_plugins.losses.kd import KDLoss, kd_loss
from kd_plugins.losses.pkt import PKTLoss, pkt_loss
from kd_plugins.losses.sp import SPLoss, sp_loss
from kd_plugins.losses.srrl import SRRLLoss, srrl_loss
from kd_plugins.losses.vid import VIDLoss, vid_loss
from kd_plugins.losses.weighted import Weighted
from kd_plugins.losses.with_temperature import WithTemperature

__all__ = [
    'CSKDLoss',
    'DKDLoss',
    'DeiTLoss',
    'KDLoss',
    'PKTLoss',
    'SPLoss',
    'SRRLLoss',
    'VIDLoss',
    'Weighted',
    'WithTemperature',
    'dkd_loss',
    'fused_target',
    'hard_loss',
    'kd_loss',
    'pkt_loss',
    'sp_loss',
    'srrl_loss',
    'vid_loss',
]
