"""The teacher's frozen layers, asked about the student's features: SRRL's second term."""

import pytest
import torch
import torch.nn.functional as F
from helpers import batch, build
from mmengine.registry import MODELS
from mmrazor.models.architectures.connectors.base_connector import BaseConnector
from torch import nn

from kd_plugins.losses import srrl_loss


@MODELS.register_module(force=True)
class LinearConnector(BaseConnector):
    def __init__(self, in_channels, out_channels):
        super().__init__()
        self.fc = nn.Linear(in_channels, out_channels)

    def forward_train(self, feature):
        return self.fc(feature).relu()


@MODELS.register_module(force=True)
class MeanSquares(nn.Module):
    def forward(self, preds_S, preds_T):
        return F.mse_loss(preds_S, preds_T)


def distiller(**changes):
    """The features behind a connector, and what the teacher's classifier says of them."""
    body = dict(features=dict(type='ModuleOutputs', source='body'))
    features = dict(recorder='features', from_student=True, connector='transfer')
    part = dict(
        type='kd_plugins.TeacherPart', question='features', connector='transfer', modules=['fc']
    )
    return dict(
        student_recorders=body,
        teacher_recorders=dict(
            body, logits=dict(type='ModuleOutputs', source='fc'), answer=dict(part, **changes)
        ),
        connectors=dict(transfer=dict(type='LinearConnector', in_channels=4, out_channels=16)),
        distill_losses=dict(
            loss_features=dict(type='MeanSquares'), loss_answers=dict(type='MeanSquares')
        ),
        loss_forward_mappings=dict(
            loss_features=dict(
                preds_S=features, preds_T=dict(recorder='features', from_student=False)
            ),
            loss_answers=dict(
                preds_S=dict(recorder='answer', from_student=False),
                preds_T=dict(recorder='logits', from_student=False),
            ),
        ),
    )


def test_two_terms_are_srrl():
    model = build(distiller=distiller()).double().train()
    inputs, labels = batch(size=8)
    inputs = inputs.double()
    found = model(inputs, labels, mode='loss')
    ours = found['distill.loss_features'] + found['distill.loss_answers']
    teacher, transfer = model.teacher.network, model.distiller.connectors['transfer']
    with torch.no_grad():
        of_teacher = teacher.body(inputs)
    weights = teacher.fc.weight, teacher.fc.bias
    expected = srrl_loss(transfer(model.student.body(inputs)), of_teacher, *weights)
    torch.testing.assert_close(ours, expected)
    trained = [*model.student.body.parameters(), *transfer.parameters()]
    for a, b in zip(
        torch.autograd.grad(ours, trained), torch.autograd.grad(expected, trained), strict=True
    ):
        assert a.any()
        torch.testing.assert_close(a, b)
    assert all(not p.requires_grad for p in teacher.parameters()) and not teacher.training
    assert {key for key in model.state_dict() if key.startswith('distiller.')} == {
        'distiller.connectors.transfer.fc.weight', 'distiller.connectors.transfer.fc.bias',
    }  # fmt: skip


def test_without_a_connector_it_reads_the_record_itself():
    cfg = distiller(connector=None)
    del cfg['connectors'], cfg['distill_losses']['loss_features']
    del cfg['loss_forward_mappings']['loss_features']
    model = build(distiller=cfg, architecture=dict(type='TinyClassifier', width=16)).train()
    inputs, labels = batch(size=8)
    found = model(inputs, labels, mode='loss')['distill.loss_answers']
    teacher = model.teacher.network
    expected = F.mse_loss(teacher.fc(model.student.body(inputs)), teacher(inputs).detach())
    torch.testing.assert_close(found, expected)


def test_what_does_not_fit_is_refused():
    for changes, says in (
        (dict(modules=['head']), r"answer\.modules: 'head' is not in the teacher \(TinyClassifier"),
        (dict(modules='fc'), r"TeacherPart\.modules='fc' is wrong: give a list of names"),
        (dict(question='feature'), r"question='feature' is not one of student_recorders \(did you"),
        (dict(connector='transfr'), r"connector='transfr' is not one of connectors \(did you mean"),
    ):
        with pytest.raises(ValueError, match=says):
            build(distiller=distiller(**changes))
    narrow = distiller(connector=None)
    model = build(distiller=narrow).train()
    with pytest.raises(ValueError, match=r"'fc' of the teacher .* of 'features' of .* \(\[8, 4\]"):
        model(*batch(size=8), mode='loss')
    cfg = distiller()
    cfg['student_recorders'] = dict(cfg['student_recorders'], answer=dict(
        type='kd_plugins.TeacherPart', question='features', modules=['fc']))  # fmt: skip
    with pytest.raises(ValueError, match=r'student_recorders\.answer asks the teacher: move it'):
        build(distiller=cfg)
