"""CTC: contrastive temporal coding, with what the student itself knew before."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.dist import all_gather, broadcast, get_rank, get_world_size
from torch import Tensor, nn

from kd_plugins import checks
from kd_plugins.losses.base import WeightedLoss, at_least_float32, batch_mean, full_precision
from kd_plugins.registry import MODELS
from kd_plugins.shared_state import SharedState
from kd_plugins.structures import Progress

__all__ = ['CTCLoss', 'nce_loss']


def nce_loss(log_p: Tensor, samples: int) -> Tensor:
    r"""Noise-contrastive estimation of one positive among K negatives, per sample.

    ``-log(p_0 / (p_0 + K/n + eps)) - sum_j log((K/n) / (p_j + K/n + eps))`` with an
    eps of 1e-7 and a noise of 1/n.

    Args:
        log_p: Logarithms of what the model gives the positive (first) and the
            negatives, shape (N, K + 1).
        samples: n, the size of the training set.

    Returns:
        Tensor of shape (N,), in nats.

    Source: Tian et al., arXiv 1910.10699, equation 18, as in
    github.com/DTennant/dt-tradeoff.
    """
    noise = (log_p.shape[1] - 1) / samples
    rest = log_p.new_tensor(math.log(noise + 1e-7))
    all_of = torch.logaddexp(log_p, rest)
    return (
        all_of[:, 0] - log_p[:, 0]
        + (all_of[:, 1:] - math.log(noise)).sum(dim=1)
    )  # fmt: skip


class OtherClasses:
    """Draws samples of other classes, on the device.

    Args:
        classes: The class of every sample of the training set, shape (n,).
    """

    def __init__(self, classes: Tensor) -> None:
        sizes = torch.bincount(classes)
        present = sizes[sizes > 0]
        #: How many others the largest and the smallest class leave.
        self.fewest, self.most = (int(len(classes) - edge) for edge in present.aminmax()[::-1])
        self.classes, self.sizes = classes, sizes
        self.first = sizes.cumsum(0) - sizes
        self.order = classes.argsort(stable=True)

    def to(self, device: torch.device) -> OtherClasses:
        """Move what is drawn from."""
        for name in ('classes', 'sizes', 'first', 'order'):
            setattr(self, name, getattr(self, name).to(device))
        return self

    def draw(self, rows: Tensor, number: int, generator: torch.Generator) -> Tensor:
        """Draw for every sample, without replacement if its class leaves enough, else with it.

        Args:
            rows: The places of N samples in the training set, shape (N,).
            number: How many for each.
            generator: On the device of the rows.

        Returns:
            Places in the training set, shape (N, number).
        """
        labels = self.classes[rows]
        if number <= self.fewest:
            return self._without(labels, number, generator)
        again = self._with(labels, number, generator)
        if number > self.most:
            return again
        once = self._without(labels, number, generator)
        enough = len(self.classes) - self.sizes[labels] >= number
        return torch.where(enough[:, None], once, again)

    def _without(self, labels: Tensor, number: int, generator: torch.Generator) -> Tensor:
        shape = len(labels), len(self.classes)
        keys = torch.rand(shape, generator=generator, device=labels.device)
        # Above all of them.
        keys.masked_fill_(self.classes == labels[:, None], 2.0)
        return keys.topk(number, dim=1, largest=False).indices

    def _with(self, labels: Tensor, number: int, generator: torch.Generator) -> Tensor:
        own = self.sizes[labels][:, None]
        others = len(self.classes) - own
        draw = torch.rand(
            len(labels), number, generator=generator, device=labels.device, dtype=torch.float64
        )
        # A place in the order of the classes, without those of the own one.
        place = torch.minimum((draw * others).long(), others - 1)
        return self.order[place + own * (place >= self.first[labels][:, None])]


class CTCState(SharedState):
    """Memories, constants and the stage of a :class:`CTCLoss`.

    Args:
        samples: Rows of the memories.
        channels: Of the features.
        embed_dims: Columns of the memories.
    """

    def __init__(self, samples: int, channels: int, embed_dims: int) -> None:
        super().__init__()
        projector = nn.Linear(channels, embed_dims)
        self.tensors = dict(
            memory_1=_start(samples, embed_dims),
            memory_2=_start(samples, embed_dims),
            # Published code never trains it.
            projector_weight=projector.weight.detach(),
            projector_bias=projector.bias.detach(),
            log_normaliser=torch.full((2,), math.nan),
            stage=torch.tensor(1),
        )
        # What the host has to know, without asking the device.
        self.host: dict[str, Any] = dict(stage=1, normalised=False, pending=[])

    def kept(self) -> Mapping[str, Tensor]:
        """Return the tensors, with all updates written."""
        self.write_pending()
        return self.tensors

    def loaded(self) -> None:
        """Tell the host what has been loaded."""
        self.host.update(
            stage=int(self.tensors['stage']),
            normalised=bool(self.tensors['log_normaliser'].isfinite().all()),
        )

    def write_pending(self) -> None:
        """Write the rows of the latest step.

        Not before, because that step's backward pass needs the old rows.
        """
        pending, self.host['pending'] = self.host['pending'], []
        for update in pending:
            self.update(*update)

    @torch.no_grad()
    def update(self, name: str, rows: Tensor, values: Tensor, momentum: float) -> None:
        """Move rows of a memory towards values, (M, D), and bring them to length 1."""
        memory = self.tensors[name]
        # A sampler may give a sample twice: one of its values counts, the same on all ranks.
        order = torch.arange(len(rows), device=rows.device)
        last = torch.zeros(len(memory), dtype=torch.long, device=rows.device)
        last.scatter_reduce_(0, rows, order, 'amax')
        old = memory[rows]
        new = momentum * old + (1 - momentum) * values[last[rows]].to(memory.dtype)
        new = F.normalize(new, dim=1)
        # A step that overflowed would stay in the memory, and in every later loss.
        memory[rows] = torch.where(new.isfinite().all(dim=1, keepdim=True), new, old)

    def _apply(self, fn: Any, *args: Any, **kwargs: Any) -> CTCState:
        if not self.is_copy:
            self.write_pending()
            for name, tensor in self.tensors.items():
                self.tensors[name] = fn(tensor)
        return self


@MODELS.register_module()
class CTCLoss(WeightedLoss):
    """Both stages of CTC; :class:`kd_plugins.hooks.CTCHook` changes from one to the other.

    Stage one, ``alpha`` times: tell every training sample from all others, by the
    student's projected feature and a memory of n rows, one a sample. Stage two,
    ``beta`` times: :func:`nce_loss` of the student against a memory of its own
    snapshot, and the other way round, among negatives of other classes. Two linear
    maps learn in stage two, by this loss only; the projection of stage one stays as it
    was initialised, as published. The memories are gathered over the processes before
    they are written, and kept in checkpoints as ``distiller.*``.

    Args:
        samples: n, the size of the training set.
        channels: Channels of the pooled features.
        alpha: Weight of stage one: 0.5 for transferability, 0.1 for discriminability.
        beta: Weight of stage two.
        instance_tau: Temperature of stage one: 0.1 and 0.5.
        nce_tau: Temperature of stage two: 0.1 and 0.4.
        negatives: Negatives of a sample in stage two.
        instance_momentum, nce_momentum: How much of its row a sample keeps.
        embed_dims: Columns of the memories.
        loss_weight: Factor of both.

    Raises:
        ValueError: On a setting out of range; in a step, without the hook, without
            numbers of samples, or with features of another shape.

    Source: Cui et al., "Discriminability-Transferability Trade-Off: An
    Information-Theoretic Perspective", ECCV 2022, arXiv 2203.03871, and
    github.com/DTennant/dt-tradeoff.
    """

    #: It remembers a picture by its number, and a mixture of many has none; see ZipfLoss.
    classes_per_label = 1

    def __init__(
        self,
        samples: int,
        channels: int,
        alpha: float = 0.5,
        beta: float = 1.0,
        instance_tau: float = 0.1,
        nce_tau: float = 0.1,
        negatives: int = 16384,
        instance_momentum: float = 0.9,
        nce_momentum: float = 0.9,
        embed_dims: int = 128,
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__(loss_weight)
        name = type(self).__name__
        for key, value in (
            ('channels', channels), ('negatives', negatives), ('embed_dims', embed_dims),
        ):  # fmt: skip
            checks.whole_number(f'{name}.{key}', value)
        self.samples = checks.whole_number(f'{name}.samples', samples, least=2)
        for key, tau in (('instance_tau', instance_tau), ('nce_tau', nce_tau)):
            checks.number(f'{name}.{key}', tau, 'a temperature above 0', above=0)
        for key, momentum in (
            ('instance_momentum', instance_momentum), ('nce_momentum', nce_momentum),
        ):  # fmt: skip
            if not checks.is_number(momentum) or not 0 <= momentum <= 1:
                raise checks.refuse(f'{name}.{key}', momentum, 'a momentum from 0 to 1')
        self.alpha = self._check_weight('alpha', alpha)
        self.beta = self._check_weight('beta', beta)
        self.channels, self.negatives = channels, negatives
        self.instance_tau, self.nce_tau = instance_tau, nce_tau
        self.instance_momentum, self.nce_momentum = instance_momentum, nce_momentum
        self.embed_S = nn.Linear(channels, embed_dims)
        self.embed_T = nn.Linear(channels, embed_dims)
        self.state = CTCState(samples, channels, embed_dims)
        self.seed = 0
        self.batch_size = 0
        self.progress: Progress | None = None
        self._others: OtherClasses | None = None

    @property
    def stage(self) -> int:
        """1 or 2."""
        return self.state.host['stage']

    def set_progress(self, progress: Progress | None) -> None:
        """Take the progress of the training; called before every step."""
        self.progress = progress

    def set_classes(self, classes: Sequence[int], seed: int, batch_size: int = 0) -> None:
        """Take the class of every training sample, and the training's seed.

        Args:
            classes: The classes.
            seed: The seed, the same on every process.
            batch_size: The most samples of a batch, where several processes may have
                batches of different sizes.

        Raises:
            ValueError: If they are not as many as the memories have rows, or not one
                class a sample.
        """
        if len(classes) != self.samples:
            raise ValueError(
                f'CTCLoss.samples={self.samples!r} is wrong: the training set has {len(classes)} '
                'samples, and each has a row of the memories.'
            )
        found = torch.as_tensor(np.asarray(classes)).long()
        if found.dim() != 1 or found.min() < 0:
            raise ValueError(
                'CTCLoss contrasts samples with those of other classes, and takes a training set '
                f'of one class a sample, counted from 0; this one has {tuple(found.shape)} labels, '
                f'the least of them {int(found.min())}.'
            )
        others = OtherClasses(found)
        if others.fewest < 1:
            raise ValueError(
                'CTCLoss contrasts samples with those of other classes, and all of the training '
                'set are of one.'
            )
        self._others, self.seed, self.batch_size = others, seed, batch_size
        for tensor in self.state.tensors.values():
            broadcast(tensor)

    def begin_stage_two(self) -> None:
        """Forget the memory of stage one, and let the maps start anew."""
        self.state.write_pending()
        generator = torch.Generator().manual_seed(self._seed(-1, 0))
        tensors = self.state.tensors
        for name in ('memory_1', 'memory_2'):
            rows, columns = tensors[name].shape
            tensors[name].copy_(_start(rows, columns, generator))
        for embedding in (self.embed_S, self.embed_T):
            bound = 1 / math.sqrt(self.channels)
            for parameter in embedding.parameters():
                draw = torch.rand(parameter.shape, generator=generator)
                parameter.data.copy_(bound * (2 * draw - 1))
        tensors['stage'].fill_(2)
        tensors['log_normaliser'].fill_(math.nan)
        self.state.loaded()

    @torch.no_grad()
    def refresh(self, data_samples: Sequence[Any], features_T: Tensor) -> None:
        """Write what both maps make of the snapshot's features into both memories."""
        rows = self._rows(data_samples, features_T)
        for name, embedding in (('memory_1', self.embed_S), ('memory_2', self.embed_T)):
            values = self._embedded(features_T, embedding.weight, embedding.bias)
            self.state.update(name, self._gathered(rows), self._gathered(values), 0.0)

    def forward(
        self, features_S: Tensor, data_samples: Sequence[Any], features_T: Tensor | None = None
    ) -> Tensor:
        """Return the loss, a scalar in float32 or better.

        Args:
            features_S: The student's pooled features, shape (N, channels).
            data_samples: N samples with ``sample_idx``, their place in the training set.
            features_T: The snapshot's, for stage two; detached here.
        """
        if self.training:
            self._known()
        rows = self._rows(data_samples, features_S)
        self.state.write_pending()
        with full_precision(features_S):
            if self.stage == 1:
                loss = self.alpha * batch_mean(self._instance(features_S, rows))
            elif features_T is None:
                raise ValueError(
                    "CTCLoss needs the snapshot's features in stage two: map features_T to a "
                    "kd_plugins.Snapshot recorder, and set model.teacher='snapshot'."
                )
            else:
                loss = self.beta * batch_mean(self._contrast(features_S, features_T, rows))
        if self.stage == 1:
            # On several processes every parameter has to have a gradient.
            loss = loss + 0 * sum(p.sum() for p in self.parameters())
        return loss * self.loss_weight

    def _instance(self, features_S: Tensor, rows: Tensor) -> Tensor:
        tensors = self.state.tensors
        v = self._embedded(features_S, tensors['projector_weight'], tensors['projector_bias'])
        logits = v @ tensors['memory_1'].to(v.dtype).t() / self.instance_tau
        if self.training and torch.is_grad_enabled():
            every, values = self._gathered(rows), self._gathered(v.detach())
            self.state.host['pending'] = [('memory_1', every, values, self.instance_momentum)]
        return F.cross_entropy(logits, rows, reduction='none')

    def _contrast(self, features_S: Tensor, features_T: Tensor, rows: Tensor) -> Tensor:
        if features_T.shape != features_S.shape:
            raise ValueError(
                f'CTCLoss needs features of the snapshot of the shape of the student '
                f'{tuple(features_S.shape)}, and features_T has {tuple(features_T.shape)}.'
            )
        v_S = self._embedded(features_S, self.embed_S.weight, self.embed_S.bias)
        v_T = self._embedded(features_T.detach(), self.embed_T.weight, self.embed_T.bias)
        drawn = torch.cat([rows[:, None], self.draw(rows)], dim=1)
        tensors = self.state.tensors
        scores = [
            # All products at once take less memory than the rows of every sample.
            (v @ tensors[name].to(v.dtype).t()).gather(1, drawn) / self.nce_tau
            for v, name in ((v_S, 'memory_2'), (v_T, 'memory_1'))
        ]
        if not self.state.host['normalised'] and len(rows):
            self._normalise(scores)
        log_z = tensors['log_normaliser'].to(v_S.dtype)
        losses = [nce_loss(s - log_z[i], self.samples) for i, s in enumerate(scores)]
        if self.training and torch.is_grad_enabled():
            every = self._gathered(rows)
            self.state.host['pending'] = [
                (name, every, self._gathered(v.detach()), self.nce_momentum)
                for name, v in (('memory_1', v_S), ('memory_2', v_T))
            ]
        return losses[0] + losses[1]

    def _normalise(self, scores: Sequence[Tensor]) -> None:
        """Fix Z, n times the mean of exp(score) over the first batch of all processes."""
        for i, score in enumerate(scores):
            mean = torch.logsumexp(score.detach().flatten(), 0) - math.log(score.numel())
            means = torch.cat(all_gather(mean[None]))
            log_z = torch.logsumexp(means, 0) - math.log(len(means)) + math.log(self.samples)
            self.state.tensors['log_normaliser'][i] = log_z
        # Of a batch that overflowed it is none.
        self.state.loaded()

    def draw(self, rows: Tensor) -> Tensor:
        """Draw the negatives of samples, (N, negatives); other ones in every step and process."""
        others = self._known()
        step = self.progress.iter if self.progress is not None else 0
        generator = torch.Generator(rows.device).manual_seed(self._seed(step, get_rank()))
        return others.to(rows.device).draw(rows, self.negatives, generator)

    def _known(self) -> OtherClasses:
        if self._others is None:
            raise ValueError(
                'CTCLoss does not know the classes of the training set, which kd_plugins.CTCHook '
                "tells it: add default_hooks=dict(ctc=dict(type='kd_plugins.CTCHook', ...))."
            )
        return self._others

    def _seed(self, step: int, rank: int) -> int:
        # Of its own, so that the student's draws are those of a training without this loss.
        sequence = np.random.SeedSequence([self.seed, step + 1, rank, 203])
        return int(sequence.generate_state(1, dtype=np.uint32)[0])

    def _rows(self, data_samples: Sequence[Any], features: Tensor) -> Tensor:
        if features.dim() != 2 or features.shape[1] != self.channels:
            raise ValueError(
                f'CTCLoss.channels={self.channels} does not fit features of shape '
                f'{tuple(features.shape)}: record pooled features, what goes into the classifier.'
            )
        rows = [getattr(sample, 'sample_idx', None) for sample in data_samples or ()]
        wrong = [row for row in rows if not isinstance(row, int) or not 0 <= row < self.samples]
        if wrong or len(rows) != len(features):
            raise ValueError(
                f'CTCLoss.samples={self.samples} needs the place of every sample in the training '
                f"set, sample_idx, and got {wrong[:1] or len(rows)}: keep 'sample_idx' among "
                'meta_keys of PackInputs, and train on one data set as mmpretrain reads it.'
            )
        return torch.tensor(rows, dtype=torch.long, device=features.device)

    def _gathered(self, values: Tensor) -> Tensor:
        """Return the rows of all processes, in the order of their ranks."""
        lacking = self.batch_size - len(values)
        if get_world_size() > 1 and lacking > 0 and len(values):
            # Of a smaller batch the last row again, which changes nothing.
            values = torch.cat([values, values[-1:].expand(lacking, *values.shape[1:])])
        return torch.cat(all_gather(values.contiguous()))

    @staticmethod
    def _embedded(features: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        features = at_least_float32(features)
        with full_precision(features):
            weight, bias = (at_least_float32(x).to(features.dtype) for x in (weight, bias))
            return F.normalize(F.linear(features, weight, bias), dim=1)


def _start(rows: int, columns: int, generator: torch.Generator | None = None) -> Tensor:
    """Return a memory as published: uniform, with rows of about length 1."""
    return (2 * torch.rand(rows, columns, generator=generator) - 1) * math.sqrt(3 / columns)
