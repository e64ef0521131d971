"""Several checkpoints of one architecture as one teacher, as EEKD and CheckpointKD ask them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.model import BaseModel
from torch import Tensor, nn

from kd_plugins.files.matching import describe
from kd_plugins.teachers.network import NetworkTeacher


class CheckpointTree(BaseModel):
    """Networks of one architecture, each with its own weights, as one tree.

    Its children are called ``0``, ``1``, ... in the order of the checkpoints, so that
    recorders name their modules: ``0.head.fc``. All see one input.

    Args:
        networks: Classifiers of one architecture.
        weights: Where the weights of each come from.

    Raises:
        ValueError: If they are detectors or have several labels a picture, of which
            there is no joint answer.
    """

    def __init__(self, networks: Sequence[BaseModel], weights: Sequence[str]) -> None:
        first = networks[0]
        if hasattr(first, 'bbox_head') or hasattr(first, 'roi_head') or _is_multi_label(first):
            raise ValueError(
                f'model.teacher_ckpt names {len(networks)} files, and several checkpoints teach '
                f'together only where a picture has one class: {describe(first)} has no such '
                'answer; give one file.'
            )
        super().__init__(first.data_preprocessor)
        self.weights = tuple(weights)
        for i, network in enumerate(networks):
            self.add_module(str(i), network)

    @property
    def networks(self) -> list[Any]:
        """The networks, in the order of their checkpoints."""
        return [child for name, child in self.named_children() if name != 'data_preprocessor']

    @property
    def head(self) -> Any:
        """The first network's head, which says of which classes all of them speak.

        Raises:
            AttributeError: If networks of this kind call it otherwise, as the network itself does.
        """
        return self.networks[0].head

    def forward(self, inputs: Tensor, data_samples: Any = None, mode: str = 'tensor') -> Any:
        """Return what every network returns, a tuple; for ``mode='predict'`` the joint answer.

        The joint answer of a picture is the mean of the networks' probabilities.
        """
        if mode != 'predict':
            return tuple(network(inputs, data_samples, mode=mode) for network in self.networks)
        samples = isinstance(data_samples, (list, tuple))
        answers = [
            network(inputs, [s.clone() for s in data_samples] if samples else data_samples, mode)
            for network in self.networks
        ]
        if isinstance(answers[0], Tensor):
            return joint_logits(answers)
        result = data_samples if samples else answers[0]
        for sample, *each in zip(result, *answers, strict=True):
            score = torch.stack([one.pred_score for one in each]).mean(dim=0)
            sample.set_pred_score(score).set_pred_label(score.argmax(dim=0, keepdim=True).detach())
        return result


class CheckpointTeacher(NetworkTeacher):
    """A :class:`CheckpointTree` as a teacher: one input, one forward pass each.

    Its own answer, by which it is measured, is the mean of the probabilities. Terms
    read the networks one by one.
    """

    network: CheckpointTree

    @property
    def members(self) -> list[NetworkTeacher]:  # type: ignore[override]
        """Every network as a teacher of its own, with the input and precision of all."""
        assert self.data_preprocessor is not None
        last = self.layout is not None
        return [
            NetworkTeacher(network, self.input, self.data_preprocessor, weights, self.dtype, last)
            for network, weights in zip(self.network.networks, self.network.weights, strict=True)
        ]

    def look(self, inputs: Tensor, data_samples: Sequence[Any] | None = None) -> Any:
        """See :meth:`Teacher.look`; returns the logits of the joint answer, (N, C)."""
        outputs = super().look(inputs, data_samples)
        return joint_logits(outputs) if all(map(_is_logits, outputs)) else outputs


def joint_logits(logits: Sequence[Tensor]) -> Tensor:
    """Return logits whose softmax is the mean of the softmaxes of several, each (N, C)."""
    log_p = torch.stack(
        [
            F.log_softmax(each.to(torch.promote_types(each.dtype, torch.float32)), dim=1)
            for each in logits
        ]
    )
    return torch.logsumexp(log_p, dim=0) - math.log(len(log_p))


def _is_logits(output: Any) -> bool:
    return isinstance(output, Tensor) and output.dim() == 2


def _is_multi_label(network: nn.Module) -> bool:
    return hasattr(getattr(network, 'head', None), 'thr')
