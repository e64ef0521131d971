"""int8 files, and the metrics of files beside upstream's of networks."""

import json
from pathlib import Path

import onnx
import pytest
import torch
from helpers import ROOT
from helpers.shipping import pictures, scenes, stock
from mmengine.config import Config
from mmengine.evaluator import Evaluator
from mmengine.runner import Runner

from kd_plugins.files.export_student import build_student
from kd_plugins.shipping import (
    OnnxNetwork,
    Shipment,
    calibration_pictures,
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
    other = table({'student': [{'mine': 0.5}, {'mine': 0.25}]})
    assert other.splitlines()[1].split() == ['student', '0.50', '0.25', '0.25']
