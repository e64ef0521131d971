"""Classifiers as ONNX compute torch's logits."""

import onnx
import onnxruntime
import pytest
import torch
from helpers import ROOT
from mmengine.config import Config

from kd_plugins.files.export_student import build_student
from kd_plugins.shipping import export_classifier

STUDENT = ROOT / 'configs/vanilla/digits_student.py'
SMALL = dict(
    type='mmpretrain.ImageClassifier',
    backbone=dict(type='mmpretrain.LeNet5', num_classes=-1),
    neck=dict(type='mmpretrain.GlobalAveragePooling'),
    head=dict(type='mmpretrain.LinearClsHead', num_classes=10, in_channels=120),
)


def preprocessor(mean):
    return dict(type='mmpretrain.ClsDataPreprocessor', mean=[mean], std=[2 * mean])


def test_onnx_says_the_normalisation_that_trained(tmp_path):
    cfg = Config(
        dict(
            model=dict(
                type='kd_plugins.SingleTeacherDistill',
                architecture=dict(SMALL, data_preprocessor=preprocessor(1.0)),
            ),
            data_preprocessor=preprocessor(2.0),
            default_scope='mmpretrain',
        )
    )
    export_classifier(build_student(cfg), tmp_path / 's.onnx', (32, 32))
    said = {p.key: p.value for p in onnx.load(tmp_path / 's.onnx').metadata_props}
    assert said == dict(mean='2', std='4')


def onnx_outputs(path, images):
    session = onnxruntime.InferenceSession(str(path), providers=['CPUExecutionProvider'])
    return session.run(None, dict(images=images.numpy()))[0]


def test_onnx_computes_the_logits_of_any_batch(tmp_path):
    torch.manual_seed(5)
    student = build_student(Config.fromfile(STUDENT)).train()
    for norm in (m for m in student.modules() if isinstance(m, torch.nn.BatchNorm2d)):
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2.0)
    error, free = export_classifier(student, tmp_path / 'new' / 's.onnx', (8, 8))
    assert free and error < 1e-5
    images = torch.randn(3, 1, 8, 8)
    with torch.no_grad():
        expected = student.eval()(images, mode='tensor')
    computed = onnx_outputs(tmp_path / 'new' / 's.onnx', images)
    assert torch.allclose(torch.from_numpy(computed), expected, rtol=1e-4, atol=1e-5)
    said = {p.key: p.value for p in onnx.load(tmp_path / 'new' / 's.onnx').metadata_props}
    assert said == dict(mean='77.85', std='95.89')
    assert [file.name for file in (tmp_path / 'new').iterdir()] == ['s.onnx']


class Pooled(torch.nn.Module):
    """A network of one convolution, and what a test makes of its features."""

    def __init__(self, function):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 4, 1)
        self.data_preprocessor = torch.nn.Identity()
        self.function = function

    def forward(self, images, mode):
        return self.function(self.conv(images))


def test_networks_that_use_the_batch_size_are_written_for_one_picture(tmp_path):
    # A batch size that is a number when traced, as in windowed attention.
    network = Pooled(lambda x: x.reshape(int(x.shape[0]), 4, -1).mean(2))
    error, free = export_classifier(network, tmp_path / 's.onnx', (4, 4))
    assert not free and error < 1e-5
    images = torch.randn(1, 3, 4, 4)
    with torch.no_grad():
        expected = network(images, mode='tensor')
    assert onnx_outputs(tmp_path / 's.onnx', images) == pytest.approx(expected.numpy(), abs=1e-5)


def test_what_onnx_would_get_wrong_is_refused(tmp_path):
    draws = Pooled(lambda x: x.mean((2, 3)) + float(torch.rand(())))
    with pytest.raises(ValueError, match='differs from torch by'):
        export_classifier(draws, tmp_path / 's.onnx', (4, 4))
    with pytest.raises(ValueError, match='Pooled returns no logits'):
        export_classifier(Pooled(lambda x: x), tmp_path / 's.onnx', (4, 4))
    assert list(tmp_path.iterdir()) == []
