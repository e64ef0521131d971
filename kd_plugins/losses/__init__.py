"""Distillation losses: a pure function and a thin registered class a method."""

from kd_plugins.losses.dkd import DKDLoss, dkd_loss
from kd_plugins.losses.kd import KDLoss, kd_loss
from kd_plugins.losses.with_temperature import WithTemperature

__all__ = ['DKDLoss', 'KDLoss', 'WithTemperature', 'dkd_loss', 'kd_loss']
