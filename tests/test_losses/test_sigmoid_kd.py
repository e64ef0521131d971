"""KD of classes with a sigmoid each, and terms that want the other protocol."""

import math

import pytest
import torch
from helpers import algorithm_cfg, distiller
from mmengine.hub import get_config
from mmengine.registry import MODELS, init_default_scope

from kd_plugins.losses import DKDLoss, KDLoss, SigmoidKDLoss, sigmoid_kd_loss


def wave_logits(dtype=torch.float64, classes=5):
    i = torch.arange(4 * classes, dtype=torch.float64).view(4, classes)
    return (3 * torch.sin(1.3 * i + 0.2)).to(dtype), (4 * torch.cos(0.7 * i + 0.5)).to(dtype)


def naive(row_S, row_T, tau):
    total = 0.0
    for s, t in zip(row_S, row_T, strict=True):
        q, p = (1 / (1 + math.exp(-z / tau)) for z in (s, t))
        total += p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
    return total * tau**2


@pytest.mark.parametrize('tau', [0.5, 1.0, 4.0])
@pytest.mark.parametrize('classes', [1, 5])
def test_value_is_the_naive_loop(tau, classes):
    preds_S, preds_T = wave_logits(classes=classes)
    rows = [naive(s, t, tau) for s, t in zip(preds_S.tolist(), preds_T.tolist(), strict=True)]
    assert sigmoid_kd_loss(preds_S, preds_T, tau).tolist() == pytest.approx(rows, rel=1e-10)
    loss = SigmoidKDLoss(tau, loss_weight=3.0)(preds_S, preds_T)
    assert loss.item() == pytest.approx(3 * sum(rows) / 4, rel=1e-10)


def test_gradients_are_finite_differences_and_the_teachers_is_none():
    preds_S, preds_T = wave_logits()
    inputs = [preds_S.requires_grad_(), preds_T.clone().requires_grad_()]
    tau = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(sigmoid_kd_loss, (*inputs, tau))
    SigmoidKDLoss(2.0)(*inputs).backward()
    assert inputs[0].grad.abs().sum() > 0 and inputs[1].grad is None


def test_one_class_is_kd_of_two():
    """A sigmoid is a softmax of the logit and 0."""
    preds_S, preds_T = wave_logits(classes=1)
    two = [torch.cat([z, torch.zeros_like(z)], dim=1) for z in (preds_S, preds_T)]
    assert SigmoidKDLoss(3.0)(preds_S, preds_T).item() == pytest.approx(KDLoss(3.0)(*two).item())


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32])
def test_extreme_and_empty_logits_are_finite(dtype):
    far = torch.tensor([[6e4, -6e4, 0.0]], dtype=dtype)
    for preds_S, preds_T in ((far, -far), (-far, far), (far[:0], far[:0])):
        preds_S = preds_S.clone().requires_grad_()
        loss = SigmoidKDLoss()(preds_S, preds_T)
        loss.backward()
        assert loss.dtype == torch.float32
        assert torch.isfinite(loss) and torch.isfinite(preds_S.grad).all()


def multi_label(kind):
    """A stock multi-label recipe as student and teacher, with a term on its logits."""
    init_default_scope('mmpretrain')
    cfg = get_config('mmpretrain::csra/resnet101-csra_1xb16_voc07-448px.py').model
    cfg.backbone.update(depth=18, init_cfg=None)
    cfg.head = dict(type='MultiLabelLinearClsHead', num_classes=20, in_channels=512)
    cfg.neck = dict(type='GlobalAveragePooling')
    reads = dict(type='ModuleOutputs', source='head.fc')
    of = distiller(
        dict(type=f'kd_plugins.{kind}'),
        student_recorders=dict(
            logits=reads, labels=dict(type='ModuleInputs', source='head.loss_module')
        ),
        teacher_recorders=dict(logits=reads),
    )
    if kind != 'DKDLoss':
        of['loss_forward_mappings']['loss_kd'].pop('gt_labels')
    return algorithm_cfg(architecture=cfg, teacher=dict(cfg), distiller=of)


@pytest.mark.parametrize('kind', ['KDLoss', 'DKDLoss'])
def test_softmax_terms_on_a_multi_label_head_are_refused(kind):
    said = rf'loss_kd={kind} is for logits of a softmax, .*MultiLabelLinearClsHead.*SigmoidKDLoss'
    with pytest.raises(ValueError, match=said):
        MODELS.build(multi_label(kind))


def test_a_multi_label_student_trains_by_the_sigmoid_term():
    from mmpretrain.structures import DataSample

    model = MODELS.build(multi_label('SigmoidKDLoss'))
    torch.manual_seed(0)
    samples = [DataSample().set_gt_score(torch.arange(20) % (3 + i) == 0) for i in range(2)]
    found = model(torch.randn(2, 3, 64, 64), samples, mode='loss')
    assert found['distill.loss_kd'] > 0 and 'student.loss' in found


def test_the_sigmoid_term_on_a_softmax_head_is_refused():
    cfg = multi_label('SigmoidKDLoss')
    for side in ('architecture', 'teacher'):
        loss = dict(type='CrossEntropyLoss', loss_weight=1.0)
        cfg[side] = dict(
            cfg[side],
            head=dict(type='LinearClsHead', num_classes=20, in_channels=512, loss=loss),
        )
    with pytest.raises(ValueError, match=r'for logits of a sigmoid, .*LinearClsHead\) excludes'):
        MODELS.build(cfg)


def test_the_sigmoid_term_on_a_smoothed_softmax_is_refused():
    cfg = multi_label('SigmoidKDLoss')
    smooth = dict(type='LabelSmoothLoss', label_smooth_val=0.1, num_classes=20)
    for mode, says in (('original', 'excludes the others'), ('multi_label', None)):
        head = dict(type='LinearClsHead', num_classes=20, in_channels=512)
        for side in ('architecture', 'teacher'):
            cfg[side] = dict(cfg[side], head=dict(head, loss=dict(smooth, mode=mode)))
        if says is None:
            MODELS.build(cfg)
            continue
        with pytest.raises(ValueError, match=rf'for logits of a sigmoid, .*LinearClsHead\) {says}'):
            MODELS.build(cfg)


@pytest.mark.parametrize('wrapped', [False, True])
def test_mmrazors_softmax_on_a_multi_label_head_is_refused(wrapped):
    cfg = multi_label('KDLoss')
    term = dict(type='mmrazor.KLDivergence')
    if wrapped:
        term = dict(type='kd_plugins.WithTemperature', loss=term, tau=2.0)
    cfg['distiller']['distill_losses']['loss_kd'] = term
    with pytest.raises(ValueError, match=r'KLDivergence is for logits of a softmax, .*SigmoidKD'):
        MODELS.build(cfg)
    # On maps it compares channels.
    for side in ('student', 'teacher'):
        cfg['distiller'][f'{side}_recorders']['logits']['source'] = 'backbone.layer4'
    MODELS.build(cfg)


def test_a_multi_label_task_among_others_is_told_from_them():
    cfg = multi_label('KDLoss')
    tasks = dict(
        one=dict(type='LinearClsHead', num_classes=3), several=dict(cfg['teacher']['head'])
    )
    for task in tasks.values():
        task.pop('in_channels', None)
    for side in ('architecture', 'teacher'):
        cfg[side] = dict(
            cfg[side], head=dict(type='MultiTaskHead', task_heads=tasks, in_channels=512)
        )
    cfg['distiller']['student_recorders'].pop('labels')
    for record, task in (
        (dict(type='kd_plugins.TaskLogits', task='one'), 'one'),
        (dict(type='kd_plugins.TaskLogits', task='several'), 'several'),
        (dict(type='ModuleOutputs', source='head.task_heads.several.fc'), 'several'),
    ):
        for side in ('student', 'teacher'):
            cfg['distiller'][f'{side}_recorders']['logits'] = dict(record)
        if task == 'one':
            MODELS.build(cfg)
            continue
        with pytest.raises(ValueError, match=r'MultiLabelLinearClsHead\) may stand beside others'):
            MODELS.build(cfg)


def test_dkd_takes_no_picture_of_several_classes():
    preds_S, preds_T = wave_logits()
    loss, plain = DKDLoss(), torch.eye(5, dtype=torch.float64)[:4]
    several = plain.clone()
    several[2, 4] = 1.0
    with pytest.raises(ValueError, match=r'labels sum to 2.*SigmoidKDLoss'):
        DKDLoss()(preds_S, preds_T, several)
    # Later batches stay on the device: the loss says it.
    assert torch.isfinite(loss(preds_S, preds_T, plain))
    for labels in (several, plain * 0, (plain + plain.roll(1, 1) + plain.roll(2, 1)) / 3):
        assert torch.isnan(loss(preds_S, preds_T, labels))
    halves = (plain + plain.roll(1, 1)).half() / 2
    assert torch.isfinite(loss(preds_S, preds_T, halves))


def test_all_outputs_of_a_module_are_no_logits():
    logits = (torch.zeros(2, 3), torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r'KDLoss.preds_S is a tuple of 2, .*data_idx=0 \(to 1\)'):
        KDLoss()(logits, logits[0])
    with pytest.raises(ValueError, match=r'KDLoss.preds_T is a dict, not a tensor: map it'):
        KDLoss()(logits[0], {})
