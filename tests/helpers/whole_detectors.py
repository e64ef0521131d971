"""One training step and one prediction of a stock mmdet config, on small pictures."""

import contextlib
import copy
import inspect
import logging
import random
import warnings

import numpy as np
import pytest
import torch
from mmengine.hub import get_config
from mmengine.logging import MessageHub
from mmengine.registry import DefaultScope


def built(name, changes=()):
    """Return the detector of a stock config, without pretrained weights, from a fixed seed."""
    from mmdet.registry import MODELS

    cfg = get_config(f'mmdet::{name}')
    cfg.merge_from_dict(dict(changes))
    model = _from_chance(cfg.model)
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmdet'), shallow():
        detector = MODELS.build(model)
        detector.init_weights()
    return detector


@contextlib.contextmanager
def shallow():
    """Give every ResNet one block a stage, which leaves its widths as they are."""
    from mmdet.models import backbones

    with pytest.MonkeyPatch.context() as patch:
        for backbone in vars(backbones).values():
            settings = vars(backbone).get('arch_settings') if inspect.isclass(backbone) else None
            settings = settings if isinstance(settings, dict) else {}
            for depth, value in settings.items():
                if isinstance(value, tuple) and inspect.isclass(value[0]):
                    patch.setitem(settings, depth, (value[0], (1, 1, 1, 1)))
        logging.disable(logging.WARNING)
        yield
        logging.disable(logging.NOTSET)


def _from_chance(cfg):
    if isinstance(cfg, dict):
        # What is found by chance has low scores, and a few boxes are enough.
        for key, most in dict(score_thr=0.0, nms_pre=200, max_per_img=50).items():
            if cfg.get(key) is not None:
                cfg[key] = min(cfg[key], most)
        loads = isinstance(cfg.get('init_cfg'), dict) and 'checkpoint' in cfg['init_cfg']
        if loads:
            cfg['init_cfg'] = None
        for key in list(cfg):
            cfg[key] = _from_chance(cfg[key])
    elif isinstance(cfg, list | tuple):
        return type(cfg)(map(_from_chance, cfg))
    return cfg


def batch(size=96, **more):
    """Return two pictures with boxes, masks and whatever else is asked for."""
    from mmdet.testing import demo_mm_inputs

    return demo_mm_inputs(2, [[3, size, size], [3, size, size - 8]], num_classes=3, **more)


def step(detector, data, seed=0, detects=True):
    """Return losses, gradients and, after it, detections; the detector is left as it was.

    No detections are returned if it does not detect.
    """
    detector = copy.deepcopy(detector)
    MessageHub.get_current_instance().update_info('epoch', 0)  # TOOD and YOLOX ask for it
    MessageHub.get_current_instance().update_info('max_epochs', 12)
    MessageHub.get_current_instance().update_info('iter', 0)
    torch.manual_seed(seed)
    _seed_numpy(seed)
    detector.train()
    losses = detector.forward(**detector.data_preprocessor(copy.deepcopy(data), True), mode='loss')
    total, log = detector.parse_losses(losses)
    total.backward()
    grads = {n: p.grad for n, p in detector.named_parameters() if p.grad is not None}
    losses = {name: float(value) for name, value in log.items()}
    if not detects:
        return losses, grads, []
    detector.eval()
    with torch.no_grad():
        inputs = detector.data_preprocessor(copy.deepcopy(data), False)
        results = detector.forward(**inputs, mode='predict')
    return losses, grads, results


def _seed_numpy(seed):
    np.random.seed(seed)
    random.seed(seed)


@contextlib.contextmanager
def counted(module):
    """Give a stand-in for a module of operators, and which of them were called how often."""
    calls = {}

    class Counting:
        def __getattr__(self, name):
            function = getattr(module, name)

            def call(*args, **kwargs):
                calls[name] = calls.get(name, 0) + 1
                return function(*args, **kwargs)

            return call

    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        yield Counting(), calls
