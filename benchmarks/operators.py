"""Time of kd_plugins' operators over that of mmcv's compiled ones.

    python benchmarks/operators.py

Both take turns in one process, in an environment where mmcv has compiled operators
(`make setup OPS=compiled`); printed are medians of one thread, and their ratio.
The last lines are training steps of whole detectors on two pictures of 320 pixels a
side. ``--device cuda`` times a GPU, and what mmcv has for GPUs only besides.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import sys
import warnings
from collections.abc import Callable
from types import ModuleType

import torch
from mmengine.registry import init_default_scope

import kd_plugins  # noqa: F401  (first, as it is where mmcv has no operators)
from kd_plugins.compat.operators import extension, in_use
from kd_plugins.experiments.timing import median, now

warnings.simplefilter('ignore')


def use(module: ModuleType) -> None:
    """Let ``mmcv.ops`` work with the functions of a module."""
    for name, part in list(sys.modules.items()):
        if name.startswith('mmcv.ops') and hasattr(part, 'ext_module'):
            part.ext_module = module  # type: ignore[attr-defined]


def operators(device: str) -> dict[str, Callable[[], object]]:
    """Name what is timed; gradients are part of it where there are any."""
    import mmcv.ops
    from mmcv.ops.multi_scale_deform_attn import MultiScaleDeformableAttnFunction

    torch.manual_seed(0)

    def boxes(count: int, size: float) -> torch.Tensor:
        low = torch.rand(count, 2, device=device) * size
        return torch.cat((low, low + torch.rand(count, 2, device=device) * size / 4 + 1), 1)

    def rand(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, device=device).requires_grad_()

    def both_ways(function: Callable[..., torch.Tensor], *inputs: object) -> Callable[[], object]:
        def call() -> object:
            output = function(*inputs)
            wanted = [x for x in inputs if isinstance(x, torch.Tensor) and x.requires_grad]
            return torch.autograd.grad(output.sum(), wanted)

        return call

    many, scores, classes = boxes(5000, 800), torch.rand(5000, device=device), torch.arange(5000)
    some, few = boxes(1000, 800), torch.rand(1000, device=device)
    rois = torch.cat((torch.arange(512, device=device)[:, None] % 2, boxes(512, 800)), 1).float()
    maps, weight = rand(2, 256, 50, 68), rand(256, 256, 3, 3)
    offset, mask = rand(2, 18, 50, 68), rand(2, 9, 50, 68)
    logits, target = rand(20000, 80), torch.randint(0, 81, (20000,), device=device)
    named = {
        'nms, 5000 boxes': lambda: mmcv.ops.batched_nms(
            many, scores, classes.to(device) % 80, dict(type='nms', iou_threshold=0.6)
        ),
        'soft_nms, 1000 boxes': lambda: mmcv.ops.soft_nms(some, few),
        'nms_match, 1000 boxes': lambda: mmcv.ops.nms_match(
            torch.cat((some, few[:, None]), 1), 0.5
        ),
        'roi_align': both_ways(mmcv.ops.roi_align, maps, rois, 7, 0.0625, 0, 'avg', True),
        'deform_conv2d': both_ways(mmcv.ops.deform_conv2d, maps, offset, weight, 1, 1),
        'modulated_deform_conv2d': both_ways(
            mmcv.ops.modulated_deform_conv2d, maps, offset, mask, weight, None, 1, 1
        ),
    }
    if device == 'cpu':
        return named
    value, at = rand(2, 4750, 8, 32), torch.rand(2, 4750, 8, 2, 4, 2, device=device)
    shapes = torch.tensor([[50, 76], [25, 38]], device=device)
    starts = torch.tensor([0, 3800], device=device)
    attention = torch.rand(2, 4750, 8, 2, 4, device=device)
    return {
        **named,
        'sigmoid_focal_loss': both_ways(mmcv.ops.sigmoid_focal_loss, logits, target),
        'ms_deform_attn': both_ways(
            MultiScaleDeformableAttnFunction.apply, value, shapes, starts, at, attention, 64
        ),
        'carafe': both_ways(mmcv.ops.carafe, maps, rand(2, 25, 100, 136), 5, 1, 2),
    }


def steps(device: str) -> dict[str, Callable[[], object]]:
    """Name the training steps of whole detectors."""
    from mmdet.registry import MODELS
    from mmdet.testing import demo_mm_inputs
    from mmengine.hub import get_config

    init_default_scope('mmdet')
    named: dict[str, Callable[[], object]] = {}
    for name in ('gfl/gfl_r50_fpn_1x_coco', 'faster_rcnn/faster-rcnn_r50_fpn_1x_coco'):
        cfg = get_config(f'mmdet::{name}.py').model
        cfg.backbone.init_cfg = None
        detector = MODELS.build(cfg).to(device).train()
        data = demo_mm_inputs(2, [[3, 320, 320]] * 2, num_classes=80)

        def step(detector: torch.nn.Module = detector, data: dict = data) -> None:
            torch.manual_seed(0)
            inputs = detector.data_preprocessor(data, True)
            total, _ = detector.parse_losses(detector(**inputs, mode='loss'))
            total.backward()

        named[f'step of {name.split("/")[1]}'] = step
    return named


def main() -> None:
    """Print the medians and their ratios."""
    parser = argparse.ArgumentParser(description=(__doc__ or '').splitlines()[0])
    parser.add_argument('--repeats', type=int, default=9, help='timed calls of each kind')
    parser.add_argument('--device', default='cpu')
    parser.add_argument('--only', default='', help='time what has this in its name')
    args = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    compiled = importlib.import_module('mmcv._ext')
    if in_use() != 'compiled':
        sys.exit('mmcv has no compiled operators here: `make setup OPS=compiled`.')
    print(f'{"ms":32}{"kd_plugins":>12}{"compiled":>12}{"ratio":>8}')
    for name, call in {**operators(args.device), **steps(args.device)}.items():
        if args.only not in name:
            continue
        times: dict[ModuleType, list[float]] = {extension: [], compiled: []}
        for _ in range(args.repeats + 1):
            for module, values in times.items():
                use(module)
                start = now()
                call()
                values.append(now() - start)
        ours, theirs = (1000 * median(values, warm_up=1) for values in times.values())
        print(f'{name:32}{ours:12.2f}{theirs:12.2f}{ours / theirs:8.2f}', flush=True)


if __name__ == '__main__':
    main()
