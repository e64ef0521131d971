"""Recorders: what a term reads from a network during its forward pass.

They stand in ``student_recorders`` and ``teacher_recorders`` beside mmrazor's
own and hand the terms records that no longer say which network made them.

What a module of this folder names in its ``__all__`` can be imported from here.
"""

from kd_plugins.recorders.detection_head import DetectionHeadRecorder
from kd_plugins.registry import gather

__all__ = gather(__name__)

#: Its first name, for configs that import classes.
DenseHeadRecorder = DetectionHeadRecorder
