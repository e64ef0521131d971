"""RecursiveMix: the previous batch, as it was mixed, is pasted into the current one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd_plugins import checks
from kd_plugins.batch_parts.base import KEY, BatchPart
from kd_plugins.distillers.protocols import protocol_of
from kd_plugins.networks import classes_of
from kd_plugins.registry import TASK_UTILS
from kd_plugins.structures import PastedRegion, Progress

__all__ = ['RecursiveMix', 'random_box']

#: Of the draws here, so that they are not those of other seeds and iterations.
STREAM = 2203_06844


def random_box(
    rng: np.random.Generator, height: int, width: int, alpha: float
) -> tuple[int, int, int, int]:
    """Draw a box: its sides by the root of a uniform number, its centre anywhere.

    Args:
        rng: Draws, in this order, the share, the centre's column and its row.
        height, width: Of the picture, in pixels.
        alpha: The largest share of the picture, in (0, 1].

    Returns:
        (x1, y1, x2, y2) in pixels, cut off at the picture's edges; it may be empty.

    Source: Yang et al., "RecursiveMix: Mixed Learning with History", NeurIPS 2022,
    arXiv 2203.06844, section 3.1; the rounding is that of
    github.com/implus/RecursiveMix-pytorch (ed381bf), utils.py.
    """
    ratio = rng.uniform(0.0, alpha) ** 0.5
    half_width, half_height = int(width * ratio) // 2, int(height * ratio) // 2
    x, y = int(rng.integers(width)), int(rng.integers(height))
    return (
        max(x - half_width, 0),
        max(y - half_height, 0),
        min(x + half_width, width),
        min(y + half_height, height),
    )


@dataclass(frozen=True)
class History:
    """What is remembered of the previous step.

    Args:
        inputs: The pictures that the networks saw, (N, channels, H, W).
        scores: Their labels, (N, C).
        preds: What the student said of them, its logits, (N, C).
        span: In which span of the training; another one forgets it.
    """

    inputs: Tensor
    scores: Tensor
    preds: Tensor
    span: tuple[int, int]


@TASK_UTILS.register_module()
class RecursiveMix(BatchPart):
    """Paste the previous batch into the current one, and mix the labels by area.

    The previous batch is the one that the networks saw, with what was pasted into
    it, and so on: hence the name. It is shrunk to a box (nearest pixels), the same
    box for every picture of the batch and on every rank: the box is drawn by a
    generator of its own, from the training's seed and the iteration.
    :class:`kd_plugins.losses.RecursiveMixLoss` is the consistency term that belongs
    to it.

    A step is plain, with the labels one-hot, in the first iteration of an epoch,
    where the box is empty, and where the batch is larger than the previous one. A
    smaller one takes the first pictures of the previous. With gradient
    accumulation every forward pass is a step.

    What is remembered is not saved. A training that is resumed at an epoch ends in
    the same weights; in a loop without epochs nothing is ever forgotten, unless
    ``reset_interval`` is given: then it does so where it is resumed at a multiple of it.

    Args:
        alpha: The largest share of a picture that is pasted over, in (0, 1]; 0.5 is
            published.
        logits: Which of the student's recorders holds its logits.
        reset_interval: Forget after so many iterations, too; None for the end of an
            epoch only.

    Raises:
        ValueError: On values out of range; beside upstream's batch augments; with a
            student that is no classifier of pictures of one class each, computes an
            accuracy in training, which mixed labels have none of, or has a loss that
            takes any share of a class for a whole one.
        RuntimeError: In the first step, where nobody tells how far the training is.

    Source: as :func:`random_box`.
    """

    mixes_labels = True

    def __init__(
        self, alpha: float = 0.5, logits: str = 'logits', reset_interval: int | None = None
    ) -> None:
        right = 'a number above 0, at most 1'
        self.alpha = checks.number('RecursiveMix.alpha', alpha, right, above=0)
        if alpha > 1:
            raise checks.refuse('RecursiveMix.alpha', alpha, right)
        self.logits = logits
        if reset_interval is not None:
            checks.whole_number('RecursiveMix.reset_interval', reset_interval)
        self.reset_interval = reset_interval
        self.num_classes: int | None = None
        self.forget()

    def forget(self) -> None:
        """Let go of the previous batch."""
        self._history: History | None = None
        self._current: tuple[Tensor, Tensor] | None = None
        self.record: PastedRegion | None = None

    def prepare(self, student: nn.Module, recorders: Mapping[str, Any]) -> None:
        """See :class:`BatchPart`."""
        head = getattr(student, 'head', None)
        if head is None or not hasattr(head, 'loss_module'):
            raise ValueError(
                f'{KEY}: RecursiveMix mixes pictures and their classes, and the student, a '
                f'{type(student).__name__}, is no classifier with a head.loss_module: give one of '
                "mmpretrain's, or leave the part out."
            )
        if getattr(student.data_preprocessor, 'batch_augments', None) is not None:
            raise ValueError(
                f'{KEY}: RecursiveMix beside batch augments would mix every batch twice: leave out '
                'model.architecture.train_cfg.augments and data_preprocessor.batch_augments, or '
                'this part.'
            )
        if getattr(head, 'cal_acc', False):
            raise ValueError(
                'model.architecture.head.cal_acc=True would compare with one class a picture, and '
                'RecursiveMix mixes them: give cal_acc=False.'
            )
        if protocol_of(student) == 'sigmoid':
            raise ValueError(
                f'{KEY}: RecursiveMix is for pictures of one class, and those of the student '
                f'({type(head).__name__}) may have several: leave the part out.'
            )
        if getattr(head.loss_module, 'mode', None) == 'multi_label':
            # Of a mixture of many pictures that would soon be most classes.
            raise ValueError(
                "model.architecture.head.loss.mode='multi_label' takes every class that has a "
                'share of a picture for a whole one, and RecursiveMix mixes many: give '
                "mode='original' (with use_sigmoid=True for binary cross-entropy)."
            )
        if self.logits not in recorders:
            raise ValueError(
                f"RecursiveMix.logits={self.logits!r} is none of the student's recorders, which "
                f'are {sorted(recorders)}: name the one of its logits, such as '
                "logits=dict(type='ModuleOutputs', source='head.fc')."
            )
        self.num_classes = classes_of(student)

    # Slices of another size in every step are nothing to compile.
    @torch.compiler.disable
    def change(self, inputs: Tensor, data_samples: list | None) -> tuple[Tensor, list]:
        """See :class:`BatchPart`; the samples that are returned have mixed ``gt_score``."""
        if self.progress is None:
            raise RuntimeError(
                "RecursiveMix draws its boxes by the training's progress, which nobody has told "
                'it: train with a Runner, or call model.set_progress before every step.'
            )
        if not isinstance(inputs, Tensor) or inputs.dim() != 4:
            shape = tuple(getattr(inputs, 'shape', ())) or type(inputs).__name__
            raise ValueError(
                f'RecursiveMix needs a batch of pictures, (N, channels, H, W), but gets {shape}.'
            )
        data_samples = data_samples or []
        scores = self._scores(inputs, data_samples)
        number, (height, width) = len(inputs), inputs.shape[2:]
        history = self._history
        if history is not None and history.span != self._span(self.progress):
            history = self._history = None
        rng = np.random.default_rng((STREAM, self.progress.seed, self.progress.iter))
        x1, y1, x2, y2 = box = random_box(rng, height, width, self.alpha)
        share = (x2 - x1) * (y2 - y1) / (height * width)
        preds = None
        if history is not None and share > 0 and len(history.inputs) >= number:
            pasted = F.interpolate(history.inputs[:number], size=(y2 - y1, x2 - x1))
            inputs = inputs.clone()
            inputs[:, :, y1:y2, x1:x2] = pasted
            scores = (1 - share) * scores + share * history.scores[:number]
            preds = history.preds[:number]
        self._current = inputs, scores
        self.record = PastedRegion(box=box, size=(height, width), share=share, preds=preds)
        mixed = [sample.new() for sample in data_samples]
        for sample, score in zip(mixed, scores, strict=True):
            sample.set_gt_score(score)
        return inputs, mixed

    @torch.compiler.disable
    def remember(self, recorded: Callable[[str], Any]) -> None:
        """See :class:`BatchPart`."""
        assert self._current is not None and self.progress is not None
        inputs, scores = self._current
        preds = recorded(self.logits)
        if not isinstance(preds, Tensor) or preds.shape != scores.shape:
            shape = tuple(getattr(preds, 'shape', ())) or type(preds).__name__
            raise ValueError(
                f'RecursiveMix.logits={self.logits!r} holds {shape} for labels of '
                f"{tuple(scores.shape)}: name the recorder of the student's logits, (N, C)."
            )
        self._history = History(inputs, scores, preds.detach(), self._span(self.progress))
        self._current = None

    def _span(self, progress: Progress) -> tuple[int, int]:
        return progress.epoch, progress.iter // self.reset_interval if self.reset_interval else 0

    def _scores(self, inputs: Tensor, data_samples: list) -> Tensor:
        """Return the labels as scores, (N, C)."""
        if all('gt_score' in sample for sample in data_samples):
            scores = torch.stack([sample.gt_score for sample in data_samples])
            return scores.to(inputs.dtype)
        for sample in data_samples:
            if 'gt_label' not in sample:
                where = sample.get('img_path', 'of the batch')
                raise ValueError(
                    f'RecursiveMix mixes labels, and the picture {where!r} has none: give '
                    'train_dataloader.dataset labels, or leave the part out of model.batch_parts.'
                )
        labels = torch.cat([sample.gt_label for sample in data_samples])
        classes = data_samples[0].get('num_classes') or self.num_classes
        if labels.shape != inputs.shape[:1] or classes is None:
            raise ValueError(
                f'RecursiveMix needs one class a picture and the number of classes, but '
                f'{len(inputs)} pictures have {labels.numel()} labels of {classes} classes: give '
                'such data, and data_preprocessor.num_classes.'
            )
        return F.one_hot(labels, classes).to(inputs.dtype)
