"""The heads of mmpretrain's MultiTaskHead, where only some pictures have a label of a task."""

import pytest
import torch
from helpers import algorithm_cfg
from helpers.networks import resnet
from mmengine.registry import MODELS, init_default_scope
from mmpretrain.structures import DataSample, MultiTaskDataSample

from kd_plugins.losses import KDLoss


def network(width=8, tasks=None):
    tasks = tasks or dict(shape=3, colour=4)
    one = resnet()
    channels = one['head']['in_channels']
    head = dict(
        type='MultiTaskHead',
        task_heads={
            name: dict(type='LinearClsHead', num_classes=classes) for name, classes in tasks.items()
        },
        in_channels=channels,
    )
    return dict(one, head=head, _scope_='mmpretrain')


def distiller(task='colour', record=None):
    record = record or dict(type='kd_plugins.TaskLogits', task=task)
    sides = {f'preds_{side}': dict(recorder='logits', from_student=side == 'S') for side in 'ST'}
    return dict(
        student_recorders=dict(logits=record),
        teacher_recorders=dict(logits=record),
        distill_losses=dict(loss_kd=dict(type='kd_plugins.KDLoss', tau=2.0)),
        loss_forward_mappings=dict(loss_kd=sides),
    )


def build(student=None, teacher=None, cfg=None, **more):
    init_default_scope('mmpretrain')
    torch.manual_seed(0)
    model = MODELS.build(
        algorithm_cfg(
            architecture=student or network(),
            teacher=teacher or network(),
            distiller=cfg or distiller(**more),
            teacher_ckpt=None,
            allow_random_teacher=True,
        )
    )
    model.init_weights()
    return model.train()


def batch(labelled=((0, 1), (0,), (1,), ())):
    """Pictures and their samples; each has labels of some tasks."""
    samples = []
    for of in labelled:
        sample = MultiTaskDataSample()
        for i in of:
            sample.set_field(DataSample().set_gt_label(i), ('shape', 'colour')[i])
        samples.append(sample)
    generator = torch.Generator().manual_seed(1)
    return torch.randn(len(samples), 3, 32, 32, generator=generator), samples


@pytest.mark.parametrize('labelled', [((0, 1), (0,), (1,), ()), ((0,), (0,)), ((1,), (0, 1))])
def test_every_picture_is_distilled_labelled_or_not(labelled):
    model = build()
    inputs, samples = batch(labelled)
    losses = model(inputs, samples, mode='loss')
    # The forward shows every head all pictures.
    said = []
    for one in (model.student, model.teacher.network):
        said.append(one(inputs, mode='tensor')['colour'])
    expected = KDLoss(tau=2.0)(said[0], said[1])
    torch.testing.assert_close(losses['distill.loss_kd'], expected)
    losses['distill.loss_kd'].backward()
    heads = model.student.head.task_heads
    assert heads['colour'].fc.weight.grad.any() and heads['shape'].fc.weight.grad is None


def test_the_students_own_losses_stay_as_they_are():
    model = build()
    inputs, samples = batch()
    losses = model(inputs, samples, mode='loss')
    alone = model.student(inputs, samples, mode='loss')
    for name, value in alone.items():
        assert torch.equal(torch.as_tensor(losses[f'student.{name}']), torch.as_tensor(value))


def test_nothing_is_left_on_the_head_even_after_an_error():
    model = build()
    head = model.student.head
    before = set(vars(head))
    inputs, samples = batch()
    model(inputs, samples, mode='loss')
    with pytest.raises(Exception):  # noqa: B017
        model(inputs, None, mode='loss')
    assert set(vars(head)) == before


def test_what_is_no_task_is_refused():
    with pytest.raises(ValueError, match="task='size' is no task of the student"):
        build(task='size')
    plain = dict(resnet(), _scope_='mmpretrain')
    with pytest.raises(ValueError, match="source='head' of the student .* is no MultiTaskHead"):
        build(student=plain)
    other = network(tasks=dict(shape=3, colour=5))
    with pytest.raises(ValueError, match='would compare different classes'):
        build(teacher=other)


def test_a_record_of_the_labelled_pictures_only_is_refused_for_that_reason():
    plain = dict(type='ModuleOutputs', source='head.task_heads.colour.fc')
    model = build(record=plain)
    inputs, samples = batch()
    says = r'distill_losses.loss_kd: KDLoss compares .* preds_S has 2 rows .*kd_plugins.TaskLogits'
    with pytest.raises(ValueError, match=says):
        model(inputs, samples, mode='loss')


def test_a_batch_without_any_label_of_the_task_is_refused_for_that_reason():
    model = build(record=dict(type='ModuleOutputs', source='head.task_heads.colour.fc'))
    model(*batch([(0, 1), (1,)]), mode='loss')
    with pytest.raises(RuntimeError, match=r'MultiTaskHead shows it .* has none; .*TaskLogits'):
        model(*batch([(0,), (0,)]), mode='loss')


def test_labels_of_some_pictures_are_not_those_of_all():
    """DKD would split the answers about all pictures at the label of one."""
    cfg = distiller()
    source = 'head.task_heads.colour.loss_module'
    cfg['student_recorders']['labels'] = dict(type='ModuleInputs', source=source)
    cfg['distill_losses']['loss_kd'] = dict(type='kd_plugins.DKDLoss')
    of = dict(recorder='labels', from_student=True, data_idx=1)
    cfg['loss_forward_mappings']['loss_kd']['gt_labels'] = of
    model = build(cfg=cfg)
    model(*batch([(0, 1), (1,)]), mode='loss')
    with pytest.raises(ValueError, match=r'loss_kd: DKDLoss\.gt_labels has shape \(1,\)'):
        model(*batch([(0, 1), (0,)]), mode='loss')
