"""Time of a training step with BCKD over what it must at least do, and over mmrazor's.

    python benchmarks/bckd_step.py

Steps of three kinds alternate in one process on the same pictures, in changing
order, so that whatever else the machine does falls on all alike:

* floor: the student's forward and backward pass, the teacher's forward, no update;
* bckd: ``kd_plugins.SingleTeacherDistill`` with SGD;
* mmrazor: its ``SingleTeacherDistill`` with the same recorders, losses and SGD.

The detectors are those of ``configs/bckd/bckd_gfl_r101_r18_fpn_1x_coco.py``, with
random weights. ``--device cuda`` times a GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from alternating import alternate, detectors_arguments, print_ratios
from mmengine.config import Config, ConfigDict
from mmengine.logging import MMLogger
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import InstanceData

import kd_plugins  # noqa: F401  (makes mmrazor importable)
from kd_plugins.networks import resolve_network

CONFIG = Path(__file__).resolve().parent.parent / 'configs/bckd/bckd_gfl_r101_r18_fpn_1x_coco.py'


def networks(cfg: ConfigDict) -> tuple[ConfigDict, ConfigDict]:
    """Return the configs of student and teacher, with random weights."""
    student, _ = resolve_network(cfg.architecture, 'model.architecture')
    teacher, _ = resolve_network(dict(cfg.teacher, pretrained=False), 'model.teacher')
    for network in (student, teacher):
        network.backbone.init_cfg = None
        network._scope_ = 'mmdet'
    return student, teacher


def batch(size: int, number: int) -> dict:
    """Make pictures of noise with six boxes of different sizes each."""
    from mmdet.structures import DetDataSample

    generator = torch.Generator().manual_seed(0)
    inputs = torch.randint(0, 256, (number, 3, size, size), generator=generator)
    samples = []
    for _ in range(number):
        sides = size * torch.tensor([0.05, 0.1, 0.15, 0.25, 0.4, 0.6])[:, None].expand(6, 2)
        corners = torch.rand(6, 2, generator=generator) * (size - sides)
        labels = torch.randint(80, (6,), generator=generator)
        sample = DetDataSample(metainfo=dict(img_shape=(size, size), scale_factor=(1.0, 1.0)))
        sample.gt_instances = InstanceData(
            bboxes=torch.cat([corners, corners + sides], dim=1), labels=labels
        )
        samples.append(sample)
    return dict(inputs=list(inputs), data_samples=samples)


def floor_step(model: torch.nn.Module, data: dict) -> Callable[[], None]:
    """Return a step that computes the student's gradients and the teacher's outputs."""

    def step() -> None:
        inputs = model.data_preprocessor(data, True)
        with torch.no_grad():
            model.teacher.network(**inputs, mode='tensor')
        total, _ = model.student.parse_losses(model.student(**inputs, mode='loss'))
        total.backward()
        for p in model.parameters():
            p.grad = None

    return step


def trained_step(model: torch.nn.Module, data: dict) -> Callable[[], None]:
    """Return a step as the Runner does it."""
    sgd = dict(type='SGD', lr=1e-4, momentum=0.9, weight_decay=1e-4)
    wrapper = build_optim_wrapper(model.architecture, dict(optimizer=sgd))
    return lambda: model.train_step(data, wrapper)


def main() -> None:
    """Print the medians and their ratios."""
    args = detectors_arguments(__doc__)
    torch.set_num_threads(args.threads)
    MMLogger.get_current_instance().setLevel('ERROR')
    cfg = Config.fromfile(CONFIG)
    init_default_scope('mmdet')
    student, teacher = networks(cfg.model)
    parts = dict(architecture=student, teacher=teacher, distiller=cfg.model.distiller)
    ours = MODELS.build(dict(cfg.model, **parts, allow_random_teacher=True))
    theirs = MODELS.build(
        dict(
            type='mmrazor.SingleTeacherDistill',
            data_preprocessor=student.data_preprocessor,
            **parts,
        )
    )
    theirs.load_state_dict(
        {f'architecture.{key}': value for key, value in ours.student.state_dict().items()}
        | {f'teacher.{key}': value for key, value in ours.teacher.network.state_dict().items()},
        strict=False,
    )
    data = batch(args.size, args.batch_size)
    for model in (ours, theirs):
        model.to(args.device)
        model.train()  # mmrazor's returns nothing
    steps = {
        'floor': floor_step(ours, data),
        'bckd': trained_step(ours, data),
        'mmrazor': trained_step(theirs, data),
    }
    print_ratios(alternate(steps, args.steps), 'floor', 'mmrazor')


if __name__ == '__main__':
    main()
