"""Which maps a check says are compared."""

import pytest
import torch
from helpers.detection import build as detectors
from helpers.detection import images, losses
from helpers.tiny_pictures import Pictures, wired
from mmengine.registry import MODELS

from kd_plugins.inspect.check.report import Report
from kd_plugins.inspect.check.show import _wired
from kd_plugins.inspect.check.wired import note_wiring
from kd_plugins.losses import PKDLoss


def noted(model, step):
    """What is noted of every term in one step, by the names of the terms."""
    report = Report('x')
    for name, loss in model.distiller.distill_losses.items():
        loss.register_forward_pre_hook(
            lambda loss, args, kwargs, name=name: note_wiring(
                report, model.distiller, name, loss, kwargs
            ),
            with_kwargs=True,
        )
    step()
    step()
    return report


def of_classifiers(**changes):
    model = MODELS.build(wired(**changes)).train()
    samples = [Pictures(4)[i] for i in range(4)]
    inputs = torch.stack([sample['inputs'] for sample in samples])
    labels = [sample['data_samples'] for sample in samples]
    return noted(model, lambda: model(inputs, labels, mode='loss'))


def test_layers_of_a_term_are_counted_once():
    (found,) = of_classifiers().wired
    assert (found.term, found.student, found.teacher) == ('loss_mgd', 'backbone', 'backbone')
    assert found.student_shape == [64, 8, 8] and found.teacher_shape == [32, 8, 8]
    # A convolution to 32 channels, and two of 3 x 3 among these.
    assert found.compared == [8, 8] and found.learned == 64 * 32 + 32 + 2 * (9 * 32 * 32 + 32)
    text = str([column._cells for column in _wired(Report('x', wired=[found])).columns])
    assert 'backbone (64 x 8 x 8)' in text and "'8 x 8'" in text and f'{found.learned:,}' in text


def test_layers_of_a_connector_are_counted_level_by_level():
    (found,) = of_classifiers(term='cwd').wired
    assert found.term == 'loss_cwd' and found.learned == 64 * 32 + 2 * 32


@pytest.mark.parametrize('levels', [None, [3, 1]])
def test_levels_that_take_part_are_noted_in_their_order(levels):
    term = dict(type='kd_plugins.MSELoss', levels=levels)
    model = detectors(whole=dict(type='kd_plugins.AutoDistiller', term=term, size=256)).train()
    report = noted(model, lambda: losses(model, images()))
    taken = levels or [*range(5)]
    assert [each.student for each in report.wired] == [f'neck[{i}]' for i in taken]
    assert [each.teacher for each in report.wired] == [f'neck[{i}]' for i in taken]
    # Pictures of 64 pixels at strides of 8 to 128.
    assert [each.compared for each in report.wired] == [[max(8 >> i, 1)] * 2 for i in taken]
    assert [each.learned for each in report.wired] == [0] * len(taken)


@pytest.mark.parametrize(('resize', 'compared'), [(None, [6, 4]), ('coarser', [5, 4])])
def test_maps_of_other_sizes_are_compared_where_the_term_says(resize, compared):
    """PKD alone brings the student's to the teacher's."""

    class Recorded:
        """As much of a distiller as is looked at."""

        loss_forward_mappings = dict(
            loss=dict(
                preds_S=dict(recorder='maps', from_student=True),
                preds_T=dict(recorder='maps', from_student=False),
            )
        )
        records = {True: torch.rand(1, 3, 5, 7), False: torch.rand(1, 3, 6, 4)}

        def get_record(self, recorder, from_student):
            return self.records[from_student]

        class student_recorders:
            @staticmethod
            def get_recorder(name):
                return None

        teacher_recorders = student_recorders

    report = Report('x')
    given = dict(preds_S=Recorded.records[True], preds_T=Recorded.records[False])
    note_wiring(report, Recorded(), 'loss', PKDLoss(resize=resize), given)
    assert report.wired[0].compared == compared and report.wired[0].learned == 0
