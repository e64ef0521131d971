"""Classifiers as ONNX compute torch's logits."""

import onnx
import onnxruntime
import pytest
import torch
from helpers import ROOT
from mmengine.config import Config

from kd_plugins.files.export_student import build_student
from kd_plugins.shipping import Shipment, export_classifier
from kd_plugins.shipping.pictures import channel_order

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
    assert not any(module.training for module in student.modules())
    images = torch.randn(3, 1, 8, 8)
    with torch.no_grad():
        expected = student(images, mode='tensor')
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
    unknown = Pooled(lambda x: torch.fft.rfft2(x).abs().mean((2, 3)))
    with pytest.raises(ValueError, match='was not written: it cannot be exported .*fft') as refused:
        export_classifier(unknown, tmp_path / 's.onnx', (4, 4))
    assert '\n' not in str(refused.value)
    assert list(tmp_path.iterdir()) == []


def with_steps(*steps, type='CustomDataset', loader='val_dataloader', **preprocessor):
    cfg = Config(dict(model=dict(SMALL), default_scope='mmpretrain'))
    cfg.model.backbone = dict(type='mmpretrain.ResNet_CIFAR', depth=18)
    cfg.model.head.in_channels = 512
    cfg.data_preprocessor = dict(mean=[1.0, 2, 3], std=[4.0, 5, 6], **preprocessor)
    cfg[loader] = dict(dataset=dict(type=type, pipeline=[*steps, dict(type='PackInputs')]))
    return cfg


LOAD = dict(type='LoadImageFromFile')
TO_PIL, FROM_PIL = dict(type='NumpyToPIL', to_rgb=True), dict(type='PILToNumpy', to_bgr=True)


@pytest.mark.parametrize(
    ('cfg', 'order'),
    [
        (with_steps(LOAD), 'BGR'),
        (with_steps(LOAD, to_rgb=True), 'RGB'),
        (with_steps(dict(LOAD, type='mmcv.LoadImageFromFile'), loader='test_dataloader'), 'BGR'),
        (with_steps(dict(type='kd_plugins.LoadImageFromFile', channel_order='rgb')), 'RGB'),
        (with_steps(LOAD, TO_PIL, FROM_PIL, to_rgb=True), 'RGB'),
        (with_steps(LOAD, TO_PIL, dict(type='ToNumpy')), 'RGB'),
        # Those keep RGB in memory.
        (with_steps(type='CIFAR10'), 'RGB'),
        (with_steps(type='mmpretrain.CIFAR100', to_rgb=True), 'BGR'),
        (with_steps(dict(type='kd_plugins.LoadImageFromFile'), type='kd_plugins.SVHN'), 'RGB'),
        # Nobody knows.
        (with_steps(type='Mine'), None),
        (with_steps(loader='unused'), None),
    ],
)
def test_a_file_says_the_order_in_which_the_network_takes_channels(tmp_path, cfg, order):
    shipment = Shipment(cfg, dict(state_dict=build_student(cfg).state_dict(), meta={}), (32, 32))
    shipment.write(tmp_path / 's.onnx')
    said = {p.key: p.value for p in onnx.load(tmp_path / 's.onnx').metadata_props}
    assert said.get('channels') == order
    assert said['mean'] == '1 2 3' and said['std'] == '4 5 6'


@pytest.mark.parametrize(
    ('path', 'order'),
    [
        ('kd/kd_resnet56_resnet20_1xb64_cifar100.py', 'RGB'),
        ('fullmatch/fixmatch_wrn37-2_8xb8_stl10-40.py', 'RGB'),
        ('fullmatch/fixmatch_resnet8_1xb8_cifar10-small-40.py', 'BGR'),
        ('vanilla/gfl_scenes_student.py', 'BGR'),
    ],
)
def test_the_order_in_which_configs_of_the_package_read(path, order):
    assert channel_order(Config.fromfile(ROOT / 'configs' / path)) == order
