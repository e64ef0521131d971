"""The version of kd_plugins, in the one place that setup.py reads too."""

__version__ = '0.1.0'
