"""Teachers: who is asked."""

from kd_plugins.teachers.base import Teacher
from kd_plugins.teachers.building import build_teacher
from kd_plugins.teachers.checkpoints import CheckpointTeacher, CheckpointTree, joint_logits
from kd_plugins.teachers.measuring import AsTaught, measure_teacher, predicts, teacher_of
from kd_plugins.teachers.network import NetworkTeacher
from kd_plugins.teachers.snapshot import SnapshotTeacher
from kd_plugins.teachers.stored import StoredTeacher, store_teacher

__all__ = [
    'AsTaught',
    'CheckpointTeacher',
    'CheckpointTree',
    'NetworkTeacher',
    'SnapshotTeacher',
    'StoredTeacher',
    'Teacher',
    'build_teacher',
    'joint_logits',
    'measure_teacher',
    'predicts',
    'store_teacher',
    'teacher_of',
]
