"""Whether a teacher teaches anything, from its answers to the first batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kd_plugins.experiments.metrics import right_by_luck
from kd_plugins.teachers import Teacher


def warn_once(teacher: Teacher, logger: Any) -> None:
    """Warn, when the teacher next looks at a batch, if its logits say nothing.

    Args:
        teacher: The teacher.
        logger: Gets the warning.
    """

    def look(outputs: Any, data_samples: Any) -> None:
        stop()
        names = [f'{member.weights}: ' for member in teacher.members] or ['']
        several = outputs if teacher.members else [outputs]
        for name, logits in zip(names, several, strict=True):
            if isinstance(logits, Tensor) and logits.dim() == 2 and logits.shape[0] > 1:
                complaint = teacher_complaint(logits, labels_of(data_samples))
                if complaint:
                    logger.warning(name + complaint)

    stop = teacher.watch(after=look)


def labels_of(data_samples: Any) -> Tensor | None:
    """Return the classes of a batch, integers of shape (N,), or None.

    Args:
        data_samples: A tensor of classes, or samples with one ``gt_label`` each.
    """
    if data_samples is None or isinstance(data_samples, Tensor):
        labels = data_samples
    else:
        given = [getattr(sample, 'gt_label', None) for sample in data_samples]
        each = [
            label.reshape(1) for label in given if isinstance(label, Tensor) and len(label) == 1
        ]
        if not each or len(each) < len(given):
            return None
        labels = torch.cat(each)
    integers = labels is not None and labels.dim() == 1 and not labels.is_floating_point()
    return labels if integers else None


def teacher_complaint(logits: Tensor, labels: Tensor | None) -> str | None:
    """Say what is wrong with a teacher, from its logits (N, C) and the classes (N,).

    Returns:
        A sentence, or None: nothing is wrong, or the batch is too small to tell.
    """
    size, classes = logits.shape
    spread = (logits.float() - logits[:1].float()).abs().max()
    scale = logits.float().abs().max()
    if bool(spread <= 1e-6 * scale):
        return (
            f'the teacher gives all {size} pictures of the first batch the same logits, and '
            'teaches nothing: check model.teacher_ckpt and the input that it was trained with '
            '(data_preprocessor of its config).'
        )
    if labels is None or labels.shape[0] != size or classes < 2:
        return None
    limit = size * right_by_luck(size, classes)
    right = int((logits.argmax(dim=1) == labels.to(logits.device)).sum())
    if limit < size and right <= limit:
        return (
            f'the teacher is right on {right} of the {size} pictures of the first batch, where '
            f'guessing among {classes} classes gives {size / classes:.2g}: check '
            'model.teacher_ckpt, the order of its classes and the input that it was trained with '
            '(data_preprocessor of its config).'
        )
    return None
