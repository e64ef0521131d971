"""Detectors as ONNX find what upstream's ``predict`` does."""

import onnx
import pytest
import torch
from helpers.shipping import DETECTORS, pictures, stock, varied
from helpers.shipping import images as noise
from helpers.whole_detectors import built
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.config import ConfigDict
from mmengine.registry import DefaultScope

from kd_plugins.shipping import OnnxNetwork, dense, export_detector, metadata_of
from kd_plugins.shipping.detector import as_function
from kd_plugins.shipping.onnx_file import write_onnx


def samples(sizes, images):
    found = []
    for height, width in sizes:
        sample = DetDataSample()
        whole = tuple(images.shape[-2:])
        sample.set_metainfo(
            dict(img_shape=(height, width), batch_input_shape=whole, pad_shape=whole)
        )
        found.append(sample)
    return found


def export(detector, path, side=96, size=None, raw=False):
    return export_detector(
        detector, path, pictures(detector, side, size), metadata_of(detector), raw
    )


def check_equal(detector, file, images, sizes):
    """Fail unless a file finds in pictures what upstream's ``predict`` does, in its order."""
    with torch.no_grad():
        expected = detector.predict(images, samples(sizes, images), rescale=False)
    boxes, scores, labels = file(images=images, sizes=torch.tensor(sizes))
    assert len(boxes) == len(scores) == len(labels) == len(images)
    assert boxes.shape[1] == max(len(each.pred_instances) for each in expected)
    for i, each in enumerate(expected):
        wanted, number = each.pred_instances, len(each.pred_instances)
        assert int((labels[i] >= 0).sum()) == number
        assert (labels[i, number:] == -1).all() and not scores[i, number:].any()
        assert not boxes[i, number:].any()
        torch.testing.assert_close(scores[i, :number], wanted.scores, atol=5e-4, rtol=1e-3)
        # Equal scores, as of a box that two levels find, come in any order.
        left = list(range(number))
        for box, score, label in zip(wanted.bboxes, wanted.scores, wanted.labels, strict=True):
            (match, *_) = [
                j
                for j in left
                if labels[i, j] == label
                and abs(scores[i, j] - score) < 1e-3
                and (boxes[i, j] - box).abs().max() < 0.05
            ]
            left.remove(match)
    return [len(each.pred_instances) for each in expected]


@pytest.mark.parametrize('kind', DETECTORS)
def test_a_file_finds_what_upstream_predicts(tmp_path, kind):
    detector = stock(kind)
    written = export(detector, tmp_path / 'd.onnx')
    assert written.free and written.pictures == 3 and written.found > 20
    assert [file.name for file in tmp_path.iterdir()] == ['d.onnx']
    file = OnnxNetwork(str(tmp_path / 'd.onnx'))
    assert file.outputs == ['boxes', 'scores', 'labels']
    # In shape (N, H, W), and the pictures' own sizes, which the rest pads.
    for shape, sizes in [
        ((1, 96, 96), [(96, 96)]),
        ((2, 128, 96), [(120, 90), (128, 64)]),
        ((3, 64, 160), [(64, 160), (50, 150), (33, 40)]),
    ]:
        assert sum(check_equal(detector, file, noise(detector, *shape), sizes)) > 0


@pytest.mark.parametrize('kind', ['gfl', 'faster-rcnn'])
def test_where_nothing_is_found_a_file_finds_nothing(tmp_path, kind):
    detector = stock(kind)
    head = detector.roi_head if kind == 'faster-rcnn' else detector.bbox_head
    head.test_cfg.score_thr = 0
    images = noise(detector, 2, 96, 96)
    with torch.no_grad():
        found = detector.predict(images, samples([(96, 96)] * 2, images), rescale=False)
    best = [each.pred_instances.scores.max().item() for each in found]
    # Between the best scores of both pictures, and above all of them.
    for threshold, numbers in ((sum(best) / 2, 1), (0.9999, 0)):
        head.test_cfg.score_thr = threshold
        network = as_function(detector, False)
        inputs = dict(images=images, sizes=torch.tensor([[96, 96]] * 2))
        axes = {name: {0: 'N', 1: 'D'} for name in network.names}
        content = write_onnx(network, inputs, network.names, axes, 17, {})
        found = check_equal(detector, OnnxNetwork(content), images, [(96, 96)] * 2)
        assert sum(number > 0 for number in found) == numbers
    with pytest.raises(ValueError, match='torch finds nothing in the validation pictures'):
        export(detector, tmp_path / 'd.onnx')
    assert list(tmp_path.iterdir()) == []


def test_class_agnostic_suppression_and_small_boxes(tmp_path):
    detector = stock('gfl')
    detector.bbox_head.test_cfg.nms.class_agnostic = True
    detector.bbox_head.test_cfg.min_bbox_size = 12
    export(detector, tmp_path / 'd.onnx')
    images = noise(detector, 2, 96, 96, seed=3)
    file = OnnxNetwork(str(tmp_path / 'd.onnx'))
    number = sum(check_equal(detector, file, images, [(90, 96), (96, 80)]))
    detector.bbox_head.test_cfg.nms.class_agnostic = False
    with torch.no_grad():
        other = detector.predict(images, samples([(90, 96), (96, 80)], images), rescale=False)
    assert 0 < number < sum(len(each.pred_instances) for each in other)


def test_sizes_that_are_not_free(tmp_path):
    detector = stock('gfl')
    forward = detector.neck.forward
    detector.neck.forward = lambda maps: forward(
        [each.reshape(int(each.shape[0]), *map(int, each.shape[1:])) for each in maps]
    )
    with pytest.raises(ValueError, match=r'; a size .* may help: --onnx HEIGHT WIDTH\.$'):
        export(detector, tmp_path / 'd.onnx')
    with pytest.raises(ValueError, match='--onnx 64 96 is too small.* a picture of 96 x 96'):
        export(detector, tmp_path / 'd.onnx', size=(64, 96))
    assert list(tmp_path.iterdir()) == []
    assert not export(detector, tmp_path / 'd.onnx', size=(96, 128)).free
    file = OnnxNetwork(str(tmp_path / 'd.onnx'))
    images = noise(detector, 1, 96, 128, seed=3)
    assert check_equal(detector, file, images, [(90, 128)])


def test_outputs_of_dense_heads(tmp_path):
    for kind, last in (('gfl', 'bbox_preds'), ('yolox', 'objectnesses')):
        detector = stock(kind)
        written = export(detector, tmp_path / 'd.onnx', raw=True)
        assert written.what == 'maps' and written.free
        file = OnnxNetwork(str(tmp_path / 'd.onnx'))
        assert file.inputs == ['images']
        images = noise(detector, 2, 64, 128)
        with torch.no_grad():
            expected = detector(images, mode='tensor')
        expected = [level for levels in expected for level in levels]
        assert file.outputs[0] == 'cls_scores.0' and file.outputs[-1].startswith(last)
        for wanted, computed in zip(expected, file(images=images), strict=True):
            far = (computed - wanted).abs().max()
            assert computed.shape == wanted.shape and far < 1e-4 * wanted.abs().max()


def test_outputs_of_two_stage_heads(tmp_path):
    detector = stock('faster-rcnn')
    assert export(detector, tmp_path / 'd.onnx', raw=True).what == 'proposals'
    file = OnnxNetwork(str(tmp_path / 'd.onnx'))
    assert file.outputs == ['proposals', 'cls_scores', 'bbox_preds']
    images = noise(detector, 1, 96, 96)
    proposals, logits, deltas = file(images=images, sizes=torch.tensor([[96, 90]]))
    with torch.no_grad():
        maps = detector.extract_feat(images)
        (found,) = detector.rpn_head.predict(maps, samples([(96, 90)], images))
        rois = torch.cat([torch.zeros_like(found.bboxes[:, :1]), found.bboxes], 1)
        expected = detector.roi_head._bbox_forward(maps, rois)
    torch.testing.assert_close(proposals[0], found.bboxes, atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(logits[0], expected['cls_score'], atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(deltas[0], expected['bbox_pred'], atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(
    ('name', 'says'),
    [
        ('detr/detr_r18_8xb2-500e_coco.py', 'DETR is not written as ONNX: only dense detectors'),
        ('mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py', 'StandardRoIHead is not .* it has masks'),
        ('tood/tood_r50_fpn_1x_coco.py', 'TOODHead is not .* no operator for its deform_conv2d'),
        (
            'centernet/centernet_r18_8xb16-crop512-140e_coco.py',
            'CenterNetHead is not written as ONNX: it decodes in its own',
        ),
        ('double_heads/dh-faster-rcnn_r50_fpn_1x_coco.py', 'DoubleHeadRoIHead is not written'),
        ('sabl/sabl-faster-rcnn_r50_fpn_1x_coco.py', 'SABLHead is not written as ONNX'),
        ('dcn/faster-rcnn_r50-dconv-c3-c5_fpn_1x_coco.py', 'no operator for its .*DeformConv2d'),
    ],
)
def test_what_onnx_cannot_hold_is_one_sentence(tmp_path, name, says):
    with pytest.raises(ValueError, match=says) as refused:
        as_function(built(name), False)
    assert '\n' not in str(refused.value)


def test_pictures_that_are_too_small_are_one_sentence(tmp_path):
    """SSD300's last maps have no places then, and torch itself stops."""
    detector = built('ssd/ssd300_coco.py').eval()
    said = (
        r'o\.onnx. was not written: torch itself cannot run this detector on validation pictures '
        r'of 96 x 96 \(.*\): make them larger, .* --onnx HEIGHT WIDTH\.$'
    )
    with pytest.raises(ValueError, match=said):
        export_detector(detector, tmp_path / 'o.onnx', pictures(detector), {}, raw=True)
    assert not (tmp_path / 'o.onnx').exists()


SSD = dict(
    type='SingleStageDetector',
    data_preprocessor=dict(type='DetDataPreprocessor', mean=[0] * 3, std=[255] * 3),
    backbone=dict(type='ResNet', depth=18, base_channels=8, out_indices=(1, 2, 3)),
    bbox_head=dict(
        type='SSDHead',
        num_classes=3,
        in_channels=(16, 32, 64),
        anchor_generator=dict(
            type='SSDAnchorGenerator',
            scale_major=False,
            min_sizes=[16, 32, 64],
            max_sizes=[32, 64, 96],
            strides=[8, 16, 32],
            ratios=[[2], [2, 3], [2, 3]],
        ),
        bbox_coder=dict(type='DeltaXYWHBBoxCoder', target_stds=[0.1, 0.1, 0.2, 0.2]),
    ),
    test_cfg=dict(
        nms_pre=200,
        nms=dict(type='nms', iou_threshold=0.45),
        min_bbox_size=0,
        score_thr=0.02,
        max_per_img=50,
    ),
)


def test_ssd_detects_and_is_written(tmp_path):
    """mmdet's own asks its head for a loss that it does not have, wherever it detects."""
    with DefaultScope.overwrite_default_scope('mmdet'):
        torch.manual_seed(0)
        detector = varied(MODELS.build(ConfigDict(SSD)))
    path = tmp_path / 'd.onnx'
    assert export(detector, path).found > 0
    images = noise(detector, 2, 96, 128)
    sizes = [(96, 128), (90, 110)]
    assert min(check_equal(detector, OnnxNetwork(str(path)), images, sizes)) > 3


def test_a_loss_that_a_head_of_ssd_has_is_left():
    head = type(MODELS.get('mmdet.SSDHead'))('Own', (MODELS.get('mmdet.SSDHead'),), {})
    own = head(**{k: v for k, v in SSD['bbox_head'].items() if k != 'type'})
    assert own.loss_cls is None
    own.loss_cls = torch.nn.CrossEntropyLoss()
    assert isinstance(own.loss_cls, torch.nn.CrossEntropyLoss) and 'loss_cls' in own._modules


def test_other_suppressions_are_refused():
    detector = stock('gfl')
    detector.bbox_head.test_cfg.nms.max_num = 3
    with pytest.raises(ValueError, match=r'test_cfg\.nms\.max_num=3 cannot .* leave it out'):
        as_function(detector, False)
    detector.bbox_head.test_cfg.nms = ConfigDict(type='soft_nms', iou_threshold=0.5)
    with pytest.raises(ValueError, match=r"test_cfg\.nms\.type='soft_nms' cannot be written"):
        as_function(detector, False)
    assert as_function(detector, True).gives == 'maps'


def test_what_differs_from_torch_is_not_written(tmp_path, monkeypatch):
    detector = stock('retinanet')
    with monkeypatch.context() as patch:
        # Boxes that reach over the border.
        patch.setattr(dense, 'clip', lambda boxes, sizes: boxes)
        with pytest.raises(ValueError, match='detections differ between onnxruntime and torch'):
            export(detector, tmp_path / 'd.onnx')
    forward = detector.backbone.forward
    monkeypatch.setattr(
        detector.backbone, 'forward', lambda x: [m + float(torch.rand(())) for m in forward(x)]
    )
    with pytest.raises(ValueError, match='onnxruntime and torch differ by .* of the largest value'):
        export(detector, tmp_path / 'd.onnx', raw=True)
    assert list(tmp_path.iterdir()) == []


def test_a_file_says_what_its_pictures_need(tmp_path):
    detector = stock('gfl')
    said = metadata_of(detector, dict(classes=('cat', 'dog', 'bird')))
    assert said == dict(
        mean='123.675 116.28 103.53',
        std='58.395 57.12 57.375',
        channels='RGB',
        pad_value='0',
        pad_size_divisor='32',
        classes='cat\ndog\nbird',
    )
    export_detector(detector, tmp_path / 'd.onnx', pictures(detector), said)
    written = onnx.load(tmp_path / 'd.onnx')
    assert {each.key: each.value for each in written.metadata_props} == said
    assert metadata_of(stock('fcos'))['channels'] == 'BGR'
    # Its first convolution gets four places as one.
    assert metadata_of(stock('yolox'))['channels'] == 'BGR'


def test_of_one_picture_two_are_compared(tmp_path):
    detector = stock('gfl')
    own = pictures(detector)
    own.dataset = own.dataset.get_subset([0])
    assert export_detector(detector, tmp_path / 'd.onnx', own, {}).free
    forward = detector.neck.forward
    detector.neck.forward = lambda maps: forward(
        [each.reshape(int(each.shape[0]), *each.shape[1:]) for each in maps]
    )
    assert not export_detector(detector, tmp_path / 'd.onnx', own, {}).free


def test_an_error_without_words_is_named(tmp_path, monkeypatch):
    detector = stock('retinanet')

    def fails(*_, **__):
        raise AssertionError

    monkeypatch.setattr('kd_plugins.shipping.detector.write_onnx', fails)
    with pytest.raises(ValueError, match=r'it cannot be exported or run \(AssertionError\)'):
        export(detector, tmp_path / 'd.onnx')
