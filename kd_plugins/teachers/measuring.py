"""Measuring a teacher as it teaches."""

from __future__ import annotations

import copy
from typing import Any

import torch
from mmengine.dist import all_gather_object
from mmengine.model import is_model_wrapper
from torch import nn

from kd_plugins.teachers.base import Teacher
from kd_plugins.teachers.upstreams import upstreams_teacher


def predicts(model: nn.Module) -> bool:
    """Return whether the teacher of an algorithm, if it has one, says more than features.

    A foundation model without a head does not, and there is nothing to measure.

    Args:
        model: Any model, not in a wrapper.
    """
    network = getattr(vars(model).get('teacher'), 'network', None)
    return getattr(network, 'head', network) is not None or network is None


class AsTaught(nn.Module):
    """A teacher in the place of a model that is validated or tested.

    Its predictions come from the input with which it teaches: the student's
    preprocessed batch, converted; in the precision in which it teaches.

    Args:
        teacher: The teacher.

    Attributes:
        own_input_differed: Whether :meth:`own_input_differs` of any batch so far.

    Raises:
        ValueError: If there is no teacher.
    """

    def __init__(self, teacher: Teacher) -> None:
        super().__init__()
        if not teacher:
            raise ValueError(
                'there is no teacher to measure: model.teacher is None, or a snapshot that no '
                'training has taken.'
            )
        self.teacher = teacher
        self.own_input_differed = False

    def val_step(self, data: Any) -> Any:
        """Return the teacher's predictions for a batch as the data loader gives it."""
        # Sizes and padding may agree in some batches only.
        self.own_input_differed = self.own_input_differed or self.own_input_differs(data)
        return self.teacher.val_step(data)

    test_step = val_step

    @torch.no_grad()
    def own_input_differs(self, data: Any) -> bool:
        """Whether the teacher's own preprocessor would give it another input.

        Args:
            data: A batch as the data loader gives it.
        """
        network = self.teacher.network
        preprocessor = self.teacher.data_preprocessor
        if network is None or preprocessor is None or not self.teacher.has_own_input:
            return False
        first, second = copy.deepcopy(data), copy.deepcopy(data)
        batch = preprocessor(first, False)
        taught = self.teacher.convert(batch['inputs'], batch.get('data_samples'))
        own = network.data_preprocessor(second, False)['inputs'].to(taught)
        if own.shape != taught.shape:
            return True
        # Undoing one normalisation and applying another rounds, by little of the range.
        return bool((own - taught).abs().max() > 1e-3 * (1 + own.abs().max()))


def teacher_of(model: nn.Module) -> AsTaught:
    """Return the teacher of an algorithm, ready to be measured in its place.

    Args:
        model: An algorithm of kd_plugins, or a model of upstream that keeps a
            ``teacher_model``, in a wrapper or not.

    Raises:
        ValueError: If it has no teacher.
    """
    algorithm = model.module if is_model_wrapper(model) else model
    teacher = vars(algorithm).get('teacher')
    teacher = teacher if isinstance(teacher, Teacher) else upstreams_teacher(algorithm)
    if not isinstance(teacher, Teacher) or not teacher:
        raise ValueError(
            f'the config has no teacher to measure: its model is a {type(algorithm).__name__}'
            f'{" with nobody to ask as its teacher" if isinstance(teacher, Teacher) else ""}; give '
            'the config of a distillation.'
        )
    if not predicts(algorithm):
        raise ValueError(
            f'there is nothing to measure: the teacher, of type {type(teacher.network).__name__}, '
            'has no head, and teaches features only.'
        )
    return AsTaught(teacher)


def measure_teacher(runner: Any) -> dict[str, float]:
    """Test the teacher of a Runner's model on the input with which it teaches.

    Where its own preprocessor would give it another input, it is tested on that
    too, and both are said in the log. Where it is made of several, what is
    measured is their joint answer, and then each of them alone.

    Args:
        runner: Its model is an algorithm of kd_plugins, in a wrapper or not.

    Returns:
        The metrics on the input with which it teaches; those on its own
        preprocessing beside them, with ``own/`` in front of their names, and those
        of the teachers that it is made of, with ``0/``, ``1/``, ...

    Raises:
        ValueError: If there is no teacher.
    """
    algorithm, taught = runner.model, teacher_of(runner.model)
    try:
        runner.model = taught
        metrics = dict(runner.test())
        for i, member in enumerate(taught.teacher.members):
            runner.model = AsTaught(member)
            alone = runner.test()
            runner.logger.info(f'{member.weights} alone reaches {_said(alone)}')
            metrics.update({f'{i}/{name}': value for name, value in alone.items()})
        # Every process sees other batches, and all of them have to test again.
        if not any(all_gather_object(taught.own_input_differed)):
            return metrics
        runner.model = taught.teacher.network
        own = runner.test()
    finally:
        runner.model = algorithm
    runner.logger.warning(
        'the teacher does not teach on the input that its own data_preprocessor gives: there it '
        f'reaches {_said(own)}, and as it teaches {_said(metrics)}.'
    )
    return metrics | {f'own/{name}': value for name, value in own.items()}


def _said(metrics: dict[str, float]) -> str:
    return ', '.join(f'{name} {value:.4g}' for name, value in list(metrics.items())[:3])
