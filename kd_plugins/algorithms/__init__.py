"""Algorithms: what the Runner trains."""

from kd_plugins.algorithms.averaging import ExponentialMovingAverage
from kd_plugins.algorithms.pseudo_boxes import PseudoBoxes
from kd_plugins.algorithms.single_teacher_distill import SingleTeacherDistill

__all__ = ['ExponentialMovingAverage', 'PseudoBoxes', 'SingleTeacherDistill']
