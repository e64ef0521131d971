"""How sure a teacher is on the pictures that it alone says something about."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.runner import Runner
from torch import Tensor

from kd_plugins.inspect.check.report import FoundBoxes, Sureness
from kd_plugins.registry import name_of
from kd_plugins.teachers import AsTaught
from kd_plugins.views import without_views


def sureness(outputs: Sequence[Any]) -> Sureness | None:
    """Say how sure the predictions of a classifier are; None for others.

    Args:
        outputs: Samples with ``pred_score``, the probabilities of the classes, (C,).
    """
    scores: list[Any] = [getattr(sample, 'pred_score', None) for sample in outputs]
    if not scores or not all(isinstance(s, Tensor) and s.dim() == 1 for s in scores):
        return None
    p = torch.stack(scores).double().cpu()
    entropy = -torch.special.xlogy(p, p).sum(dim=1)
    commonest = p.argmax(dim=1).bincount().max().item()
    return Sureness(
        samples=len(p),
        confidence=p.amax(dim=1).mean().item(),
        entropy=entropy.mean().item(),
        one_class=commonest / len(p),
    )


def unlabelled_in(runner: Runner) -> Any:
    """Return the dataset of the pictures whose labels, if they have any, nobody sees, or None."""
    dataset = without_views(runner.train_dataloader.dataset)
    if name_of(type(dataset)) == 'WithUnlabelled':
        return dataset.datasets[1]
    unseen = getattr(runner.model, 'calculate_student_loss', True) is False
    return dataset if unseen and hasattr(dataset, 'get_data_info') else None


def found_boxes(outputs: Sequence[Any], score: float) -> FoundBoxes | None:
    """Say how many boxes of at least a score a detector finds; None for others.

    Args:
        outputs: Samples with ``pred_instances``.
        score: The score.
    """
    found: list[Any] = [getattr(sample, 'pred_instances', None) for sample in outputs]
    if not found or any(objects is None or 'scores' not in objects for objects in found):
        return None
    counts = [int((objects.scores >= score).sum()) for objects in found]
    return FoundBoxes(
        samples=len(counts),
        score=score,
        mean=sum(counts) / len(counts),
        most=max(counts),
        none=counts.count(0) / len(counts),
    )


def ask_teacher(runner: Runner, taught: AsTaught, batches: int) -> list[Any]:
    """Show the teacher unlabelled pictures of the training set, drawn at random.

    They go through the pipeline of the validation where it reads files, of any size if
    their own does, so that no augmentation makes the teacher less sure of them than of
    the validation set.

    Args:
        runner: The training's.
        taught: The teacher.
        batches: How many batches of the validation's size.

    Returns:
        Its predictions; none where there are no such pictures.
    """
    dataset, loader = unlabelled_in(runner), runner.val_loop.dataloader
    if dataset is None:
        return []
    own, pipeline = (getattr(each, 'pipeline', None) for each in (dataset, loader.dataset))
    brings = _has(own, 'Resize') and not _has(pipeline, 'Resize')
    if not _has(pipeline, 'LoadImage') or brings:
        pipeline = own
    if pipeline is None:
        return []  # both are wrapped, and nobody says how to read a picture
    count = batches * (loader.batch_size or 1)
    chosen = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(0))[:count]
    outputs: list[Any] = []
    for indices in chosen.split(loader.batch_size or 1):
        samples = [pipeline(dataset.get_data_info(i)) for i in indices.tolist()]
        with torch.no_grad():
            outputs.extend(taught.val_step(loader.collate_fn(samples)))
    return outputs


def _has(pipeline: Any, step: str) -> bool:
    """Whether a step of a pipeline is called so."""
    return any(step in name_of(type(each)) for each in getattr(pipeline, 'transforms', ()))
