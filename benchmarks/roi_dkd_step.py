"""Time and memory of a training step with DKD on RoIs over what it must at least do.

    python benchmarks/roi_dkd_step.py

Steps of three kinds alternate in one process on the same pictures, in changing
order, so that whatever else the machine does falls on all alike:

* floor: the student's step alone, and of the teacher the backbone, the FPN and its box
  head once on the student's RoIs;
* roi_dkd: ``kd_plugins.SingleTeacherDistill``;
* whole: the same, but the teacher runs its whole forward before, with RPN and RoIs of
  its own, as it would if it did not know what its recorders need.

All with SGD. The detectors are mmdet's Faster R-CNN of ResNet-18 and ResNet-101, with
random weights. ``--device cuda`` times a GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from alternating import alternate, detectors_arguments, print_ratios
from bckd_step import batch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope

import kd_plugins  # noqa: F401  (makes mmrazor importable)

DISTILLER = Path(__file__).resolve().parent.parent / 'configs/_base_/distill/dkd_rois.py'
FASTER = 'mmdet::faster_rcnn/faster-rcnn_r{}_fpn_1x_coco.py'


def model() -> torch.nn.Module:
    """Build the algorithm."""
    backbone = dict(depth=18, init_cfg=None)
    return MODELS.build(
        dict(
            type='kd_plugins.SingleTeacherDistill',
            architecture=dict(
                cfg_path=FASTER.format(50),
                backbone=backbone,
                neck=dict(in_channels=[64, 128, 256, 512]),
            ),
            teacher=dict(cfg_path=FASTER.format(101), backbone=dict(init_cfg=None)),
            allow_random_teacher=True,
            distiller=Config.fromfile(DISTILLER).distiller,
        )
    ).train()


def floor_step(algorithm: torch.nn.Module, data: dict, wrapper: object) -> Callable[[], None]:
    """Return a step of the student, and the least of the teacher beside it."""
    student, teacher = algorithm.student, algorithm.teacher.network
    seen: list[torch.Tensor] = []
    forward = student.roi_head._bbox_forward

    def step() -> None:
        student.roi_head._bbox_forward = lambda x, rois: (seen.append(rois), forward(x, rois))[1]
        inputs = algorithm.data_preprocessor(data, True)
        with torch.no_grad():
            features = teacher.extract_feat(inputs['inputs'])
        losses = student(**inputs, mode='loss')
        with torch.no_grad():
            teacher.roi_head._bbox_forward(features, seen.pop())
        wrapper.update_params(student.parse_losses(losses)[0])
        del student.roi_head._bbox_forward

    return step


def whole_step(algorithm: torch.nn.Module, data: dict, wrapper: object) -> Callable[[], None]:
    """Return a step of a teacher whose whole forward runs."""
    teacher = algorithm.teacher

    def step() -> None:
        part, teacher._run = teacher._run, teacher.network
        algorithm.train_step(data, wrapper)
        teacher._run = part

    return step


def main() -> None:
    """Print the medians and their ratios."""
    args = detectors_arguments(__doc__)
    torch.set_num_threads(args.threads)
    MMLogger.get_current_instance().setLevel('ERROR')
    init_default_scope('mmdet')
    algorithm = model().to(args.device)
    data = batch(args.size, args.batch_size)
    sgd = dict(type='SGD', lr=1e-4, momentum=0.9, weight_decay=1e-4)
    wrapper = build_optim_wrapper(algorithm, dict(optimizer=sgd))
    steps = {
        'floor': floor_step(algorithm, data, wrapper),
        'roi_dkd': lambda: algorithm.train_step(data, wrapper),
        'whole': whole_step(algorithm, data, wrapper),
    }
    # The same proposals are drawn, so that every kind has as many RoIs.
    print_ratios(alternate(steps, args.steps, torch.manual_seed), 'floor')


if __name__ == '__main__':
    main()
