"""Stock detectors, a config of each of mmdet's folders, with kd_plugins' operators and mmcv's.

    make test-ops PYTEST_ARGS='-m long'

Backbones have a block a stage, pictures 96 pixels a side, and all weights are random;
the operators are called with what the configs give them. Losses, gradients and
detections are compared. Where mmcv has no operator for a CPU, a CPU cannot compare.
"""

import pytest
import torch
from helpers import whole_detectors
from helpers.operators import compiled, ours

pytestmark = pytest.mark.long

MASKS = dict(with_mask=True)
SEMANTIC = dict(with_mask=True, with_semantic=True)

#: Folder to config, side of the pictures, and what else the pictures have.
DETECTORS = {
    'albu_example': ('mask-rcnn_r50_fpn_albu-1x_coco', 96, MASKS),
    'atss': ('atss_r50_fpn_1x_coco', 96, {}),
    'autoassign': ('autoassign_r50-caffe_fpn_1x_coco', 96, {}),
    'cascade_rcnn': ('cascade-rcnn_r50_fpn_1x_coco', 96, {}),
    'cascade_rpn': ('cascade-rpn_faster-rcnn_r50-caffe_fpn_1x_coco', 96, {}),
    'centernet': ('centernet-update_r18_fpn_8xb8-amp-lsj-200e_coco', 96, {}),
    'centripetalnet': ('centripetalnet_hourglass104_16xb6-crop511-210e-mstest_coco', 96, {}),
    'condinst': ('condinst_r50_fpn_ms-poly-90k_coco_instance', 96, MASKS),
    'conditional_detr': ('conditional-detr_r50_8xb2-50e_coco', 96, {}),
    'convnext': ('mask-rcnn_convnext-t-p4-w7_fpn_amp-ms-crop-3x_coco', 96, MASKS),
    'cornernet': ('cornernet_hourglass104_8xb6-210e-mstest_coco', 96, {}),
    'crowddet': ('crowddet-rcnn_r50_fpn_8xb2-30e_crowdhuman', 96, {}),
    'dab_detr': ('dab-detr_r50_8xb2-50e_coco', 96, {}),
    'dcn': ('faster-rcnn_r50-dconv-c3-c5_fpn_1x_coco', 96, {}),
    'dcnv2': ('faster-rcnn_r50-mdconv-c3-c5_fpn_1x_coco', 96, {}),
    'ddod': ('ddod_r50_fpn_1x_coco', 384, {}),
    'ddq': ('ddq-detr-4scale_r50_8xb2-12e_coco', 96, {}),
    'deformable_detr': ('deformable-detr_r50_16xb2-50e_coco', 96, {}),
    'detectors': ('htc_r50-sac_1x_coco', 96, SEMANTIC),
    'detr': ('detr_r18_8xb2-500e_coco', 96, {}),
    'dino': ('dino-4scale_r50_8xb2-12e_coco', 320, {}),
    'double_heads': ('dh-faster-rcnn_r50_fpn_1x_coco', 96, {}),
    'dyhead': ('atss_r50_fpn_dyhead_1x_coco', 96, {}),
    'dynamic_rcnn': ('dynamic-rcnn_r50_fpn_1x_coco', 96, {}),
}
#: How far both may be apart: losses and gradients relatively, boxes in pixels.
LOSS, GRADIENT, SCORE, BOX = 1e-5, 1e-4, 1e-5, 1e-2


@pytest.mark.parametrize('folder', DETECTORS)
def test_losses_gradients_and_detections_are_mmcvs(folder):
    name, size, more = DETECTORS[folder]
    detector = whole_detectors.built(f'{folder}/{name}.py')
    data = whole_detectors.batch(size, **more)
    with ours():
        losses, grads, results = whole_detectors.step(detector, data)
    with compiled():
        expected_losses, expected_grads, expected_results = whole_detectors.step(detector, data)
    assert losses == pytest.approx(expected_losses, rel=LOSS)
    assert grads.keys() == expected_grads.keys()
    difference = torch.stack([(grads[n] - g).norm() for n, g in expected_grads.items()]).norm()
    of_all = torch.stack([g.norm() for g in expected_grads.values()]).norm()
    assert of_all > 0 and difference <= GRADIENT * of_all
    for result, expected in zip(results, expected_results, strict=True):
        assert_found_alike(result.pred_instances, expected.pred_instances)


def assert_found_alike(found, expected):
    assert len(found) == len(expected)
    for key in sorted(expected.keys()):
        if key == 'masks':
            assert (found.masks == expected.masks).float().mean() > 0.999 if len(found) else True
            continue
        bound = dict(scores=SCORE, bboxes=BOX).get(key, 0)
        torch.testing.assert_close(found[key], expected[key], rtol=0, atol=bound)
