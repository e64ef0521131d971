"""Teachers that teach nothing."""

import logging
from types import SimpleNamespace

import pytest
import torch
from helpers import algorithm_cfg, save_teacher
from helpers.tiny_training import config
from mmengine.runner import Runner
from torch import nn

from kd_plugins.hooks.teacher_look import labels_of, teacher_complaint, warn_once
from kd_plugins.teachers import NetworkTeacher
from kd_plugins.teachers.input import TeacherInput


@pytest.fixture
def warnings_of(monkeypatch):
    said = []
    monkeypatch.setattr(logging.Logger, 'warning', lambda self, text, *a, **k: said.append(text))
    return said


def logits(right, size=32, classes=10, seed=0):
    """A teacher that is right on so many of the pictures."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (size,), generator=generator)
    answers = torch.where(torch.arange(size) < right, labels, (labels + 1) % classes)
    return torch.randn(size, classes, generator=generator) + 20 * torch.eye(classes)[
        answers
    ], labels


@pytest.mark.parametrize(
    ('right', 'size', 'classes', 'complains'),
    [
        (3, 32, 10, True),
        (8, 32, 10, True),  # 3.2 expected, 1.7 deviation
        (9, 32, 10, False),
        (30, 32, 10, False),
        (0, 32, 1000, True),
        (1, 32, 1000, False),
        (16, 32, 2, True),
        (31, 32, 2, False),
        (0, 2, 2, False),  # too few to tell
    ],
)
def test_chance_is_three_deviations_wide(right, size, classes, complains):
    preds, labels = logits(right, size, classes)
    said = teacher_complaint(preds, labels)
    assert (said is not None) is complains
    if complains:
        assert f'right on {right} of the {size} pictures' in said and 'teacher_ckpt' in said
    assert teacher_complaint(preds, None) is None


def test_the_next_batch_alone_is_looked_at_with_its_classes():
    preds, labels = logits(0)
    network, said = nn.Linear(1, 1), []
    network.forward = lambda inputs, data_samples=None, mode='tensor': inputs
    teacher = NetworkTeacher(network, TeacherInput(nn.Identity(), None), nn.Identity())
    warn_once(teacher, SimpleNamespace(warning=said.append))
    teacher.look(preds, labels)
    teacher.look(preds, labels)
    assert len(said) == 1 and 'right on 0 of the 32 pictures' in said[0]


def test_constant_logits_are_named():
    row = torch.randn(1, 10, generator=torch.Generator().manual_seed(0))
    assert 'the same logits' in teacher_complaint(row.repeat(8, 1), None)
    assert 'the same logits' in teacher_complaint(torch.zeros(8, 10), None)
    row = row.repeat(8, 1)
    row[3, 2] += 0.01
    assert teacher_complaint(row, None) is None


def test_the_first_batch_is_looked_at_and_no_other(tmp_path, warnings_of):
    teacher = save_teacher(tmp_path / 'teacher.pth')
    weights = teacher.state_dict()
    torch.save(
        dict(state_dict={k: torch.zeros_like(v) for k, v in weights.items()}),
        tmp_path / 'constant.pth',
    )
    model = algorithm_cfg(allow_random_teacher=False, teacher_ckpt=str(tmp_path / 'constant.pth'))
    cfg = config(tmp_path / 'work', 2, model=model)
    cfg.default_hooks.guard = dict(type='kd_plugins.DistillationGuardHook')
    runner = Runner.from_cfg(cfg)
    runner.train()
    assert sum('the same logits' in text for text in warnings_of) == 1
    assert runner.model.teacher._watchers == []


def test_labels_are_found_in_samples_of_upstream():
    from mmpretrain.structures import DataSample

    samples = [DataSample().set_gt_label(label) for label in (3, 1)]
    assert labels_of(samples).tolist() == [3, 1]
    assert labels_of([DataSample()]) is None and labels_of(None) is None and labels_of([]) is None
    several = [DataSample().set_gt_label([1, 2])]
    assert labels_of(several) is None
