"""Distillation losses: a pure function and a thin registered class a method."""

from kd_plugins.losses.dkd import DKDLoss, dkd_loss
from kd_plugins.losses.kd import KDLoss, kd_loss

__all__ = ['DKDLoss', 'KDLoss', 'dkd_loss', 'kd_loss']
