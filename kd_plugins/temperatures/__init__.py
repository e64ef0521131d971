"""Temperatures: parts that a distillation loss asks for its ``tau``."""

from kd_plugins.temperatures.base import FixedTemperature, Temperature, as_temperature

__all__ = ['FixedTemperature', 'Temperature', 'as_temperature']
