"""Hooks, and functions that data loaders run in their workers."""

from kd_plugins.hooks.ctc import CTCHook
from kd_plugins.hooks.curriculum_temperature import CurriculumTemperatureHook
from kd_plugins.hooks.distillation_guard import DistillationGuardHook
from kd_plugins.hooks.distillation_log import DistillationLogHook
from kd_plugins.hooks.environment_record import EnvironmentHook
from kd_plugins.hooks.even_checkpoint import EvenCheckpointHook
from kd_plugins.hooks.gradient_cosine import GradientCosineHook
from kd_plugins.hooks.safe_checkpoint import SafeCheckpointHook
from kd_plugins.hooks.seeding import SeedByProgressHook, seed_worker

__all__ = [
    'CTCHook',
    'CurriculumTemperatureHook',
    'DistillationGuardHook',
    'DistillationLogHook',
    'EnvironmentHook',
    'EvenCheckpointHook',
    'GradientCosineHook',
    'SafeCheckpointHook',
    'SeedByProgressHook',
    'seed_worker',
]
