"""The pair of networks that the benchmarks of a step train: KD of small ResNets."""

from __future__ import annotations

import logging

import torch
from mmengine.registry import MODELS

import kd_plugins  # noqa: F401  (makes mmrazor importable)

CLASSES = 100
# mmengine tells how it initialises every weight.
logging.disable(logging.INFO)


def network(depth: int, width: int) -> dict:
    """Config of a residual network for small pictures."""
    return dict(
        type='ImageClassifier',
        backbone=dict(
            type='ResNet_CIFAR',
            depth=depth,
            stem_channels=width,
            base_channels=width,
            num_stages=3,
            strides=(1, 2, 2),
            dilations=(1, 1, 1),
            out_indices=(2,),
        ),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', num_classes=CLASSES, in_channels=4 * width),
    )


def algorithm(
    tau: float | dict, device: str, width: int = 16, loss: dict | None = None
) -> torch.nn.Module:
    """Build KD at this temperature, or another loss, ready to train.

    VkD compares what the classifiers are given, OFA-KD needs labels beside the logits.
    """
    loss = loss or dict(type='kd_plugins.KDLoss', tau=tau)
    record = dict(recorder='logits', from_student=True)
    recorders = dict(logits=dict(type='ModuleOutputs', source='head.fc'))
    labels, needs = {}, {}
    if loss['type'] == 'kd_plugins.VkDLoss':
        record['data_idx'] = 0
        recorders = dict(logits=dict(type='ModuleInputs', source='head.fc'))
    elif loss['type'] == 'kd_plugins.OFALoss':
        labels = dict(labels=dict(type='ModuleInputs', source='head.loss_module'))
        needs = dict(gt_labels=dict(recorder='labels', from_student=True, data_idx=1))
    model = MODELS.build(
        dict(
            type='kd_plugins.SingleTeacherDistill',
            architecture=network(18, width),
            teacher=network(34, width),
            allow_random_teacher=True,
            distiller=dict(
                student_recorders={**recorders, **labels},
                teacher_recorders=recorders,
                distill_losses=dict(loss_kd=loss),
                loss_forward_mappings=dict(
                    loss_kd=dict(preds_S=record, preds_T=dict(record, from_student=False), **needs)
                ),
            ),
        )
    )
    return model.to(device).train()
