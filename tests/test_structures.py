import dataclasses

import pytest
import torch
from mmengine.logging import MessageHub

from kd_plugins.structures import HeadOutputs, Progress


def test_progress_cannot_be_changed():
    progress = Progress(1, 10, 0, 2)
    with pytest.raises(dataclasses.FrozenInstanceError):
        progress.iter = 2


def test_records_of_heads_cannot_be_changed_and_decode_once():
    calls = []
    record = HeadOutputs('GFLHead', (1,), torch.zeros(1, 1, 2), lambda: calls.append(1) or 7)
    with pytest.raises(dataclasses.FrozenInstanceError):
        record.cls_logits = None
    assert not calls and record.boxes == 7 and record.boxes == 7 and calls == [1]


def test_no_progress_outside_of_a_training():
    assert Progress.from_message_hub(MessageHub.get_current_instance()) is None


def test_one_epoch_has_no_epochs_to_schedule():
    assert not Progress(0, 10, 0, 1).has_epochs
    assert Progress(0, 10, 0, 2).has_epochs
