"""Whether a teacher teaches anything, from its answers to the first batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def warn_once(network: nn.Module, logger: Any) -> None:
    """Warn, in the next forward pass of a teacher's network, if its logits say nothing.

    Args:
        network: It is called with inputs and data samples.
        logger: Gets the warning.
    """

    def look(module: nn.Module, args: tuple, kwargs: dict, logits: Any) -> None:
        handle.remove()
        if isinstance(logits, Tensor) and logits.dim() == 2 and logits.shape[0] > 1:
            samples = kwargs.get('data_samples', args[1] if len(args) > 1 else None)
            complaint = teacher_complaint(logits, labels_of(samples))
            if complaint:
                logger.warning(complaint)

    handle = network.register_forward_hook(look, with_kwargs=True)


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


def most_by_guessing(samples: int, classes: int, deviations: float = 2.0) -> float:
    """Return how many of the samples a guess may well get right.

    The mean of a binomial distribution, and so many of its standard deviations.
    """
    chance = 1 / classes
    return samples * chance + deviations * (samples * chance * (1 - chance)) ** 0.5


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
    limit = most_by_guessing(size, classes)
    right = int((logits.argmax(dim=1) == labels.to(logits.device)).sum())
    if limit < size and right <= limit:
        return (
            f'the teacher is right on {right} of the {size} pictures of the first batch, where '
            f'guessing among {classes} classes gives {size / classes:.2g}: check '
            'model.teacher_ckpt, the order of its classes and the input that it was trained with '
            '(data_preprocessor of its config).'
        )
    return None
