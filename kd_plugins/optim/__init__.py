"""DOT: distillation-oriented training, an optimizer and its wrapper."""

from kd_plugins.optim.dot_sgd import DOTSGD
from kd_plugins.optim.dot_wrapper import DOTOptimWrapper

__all__ = ['DOTSGD', 'DOTOptimWrapper']
