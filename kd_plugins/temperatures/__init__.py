"""Temperatures: parts that a loss asks for its ``tau``: fixed, CTKD's learned, LSKD's."""

from kd_plugins.temperatures.base import FixedTemperature, Temperature, as_temperature
from kd_plugins.temperatures.global_temperature import GlobalTemperature
from kd_plugins.temperatures.gradient_reversal import scale_gradient
from kd_plugins.temperatures.instance_temperature import InstanceTemperature
from kd_plugins.temperatures.learned import LearnedTemperature
from kd_plugins.temperatures.lskd import LSKDTemperature, standardized

__all__ = [
    'FixedTemperature',
    'GlobalTemperature',
    'InstanceTemperature',
    'LSKDTemperature',
    'LearnedTemperature',
    'Temperature',
    'as_temperature',
    'scale_gradient',
    'standardized',
]
