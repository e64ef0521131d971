"""What a training would do, found out by doing its first steps."""

from kd_plugins.inspect.check.probe import check
from kd_plugins.inspect.check.report import Finding, Report

__all__ = ['Finding', 'Report', 'check']

preflight = check  # its former name
