"""Time of a training step with a term on maps over what it must at least do.

    python benchmarks/maps_step.py

For each term steps of two kinds alternate in one process on the same pictures, in changing order,
so that whatever else the machine does falls on both alike:

* floor: the student's step, the teacher's backbone and neck (SL2 reads its head, which then runs,
  too), and, if the term has layers of its own, these forward and backward;
* the term on all five maps of the FPN: ``kd_plugins.SingleTeacherDistill``.

All with SGD. The detectors are those of ``configs/bckd/bckd_gfl_r101_r18_fpn_1x_coco.py``, with
random weights. ``--device cuda`` times a GPU.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from alternating import alternate, detectors_arguments, print_ratios
from bckd_step import CONFIG, batch, networks
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope

import kd_plugins  # noqa: F401  (makes mmrazor importable)

LAYERS = dict(channels_S=[256] * 5, channels_T=[256] * 5)
TERMS = {
    'cwd': dict(type='kd_plugins.CWDLoss'),
    'pkd': dict(type='kd_plugins.PKDLoss'),
    'mgd': dict(type='kd_plugins.MGDLoss', **LAYERS),
    'sl2': dict(type='kd_plugins.SL2Loss', **LAYERS),
    'cosine': dict(type='kd_plugins.CosineLoss'),
}


def algorithm(term: str) -> torch.nn.Module:
    """Build a student that is taught by this term alone."""
    student, teacher = networks(Config.fromfile(CONFIG).model)
    recorders = dict(neck=dict(type='kd_plugins.Features'))
    record = dict(recorder='neck', from_student=True)
    mapping = dict(preds_S=record, preds_T=dict(record, from_student=False))
    teacher_recorders = dict(recorders)
    if term == 'sl2':
        teacher_recorders['head'] = dict(type='kd_plugins.DetectionHead')
        mapping['head_T'] = dict(recorder='head', from_student=False)
    return MODELS.build(
        dict(
            type='kd_plugins.SingleTeacherDistill',
            architecture=student,
            teacher=teacher,
            allow_random_teacher=True,
            distiller=dict(
                student_recorders=recorders,
                teacher_recorders=teacher_recorders,
                distill_losses={f'loss_{term}': dict(TERMS[term])},
                loss_forward_mappings={f'loss_{term}': mapping},
            ),
        )
    ).train()


def floor_step(model: torch.nn.Module, data: dict, wrapper: object) -> Callable[[], None]:
    """Return a step of the student, with the least of the teacher and of the term beside it."""
    (term,) = model.distiller.distill_losses.values()
    seen: list = []
    teacher = model.teacher.network
    reads_head = 'head' in model.distiller.teacher_recorders.recorders
    model.student.neck.register_forward_hook(lambda module, args, output: seen.append(output))

    def step() -> None:
        inputs = model.data_preprocessor(data, True)
        with torch.no_grad():
            if reads_head:
                teacher(**inputs, mode='tensor')
            else:
                teacher.extract_feat(inputs['inputs'])
        losses = model.student(**inputs, mode='loss')
        for layers, x in zip(getattr(term, 'projectors', ()), seen[-1], strict=False):
            for layer in layers.values() if hasattr(layers, 'values') else [layers]:
                x = layer(x)
            losses.setdefault('loss_layers', x.sum() * 0)
            losses['loss_layers'] = losses['loss_layers'] + x.mean() * 1e-6
        wrapper.update_params(model.student.parse_losses(losses)[0])
        seen.clear()

    return step


def main() -> None:
    """Print the medians and their ratios."""
    args = detectors_arguments(__doc__)
    torch.set_num_threads(args.threads)
    MMLogger.get_current_instance().setLevel('ERROR')
    init_default_scope('mmdet')
    data = batch(args.size, args.batch_size)
    for term in TERMS:
        model = algorithm(term).to(args.device)
        sgd = dict(type='SGD', lr=1e-5, momentum=0.9, weight_decay=1e-4)
        wrapper = build_optim_wrapper(model, dict(optimizer=sgd))
        steps = {
            'floor': floor_step(model, data, wrapper),
            term: lambda model=model, wrapper=wrapper: model.train_step(data, wrapper),
        }
        print_ratios(alternate(steps, args.steps), 'floor')


if __name__ == '__main__':
    main()
