"""LD."""

import pytest
import torch
from helpers.detection import build, detector, images, losses, term
from mmdet.registry import MODELS as MMDET
from test_bckd import records

from kd_plugins.losses import LDLoss
from kd_plugins.registry import MODELS
from kd_plugins.structures import Progress

#: Where CTKD's curriculum has come to its end.
LATE = Progress(iter=50, max_iters=100, epoch=10, max_epochs=20)
LD = term('loss_ld', type='kd_plugins.LDLoss')


def test_value_and_gradients_are_those_of_mmdets_own_ld_head():
    ours = build(**LD).train()
    data = ours.data_preprocessor(images(), True)
    loss_ld = dict(type='KnowledgeDistillationKLDivLoss', loss_weight=0.25, T=10)
    stock = detector()
    cfg = dict(stock['bbox_head'], type='LDHead', train_cfg=stock['train_cfg'], loss_ld=loss_ld)
    head = MMDET.build(cfg)
    head.load_state_dict(ours.student.bbox_head.state_dict())
    with torch.no_grad():
        out_teacher = ours.teacher.network(**data, mode='tensor')
        features = ours.student.extract_feat(data['inputs'])
    theirs = sum(head.loss(features, out_teacher, data['data_samples'])['loss_ld'])
    theirs.backward()
    with ours.distiller.teacher_recorders, torch.no_grad():
        ours.teacher.network(**data, mode='tensor')
    with ours.distiller.student_recorders:
        ours.student.bbox_head.loss(features, data['data_samples'])
    loss = ours.distiller.compute_distill_losses()['loss_ld']
    loss.backward()
    torch.testing.assert_close(loss, theirs)
    assert loss > 1e-3
    moved = []
    pairs = zip(ours.student.bbox_head.named_parameters(), head.parameters(), strict=True)
    for (name, a), b in pairs:
        a, b = (torch.zeros_like(p) if p.grad is None else p.grad for p in (a, b))
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-7)
        moved += [name] if b.any() else []
    assert 'gfl_reg.weight' in moved and 'gfl_cls.weight' not in moved


def test_a_learned_temperature_gets_a_gradient_from_all_sides():
    term = LDLoss(tau=dict(type='kd_plugins.GlobalTemperature'))
    term.tau.set_progress(LATE)
    loss = term(*records()[:2])
    loss.backward()
    assert term.tau.theta.grad.item() != 0
    fixed = LDLoss(tau=term.tau(None, None).item())
    assert loss.item() == pytest.approx(fixed(*records()[:2]).item(), rel=1e-6)


def test_an_instance_wise_temperature_sees_every_side_as_a_sample():
    tau = MODELS.build(dict(type='kd_plugins.InstanceTemperature', num_classes=17))
    tau.set_progress(LATE)
    term, seen = LDLoss(tau=tau), []
    tau.register_forward_hook(lambda m, args, out: seen.append(out.shape))
    preds_S, preds_T, _ = records()
    loss = term(preds_S, preds_T)
    loss.backward()
    assert seen == [(4 * int(preds_S.targets.positive.sum()), 1)]
    assert torch.isfinite(loss) and all(p.grad is not None for p in tau.parameters())


def test_without_a_positive_anchor_a_learned_temperature_still_takes_part():
    for kind in (dict(type='kd_plugins.GlobalTemperature'),
                 dict(type='kd_plugins.InstanceTemperature', num_classes=17)):  # fmt: skip
        term = LDLoss(tau=kind)
        term.tau.set_progress(LATE)
        loss = term(*records('nothing')[:2])
        loss.backward()
        assert loss.item() == 0
        assert all(p.grad is not None and not p.grad.any() for p in term.parameters())


def test_equal_sides_lose_nothing_and_the_teacher_keeps_its_graph():
    model = build(detector(), detector(), **LD).train()
    model.teacher.network.load_state_dict(model.student.state_dict())
    # The same weights, but another batch norm: eval mode on the teacher's side.
    model.student.backbone.eval()
    assert losses(model, images())['distill.loss_ld'].abs() < 1e-6
    with torch.no_grad():
        model.teacher.network.bbox_head.gfl_reg.weight.mul_(1.5)
    assert losses(model, images())['distill.loss_ld'] > 1e-4
