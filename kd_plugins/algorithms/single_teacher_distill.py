"""The algorithm that the Runner trains: one student, one teacher, any terms."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from kd_plugins.algorithms.pseudo_boxes import PseudoBoxes, pseudo_boxes_of, reads_targets
from kd_plugins.algorithms.student import StudentModel
from kd_plugins.algorithms.views import join_views, joined, loss_of_labelled
from kd_plugins.batch_parts.base import build_batch_parts, record_parts
from kd_plugins.distillers import (
    AutoDistiller,
    ask_teacher,
    build_distiller,
    check_forward,
    check_graphs,
    check_records,
    check_student_loss,
    compute_losses,
    ends_with_features,
    features_suffice,
    mappings_without_labels,
    reset_records,
    wires_itself,
)
from kd_plugins.networks import (
    NetworkCfg,
    build_student_network,
    check_whole,
    forbid_inplace,
    forked_random_states,
)
from kd_plugins.recorders.view_logits import tell_rows
from kd_plugins.registry import MODELS
from kd_plugins.structures import Progress, ViewRows
from kd_plugins.teachers import build_teacher, store_teacher
from kd_plugins.teachers.input import InputSize

_EXCHANGED = (
    'the data_preprocessor of a distillation cannot be exchanged, because the '
    "teacher's input is made of what it gives: build another model."
)


@MODELS.register_module()
class SingleTeacherDistill(StudentModel):
    """Train a student beside a fixed teacher, in mmrazor's vocabulary.

    To the outside this model *is* the student: its checkpoints hold the
    student's keys (and ``distiller.*`` where a term learns something of its
    own), attributes that it lacks are looked up on the student, and the
    teacher is no part of the module tree, so that optimizers, EMA, DDP and
    checkpoints never see it.

    Args:
        architecture: The student: a model config, ``dict(cfg_path=...)`` with
            changes beside it, or a built model.
        teacher: The teacher, likewise, ``'snapshot'`` for the student as a hook
            copies it, or None for none. It stays in eval mode
            as a whole, takes no gradients, and runs its forward
            (``mode='tensor'``) only; that of a two-stage detector ends with the
            features where no recorder reads more.
        teacher_ckpt: The teacher's checkpoint, loaded strictly; or several of one
            training, the earliest first, which teach together (see
            :class:`kd_plugins.teachers.CheckpointTree`). It may be left out where
            the teacher's config has ``init_cfg=dict(type='Pretrained',
            checkpoint=...)`` or ``pretrained=True`` beside its ``cfg_path``, or
            where a built model is given.
        distiller: Config of mmrazor's ``ConfigurableDistiller``: recorders,
            connectors, ``distill_losses`` and ``loss_forward_mappings``; or of
            :class:`kd_plugins.distillers.AutoDistiller`, which finds these.
        batch_parts: Parts that change a batch between the preprocessor and the
            networks, such as ``dict(type='kd_plugins.RecursiveMix')``.
        data_preprocessor: The student's; the Runner puts the config's
            top-level one here. Defaults to the one in ``architecture``.
        teacher_input_size: Height and width (or one number for both) to resize
            the teacher's input to, if it was trained for another size;
            ``dict(scale=0.875)`` resizes it to that share of the student's, so that
            patches of 14 pixels lie where the student's stride of 16 is.
        teacher_dtype: What the teacher computes in, by autocast: ``'bfloat16'``,
            ``'float16'`` (on accelerators), or ``'float32'`` beside a student
            that trains in mixed precision. By default as the student.
        teacher_channels_last: Whether the teacher computes in torch's
            channels-last layout.
        teacher_compile: Whether to compile the teacher alone, or arguments of
            ``torch.compile``.
        teacher_class_map: For every class of the student, in its order, the
            teacher's class, by its name or its index: for a teacher whose classes
            are others, more, or in another order.
        calculate_student_loss: Whether the student's own losses take part. Without
            them no label reaches a loss, so that the pictures need none.
        allow_random_teacher: Accept a teacher without any weights.
        module_inplace: Leave the student's in-place activations as they are.
            They overwrite what recorders have recorded.
        teacher_module_inplace: The same for the teacher.
        teacher_trainable, teacher_norm_eval, student_trainable: mmrazor's
            names, accepted with mmrazor's defaults.
        init_cfg: The student's, as in every mmengine model.
        load_from_except: Patterns, as in file names, of the student's weights
            that a training may begin without where its ``load_from`` (or
            ``init_cfg``) lacks them, has more of them, or has them in another
            shape: ``['head.fc.*']`` for another number of classes. The log
            names each of them. Every other weight has to fit.
        teacher_cache: A store of the teacher's answers, ``dict(dir='...', views=10)``:
            what it lacks is asked and written, and where it lacks nothing the teacher
            is not even built; see :class:`kd_plugins.teachers.StoredTeacher`.
        pseudo_boxes: For detectors and pictures without labels: ``dict(score=0.4)`` lets what
            the teacher finds in these stand for their objects; see
            :class:`kd_plugins.algorithms.PseudoBoxes`.

    Raises:
        ValueError: On a configuration that would train something else than it
            says; each message names the key, the value and what would be right.
        FileNotFoundError: If ``teacher_ckpt`` does not exist.
    """

    def __init__(
        self,
        architecture: NetworkCfg,
        teacher: NetworkCfg | str | None,
        distiller: Mapping[str, Any],
        teacher_ckpt: str | Sequence[str] | None = None,
        data_preprocessor: Mapping[str, Any] | nn.Module | None = None,
        teacher_input_size: InputSize | None = None,
        teacher_dtype: str | None = None,
        teacher_channels_last: bool = False,
        teacher_compile: bool | Mapping[str, Any] = False,
        teacher_class_map: Sequence[int | str] | None = None,
        calculate_student_loss: bool = True,
        allow_random_teacher: bool = False,
        module_inplace: bool = False,
        teacher_module_inplace: bool = False,
        teacher_trainable: bool = False,
        teacher_norm_eval: bool = True,
        student_trainable: bool = True,
        init_cfg: dict | Sequence[dict] | None = None,
        load_from_except: Sequence[str] = (),
        batch_parts: Sequence[Mapping[str, Any]] = (),
        teacher_cache: Mapping[str, Any] | None = None,
        pseudo_boxes: Mapping[str, Any] | None = None,
    ) -> None:
        for key, value, only in (
            ('teacher_trainable', teacher_trainable, False),
            ('teacher_norm_eval', teacher_norm_eval, True),
            ('student_trainable', student_trainable, True),
        ):
            if value is not only:
                raise ValueError(
                    f'model.{key}={value!r} is not supported, only {only}: the teacher is fixed '
                    'and whole in eval mode, and the student is what trains.'
                )
        student = build_student_network(architecture, data_preprocessor)
        super().__init__(student, init_cfg, load_from_except)
        if not module_inplace:
            forbid_inplace(self.architecture)
        live = partial(
            build_teacher,
            teacher,
            teacher_ckpt,
            preprocessor=self.data_preprocessor,
            student=self.architecture,
            allow_random=allow_random_teacher,
            inplace=teacher_module_inplace,
            input_size=teacher_input_size,
            dtype=teacher_dtype,
            channels_last=teacher_channels_last,
            compile=teacher_compile,
            class_map=teacher_class_map,
        )
        if teacher_cache is not None and wires_itself(distiller):
            raise ValueError(
                'model.teacher_cache stores what recorders read of the teacher, which '
                'model.distiller (AutoDistiller) finds by running it: write the distiller with '
                'tools/new_config.py.'
            )
        with forked_random_states():
            built = (
                live()
                if teacher_cache is None
                else store_teacher(live, teacher_cache, distiller, batch_parts)
            )
        _check_apart(self.architecture, built.network)
        self.teacher = built
        self._owns_teacher = True
        with forked_random_states():
            if wires_itself(distiller):
                distiller = AutoDistiller.wired(distiller, self.architecture, built.network)
            distiller = built.recording(distiller)
            self.distiller = build_distiller(distiller, self.architecture, built.network)
        built.connect(self.distiller)
        self.batch_parts = build_batch_parts(batch_parts, self.architecture, self.distiller)
        kept = built.state()
        if kept is not None:
            self.distiller.add_module('snapshot', kept)
        if features_suffice(self.distiller, built.network):
            built.look_for_features_only()
        self.pseudo_boxes = pseudo_boxes_of(pseudo_boxes, self.architecture, built, self.distiller)
        if not calculate_student_loss:
            if self.pseudo_boxes is None:
                check_student_loss(self.distiller, 'model.calculate_student_loss=False')
                check_forward(self.distiller, student, 'model.calculate_student_loss=False')
            self.distiller.loss_forward_mappings = mappings_without_labels(
                self.distiller, 'model.calculate_student_loss=False'
            )
        self.calculate_student_loss = calculate_student_loss
        self._ends_with_features = ends_with_features(self.distiller, student)
        # mmrazor's StopDistillHook sets it.
        self.distillation_stopped = False
        self._is_whole = False

    def __setattr__(self, name: str, value: Any) -> None:
        """See :class:`StudentModel`; the preprocessor stays the one the teacher was told of."""
        if name == 'data_preprocessor' and self.__dict__.get('_finished') and self.teacher:
            raise AttributeError(_EXCHANGED)
        super().__setattr__(name, value)

    def _adopt(self) -> None:
        """See :class:`StudentModel`; whoever built the student may have exchanged its own."""
        told = self._modules.get('data_preprocessor')
        exchanged = self.architecture._modules.get('data_preprocessor') is not told
        if exchanged and self.__dict__.get('_finished') and self.teacher:
            raise AttributeError(_EXCHANGED)
        super()._adopt()

    def init_weights(self) -> None:
        """Initialise the student as if it were alone, then what the terms learn."""
        super().init_weights()
        with forked_random_states():
            self.distiller.init_weights()
            # mmengine does not look into the dicts of modules that hold them.
            for parts in (self.distiller.connectors, self.distiller.distill_losses):
                for part in parts.values():
                    if getattr(part, 'init_cfg', None):
                        part.init_weights()

    def forward(
        self, inputs: Tensor, data_samples: list | None = None, mode: str = 'tensor', **kwargs: Any
    ) -> Any:
        """Return losses for ``mode='loss'``, else what the student returns."""
        if mode == 'loss':
            return self.loss(inputs, data_samples, **kwargs)
        return super().forward(inputs, data_samples, mode, **kwargs)

    def loss(
        self,
        inputs: Tensor,
        data_samples: list | None = None,
        unlabelled: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Return ``student.*`` and ``distill.*`` losses and diagnostics.

        Args:
            inputs: The preprocessed batch.
            data_samples: Its samples.
            unlabelled: ``inputs`` and ``data_samples`` of pictures without labels, as
                :class:`kd_plugins.models.ClsDataPreprocessor` gives them. The student
                sees them in a forward pass of their own, after the labelled ones, and
                computes none of its own losses of them. A term is then the mean over
                all pictures of both: that of each part, weighted by how many it has;
                ``unlabelled_*`` is its part on the unlabelled ones. Where it has ``strong``,
                a second view of the same pictures, everything is one batch instead, in one
                forward pass: the labelled pictures, the first views, the strong ones. The
                student's own loss is of the labelled. With ``model.pseudo_boxes`` a term that
                reads targets is the mean over the labelled pictures and those in which the
                teacher is sure of a box.

        Raises:
            RuntimeError: In the first step, if the student's parameters are in pieces.
            ValueError: If a term needs labels, and some pictures have none; or if the
                distillation was stopped, and the student's own losses take no part.
        """
        distiller = self.distiller
        if not self._is_whole:
            check_whole(self)
        if self.distillation_stopped:
            if not self.calculate_student_loss:
                raise ValueError(
                    'the distillation was stopped (StopDistillHook), and '
                    'model.calculate_student_loss=False lets no label reach a loss: leave one of '
                    'them out.'
                )
            losses = _prefixed('student', self.architecture(inputs, data_samples, mode='loss'))
            return _reaching(losses, distiller.parameters())
        for part in self.batch_parts:
            inputs, data_samples = part.change(inputs, data_samples)
        rows = None
        if unlabelled is not None and 'strong' in unlabelled:
            inputs, data_samples, rows = join_views(inputs, data_samples, **unlabelled)
            unlabelled = None
        tell_rows(distiller, rows)
        # Without labels the whole batch is the teacher's.
        boxes = None if self.calculate_student_loss else self.pseudo_boxes
        first = not self._is_whole
        losses = self._compare(inputs, data_samples, self.calculate_student_loss, rows, boxes)
        if first and not self.calculate_student_loss and torch.is_grad_enabled():
            _warn_of_untrained(self.architecture, losses)
        for part in self.batch_parts:
            part.remember(lambda name: distiller.get_record(name, from_student=True))
        reset_records(distiller)
        if unlabelled is not None:
            losses.update(self._with_unlabelled(losses, len(inputs), unlabelled))
        elif boxes is not None:
            some = boxes.pictures > 0
            losses.update({name: losses[name] * some for name in self._terms_of_targets()})
        return losses

    def _with_unlabelled(
        self, losses: Mapping[str, Any], count: int, batch: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Return the terms of all pictures together, and what else is said of the unlabelled."""
        distiller, boxes = self.distiller, self.pseudo_boxes
        mappings = distiller.loss_forward_mappings
        try:
            distiller.loss_forward_mappings = self.check_unlabelled()
            others = self._compare(**batch, with_student_loss=False, boxes=boxes)
        finally:
            distiller.loss_forward_mappings = mappings
        reset_records(distiller)
        counts: dict[str, Any] = dict.fromkeys(others, len(batch['inputs']))
        if boxes is not None:
            counts.update(dict.fromkeys(self._terms_of_targets(), boxes.pictures))
        return joined(losses, count, others, counts)

    def _terms_of_targets(self) -> list[str]:
        """Return the names of the terms that count pictures with an object only."""
        return [f'distill.{name}' for name in reads_targets(self.distiller)]

    def check_unlabelled(self) -> dict[str, Any]:
        """Return what the terms read of pictures without labels.

        Raises:
            ValueError: If a term or a part needs labels.
        """
        if self.batch_parts:
            raise ValueError(
                f'model.batch_parts=[{type(self.batch_parts[0]).__name__}] changes labelled '
                'batches, and the training set has pictures without labels: leave one of them out.'
            )
        key = 'an unlabelled picture of train_dataloader.dataset'
        if self.pseudo_boxes is None:
            check_student_loss(self.distiller, key)
            check_forward(self.distiller, self.architecture, key)
        return mappings_without_labels(self.distiller, key)

    def _compare(
        self,
        inputs: Tensor,
        data_samples: list | None,
        with_student_loss: bool,
        rows: ViewRows | None = None,
        boxes: PseudoBoxes | None = None,
    ) -> dict[str, Any]:
        """Show one batch to both networks; return all losses, and leave the records.

        With ``boxes`` the student computes its own loss on what the teacher finds.
        """
        distiller, recorders = self.distiller, self.distiller.teacher_recorders
        distiller.set_deliveries_override(False)
        with distiller.deliveries:
            if boxes is None:
                self.teacher.record(recorders, inputs, data_samples)
            else:
                samples = list(data_samples or ())
                data_samples = boxes.give(samples, self.teacher.find(recorders, inputs, samples))
        distiller.set_deliveries_override(True)
        computes = with_student_loss or boxes is not None
        mode = 'loss' if computes and rows is None else 'tensor'
        with distiller.student_recorders, distiller.deliveries:
            if not computes and self._ends_with_features:
                outputs = self.architecture.extract_feat(inputs)
            else:
                outputs = self.architecture(inputs, data_samples, mode=mode)
            if with_student_loss and rows is not None:
                outputs = loss_of_labelled(self.architecture, outputs, data_samples, rows)
        losses = _prefixed('student', outputs) if with_student_loss else {}
        if boxes is not None:
            losses.update(_prefixed('student', boxes.losses(outputs)), **boxes.said(inputs))
        ask_teacher(distiller, self.teacher)
        record_parts(distiller)
        check_records(distiller)
        if not self._is_whole and torch.is_grad_enabled():
            check_graphs(distiller, self.architecture)
            self._is_whole = True
        losses.update(_prefixed('distill', compute_losses(distiller)))
        return losses

    def parse_losses(self, losses: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        """Add up the losses as upstream does, and log both parts beside the total.

        Raises:
            ValueError: If a loss is neither the student's nor a distillation term.
        """
        total, log_vars = super().parse_losses(losses)
        parts: dict[str, list[Tensor]] = {'student': [], 'distill': []}
        for name, value in log_vars.items():
            if name == 'loss' or 'loss' not in name:
                continue
            prefix = name.split('.')[0]
            if prefix not in parts:
                raise ValueError(
                    f'the loss {name!r} is neither a task loss (student.*) nor a distillation '
                    'term (distill.*): return it under one of these prefixes.'
                )
            parts[prefix].append(value)
        for prefix, name in (('student', 'task_loss'), ('distill', 'distill_loss')):
            if parts[prefix]:
                log_vars[name] = torch.stack([part.detach() for part in parts[prefix]]).sum()
        return total, log_vars

    def set_progress(self, progress: Progress | None) -> None:
        """Tell the terms and the parts how far the training has come; mmengine's Runner does so.

        Args:
            progress: The training's, or None outside of one.
        """
        for each in (*self.distiller.modules(), *self.batch_parts):
            if hasattr(each, 'set_progress'):
                each.set_progress(progress)

    def _apply(self, fn: Any, *args: Any, **kwargs: Any) -> SingleTeacherDistill:
        """Move or convert the teacher along, but no teacher of another algorithm."""
        if self._owns_teacher:
            self.teacher.follow(lambda module: module._apply(fn, *args, **kwargs))
        return super()._apply(fn, *args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> SingleTeacherDistill:
        """Copy everything but the teacher, which copies (EMA's is one) share."""
        clone = type(self).__new__(type(self))
        memo[id(self)] = clone
        # The teacher's forward hooks feed these recorders and no copy of them.
        memo[id(self.distiller.teacher_recorders)] = self.distiller.teacher_recorders
        clone.__dict__.update(copy.deepcopy(self.__dict__, memo))
        clone.__dict__['_owns_teacher'] = False
        return clone


def _prefixed(prefix: str, losses: Mapping[str, Any]) -> dict[str, Any]:
    return {f'{prefix}.{name}': value for name, value in losses.items()}


@torch.compiler.disable
def _warn_of_untrained(student: nn.Module, losses: Mapping[str, Any]) -> None:
    """Warn of parameters of the head that no term reaches where there is no other loss."""
    head = getattr(student, 'head', None)
    trained = [(n, p) for n, p in head.named_parameters() if p.requires_grad] if head else []
    total = sum(
        each.sum()
        for name, value in losses.items()
        for each in (value if isinstance(value, (list, tuple)) else [value])
        if 'loss' in name
    )
    if not trained or not isinstance(total, Tensor) or not total.requires_grad:
        return
    grads = torch.autograd.grad(
        total, [p for _, p in trained], retain_graph=True, allow_unused=True
    )
    missed = [name for (name, _), grad in zip(trained, grads, strict=True) if grad is None]
    if missed:
        print_log(
            f'model.calculate_student_loss=False leaves {len(missed)} parameters of the '
            f"student's head, such as 'head.{missed[0]}', without any loss: if predictions use "
            'them, add a term that reads what they give.',
            logger='current',
            level=logging.WARNING,
        )


def _reaching(losses: dict[str, Any], parameters: Iterable[nn.Parameter]) -> dict[str, Any]:
    """Return the same losses with gradients of 0 for some parameters, which DDP waits for."""
    nothing = [p.flatten()[:0].sum() for p in parameters if p.requires_grad]
    name = next((name for name in losses if 'loss' in name), None)
    if nothing and name is not None:
        value, zero = losses[name], sum(nothing)
        several = isinstance(value, (list, tuple))
        losses[name] = [value[0] + zero, *value[1:]] if several else value + zero
    return losses


def _check_apart(student: nn.Module, teacher: nn.Module | None) -> None:
    """Refuse a teacher that holds parts of the student, which would be frozen with it."""
    names = {id(p): name for name, p in student.named_parameters()}
    for parameter in teacher.parameters() if teacher is not None else ():
        if id(parameter) in names:
            raise ValueError(
                f'model.teacher and model.architecture share {names[id(parameter)]!r}: the '
                "teacher's weights are fixed, and the student's train; give it copy.deepcopy of "
                'the network, or configs.'
            )
