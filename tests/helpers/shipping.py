"""Detectors of stock configs whose scores differ, and pictures of digits for them."""

import functools
import tempfile

import torch
from mmengine.config import Config

from kd_plugins.shipping import validation_pictures

from . import ROOT
from .few_scenes import few_scenes
from .whole_detectors import built

#: What makes heads of stock configs small, and know three classes.
DENSE = dict(
    backbone__base_channels=8,
    neck__in_channels=[32, 64, 128, 256],
    neck__out_channels=64,
    bbox_head=dict(in_channels=64, feat_channels=64, stacked_convs=1, num_classes=3),
)
BOX_HEAD = dict(in_channels=64, fc_out_channels=64, num_classes=3)
TWO_STAGE = dict(
    backbone__base_channels=8,
    neck__in_channels=[32, 64, 128, 256],
    neck__out_channels=64,
    rpn_head=dict(in_channels=64, feat_channels=64),
    roi_head__bbox_roi_extractor__out_channels=64,
)
#: Configs of mmdet, and what makes them small.
DETECTORS = {
    'retinanet': (
        'retinanet/retinanet_r18_fpn_1x_coco.py',
        dict(DENSE, neck__in_channels=[8, 16, 32, 64]),
    ),
    'gfl': ('gfl/gfl_r50_fpn_1x_coco.py', DENSE),
    'fcos': ('fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py', DENSE),
    'atss': ('atss/atss_r50_fpn_1x_coco.py', DENSE),
    'rtmdet': ('rtmdet/rtmdet_tiny_8xb32-300e_coco.py', dict(bbox_head__num_classes=3)),
    'yolox': ('yolox/yolox_tiny_8xb8-300e_coco.py', dict(bbox_head__num_classes=3)),
    'faster-rcnn': (
        'faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py',
        dict(TWO_STAGE, roi_head__bbox_head=BOX_HEAD),
    ),
    'cascade-rcnn': (
        'cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco.py',
        dict(TWO_STAGE, **{f'roi_head__bbox_head__{i}': BOX_HEAD for i in range(3)}),
    ),
}


@functools.cache
def _options():
    return few_scenes(tempfile.mkdtemp(), train=4, val=3)


def scenes(side=96, config='configs/vanilla/gfl_scenes_student.py'):
    """Return a config whose pictures are a few scenes of 64 pixels, in this size."""
    cfg = Config.fromfile(ROOT / config)
    options = dict(_options())
    options.pop('model.architecture.test_cfg.score_thr')
    cfg.merge_from_dict(options)
    cfg.val_dataloader.update(num_workers=0, persistent_workers=False, batch_size=2)
    cfg.val_dataloader.dataset.pipeline[1].scale = (side, side)
    return cfg


def varied(detector, std=0.05):
    """Give a detector's heads weights that tell places apart, and norms that have seen pictures."""
    torch.manual_seed(1)
    norms = []
    for name, module in detector.named_modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.momentum = None
            norms.append(module.train())
        elif 'head' in name and isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
            # Deltas are exponents in some heads.
            torch.nn.init.normal_(module.weight, std=std / 20 if 'reg' in name else std)
    with torch.no_grad():
        maps = detector.extract_feat(images(detector, 3, 128, 128))
        if detector.with_bbox and hasattr(detector, 'bbox_head'):
            detector.bbox_head(maps)
    for norm in norms:
        norm.running_var.clamp_(min=0.05)  # or rounding grows from layer to layer
    return detector.eval()


def images(detector, *shape, seed=0):
    """Return scenes and some noise in a shape (N, H, W), as a detector takes them."""
    scenes_of_digits, _ = pictures(detector).batch(range(shape[0]))
    # YOLOX and others take pixels as they are.
    scale = 0.1 if detector.data_preprocessor._enable_normalize else 6
    found = torch.nn.functional.interpolate(scenes_of_digits, shape[1:], mode='bilinear')
    generator = torch.Generator().manual_seed(seed)
    return found + scale * torch.randn(found.shape, generator=generator)


def stock(kind, **more):
    """Return a detector of a stock config, small and for three classes."""
    name, changes = DETECTORS[kind]
    changes = {f'model.{key.replace("__", ".")}': value for key, value in (changes | more).items()}
    detector = varied(built(name, changes))
    # Where scores vanish, rounding decides whether they are above 0.
    for head in ('bbox_head', 'roi_head'):
        if hasattr(detector, head):
            getattr(detector, head).test_cfg.score_thr = 1e-3
    return detector


def pictures(detector, side=96, size=None):
    """Return validation pictures for it."""
    return validation_pictures(scenes(side), detector, size)
