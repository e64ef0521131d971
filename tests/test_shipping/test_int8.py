"""int8 files, and the metrics of files beside upstream's of networks."""

import json
from pathlib import Path

import mmcv
import numpy as np
import onnx
import pytest
import torch
from helpers import ROOT
from helpers.shipping import pictures, scenes, stock
from mmengine.config import Config
from mmengine.evaluator import Evaluator
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner

from kd_plugins.files.export_student import build_student
from kd_plugins.shipping import (
    OnnxNetwork,
    Shipment,
    calibration_pictures,
    export_classifier,
    export_detector,
    measure,
    quantise,
    table,
)
from kd_plugins.shipping.int8 import WITH_WEIGHTS
from kd_plugins.shipping.pictures import inputs_of


def upstreams_metrics(cfg, network):
    """What upstream's own way of testing says of a network."""
    loader = Runner.build_dataloader(dict(cfg.val_dataloader), seed=0)
    evaluator = Evaluator([dict(cfg.val_evaluator)])
    evaluator.dataset_meta = loader.dataset.metainfo
    for data in loader:
        with torch.no_grad():
            evaluator.process(network.val_step(data), data)
    return evaluator.evaluate(len(loader.dataset))


def test_the_accuracy_of_a_classifier_survives(tmp_path):
    cfg = Config.fromfile(ROOT / 'configs/vanilla/digits_student.py')
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        loader.update(num_workers=0, persistent_workers=False)
    torch.manual_seed(0)
    network = build_student(cfg).train()
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    for _ in range(40):
        for data in Runner.build_dataloader(dict(cfg.train_dataloader), seed=0):
            optimizer.zero_grad()
            network(**network.data_preprocessor(data, True), mode='loss')['loss'].backward()
            optimizer.step()
    meta = dict(dataset_meta=dict(classes=list('0123456789')))
    shipment = Shipment(cfg, dict(state_dict=network.state_dict(), meta=meta))
    path, out = tmp_path / 's.onnx', tmp_path / 's_int8.onnx'
    assert 'pictures of 8 x 8' in shipment.write(path)
    assert shipment.quantise(path, out, 50) == 50
    full, small = shipment.measure(path), shipment.measure(out)
    assert full == upstreams_metrics(cfg, network.eval())
    assert full['accuracy/top1'] > 70
    assert abs(full['accuracy/top1'] - small['accuracy/top1']) < 3
    # It is another network all the same, whose convolutions compute with int8.
    images = pictures_of(cfg, network)
    first, second = (OnnxNetwork(str(each))(images=images)[0] for each in (path, out))
    assert 1e-3 < (first - second).abs().max() / first.abs().max() < 0.3
    types = {each.data_type for each in onnx.load(out).graph.initializer}
    assert onnx.TensorProto.INT8 in types
    both = shipment.measure_both(50)
    assert both == [full, small]


@pytest.mark.parametrize('form', ['list', 'evaluator'])
def test_evaluators_of_every_form_are_asked(form):
    cfg = Config.fromfile(ROOT / 'configs/vanilla/digits_student.py')
    cfg.val_dataloader.update(num_workers=0, persistent_workers=False)
    network = build_student(cfg).eval()
    plain = dict(cfg.val_evaluator)
    several = [dict(plain, prefix='night'), dict(type='SingleLabelMetric')]
    cfg.val_evaluator = several if form == 'list' else dict(type='Evaluator', metrics=several)

    def compute(**inputs):
        with torch.no_grad():
            return [network(inputs['images'])]

    found = measure(cfg, network, compute)
    cfg.val_evaluator = plain
    assert found['night/top1'] == upstreams_metrics(cfg, network)['accuracy/top1']
    assert 'single-label/f1-score' in found
    assert table(dict(student=[found, found])).split()[0] == 'night/top1'


def test_a_classifier_is_not_measured_on_padded_pictures():
    cfg = Config.fromfile(ROOT / 'configs/vanilla/digits_student.py')
    for size, says in (((10, 8), 'is not the size of the validation pictures, 8 x 8'),
                       ((6, 8), 'is too small')):  # fmt: skip
        network = build_student(cfg).eval()
        with pytest.raises(ValueError, match=f'--onnx {size[0]} {size[1]} {says}'):
            calibration_pictures(cfg, network, size).batch([0])
    assert calibration_pictures(cfg, network, (8, 8)).batch([0])[0].shape[-2:] == (8, 8)


def pictures_of(cfg, network):
    from kd_plugins.shipping import validation_pictures

    return validation_pictures(cfg, network).batch(range(8))[0]


@pytest.mark.parametrize('kind', ['gfl', 'faster-rcnn'])
def test_the_precision_of_a_detector_is_upstreams(tmp_path, kind):
    detector = stock(kind)
    cfg = scenes(96)
    path, out = tmp_path / 'd.onnx', tmp_path / 'q.onnx'
    export_detector(detector, path, pictures(detector), {})
    # Objects are what the detector finds best, in the pixels of the files: 64, not 96.
    loader = Runner.build_dataloader(dict(cfg.val_dataloader), seed=0)
    content = json.loads(Path(cfg.val_evaluator.ann_file).read_text())
    content['annotations'] = []
    with torch.no_grad():
        found = [each for data in loader for each in detector.val_step(data)]
    for each in found:
        best = each.pred_instances[:6]
        for box, label in zip(best.bboxes.tolist(), best.labels.tolist(), strict=True):
            x, y, w, h = box[0], box[1], box[2] - box[0], box[3] - box[1]
            content['annotations'].append(
                dict(id=len(content['annotations']) + 1, image_id=each.img_id, iscrowd=0,
                     category_id=content['categories'][label]['id'], bbox=[x, y, w, h], area=w * h)
            )  # fmt: skip
    (tmp_path / 'own.json').write_text(json.dumps(content))
    cfg.val_evaluator.ann_file = str(tmp_path / 'own.json')
    metrics = measure(cfg, detector, OnnxNetwork(str(path)))
    assert metrics == upstreams_metrics(cfg, detector)
    assert metrics['coco/bbox_mAP'] > 0.5

    calibration = calibration_pictures(cfg, detector)
    chosen = calibration.some(3)
    assert chosen == [0, 2, 3] and len(calibration) == 4  # of the training set
    quantise(path, out, (inputs_of(*calibration.batch([i])) for i in chosen))
    assert out.stat().st_size < 0.6 * path.stat().st_size
    small = measure(cfg, detector, OnnxNetwork(str(out)))
    assert 0.3 < small['coco/bbox_mAP'] < metrics['coco/bbox_mAP']
    # What follows the heads is in float32.
    graph = onnx.load(out).graph
    makers = {name: node for node in graph.node for name in node.output}
    users = [node.op_type for node in graph.node for name in node.input
             if name in makers and makers[name].op_type == 'DequantizeLinear']  # fmt: skip
    assert 'Conv' in users
    assert not {'NonMaxSuppression', 'TopK', 'ScatterElements'} & set(users)
    stored = {each.name for each in graph.initializer if each.data_type == onnx.TensorProto.INT8}
    weights = {out for node in graph.node if stored & set(node.input[:1]) for out in node.output}
    layers = {node.op_type for node in graph.node if weights & set(node.input)}
    assert layers <= set(WITH_WEIGHTS) and 'Conv' in layers


def test_products_of_activations_stay_in_float32(tmp_path):
    init_default_scope('mmpretrain')
    torch.manual_seed(0)
    arch = dict(embed_dims=32, num_layers=2, num_heads=2, feedforward_channels=64)
    network = MODELS.build(
        dict(
            type='mmpretrain.ImageClassifier',
            backbone=dict(type='VisionTransformer', arch=arch, img_size=32, patch_size=8),
            head=dict(type='VisionTransformerClsHead', num_classes=5, in_channels=32),
        )
    )
    path, out = tmp_path / 's.onnx', tmp_path / 'q.onnx'
    export_classifier(network, path, (32, 32))
    quantise(path, out, (dict(images=torch.randn(1, 3, 32, 32)) for _ in range(3)))
    graph = onnx.load(out).graph
    makers = {name: node for node in graph.node for name in node.output}
    stored = {each.name for each in graph.initializer if each.data_type == onnx.TensorProto.INT8}

    def of_int8(node):
        from_int8 = [makers[x] for x in node.input if x in makers]
        return [x for x in from_int8 if x.op_type == 'DequantizeLinear']

    def has_weights(node):
        return any(stored & {*x.input[:1]} for x in of_int8(node))

    products = [node for node in graph.node if node.op_type in ('MatMul', 'Gemm')]
    # In each layer two in attention, and four layers; the head is one more.
    assert sum(not of_int8(node) for node in products) == 4
    assert sum(has_weights(node) for node in products) == 9
    assert len(products) == 13
    OnnxNetwork(str(out))(images=torch.randn(2, 3, 32, 32))


def test_calibration_takes_any_training_set_of_upstreams(tmp_path):
    """Labelled beside unlabelled, repeated, in views, and one that knows its split by itself."""
    cfg = Config.fromfile(ROOT / 'configs/vanilla/digits_student.py')
    network = build_student(cfg)
    plain = dict(cfg.train_dataloader.dataset)
    number = len(calibration_pictures(cfg, network))
    for wrapped in (
        dict(type='kd_plugins.WithUnlabelled', labelled=plain, unlabelled=plain),
        dict(type='RepeatDataset', dataset=plain, times=2),
        dict(type='kd_plugins.RepeatableViews', dataset=plain, views=2),
        dict(type='ConcatDataset', datasets=[plain, plain]),
    ):
        cfg.train_dataloader.dataset = wrapped
        pictures = calibration_pictures(cfg, network)
        assert len(pictures) == number
        assert pictures.batch([0, 1])[0].shape == (2, 1, 8, 8)
    cfg.val_dataloader.dataset = dict(
        type='RepeatDataset', times=2, dataset=cfg.val_dataloader.dataset
    )
    assert len(calibration_pictures(cfg, network)) == number

    (tmp_path / 'meta').mkdir()
    (tmp_path / 'images/apple_pie').mkdir(parents=True)
    (tmp_path / 'meta/train.txt').write_text('apple_pie/1\napple_pie/2\n')
    for i in (1, 2):
        mmcv.imwrite(
            np.full((8, 8, 3), 60 * i, np.uint8), str(tmp_path / f'images/apple_pie/{i}.jpg')
        )
    pipeline = [dict(type='LoadImageFromFile', color_type='grayscale'), dict(type='PackInputs')]
    food = dict(type='Food101', data_root=str(tmp_path), split='train', pipeline=pipeline)
    cfg.train_dataloader.dataset = dict(food)
    cfg.val_dataloader.dataset = dict(food, split='test')
    images, _ = calibration_pictures(cfg, network).batch([0, 1])
    assert (images * 95.89 + 77.85).mean((1, 2, 3)).tolist() == pytest.approx([60, 120], abs=1)
    # Files to train with, and pictures in memory to validate.
    own = [pipeline[0], dict(type='Resize', scale=(4, 4)), pipeline[1]]
    cfg.train_dataloader.dataset = dict(food, pipeline=own)
    cfg.val_dataloader.dataset = plain
    assert calibration_pictures(cfg, network).batch([0])[0].shape == (1, 1, 4, 4)


def test_a_classifier_without_a_head_of_its_own_is_measured(tmp_path):
    cfg = Config.fromfile(ROOT / 'configs/vanilla/digits_student.py')
    cfg.val_dataloader.update(num_workers=0, persistent_workers=False)
    cfg.val_dataloader.dataset.indices = 50
    cfg.model = dict(
        type='mmpretrain.TimmClassifier', model_name='resnet10t', num_classes=10, in_chans=1
    )
    torch.manual_seed(0)
    network = build_student(cfg).eval()
    path = tmp_path / 's.onnx'
    export_classifier(network, path, (8, 8))
    assert measure(cfg, network, OnnxNetwork(str(path))) == upstreams_metrics(cfg, network)


def test_a_table_says_what_is_lost_and_gained():
    metrics = {
        'student': [{'coco/bbox_mAP': 0.473, 'coco/bbox_mAP_50': 0.6}, {'coco/bbox_mAP': 0.47}],
        'alone': [{'coco/bbox_mAP': 0.388}, {'coco/bbox_mAP': 0.38}],
    }
    lines = [line.split() for line in table(metrics).splitlines()]
    assert lines == [
        ['coco/bbox_mAP', 'float32', 'int8', 'lost'],
        ['student', '47.30', '47.00', '0.30'],
        ['alone', '38.80', '38.00', '0.80'],
        ['gained', '+8.50', '+9.00'],
    ]
    nothing = table({'student': [{'coco/bbox_mAP': 0.473}, {}]})
    assert nothing.splitlines()[1].split() == ['student', '47.30', '0.00', '47.30']
    other = table({'student': [{'mine': 0.5}, {'mine': 0.25}]})
    assert other.splitlines()[1].split() == ['student', '0.50', '0.25', '0.25']
