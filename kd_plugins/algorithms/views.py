"""Labelled pictures beside unlabelled ones, in two batches or, in two views, in one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kd_plugins.structures import ViewRows


def join_views(
    labelled: Tensor,
    labelled_samples: Sequence | None,
    inputs: Tensor,
    data_samples: Sequence,
    strong: Tensor,
) -> tuple[Tensor, list, ViewRows]:
    """Return one batch of all views, its samples, and which rows are what.

    Args:
        labelled: Preprocessed labelled pictures, (B, channels, H, W).
        labelled_samples: Their samples.
        inputs: The weak views of unlabelled pictures, (M, channels, H, W).
        data_samples: Their samples.
        strong: Their strong views, of the same shape.

    Raises:
        ValueError: If the pictures are not of one size.
    """
    parts = (labelled, inputs, strong)
    if len({part.shape[1:] for part in parts}) > 1 or len(inputs) != len(strong):
        raise ValueError(
            f'labelled, weak and strong views have the shapes '
            f'{", ".join(str(tuple(part.shape)) for part in parts)}, and are seen as one batch: '
            'crop or resize all of them to one size in the pipelines.'
        )
    numbers = tuple(sample.get('sample_idx') for sample in data_samples)
    samples = [*(labelled_samples or []), *data_samples, *data_samples]
    return torch.cat(parts), samples, ViewRows(len(labelled), len(inputs), numbers)


def loss_of_labelled(
    student: nn.Module,
    logits: Tensor | Sequence[Tensor],
    data_samples: Sequence | None,
    rows: ViewRows,
) -> Mapping[str, Any]:
    """Return the losses of an mmpretrain classifier, of the labelled rows of its logits.

    Args:
        student: The classifier.
        logits: Of all rows, (N, C), as its ``mode='tensor'`` gives them; of a head with several
            classifiers a sequence of such.
        data_samples: The samples of all rows.
        rows: Which of them are what.
    """
    labelled: Any
    if isinstance(logits, Tensor):
        labelled = logits[: rows.labelled]
    else:
        labelled = tuple(each[: rows.labelled] for each in logits)
    return student.head._get_loss(labelled, list(data_samples or ())[: rows.labelled])


def joined(
    losses: Mapping[str, Any], count: int, others: Mapping[str, Any], more: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the terms of both parts of a batch as their mean over all pictures.

    Args:
        losses: The terms of the labelled pictures.
        count: How many these are.
        others: The terms of the unlabelled pictures, and what else is said of them, which stays.
        more: Of each term how many of these count, a number.
    """
    result = {}
    for name, value in others.items():
        if not name.startswith('distill.'):
            result[name] = value
            continue
        # With 0 of them exactly the term of the labelled.
        share = more[name] / (count + more[name])
        result[name] = (1 - share) * losses[name] + share * value
        # Without "loss" in it, which would be added up.
        term = name.removeprefix('distill.').removeprefix('loss_').replace('loss', 'term')
        result[f'unlabelled_{term}'] = value.detach()
    return result
