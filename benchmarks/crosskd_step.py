"""Time of a training step with CrossKD over what it must at least do.

    python benchmarks/crosskd_step.py

For each pair of detectors steps of two kinds alternate in one process on the same pictures, in
changing order, so that whatever else the machine does falls on both alike:

* floor: the student's step, the teacher's forward pass, and the rest of the teacher's head once
  more, forward on the student's maps as they are, and backward to them from the binary
  cross-entropy of both class scores. That compares every anchor and class, 720 a position of
  RetinaNet, which is 2 to 3 % of its step on a CPU and none of a head's pass;
* crosskd: ``kd_plugins.SingleTeacherDistill``, which aligns these maps, and has the terms.

All with SGD. The detectors are those of the configs, with random weights. ``--device cuda`` times
a GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from alternating import alternate, detectors_arguments, print_ratios
from bckd_step import batch, networks
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope

import kd_plugins  # noqa: F401  (makes mmrazor importable)
from kd_plugins.recorders.head_features import rest_of_head

FOLDER = Path(__file__).resolve().parent.parent / 'configs/crosskd'
CONFIGS = ('gfl_r50_r18_fpn_1x', 'retinanet_r50_r18_fpn_1x')


def algorithm(name: str) -> torch.nn.Module:
    """Build a student that is taught by CrossKD."""
    cfg = Config.fromfile(FOLDER / f'crosskd_{name}_coco.py')
    student, teacher = networks(cfg.model)
    model = dict(cfg.model, architecture=student, teacher=teacher, allow_random_teacher=True)
    return MODELS.build(model).train()


def floor_step(model: torch.nn.Module, data: dict, wrapper: object) -> Callable[[], None]:
    """Return a step of the student, with the least of the teacher beside it."""
    recorders = model.distiller.student_recorders
    inside = recorders.get_recorder('inside')
    head = model.teacher.network.bbox_head

    def step() -> None:
        inputs = model.data_preprocessor(data, True)
        with torch.no_grad():
            scores, *_ = model.teacher.network(**inputs, mode='tensor')
        with recorders:
            losses = model.student(**inputs, mode='loss')
        (maps,) = inside.data_buffer
        with rest_of_head(head, inside.after, maps.cls, maps.reg):
            said = head(maps.cls)
        losses['loss_cls_again'] = sum(
            F.binary_cross_entropy_with_logits(x, y.sigmoid())
            for x, y in zip(said[0], scores, strict=True)
        )
        losses['loss_rest'] = 1e-6 * sum(level.mean() for kind in said[1:] for level in kind)
        wrapper.update_params(model.student.parse_losses(losses)[0])

    return step


def main() -> None:
    """Print the medians and their ratios."""
    args = detectors_arguments(__doc__)
    torch.set_num_threads(args.threads)
    MMLogger.get_current_instance().setLevel('ERROR')
    init_default_scope('mmdet')
    data = batch(args.size, args.batch_size)
    for name in CONFIGS:
        model = algorithm(name).to(args.device)
        sgd = dict(type='SGD', lr=1e-5, momentum=0.9, weight_decay=1e-4)
        wrapper = build_optim_wrapper(model, dict(optimizer=sgd))
        print(name)
        steps = {
            'floor': floor_step(model, data, wrapper),
            'crosskd': lambda model=model, wrapper=wrapper: model.train_step(data, wrapper),
        }
        print_ratios(alternate(steps, args.steps), 'floor')


if __name__ == '__main__':
    main()
