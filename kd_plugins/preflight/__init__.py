"""What a training would do, found out by doing its first steps."""

from kd_plugins.preflight.probe import preflight
from kd_plugins.preflight.report import Finding, Report

__all__ = ['Finding', 'Report', 'preflight']
