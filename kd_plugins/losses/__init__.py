"""Distillation losses: a pure function and a thin registered class a method.

What a module of this folder names in its ``__all__`` can be imported from here.
"""

from kd_plugins.losses.bckd import BCKDClassificationLoss, BCKDLocalizationLoss
from kd_plugins.losses.ld import LDLoss
from kd_plugins.registry import gather

__all__ = gather(__name__)

#: Names that they had first, for configs that import classes.
BinaryClassificationKDLoss = BCKDClassificationLoss
IoULocalizationKDLoss = BCKDLocalizationLoss
LocalizationDistillationLoss = LDLoss
