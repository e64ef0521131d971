"""Running a trained student and its teacher over the same pictures."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner
from torch import Tensor, nn

from kd_plugins.algorithms import SingleTeacherDistill
from kd_plugins.files.weights import load_weights
from kd_plugins.new_config.writing import classifier
from kd_plugins.structures import Progress


@dataclass
class Answers:
    """What both classifiers say of N pictures.

    Args:
        preds_S: The student's logits, (N, C).
        preds_T: The teacher's.
        features_S: What goes into the student's classifier, (N, D).
        features_T: The same of the teacher, (N, D').
        labels: The classes, (N,); -1 where they are unknown.
    """

    preds_S: Tensor
    preds_T: Tensor
    features_S: Tensor
    features_T: Tensor
    labels: Tensor


def build_pair(cfg: Config) -> SingleTeacherDistill:
    """Build a distillation, in eval mode.

    Raises:
        ValueError: If the config is no distillation.
    """
    init_default_scope(cfg.get('default_scope') or 'mmengine')
    model_cfg = copy.deepcopy(cfg.model)
    if cfg.get('data_preprocessor') is not None:
        model_cfg.setdefault('data_preprocessor', cfg.data_preprocessor)
    algorithm = MODELS.build(model_cfg)
    if not isinstance(algorithm, SingleTeacherDistill):
        raise ValueError(
            f'{cfg.filename!r} trains a {type(algorithm).__name__}: give the config of a '
            'distillation (kd_plugins.SingleTeacherDistill).'
        )
    return algorithm.eval()


def load_pair(cfg: Config, checkpoint: str) -> SingleTeacherDistill:
    """Build a distillation and load its student, in eval mode.

    Raises:
        ValueError: If the config is no distillation, or the checkpoint is not
            this student's.
    """
    algorithm = build_pair(cfg)
    load_weights(algorithm.architecture, checkpoint, 'checkpoint', 'student')
    return algorithm


def validation_batches(cfg: Config, samples: int) -> Iterable[dict[str, Any]]:
    """Yield batches of the validation set until there are so many samples, in random order.

    In the order of the files, the first samples are of one class.
    """
    loader_cfg = copy.deepcopy(cfg.val_dataloader)
    loader_cfg.sampler = dict(type='DefaultSampler', shuffle=True)
    seen = 0
    for batch in Runner.build_dataloader(loader_cfg, seed=0):
        yield batch
        seen += len(batch['data_samples'])
        if seen >= samples:
            return


def picture_batch(cfg: Config, paths: Sequence[str]) -> dict[str, Any]:
    """Return one batch of pictures that the user names, through the validation's pipeline."""
    pipeline = Compose(
        [dict(type='LoadImageFromFile')]
        + [s for s in cfg.val_dataloader.dataset.pipeline if not s.type.startswith('Load')]
    )
    packed = [pipeline(dict(img_path=path)) for path in paths]
    return {key: [sample[key] for sample in packed] for key in packed[0]}


@torch.no_grad()
def ask(algorithm: SingleTeacherDistill, batches: Iterable[dict[str, Any]]) -> Answers:
    """Run both classifiers over batches.

    Raises:
        ValueError: If one of them is no classifier with one linear layer.
    """
    parts: list[tuple[Tensor, ...]] = []
    sides = {'the student': algorithm.architecture, 'the teacher': algorithm.teacher}
    linear = {who: net.get_submodule(classifier(net, who)[0]) for who, net in sides.items()}
    heard: dict[str, tuple[Tensor, Tensor]] = {}

    def listen(who: str) -> Any:
        def hook(module: nn.Module, args: tuple, output: Tensor) -> None:
            heard[who] = args[0], output

        return linear[who].register_forward_hook(hook)

    handles = [listen(who) for who in sides]
    try:
        for batch in batches:
            data = algorithm.data_preprocessor(batch, False)
            inputs, samples = data['inputs'], data.get('data_samples')
            algorithm.architecture(inputs, samples, mode='tensor')
            algorithm.teacher(algorithm.teacher_input(inputs, samples), samples, mode='tensor')
            labels = [int(s.gt_label) if 'gt_label' in s else -1 for s in samples]
            (features_S, preds_S), (features_T, preds_T) = (heard[who] for who in sides)
            found = preds_S, preds_T, features_S, features_T, torch.tensor(labels)
            parts.append(tuple(part.float().cpu() for part in found[:4]) + found[4:])
    finally:
        for handle in handles:
            handle.remove()
    return Answers(*(torch.cat(column) for column in zip(*parts, strict=True)))


@torch.no_grad()
def term_values(
    algorithm: SingleTeacherDistill, cfg: Config, batch: dict[str, Any]
) -> dict[str, list[float]]:
    """Return what every distillation term gives for each sample of a batch alone.

    Curricula stand as in the last iteration of the training.
    """
    train_cfg = cfg.train_cfg
    epochs = train_cfg.get('max_epochs', 1) if train_cfg.get('by_epoch') else 1
    iters = train_cfg.get('max_iters', epochs)
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


def class_names(cfg: Config, classes: int) -> list[str]:
    """Return the validation set's names of the classes, or their numbers."""
    dataset = Runner.build_dataloader(copy.deepcopy(cfg.val_dataloader), seed=0).dataset
    names = dataset.metainfo.get('classes') or ()
    return list(map(str, names)) if len(names) == classes else [str(i) for i in range(classes)]
