"""The algorithm that the Runner trains: one student, one teacher, any terms."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.model import BaseModel
from torch import Tensor, nn

from kd_plugins.algorithms.student import StudentModel
from kd_plugins.distillers import build_distiller, check_records, reset_records
from kd_plugins.files.weights import load_weights
from kd_plugins.networks import (
    NetworkCfg,
    build_network,
    check_whole,
    fit_preprocessor,
    forbid_inplace,
    forked_random_states,
    resolve_network,
)
from kd_plugins.registry import MODELS
from kd_plugins.structures import Progress
from kd_plugins.teachers.input import TeacherInput


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
        teacher: The teacher, likewise. It stays in eval mode as a whole, takes
            no gradients, and runs its forward (``mode='tensor'``) only.
        teacher_ckpt: The teacher's checkpoint, loaded strictly. It may be left
            out where the teacher's config has ``init_cfg=dict(type='Pretrained',
            checkpoint=...)`` or ``pretrained=True`` beside its ``cfg_path``, or
            where a built model is given.
        distiller: Config of mmrazor's ``ConfigurableDistiller``: recorders,
            connectors, ``distill_losses`` and ``loss_forward_mappings``.
        data_preprocessor: The student's; the Runner puts the config's
            top-level one here. Defaults to the one in ``architecture``.
        teacher_input_size: Height and width (or one number for both) to resize
            the teacher's input to, if it was trained for another size.
        calculate_student_loss: Whether the student's own losses take part.
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

    Raises:
        ValueError: On a configuration that would train something else than it
            says; each message names the key, the value and what would be right.
        FileNotFoundError: If ``teacher_ckpt`` does not exist.
    """

    def __init__(
        self,
        architecture: NetworkCfg,
        teacher: NetworkCfg,
        distiller: Mapping[str, Any],
        teacher_ckpt: str | None = None,
        data_preprocessor: Mapping[str, Any] | nn.Module | None = None,
        teacher_input_size: int | Sequence[int] | None = None,
        calculate_student_loss: bool = True,
        allow_random_teacher: bool = False,
        module_inplace: bool = False,
        teacher_module_inplace: bool = False,
        teacher_trainable: bool = False,
        teacher_norm_eval: bool = True,
        student_trainable: bool = True,
        init_cfg: dict | Sequence[dict] | None = None,
        load_from_except: Sequence[str] = (),
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
        student = _build_student(architecture, data_preprocessor)
        super().__init__(student, init_cfg, load_from_except)
        with forked_random_states():
            own_preprocessor = self._build_teacher(teacher, teacher_ckpt, allow_random_teacher)
        if not module_inplace:
            forbid_inplace(self.architecture)
        if not teacher_module_inplace:
            forbid_inplace(self.teacher)
        self.teacher_input = TeacherInput(
            self.data_preprocessor, own_preprocessor, teacher_input_size
        )
        with forked_random_states():
            self.distiller = build_distiller(distiller, self.architecture, self.teacher)
        self.calculate_student_loss = calculate_student_loss
        # mmrazor's StopDistillHook sets it.
        self.distillation_stopped = False
        self._is_whole = False

    def _build_teacher(
        self, cfg: NetworkCfg, ckpt: str | None, allow_random: bool
    ) -> nn.Module | None:
        """Build, load and freeze the teacher; return its own preprocessor, if any."""
        own_preprocessor = True
        built = isinstance(cfg, BaseModel)
        if isinstance(cfg, BaseModel):
            teacher = cfg
        else:
            teacher_cfg, pretrained = resolve_network(cfg, 'model.teacher')
            init_cfg = teacher_cfg.get('init_cfg')
            if isinstance(init_cfg, Mapping) and init_cfg.get('type') == 'Pretrained':
                pretrained = teacher_cfg.pop('init_cfg')['checkpoint']
            ckpt = ckpt or pretrained
            own_preprocessor = 'mean' in (teacher_cfg.get('data_preprocessor') or {})
            teacher = build_network(teacher_cfg, 'model.teacher')
            if ckpt is None:
                teacher.init_weights()
        if ckpt is not None:
            load_weights(teacher, ckpt)
        elif not built and not allow_random:
            raise ValueError(
                'model.teacher_ckpt=None leaves the teacher without weights, and an untrained '
                'teacher teaches noise: give the checkpoint of a trained teacher, or '
                'model.allow_random_teacher=True if noise is what you want.'
            )
        self.teacher_ckpt = ckpt
        teacher.requires_grad_(False)
        # Past nn.Module.__setattr__, which would make it part of the module tree.
        self.__dict__['teacher'] = teacher.eval()
        self.teacher_has_own_input = own_preprocessor
        return teacher.data_preprocessor if own_preprocessor else None

    def init_weights(self) -> None:
        """Initialise the student as if it were alone, then what the terms learn."""
        super().init_weights()
        with forked_random_states():
            self.distiller.init_weights()

    def forward(
        self, inputs: Tensor, data_samples: list | None = None, mode: str = 'tensor', **kwargs: Any
    ) -> Any:
        """Return losses for ``mode='loss'``, else what the student returns."""
        if mode == 'loss':
            return self.loss(inputs, data_samples)
        return super().forward(inputs, data_samples, mode, **kwargs)

    def loss(self, inputs: Tensor, data_samples: list | None = None) -> dict[str, Any]:
        """Return ``student.*`` and ``distill.*`` losses and diagnostics.

        Raises:
            RuntimeError: In the first step, if the student's parameters are in pieces.
        """
        distiller = self.distiller
        if not self._is_whole:
            check_whole(self)
            self._is_whole = True
        if self.distillation_stopped:
            return _prefixed('student', self.architecture(inputs, data_samples, mode='loss'))
        distiller.set_deliveries_override(False)
        with torch.no_grad(), distiller.teacher_recorders, distiller.deliveries:
            self.teacher(self.teacher_input(inputs, data_samples), data_samples, mode='tensor')
        distiller.set_deliveries_override(True)
        mode = 'loss' if self.calculate_student_loss else 'tensor'
        with distiller.student_recorders, distiller.deliveries:
            outputs = self.architecture(inputs, data_samples, mode=mode)
        losses = _prefixed('student', outputs) if self.calculate_student_loss else {}
        check_records(distiller)
        losses.update(_prefixed('distill', distiller.compute_distill_losses()))
        reset_records(distiller)
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
        """Tell the terms how far the training has come; mmengine's Runner does so.

        Args:
            progress: The training's, or None outside of one.
        """
        for module in self.distiller.modules():
            if hasattr(module, 'set_progress'):
                module.set_progress(progress)

    def _apply(self, *args: Any, **kwargs: Any) -> SingleTeacherDistill:
        """Move the teacher along."""
        self.teacher._apply(*args, **kwargs)
        return super()._apply(*args, **kwargs)

    def _set_device(self, device: torch.device) -> None:
        self.teacher._set_device(device)
        super()._set_device(device)

    def __deepcopy__(self, memo: dict[int, Any]) -> SingleTeacherDistill:
        """Copy everything but the teacher, which copies (EMA's is one) share."""
        clone = type(self).__new__(type(self))
        memo[id(self)] = clone
        memo[id(self.teacher)] = self.teacher
        # The teacher's forward hooks feed these recorders and no copy of them.
        memo[id(self.distiller.teacher_recorders)] = self.distiller.teacher_recorders
        clone.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return clone


def _build_student(
    cfg: NetworkCfg, preprocessor: Mapping[str, Any] | nn.Module | None
) -> BaseModel:
    """Build the student with the preprocessor that it will train with.

    Upstream classifiers complete the preprocessor's config themselves: they
    know its default type, and hand it the mixup of their ``train_cfg``.
    """
    if isinstance(cfg, BaseModel):
        if preprocessor is not None:
            cfg.data_preprocessor = BaseModel(preprocessor).data_preprocessor
        return cfg
    student_cfg, pretrained = resolve_network(cfg, 'model.architecture')
    if preprocessor is not None:
        student_cfg['data_preprocessor'] = fit_preprocessor(preprocessor, student_cfg)
    if pretrained:
        student_cfg['init_cfg'] = dict(type='Pretrained', checkpoint=pretrained)
    return build_network(student_cfg, 'model.architecture')


def _prefixed(prefix: str, losses: Mapping[str, Any]) -> dict[str, Any]:
    return {f'{prefix}.{name}': value for name, value in losses.items()}
