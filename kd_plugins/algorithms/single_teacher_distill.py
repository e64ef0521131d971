"""The algorithm that the Runner trains: one student, one teacher, any terms."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.logging import MessageHub
from mmengine.model import BaseModel
from torch import Tensor, nn

from kd_plugins.distillers import ask_teacher, build_distiller, check_records, reset_records
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
from kd_plugins.teachers import build_teacher

_STUDENT = 'architecture.'


@MODELS.register_module()
class SingleTeacherDistill(BaseModel):
    """Train a student beside a fixed teacher, in mmrazor's vocabulary.

    To the outside this model *is* the student: its checkpoints hold the
    student's keys (and ``distiller.*`` where a term learns something of its
    own), attributes that it lacks are looked up on the student, and the
    teacher is no part of the module tree, so that optimizers, EMA, DDP and
    checkpoints never see it.

    Args:
        architecture: The student: a model config, ``dict(cfg_path=...)`` with
            changes beside it, or a built model.
        teacher: The teacher, likewise, or None for none. It stays in eval mode
            as a whole, takes no gradients, and runs its forward
            (``mode='tensor'``) only.
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
        teacher_dtype: What the teacher computes in, by autocast: ``'bfloat16'``,
            ``'float16'`` (on accelerators), or ``'float32'`` beside a student
            that trains in mixed precision. By default as the student.
        teacher_channels_last: Whether the teacher computes in torch's
            channels-last layout.
        teacher_compile: Whether to compile the teacher alone, or arguments of
            ``torch.compile``.
        calculate_student_loss: Whether the student's own losses take part.
        allow_random_teacher: Accept a teacher without any weights.
        module_inplace: Leave the student's in-place activations as they are.
            They overwrite what recorders have recorded.
        teacher_module_inplace: The same for the teacher.
        teacher_trainable, teacher_norm_eval, student_trainable: mmrazor's
            names, accepted with mmrazor's defaults.
        init_cfg: As in every mmengine model.

    Raises:
        ValueError: On a configuration that would train something else than it
            says; each message names the key, the value and what would be right.
        FileNotFoundError: If ``teacher_ckpt`` does not exist.
    """

    def __init__(
        self,
        architecture: NetworkCfg,
        teacher: NetworkCfg | None,
        distiller: Mapping[str, Any],
        teacher_ckpt: str | None = None,
        data_preprocessor: Mapping[str, Any] | nn.Module | None = None,
        teacher_input_size: int | Sequence[int] | None = None,
        teacher_dtype: str | None = None,
        teacher_channels_last: bool = False,
        teacher_compile: bool | Mapping[str, Any] = False,
        calculate_student_loss: bool = True,
        allow_random_teacher: bool = False,
        module_inplace: bool = False,
        teacher_module_inplace: bool = False,
        teacher_trainable: bool = False,
        teacher_norm_eval: bool = True,
        student_trainable: bool = True,
        init_cfg: dict | None = None,
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
        super().__init__(student.data_preprocessor, init_cfg)
        self.architecture = student
        if not module_inplace:
            forbid_inplace(self.architecture)
        with forked_random_states():
            built = build_teacher(
                teacher,
                teacher_ckpt,
                preprocessor=self.data_preprocessor,
                allow_random=allow_random_teacher,
                inplace=teacher_module_inplace,
                input_size=teacher_input_size,
                dtype=teacher_dtype,
                channels_last=teacher_channels_last,
                compile=teacher_compile,
            )
        self.teacher = built
        self._owns_teacher = True
        with forked_random_states():
            self.distiller = build_distiller(distiller, self.architecture, built.network)
        self.calculate_student_loss = calculate_student_loss
        # mmrazor's StopDistillHook sets it.
        self.distillation_stopped = False
        self._is_whole = False
        self._register_state_dict_hook(_to_student_keys)
        self._register_load_state_dict_pre_hook(_from_student_keys)

    @property
    def student(self) -> BaseModel:
        """The student; ``architecture`` is mmrazor's name for it."""
        return self.architecture

    def __getattr__(self, name: str) -> Any:
        """Look on the student for what is not here, as upstream hooks expect."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == 'architecture':
                raise
            return getattr(self.architecture, name)

    def init_weights(self) -> None:
        """Initialise the student as if it were alone, then what the terms learn."""
        self.architecture.init_weights()
        with forked_random_states():
            self.distiller.init_weights()

    def forward(
        self, inputs: Tensor, data_samples: list | None = None, mode: str = 'tensor', **kwargs: Any
    ) -> Any:
        """Return losses for ``mode='loss'``, else what the student returns."""
        if mode == 'loss':
            return self.loss(inputs, data_samples)
        return self.architecture(inputs, data_samples, mode=mode, **kwargs)

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
        self._publish_progress()
        distiller.set_deliveries_override(False)
        with distiller.teacher_recorders, distiller.deliveries:
            self.teacher.look(inputs, data_samples)
        distiller.set_deliveries_override(True)
        mode = 'loss' if self.calculate_student_loss else 'tensor'
        with distiller.student_recorders, distiller.deliveries:
            outputs = self.architecture(inputs, data_samples, mode=mode)
        losses = _prefixed('student', outputs) if self.calculate_student_loss else {}
        ask_teacher(distiller, self.teacher)
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

    def _publish_progress(self) -> None:
        progress = Progress.from_message_hub(MessageHub.get_current_instance())
        for module in self.distiller.modules():
            if hasattr(module, 'set_progress'):
                module.set_progress(progress)

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
        clone._owns_teacher = False
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


def _to_student_keys(
    module: nn.Module, state_dict: dict[str, Any], prefix: str, local_metadata: dict
) -> None:
    """State-dict hook: give the student's keys without a prefix.

    The preprocessor stands here a second time, being the student's own.
    """
    for key in [k for k in state_dict if k.startswith(prefix + 'data_preprocessor.')]:
        del state_dict[key]
    _rename(state_dict, prefix + _STUDENT, prefix)
    metadata = getattr(state_dict, '_metadata', None)
    if metadata is not None:
        _rename(metadata, prefix + _STUDENT, prefix)


def _from_student_keys(state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """Load hook: take the student's keys, bare or below ``architecture.``."""
    own = (prefix + _STUDENT, prefix + 'distiller.')
    for key in [k for k in state_dict if k.startswith(prefix) and not k.startswith(own)]:
        state_dict[prefix + _STUDENT + key[len(prefix) :]] = state_dict[key]
        if not key.startswith(prefix + 'data_preprocessor.'):
            del state_dict[key]


def _rename(mapping: dict[str, Any], old: str, new: str) -> None:
    for key in [k for k in mapping if k.startswith(old)]:
        mapping[new + key[len(old) :]] = mapping.pop(key)
