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
    'cityscapes': ('faster-rcnn_r50_fpn_1x_cityscapes', 96, {}),
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
    'deepfashion': ('mask-rcnn_r50_fpn_15e_deepfashion', 96, MASKS),
    'deformable_detr': ('deformable-detr_r50_16xb2-50e_coco', 96, {}),
    'detectors': ('htc_r50-sac_1x_coco', 96, SEMANTIC),
    'detr': ('detr_r18_8xb2-500e_coco', 96, {}),
    'dino': ('dino-4scale_r50_8xb2-12e_coco', 320, {}),
    'double_heads': ('dh-faster-rcnn_r50_fpn_1x_coco', 96, {}),
    'dyhead': ('atss_r50_fpn_dyhead_1x_coco', 96, {}),
    'dynamic_rcnn': ('dynamic-rcnn_r50_fpn_1x_coco', 96, {}),
    'efficientnet': ('retinanet_effb3_fpn_8xb4-crop896-1x_coco', 96, {}),
    'empirical_attention': ('faster-rcnn_r50-attn1111_fpn_1x_coco', 96, {}),
    'faster_rcnn': ('faster-rcnn_r50_fpn_1x_coco', 96, {}),
    'fcos': ('fcos_r50-caffe_fpn_gn-head_1x_coco', 96, {}),
    'foveabox': ('fovea_r50_fpn_4xb4-1x_coco', 96, {}),
    'fpg': ('retinanet_r50_fpg_crop640_50e_coco', 96, {}),
    'free_anchor': ('freeanchor_r50_fpn_1x_coco', 96, {}),
    'fsaf': ('fsaf_r50_fpn_1x_coco', 96, {}),
    'gcnet': ('mask-rcnn_r50-syncbn_fpn_1x_coco', 96, MASKS),
    'gfl': ('gfl_r50_fpn_1x_coco', 96, {}),
    'ghm': ('retinanet_r50_fpn_ghm-1x_coco', 96, {}),
    'gn': ('mask-rcnn_r50_fpn_gn-all_3x_coco', 96, MASKS),
    'grid_rcnn': ('grid-rcnn_r50_fpn_gn-head_1x_coco', 96, {}),
    'groie': ('mask-rcnn_r50_fpn_groie_1x_coco', 96, MASKS),
    'guided_anchoring': ('ga-retinanet_r50_fpn_1x_coco', 96, {}),
    'hrnet': ('mask-rcnn_hrnetv2p-w40_1x_coco', 96, MASKS),
    'htc': ('htc_r50_fpn_1x_coco', 96, SEMANTIC),
    'instaboost': ('mask-rcnn_r50_fpn_instaboost-4x_coco', 96, MASKS),
    'libra_rcnn': ('libra-retinanet_r50_fpn_1x_coco', 96, {}),
    'lvis': ('mask-rcnn_r50_fpn_sample1e-3_ms-1x_lvis-v1', 96, MASKS),
    'mask_rcnn': ('mask-rcnn_r50_fpn_1x_coco', 96, MASKS),
    'maskformer': ('maskformer_r50_ms-16xb1-75e_coco', 96, SEMANTIC),
    'ms_rcnn': ('ms-rcnn_r50_fpn_1x_coco', 96, MASKS),
    'nas_fcos': ('nas-fcos_r50-caffe_fpn_nashead-gn-head_4xb4-1x_coco', 96, {}),
    'nas_fpn': ('retinanet_r50_fpn_crop640-50e_coco', 96, {}),
    'objects365': ('retinanet_r50_fpn_1x_objects365v1', 96, {}),
    'openimages': ('faster-rcnn_r50_fpn_32xb2-1x_openimages', 96, {}),
    'paa': ('paa_r50_fpn_1x_coco', 96, {}),
    'pafpn': ('faster-rcnn_r50_pafpn_1x_coco', 96, {}),
    'panoptic_fpn': ('panoptic-fpn_r50_fpn_1x_coco', 96, SEMANTIC),
    'pascal_voc': ('faster-rcnn_r50_fpn_1x_voc0712', 96, {}),
    'pisa': ('retinanet-r50_fpn_pisa_1x_coco', 96, {}),
    'point_rend': ('point-rend_r50-caffe_fpn_ms-3x_coco', 96, MASKS),
    'pvt': ('retinanet_pvt-t_fpn_1x_coco', 96, {}),
    'queryinst': ('queryinst_r50_fpn_1x_coco', 96, MASKS),
    'regnet': ('mask-rcnn_regnetx-400MF_fpn_ms-poly-3x_coco', 96, MASKS),
    'reppoints': ('reppoints-moment_r50_fpn_1x_coco', 96, {}),
    'res2net': ('faster-rcnn_res2net-101_fpn_2x_coco', 96, {}),
    'resnest': ('faster-rcnn_s50_fpn_syncbn-backbone+head_ms-range-1x_coco', 96, {}),
    'resnet_strikes_back': ('faster-rcnn_r50-rsb-pre_fpn_1x_coco', 96, {}),
    'retinanet': ('retinanet_r18_fpn_1x_coco', 96, {}),
    'rpn': ('rpn_r50_fpn_1x_coco', 96, {}),
    'rtmdet': ('rtmdet_tiny_8xb32-300e_coco', 96, {}),
    'sabl': ('sabl-retinanet_r50_fpn_1x_coco', 96, {}),
    'scnet': ('scnet_r50_fpn_1x_coco', 96, SEMANTIC),
    'scratch': ('faster-rcnn_r50-scratch_fpn_gn-all_6x_coco', 96, {}),
    'seesaw_loss': ('mask-rcnn_r101_fpn_seesaw-loss_random-ms-2x_lvis-v1', 96, MASKS),
    'solo': ('solo_r50_fpn_1x_coco', 96, MASKS),
    'solov2': ('solov2_r50_fpn_1x_coco', 96, MASKS),
    'sparse_rcnn': ('sparse-rcnn_r50_fpn_1x_coco', 96, {}),
    'ssd': ('ssd300_coco', 300, {}),
    'swin': ('mask-rcnn_swin-t-p4-w7_fpn_1x_coco', 96, MASKS),
    'tood': ('tood_r50_fpn_1x_coco', 384, {}),
    'tridentnet': ('tridentnet_r50-caffe_1x_coco', 96, {}),
    'vfnet': ('vfnet_r50_fpn_1x_coco', 96, {}),
    'yolact': ('yolact_r50_8xb8-55e_coco', 96, MASKS),
    'yolo': ('yolov3_d53_8xb8-320-273e_coco', 96, {}),
    'yolof': ('yolof_r50-c5_8xb8-1x_coco', 96, {}),
    'yolox': ('yolox_tiny_8xb8-300e_coco', 96, {}),
}
#: Detectors that find nothing here, with either operators: mmcv has no MaskedConv2d for CPUs,
#: random weights give QueryInst boxes that masks cannot be pasted into, and mmdet's SSDHead has
#: no ``loss_cls``, which its own search asks for.
TRAINED_ONLY = ('guided_anchoring', 'queryinst', 'ssd')
#: How far both may be apart: losses and gradients relatively, boxes in pixels.
LOSS, GRADIENT, SCORE, BOX = 1e-5, 1e-4, 1e-5, 1e-2


@pytest.mark.parametrize('folder', DETECTORS)
def test_losses_gradients_and_detections_are_mmcvs(folder):
    name, size, more = DETECTORS[folder]
    detector = whole_detectors.built(f'{folder}/{name}.py')
    data = whole_detectors.batch(size, **more)
    detects = folder not in TRAINED_ONLY
    with ours():
        losses, grads, results = whole_detectors.step(detector, data, detects=detects)
    with compiled():
        expected_losses, expected_grads, expected_results = whole_detectors.step(
            detector, data, detects=detects
        )
    assert losses == pytest.approx(expected_losses, rel=LOSS)
    assert grads.keys() == expected_grads.keys()
    difference = torch.stack([(grads[n] - g).norm() for n, g in expected_grads.items()]).norm()
    of_all = torch.stack([g.norm() for g in expected_grads.values()]).norm()
    assert of_all > 0 and difference <= GRADIENT * of_all
    for result, expected in zip(results, expected_results, strict=True):
        if 'pred_panoptic_seg' in expected:
            wrong = result.pred_panoptic_seg.sem_seg != expected.pred_panoptic_seg.sem_seg
            assert wrong.sum() <= 1e-3 * wrong.numel()
        else:
            assert_found_alike(result.pred_instances, expected.pred_instances)


def assert_found_alike(found, expected):
    assert len(found) == len(expected)
    bounds = dict(scores=SCORE, bboxes=BOX)
    for key, value in expected.to_dict().items():
        if key == 'masks':
            assert (found.masks != value).sum() <= 1e-3 * value.numel()
        else:
            torch.testing.assert_close(found[key], value, rtol=0, atol=bounds.get(key, 0))
