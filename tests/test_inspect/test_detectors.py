import math

import pytest
import torch
from helpers import ROOT, detection
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from kd_plugins.inspect.compare.detectors import detect


@pytest.fixture
def algorithm():
    cfg = Config.fromfile(ROOT / 'configs/bckd/bckd_scenes.py')
    init_default_scope('mmdet')
    cfg.model.update(teacher_ckpt=None, allow_random_teacher=True)
    model = MODELS.build(cfg.model)
    torch.manual_seed(0)
    for network in (model.student, model.teacher.network):
        torch.nn.init.normal_(network.bbox_head.gfl_cls.weight, std=0.1)
    return model.eval()


def test_finds_what_both_predict_and_where_they_differ(algorithm):
    data = algorithm.data_preprocessor(detection.images(size=80), False)
    inputs = data['inputs']
    with torch.no_grad():
        first = algorithm.student.predict(inputs, data['data_samples'], rescale=False)[0]
    score = float(first.pred_instances.scores.median())
    found = detect(algorithm, detection.images(size=80), score)
    assert tuple(found[0].weights.shape) == tuple(inputs.shape[2:])
    with torch.no_grad():
        for network, seen in (
            (algorithm.student, [each.student for each in found]),
            (algorithm.teacher.network, [each.teacher for each in found]),
        ):
            for (boxes, labels, scores), sample in zip(
                seen, network.predict(inputs, data['data_samples'], rescale=False), strict=True
            ):
                kept = [i for i, s in enumerate(sample.pred_instances.scores) if s > score]
                assert torch.equal(boxes, sample.pred_instances.bboxes[kept])
                assert labels.tolist() == sample.pred_instances.labels[kept].tolist()
                assert scores.tolist() == sample.pred_instances.scores[kept].tolist()
        scores = [
            net(inputs, mode='tensor')[0] for net in (algorithm.student, algorithm.teacher.network)
        ]
    assert 0 < len(found[0].student[0]) < len(first.pred_instances)
    strides = [s[0] for s in algorithm.student.bbox_head.prior_generator.strides]
    for n, each in enumerate(found):
        for y, x in ((0, 0), (17, 40), (79, 79)):
            largest = 0.0
            for level, stride in enumerate(strides):
                place = (n, slice(None), y // stride, x // stride)
                both = zip(*(s[level][place].tolist() for s in scores), strict=True)
                apart = [abs(1 / (1 + math.exp(-a)) - 1 / (1 + math.exp(-b))) for a, b in both]
                largest = max(largest, *apart)
            assert each.weights[y, x].item() == pytest.approx(largest, rel=1e-4)


def test_needs_dense_heads_on_both_sides(algorithm):
    algorithm.distiller.teacher_recorders._recorders.clear()
    with pytest.raises(ValueError, match='records no dense head'):
        detect(algorithm, detection.images())
