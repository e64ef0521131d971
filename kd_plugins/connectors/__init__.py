"""Connectors: what learns between student and teacher, train-time only.

They stand in a distiller's ``connectors``, beside mmrazor's own, and change what a
recorder has recorded before a term gets it. Their weights are ``distiller.connectors.*``
in a checkpoint, never the student's.

A connector that knows before the first step what it takes and gives has a method
``check_spec(key, spec)``: it gets the ``spec`` of the recorder, a
:class:`kd_plugins.structures.FeaturesSpec` for instance, refuses what it cannot take and
returns what it will give, which the term's own ``check_specs`` then gets.

What is to pass some frozen layers of the teacher behind a connector is asked of the teacher:
see :class:`kd_plugins.recorders.TeacherPartRecorder`.

What a module of this folder names in its ``__all__`` can be imported from here.
"""

from kd_plugins.registry import gather

__all__ = gather(__name__)
