"""Weights that parts of a student begin with, as reports of users have them."""

import pytest
import torch
from helpers.detection import detector
from mmengine.registry import MODELS, init_default_scope

from kd_plugins.inspect.check.findings import examine_parts
from kd_plugins.inspect.check.report import Report


def begun(tmp_path, width, **changes):
    """The findings about a detector whose neck and head begin as another one's.

    As in mmrazor's issue 619, with the neck of YOLOv5-x for that of YOLOv5-s.
    """
    init_default_scope('mmdet')
    wide = detector('GFL')
    wide['neck']['out_channels'] = wide['bbox_head']['in_channels'] = width
    path = str(tmp_path / 'wide.pth')
    torch.save(dict(state_dict=MODELS.build(wide).state_dict()), path)
    narrow = detector('GFL')
    narrow['neck']['init_cfg'] = dict(
        dict(type='Pretrained', prefix='neck.', checkpoint=path), **changes
    )
    student = MODELS.build(narrow)
    student.init_weights()
    report = Report('x')
    examine_parts(report, student)
    return report.findings


def test_a_neck_of_another_width_is_no_beginning(tmp_path):
    (finding,) = begun(tmp_path, 32)
    assert finding.level == 'error'
    assert finding.what.startswith('neck.init_cfg.checkpoint=')
    assert 'holds 0 of the 16 tensors of that part' in finding.what


def test_a_neck_of_the_same_shapes_is_one(tmp_path):
    assert begun(tmp_path, 16) == []


@pytest.mark.parametrize('prefix', ['neck', 'backbone.'])
def test_the_prefix_says_which_part_of_the_file_it_is(tmp_path, prefix):
    findings = begun(tmp_path, 16, **dict(prefix=prefix))
    assert (findings == []) == (prefix == 'neck')
