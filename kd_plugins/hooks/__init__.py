"""Hooks, and functions that data loaders run in their workers."""

from kd_plugins.hooks.curriculum_temperature import CurriculumTemperatureHook
from kd_plugins.hooks.seeding import SeedByProgressHook, seed_worker

__all__ = ['CurriculumTemperatureHook', 'SeedByProgressHook', 'seed_worker']
