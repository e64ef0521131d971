"""A distiller of maps that is wired by what flows in both networks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmrazor.models.distillers import ConfigurableDistiller
from torch import nn

from kd_plugins import checks
from kd_plugins.registry import MODELS, name_of
from kd_plugins.wiring import Side, wire

_SIZE = 'a number of pixels above 0, or (height, width)'
_PARTS = (
    'student_recorders', 'teacher_recorders', 'connectors', 'distill_losses',
    'loss_forward_mappings', 'distill_deliveries',
)  # fmt: skip


@MODELS.register_module()
class AutoDistiller(ConfigurableDistiller):
    """A term on maps of both networks, which are found, matched and projected by themselves.

    In a config ``distiller=dict(type='kd_plugins.AutoDistiller', term='cwd')``. Both networks
    run once on a blank picture, and maps of the same stride are compared; see
    :func:`kd_plugins.wiring.wire`. ``tools/new_config.py --method cwd`` writes what it finds
    in mmrazor's vocabulary, to read and to change.

    Args:
        term: ``'cwd'``, ``'pkd'``, ``'mgd'``, ``'sl2'``, ``'cosine'`` or ``'mse'`` with the
            published settings for the student's kind, or the config of a loss on maps.
        where: ``'neck'``, ``'backbone'`` or ``'head'``; None for the necks of two detectors
            that have one, else the backbones.
        size: Height and width of the blank picture, for both networks; None for what each
            was made for.
        student_recorders, teacher_recorders, connectors, distill_losses, \
loss_forward_mappings, distill_deliveries: What stands beside what is wired, as in
            mmrazor's ``ConfigurableDistiller``.

    Raises:
        ValueError: If the networks do not fit each other or the term.
    """

    @staticmethod
    def wired(cfg: Mapping[str, Any], student: nn.Module, teacher: nn.Module | None) -> dict:
        """Return the config of the distiller with everything written out.

        Args:
            cfg: Its config.
            student: The student.
            teacher: The teacher's network.

        Raises:
            ValueError: On a key that it does not have, without a teacher, and as above.
        """
        key = 'model.distiller'
        settings = {k: v for k, v in cfg.items() if k not in (*_PARTS, 'type')}
        unknown = sorted(set(settings) - {'term', 'where', 'size'})
        if unknown or 'term' not in settings:
            raise ValueError(
                f'{key} (AutoDistiller) has {", ".join(unknown) or "no term"}: give it term, and '
                f'where and size if you like; beside them {", ".join(_PARTS)}.'
            )
        if teacher is None:
            raise ValueError(
                f'{key}=AutoDistiller wires two networks that run, and there is no teacher to run '
                '(model.teacher=None, or what it says is read of teacher_cache): write the '
                'distiller with tools/new_config.py.'
            )
        size = settings.pop('size', None)
        if size is not None:
            pair = [size, size] if isinstance(size, int) else size
            whole = isinstance(pair, (list, tuple)) and all(type(x) is int and x > 0 for x in pair)
            if not whole or len(pair) != 2:
                raise checks.refuse(f'{key}.size', size, _SIZE)
            size = tuple(pair)
        of_student, of_teacher = (
            Side(f'the {name} ({type(network).__name__})', network, size)
            for name, network in (('student', student), ('teacher', teacher))
        )
        found = wire(
            of_student, of_teacher, settings['term'], settings.get('where'), f'{key}.term'
        ).distiller()
        for part in _PARTS:
            beside = cfg.get(part) or {}
            taken = sorted(set(beside) & set(found.get(part, {})))
            if taken:
                raise ValueError(
                    f'{key}.{part}.{taken[0]} is what AutoDistiller calls its own: take another '
                    'name.'
                )
            if beside:
                found[part] = {**found.get(part, {}), **beside}
        return dict(type='kd_plugins.AutoDistiller', **found)


def wires_itself(cfg: Mapping[str, Any]) -> bool:
    """Whether a distiller's config leaves to the networks what it reads of them."""
    return name_of(cfg.get('type')) == 'AutoDistiller'
