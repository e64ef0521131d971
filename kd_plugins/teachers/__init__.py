"""Teachers: who is asked."""

from kd_plugins.teachers.base import Teacher
from kd_plugins.teachers.building import build_teacher
from kd_plugins.teachers.measuring import AsTaught, measure_teacher, teacher_of
from kd_plugins.teachers.network import NetworkTeacher

__all__ = [
    'AsTaught',
    'NetworkTeacher',
    'Teacher',
    'build_teacher',
    'measure_teacher',
    'teacher_of',
]
