"""kd_plugins' operators on the accelerator, beside the same ones on the CPU.

    make test-gpu

Every case of every operator, then stock detectors as wholes: losses, gradients and
detections. On the CPU they are compared with mmcv's compiled ones (`make test-ops`).
Not part of `make test`: it needs an accelerator, and fails without.
"""

import pytest
import torch
from helpers import whole_detectors
from helpers.boxes_to_suppress import SETS, scattered, ties
from helpers.operators import cases, ours, run
from mmcv.ops import batched_nms, nms
from mmengine.device import get_device
from torchvision.ops import box_iou

DEVICE = get_device()
CASES = list(cases())
#: How far both may be apart, relative to the largest number of a tensor.
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}
DETECTORS = {
    'gfl/gfl_r50_fpn_1x_coco': 96,
    'retinanet/retinanet_r18_fpn_1x_coco': 96,
    'fcos/fcos_r50-caffe_fpn_gn-head_1x_coco': 96,
    'rtmdet/rtmdet_tiny_8xb32-300e_coco': 96,
    'yolox/yolox_tiny_8xb8-300e_coco': 96,
    'vfnet/vfnet_r50_fpn_1x_coco': 96,
    'faster_rcnn/faster-rcnn_r50_fpn_1x_coco': 96,
    'dcn/faster-rcnn_r50-dconv-c3-c5_fpn_1x_coco': 96,
    'dcnv2/faster-rcnn_r50-mdconv-c3-c5_fpn_1x_coco': 96,
    'sparse_rcnn/sparse-rcnn_r50_fpn_1x_coco': 96,
    'carafe/faster-rcnn_r50_fpn-carafe_1x_coco': 96,
}


@pytest.fixture(autouse=True)
def exact():
    """Let the accelerator multiply in float32, not in TF32, and take one algorithm."""
    assert DEVICE != 'cpu', 'there is no accelerator here'
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    with ours():
        yield


def assert_close(got, expected, bound):
    assert len(got) == len(expected)
    for first, second in zip(got, expected, strict=True):
        size = float(second.abs().max()) if second.numel() else 0.0
        torch.testing.assert_close(first, second, rtol=0, atol=bound * max(size, 1e-3))


@pytest.mark.parametrize('dtype', TOLERANCE, ids=str)
@pytest.mark.parametrize('case', CASES, ids=str)
def test_values_and_gradients_are_the_cpus(case, dtype):
    def rounded():
        return {
            key: value.to(dtype).double() if value.is_floating_point() else value
            for key, value in case.inputs().items()
        }

    of_rounded = type(case)(**{**vars(case), 'inputs': rounded})
    expected = run(case.call, of_rounded, torch.float64)
    found = run(case.call, case, dtype, DEVICE)
    if 'max' in case.options:
        # mmcv's code for CPUs and for GPUs calls a bin without samples something else.
        found[0], expected[0] = found[0].clamp(min=-100), expected[0].clamp(min=-100)
        if dtype.itemsize == 2:
            # Samples that 16 bits cannot tell apart: either may be the largest.
            found, expected = found[:1], expected[:1]
    assert_close(found, expected, TOLERANCE[dtype])


@pytest.mark.parametrize('threshold', (0.0, 0.3, 0.5, 0.9))
@pytest.mark.parametrize('name', [*SETS, 'thousand'])
def test_the_same_boxes_are_kept(name, threshold):
    boxes, scores = dict(SETS, thousand=scattered(1000))[name]
    expected, first = nms(boxes, scores, threshold)
    found, second = nms(boxes.to(DEVICE), scores.to(DEVICE), threshold)
    assert second.device.type == DEVICE
    assert second.tolist() == first.tolist()
    torch.testing.assert_close(found.cpu(), expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize('threshold', (0.3, 0.5, 0.7))
def test_of_equal_scores_the_first_in_the_devices_order_is_kept(threshold):
    # Devices sort equal scores differently, as mmcv's own do: what is kept obeys the same law.
    boxes, scores = ties(1000)
    kept = nms(boxes.to(DEVICE), scores.to(DEVICE), threshold)[1].cpu()
    overlaps = box_iou(boxes, boxes) > threshold
    assert (scores[kept].diff() <= 0).all()
    assert not overlaps[kept][:, kept].fill_diagonal_(False).any()
    dropped = torch.ones(len(boxes), dtype=torch.bool).index_fill(0, kept, False)
    better = overlaps[kept] & (scores[kept][:, None] >= scores)
    assert better.any(0)[dropped].all()


@pytest.mark.parametrize('kind', ('nms', 'soft_nms'))
@pytest.mark.parametrize('agnostic', (True, False))
def test_classes_are_kept_apart_alike(kind, agnostic):
    boxes, scores = scattered(200)
    classes = torch.arange(200) % 3
    settings = dict(type=kind, iou_threshold=0.3, class_agnostic=agnostic)
    expected, first = batched_nms(boxes, scores, classes, dict(settings))
    inputs = (value.to(DEVICE) for value in (boxes, scores, classes))
    found, second = batched_nms(*inputs, dict(settings))
    assert second.tolist() == first.tolist()
    torch.testing.assert_close(found.cpu(), expected)


@pytest.mark.parametrize('name', DETECTORS)
def test_a_detector_trains_and_finds_as_on_the_cpu(name):
    detector = whole_detectors.built(f'{name}.py')
    # Without chance in the step: dropout draws other numbers on another device.
    for module in detector.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    data = whole_detectors.batch(DETECTORS[name])
    losses, grads, results = whole_detectors.step(detector, data)
    found, found_grads, found_results = whole_detectors.step(detector.to(DEVICE), data)
    assert found == pytest.approx(losses, rel=1e-3)
    assert found_grads.keys() == grads.keys()
    apart = torch.stack([(found_grads[n].cpu() - g).norm() for n, g in grads.items()]).norm()
    whole = torch.stack([g.norm() for g in grads.values()]).norm()
    assert whole > 0 and apart <= 1e-2 * whole
    for result, expected in zip(found_results, results, strict=True):
        got, wanted = result.pred_instances.cpu(), expected.pred_instances
        assert len(got) == len(wanted)
        torch.testing.assert_close(got.scores, wanted.scores, rtol=0, atol=1e-4)
