"""For CTC: what goes into a module of the student's snapshot, as soon as there is one."""

from __future__ import annotations

from typing import Any

from mmrazor.models.task_modules.recorder import ModuleInputsRecorder

from kd_plugins.registry import TASK_UTILS

__all__ = ['SnapshotRecorder']


@TASK_UTILS.register_module()
class SnapshotRecorder(ModuleInputsRecorder):
    """Record what goes into a module, its first argument; None where it is not called.

    In a config: ``teacher_recorders=dict(features=dict(type='kd_plugins.Snapshot',
    source='head.fc'))`` beside ``teacher='snapshot'``.

    Args:
        source: Name of the module.
    """

    def get_record_data(self, record_idx: int = 0, data_idx: int | None = None) -> Any:
        """Return the tensor, or None."""
        record = self.data_buffer[record_idx]
        return None if record is None else record[0]

    def __exit__(self, exc_type: Any, exc_value: Any, traceback: Any) -> None:
        super().__exit__(exc_type, exc_value, traceback)
        if not self.data_buffer:
            self.data_buffer.append(None)
