"""For FixMatch and its kin: what a classifier says of labelled, weak and strong views."""

from __future__ import annotations

from typing import Any

from mmrazor.models.task_modules.recorder import ModuleOutputsRecorder
from torch import Tensor, nn

from kd_plugins import checks
from kd_plugins.distillers.protocols import protocol_of
from kd_plugins.networks import classes_of
from kd_plugins.registry import TASK_UTILS
from kd_plugins.structures import ViewLogits, ViewRows

__all__ = ['ViewLogitsRecorder']

VIEWS = ('labelled', 'weak', 'strong')


@TASK_UTILS.register_module()
class ViewLogitsRecorder(ModuleOutputsRecorder):
    """Record the logits of a batch that holds labelled, weak and strong views.

    In a config, among the student's recorders, or the teacher's, which sees the same batch:
    ``dict(type='kd_plugins.ViewLogits', source='head.fc')``, whose record is a
    :class:`kd_plugins.structures.ViewLogits`, or, with ``view='strong'``, the logits of
    these alone, for any term that compares two views.

    Args:
        source: The name of the classifier in the network.
        view: ``'labelled'``, ``'weak'`` or ``'strong'``; None for all of them.

    Raises:
        ValueError: On another view, or a student whose loss is not one of its logits, or whose
            preprocessor mixes pictures.
    """

    #: Of the current batch; the algorithm tells it.
    rows: ViewRows | None = None
    num_classes: int | None = None

    def __init__(self, source: str = 'head.fc', view: str | None = None) -> None:
        super().__init__(source)
        self.view = checks.one_of('ViewLogits.view', view, (None, *VIEWS))
        self._record: ViewLogits | None = None

    def check_source(
        self, network: nn.Module, key: str, side: str, other: nn.Module | None = None
    ) -> None:
        """Refuse what cannot see all views in one forward pass and be graded on the labelled."""
        from mmpretrain.models import ClsHead, ImageClassifier

        head = getattr(network, 'head', None)
        # The teacher computes no loss.
        if side == 'student' and (
            getattr(type(network), 'loss', None) is not ImageClassifier.loss
            or getattr(type(head), 'loss', None) is not ClsHead.loss
            or protocol_of(network) == 'sigmoid'
        ):
            raise ValueError(
                f'{key}: the {side} is a {type(network).__name__} with a {type(head).__name__}, '
                'and labels of unlabelled pictures need an ImageClassifier whose head computes its '
                'loss of its logits, which share a softmax, such as LinearClsHead.'
            )
        preprocessor = getattr(network, 'data_preprocessor', None)
        if side == 'student' and getattr(preprocessor, 'batch_augments', None) is not None:
            raise checks.mixed_views(key)
        modules = dict(network.named_modules())
        if self.source not in modules:
            raise ValueError(
                f'{key}.source={self.source!r} is not in the {side} ({type(network).__name__}): '
                "give the name of its classifier, such as 'head.fc'."
            )
        self.num_classes = classes_of(network, self.source)

    def get_record_data(
        self, record_idx: int = 0, data_idx: int | None = None
    ) -> ViewLogits | Tensor:
        """Return the logits, the same record for everyone who asks in a step."""
        if self._record is None:
            logits, rows = self.data_buffer[record_idx], self.rows
            if rows is None:
                raise ValueError(
                    'the batch has no weak and strong views: give train_dataloader.dataset='
                    "dict(type='kd_plugins.WithUnlabelled', ...), the pipeline of its unlabelled "
                    "pictures a dict(type='kd_plugins.StrongView', transforms=[...]), and its "
                    "PackInputs algorithm_keys=['strong_view']."
                )
            sizes = (rows.labelled, rows.unlabelled, rows.unlabelled)
            labelled, weak, strong = logits.split(sizes)
            self._record = ViewLogits(labelled, weak, strong, rows.sample_idx)
        return self._record if self.view is None else getattr(self._record, self.view)

    def reset_data_buffer(self) -> None:
        """Let go of the step."""
        super().reset_data_buffer()
        self._record = None


def tell_rows(distiller: Any, rows: ViewRows | None) -> None:
    """Tell the recorders of a distiller which rows of the coming batch are what."""
    for manager in (distiller.student_recorders, distiller.teacher_recorders):
        for recorder in manager.recorders.values():
            if isinstance(recorder, ViewLogitsRecorder):
                recorder.rows = rows
