"""Running a trained classifier and its teacher over the same pictures."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.runner import Runner
from torch import Tensor, nn

from kd_plugins.algorithms import SingleTeacherDistill
from kd_plugins.networks import classifier
from kd_plugins.structures import Progress
from kd_plugins.teachers import joint_logits


@dataclass
class Answers:
    """What both classifiers say of N pictures.

    Args:
        preds_S: The student's logits, (N, C).
        preds_T: The teacher's; the joint ones of several checkpoints.
        features_S: What goes into the student's classifier, (N, D).
        features_T: The same of the teacher, (N, D'); of several checkpoints one after
            the other.
        labels: The classes, (N,); -1 where they are unknown.
    """

    preds_S: Tensor
    preds_T: Tensor
    features_S: Tensor
    features_T: Tensor
    labels: Tensor


@torch.no_grad()
def ask(algorithm: SingleTeacherDistill, batches: Iterable[dict[str, Any]]) -> Answers:
    """Run both classifiers over batches, the teacher as it teaches.

    Raises:
        ValueError: If one of them is no classifier with one linear layer.
    """
    parts: list[tuple[Tensor, ...]] = []
    teacher = algorithm.teacher
    asked = [('the student', algorithm.student)]
    asked += [('the teacher', one.network) for one in teacher.members or [teacher]]
    linear = [net.get_submodule(classifier(net, who).name) for who, net in asked]
    heard: list[Any] = [None] * len(linear)

    def listen(i: int) -> Any:
        def hook(module: nn.Module, args: tuple, output: Tensor) -> None:
            heard[i] = args[0], output

        return linear[i].register_forward_hook(hook)

    handles = [listen(i) for i in range(len(linear))]
    try:
        for batch in batches:
            data = algorithm.data_preprocessor(batch, False)
            inputs, samples = data['inputs'], data['data_samples']
            algorithm.student(inputs, samples, mode='tensor')
            teacher.look(inputs, samples)
            labels = [int(s.gt_label) if 'gt_label' in s else -1 for s in samples]
            (features_S, preds_S), *of_teacher = heard
            features_T = torch.cat([features for features, _ in of_teacher], dim=1)
            logits = [preds for _, preds in of_teacher]
            preds_T = logits[0] if len(logits) == 1 else joint_logits(logits)
            found = preds_S, preds_T, features_S, features_T, torch.tensor(labels)
            parts.append(tuple(part.float().cpu() for part in found[:4]) + found[4:])
    finally:
        for handle in handles:
            handle.remove()
    return Answers(*(torch.cat(column) for column in zip(*parts, strict=True)))


@torch.no_grad()
def term_values(runner: Runner, batch: dict[str, Any]) -> dict[str, list[float]]:
    """Return what every distillation term gives for each sample of a batch alone.

    Curricula stand as in the last iteration of the training, of which the
    training's loop knows the length.
    """
    algorithm, loop = runner.model, runner.train_loop
    iters, epochs = loop.max_iters, loop.max_epochs
    algorithm.set_progress(Progress(iters - 1, iters, epochs - 1, epochs))
    values: dict[str, list[float]] = {}
    for i in range(len(batch['data_samples'])):
        alone = {key: column[i : i + 1] for key, column in batch.items()}
        data = algorithm.data_preprocessor(alone, False)
        losses = algorithm(data['inputs'], data['data_samples'], mode='loss')
        for name, loss in losses.items():
            if name.startswith('distill.') and 'loss' in name:
                values.setdefault(name.removeprefix('distill.'), []).append(float(loss))
    return values


def correlation_difference(answers: Answers) -> Tensor:
    """Return how differently both relate the classes: ``corr(preds_T) - corr(preds_S)``.

    Entry (i, j) is the difference of the correlations, over the samples, of the
    logits of classes i and j. Classes whose logit never varies correlate with
    nothing.

    Returns:
        Tensor of shape (C, C), in [-2, 2], 0 on the diagonal.

    Source: the matrices that arXiv 2203.08679 shows in figure 2 (after Tian et
    al., "Contrastive Representation Distillation", figure 1).
    """
    matrices = [
        torch.corrcoef(p.double().T).nan_to_num() for p in (answers.preds_T, answers.preds_S)
    ]
    difference = matrices[0] - matrices[1]
    return difference.fill_diagonal_(0)
