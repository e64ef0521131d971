"""Recorders: what a term reads from a network during its forward pass.

They stand in ``student_recorders`` and ``teacher_recorders`` beside mmrazor's
own and hand the terms records that no longer say which network made them.
"""

from kd_plugins.recorders.batch_part import BatchPartRecorder
from kd_plugins.recorders.dense_logits import DenseLogitsRecorder
from kd_plugins.recorders.detection_head import DetectionHeadRecorder
from kd_plugins.recorders.every_checkpoint import EveryCheckpointRecorder
from kd_plugins.recorders.features import FeaturesRecorder
from kd_plugins.recorders.head_features import CrossHeadRecorder, HeadFeaturesRecorder
from kd_plugins.recorders.roi_head import RoIHeadRecorder
from kd_plugins.recorders.snapshot import SnapshotRecorder
from kd_plugins.recorders.stored import StoredRecorder
from kd_plugins.recorders.task_logits import TaskLogitsRecorder
from kd_plugins.recorders.teacher_part import TeacherPartRecorder

#: Its first name, for configs that import classes.
DenseHeadRecorder = DetectionHeadRecorder

__all__ = [
    'BatchPartRecorder',
    'CrossHeadRecorder',
    'DenseLogitsRecorder',
    'DetectionHeadRecorder',
    'EveryCheckpointRecorder',
    'FeaturesRecorder',
    'HeadFeaturesRecorder',
    'RoIHeadRecorder',
    'SnapshotRecorder',
    'StoredRecorder',
    'TaskLogitsRecorder',
    'TeacherPartRecorder',
]
