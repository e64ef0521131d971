"""Temperatures: parts that a loss asks for its ``tau``; CTKD's learn theirs."""

from kd_plugins.temperatures.base import FixedTemperature, Temperature, as_temperature
from kd_plugins.temperatures.global_temperature import GlobalTemperature
from kd_plugins.temperatures.gradient_reversal import scale_gradient
from kd_plugins.temperatures.instance_temperature import InstanceTemperature
from kd_plugins.temperatures.learned import LearnedTemperature

__all__ = [
    'FixedTemperature',
    'GlobalTemperature',
    'InstanceTemperature',
    'LearnedTemperature',
    'Temperature',
    'as_temperature',
    'scale_gradient',
]
