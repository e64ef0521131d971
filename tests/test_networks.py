import random

import numpy as np
import pytest
import torch
from helpers import ROOT
from helpers.networks import cnn, distilled, vit
from mmengine.registry import MODELS, DefaultScope, Registry, init_default_scope
from torch import nn

from kd_plugins.networks import (
    build_network,
    classes_of,
    classifier,
    fit_preprocessor,
    forked_random_states,
    resolve_network,
)


def draws():
    return [random.random(), float(np.random.rand()), float(torch.rand(()))]


def test_a_fork_neither_changes_nor_repeats_the_numbers_after_it():
    def seeded():
        random.seed(0)
        np.random.seed(0)
        torch.manual_seed(0)

    seeded()
    expected = draws()
    seeded()
    with forked_random_states():
        inside = draws()
    assert draws() == expected
    assert all(a != b for a, b in zip(inside, expected, strict=True))
    seeded()
    with forked_random_states():
        assert draws() == inside


def test_an_upstream_config_by_its_path_with_changes():
    cfg, weights = resolve_network(
        dict(cfg_path='mmpretrain::resnet/resnet18_8xb32_in1k.py', head=dict(num_classes=7)), 'x'
    )
    assert weights is None
    assert (cfg._scope_, cfg.head.num_classes, cfg.head.in_channels) == ('mmpretrain', 7, 512)
    assert cfg.data_preprocessor.mean == [123.675, 116.28, 103.53]
    assert build_network(cfg, 'x').head.fc.weight.shape == (7, 512)


def test_pretrained_gives_the_address_of_the_index():
    path = 'mmpretrain::resnet/resnet34_8xb32_in1k.py'
    _, weights = resolve_network(dict(cfg_path=path, pretrained=True), 'x')
    assert weights.startswith('https://') and 'resnet34_8xb32_in1k' in weights


@pytest.mark.parametrize(
    'path',
    [
        'mmpretrain::_base_/models/resnet18.py',
        'mmpretrain::resnet/resnet50_8xb32-coslr-preciseBN_in1k.py',
        'FILE',
    ],
    ids=['base', 'listed without', 'file'],
)
def test_pretrained_is_refused_where_no_index_has_weights(path):
    """The student would begin at random."""
    path = path.replace('FILE', str(ROOT / 'configs/vanilla/digits_student.py'))
    with pytest.raises(ValueError, match=r'x\.pretrained=True: no model index .* lists weights of'):
        resolve_network(dict(cfg_path=path, pretrained=True), 'x')


def test_a_pretrained_file_is_the_networks_own_argument():
    """Not the weights of the index, which are others, and not none."""
    for path in (
        'mmpretrain::resnet/resnet18_8xb32_in1k.py',
        str(ROOT / 'configs/vanilla/digits_student.py'),
    ):
        cfg, weights = resolve_network(dict(cfg_path=path, pretrained='mine.pth'), 'x')
        assert weights is None
        assert build_network(cfg, 'x').init_cfg['checkpoint'] == 'mine.pth'


def test_a_config_file_by_its_path():
    path = str(ROOT / 'configs/vanilla/digits_student.py')
    cfg, _ = resolve_network(dict(cfg_path=path), 'x')
    assert cfg.data_preprocessor.mean == [77.85] and cfg._scope_ == 'mmpretrain'
    assert sum(p.numel() for p in build_network(cfg, 'x').parameters()) == 10978


MIXUP = dict(augments=dict(type='Mixup', alpha=1.0))


def test_a_preprocessor_without_mixup_is_built_beforehand():
    init_default_scope('mmpretrain')
    cfg = dict(type='ImgDataPreprocessor', mean=[1.0], std=[2.0])
    assert isinstance(fit_preprocessor(cfg, {}), torch.nn.Module)
    with pytest.raises(ValueError, match=r"data_preprocessor\.type='ImgDataPreprocessor' cannot"):
        fit_preprocessor(cfg, dict(train_cfg=MIXUP))


def test_mmpretrains_own_gets_the_students_mixup():
    init_default_scope('mmpretrain')
    student, _ = resolve_network(
        dict(cfg_path=str(ROOT / 'configs/vanilla/digits_student.py'), train_cfg=MIXUP), 'x'
    )
    for cfg in (dict(num_classes=10), dict(type='ClsDataPreprocessor', num_classes=10)):
        network = MODELS.build(dict(student, data_preprocessor=fit_preprocessor(cfg, student)))
        assert network.data_preprocessor.batch_augments is not None


@pytest.mark.parametrize(
    ('path', 'classes'),
    [
        # COCO has 80 classes, CIFAR-100 a hundred; SSD's softmax has one output more.
        ('mmpretrain::resnet/resnet18_8xb16_cifar10.py', 10),
        ('mmdet::gfl/gfl_r50_fpn_1x_coco.py', 80),
        ('mmdet::ssd/ssd300_coco.py', 80),
        ('mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py', 80),
        ('mmdet::cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco.py', 80),
    ],
)
def test_classes_are_those_of_the_data_that_upstream_trains_on(path, classes):
    package = path.split('::')[0]
    init_default_scope(package)
    cfg, _ = resolve_network(dict(cfg_path=path), 'student')
    assert classes_of(build_network(cfg, 'student')) == classes


@pytest.mark.parametrize(
    ('network', 'name'), [(cnn(dict(type='kd_plugins.CIFARResNet', depth=8), 64, 7), 'head.fc'),
                          (vit(classes=7), 'head.layers.head')],
)  # fmt: skip
def test_the_classifier_is_the_layer_that_gives_the_logits(network, name):
    init_default_scope('mmpretrain')
    model = build_network(network, 'student').eval()
    inputs, heard = torch.randn(2, 3, 32, 32), []
    model.get_submodule(name).register_forward_hook(lambda *args: heard.append(args[2]))
    assert torch.equal(model(inputs, mode='tensor'), heard[0])
    assert classifier(model) == (name, 7) and classes_of(model) == 7
    assert classes_of(model, name) == 7 and classes_of(model, 'backbone') is None


def test_a_network_with_two_classifiers_or_none_is_one_sentence():
    init_default_scope('mmpretrain')
    with pytest.raises(ValueError, match=r'^the student is a ImageClassifier .* has 2 linear lay'):
        classifier(build_network(distilled(), 'student'), 'the student')
    with pytest.raises(ValueError, match=r'^the network is a Linear whose head \(NoneType\) has 0'):
        classifier(torch.nn.Linear(2, 2))
    assert classes_of(torch.nn.Linear(2, 2)) is None


def test_parts_of_another_package_are_found_in_a_network_of_upstream():
    """As mmrotate gives RetinaNet boxes of its own."""
    parts = Registry('model', parent=MODELS, scope='parts')

    @parts.register_module()
    class OwnBackbone(nn.Conv2d):
        def __init__(self):
            super().__init__(3, 4, 1)

    cfg = dict(
        type='mmpretrain.ImageClassifier',
        backbone=dict(type='OwnBackbone'),
        data_preprocessor=dict(type='mmpretrain.ClsDataPreprocessor'),
    )
    try:
        with DefaultScope.overwrite_default_scope('parts'):
            assert isinstance(build_network(cfg, 'model.teacher').backbone, OwnBackbone)
    finally:
        MODELS.children.pop('parts')


@pytest.mark.parametrize('scope', ['mmdet', 'mmengine', None])
def test_a_classifier_finds_its_own_parts_where_detectors_are_trained(scope):
    cfg = dict(type='mmpretrain.ImageClassifier', backbone=dict(type='LeNet5'))
    with DefaultScope.overwrite_default_scope(scope):
        backbone = build_network(cfg, 'model.teacher').backbone
    assert type(backbone).__module__.startswith('mmpretrain')
