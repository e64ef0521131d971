"""Heads that say the same in other ways, against what mmdet's own loss and prediction work with."""

import math

import pytest
import torch
from helpers.detection import MORE_HEADS, build, detector, images, losses
from mmdet.models.dense_heads import ATSSHead
from mmengine.config import ConfigDict
from mmengine.logging import MessageHub

from kd_plugins.recorders.head_adapters import _both, _logit

FOCAL = dict(type='FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0)
#: Heads by every option that changes what they predict, or to which anchors they assign.
KINDS = {
    **{kind: (kind, {}) for kind in MORE_HEADS},
    'TOOD, of anchors': ('TOOD', dict(anchor_type='anchor_based')),
    'TOOD, aligned': ('TOOD', {}),
    'VFNet, focal': ('VFNet', dict(use_vfl=False, loss_cls=FOCAL)),
    'VFNet, of points': ('VFNet', dict(use_atss=False)),
    'VFNet, by range': ('VFNet', dict(bbox_norm_type='reg_denom')),
}
SIZE = 64


@pytest.fixture(autouse=True)
def training():
    """What heads ask mmengine for; TOOD assigns by alignment from its fourth epoch on."""
    MessageHub.get_current_instance().update_info('epoch', 0)


def pair(kind, **changes):
    if kind == 'TOOD, aligned':
        MessageHub.get_current_instance().update_info('epoch', 4)
    name, options = KINDS[kind]
    options = {**options, **changes}
    return build(detector(name, **options), detector(name, width=16, **options)).train()


def listen(module):
    """Keep the arguments that a loss module is called with."""
    calls = []
    module.register_forward_hook(
        lambda m, args, kwargs, out: calls.append((args, kwargs)), with_kwargs=True
    )
    return calls


def step(model, data):
    """One step; its losses, and the records of both sides."""
    kept, compute = [], model.distiller.compute_distill_losses

    def keep():
        for side in ('student', 'teacher'):
            recorders = getattr(model.distiller, f'{side}_recorders')
            kept.append(recorders.get_recorder('head').get_record_data())
        return compute()

    model.distiller.compute_distill_losses = keep
    try:
        return losses(model, data), *kept
    finally:
        del model.distiller.compute_distill_losses


def by_level(x, sizes):
    """All images of one level after another, as heads hand it to their losses."""
    return torch.cat([level.flatten(0, 1) for level in x.split(sizes, dim=1)])


def by_picture(x, sizes):
    return x.flatten(0, 1)


def row(kind, x, record):
    """Anchors in the order of the head's own loss."""
    order = by_picture if kind.startswith(('PAA', 'YOLOX')) else by_level
    return order(x, record.level_sizes)


def strides_of(record):
    of_levels = torch.tensor([8, 16, 32, 64, 128])
    return of_levels.repeat_interleave(torch.tensor(record.level_sizes))[:, None]


@pytest.mark.parametrize('kind', [kind for kind in KINDS if not kind.startswith('YOLOX')])
def test_logits_and_targets_are_what_the_heads_own_loss_receives(kind):
    model = pair(kind)
    head = model.student.bbox_head
    calls = listen(head.initial_loss_cls if kind in ('TOOD', 'TOOD, of anchors') else head.loss_cls)
    _, student, teacher = step(model, images())
    # PAA asks its losses picture by picture before, to assign anew.
    calls = calls[-1:] if kind == 'PAA' else calls
    said = torch.cat([args[0] for args, _ in calls])
    logits = row(kind, student.cls_logits, student)
    if kind.startswith('TOOD'):
        torch.testing.assert_close(logits.sigmoid(), said, rtol=1e-5, atol=1e-7)
    else:
        assert torch.equal(logits, said)
    given = [args[1] if isinstance(args[1], torch.Tensor) else args[1][0] for args, _ in calls]
    given, targets = torch.cat(given), student.targets
    positive = row(kind, targets.positive, student)
    # The varifocal loss is given the IoU of each class.
    wanted = given.amax(1) > 0 if given.dim() == 2 else (given >= 0) & (given < 3)
    assert torch.equal(positive, wanted) and 0 < positive.sum() < 300
    weights = [args[2] if len(args) > 2 else kwargs.get('weight') for args, kwargs in calls]
    expected = torch.ones(len(said)) if weights[0] is None else torch.cat(weights)
    assert torch.equal(row(kind, targets.label_weights, student), expected)
    assert teacher.targets is None and not teacher.cls_logits.requires_grad
    of_images = targets.positive.sum(dim=1).tolist()
    assert targets.num_pos.item() == sum(max(n, 1) for n in of_images)


def test_yolox_says_the_class_of_an_object_times_that_there_is_one():
    model = pair('YOLOX')
    head = model.student.bbox_head
    of_classes, of_objects = listen(head.loss_cls), listen(head.loss_obj)
    _, student, _ = step(model, images())
    objects, there = (of_objects[0][0][i].view(2, -1) for i in (0, 1))
    assert torch.equal(student.targets.positive, there == 1) and 0 < there.sum() < 300
    assert (student.targets.label_weights == 1).all()
    positive = student.targets.positive
    p = of_classes[0][0][0].double().sigmoid() * objects[positive].double().sigmoid()[:, None]
    expected = torch.log(p / (1 - p))
    found = student.cls_logits[positive].double()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('kind', [kind for kind in KINDS if kind != 'DDOD'])
def test_boxes_of_positive_anchors_are_what_the_heads_own_loss_receives(kind):
    model = pair(kind) if kind != 'RetinaSepBN' else pair(
        kind, reg_decoded_bbox=True, loss_bbox=dict(type='GIoULoss'))  # fmt: skip
    head = model.student.bbox_head
    calls = listen(head.loss_bbox_refine if kind.startswith('VFNet') else head.loss_bbox)
    _, student, _ = step(model, images())
    calls = calls[-1:] if kind == 'PAA' else calls
    theirs = torch.cat([args[0] for args, _ in calls])
    ours = student.boxes if kind.startswith('TOOD') else student.boxes * strides_of(student)
    keep = torch.ones_like(student.targets.positive)
    if kind != 'RetinaSepBN':
        keep = student.targets.positive
    ours, keep = row(kind, ours, student), row(kind, keep, student)
    torch.testing.assert_close(ours[keep], theirs, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize('kind', KINDS)
def test_the_teachers_boxes_of_all_anchors_are_those_it_would_predict(kind):
    model = pair(kind)
    teacher = model.teacher.network
    data = model.data_preprocessor(images(size=SIZE), True)
    with torch.no_grad():
        outs = teacher(**data, mode='tensor')
    # Scores that tell every anchor and class from the others, in whatever form the head gives
    # them; where it says how sure it is of a box or an object, it is.
    order = torch.linspace(-4, 4, sum(level.numel() for level in outs[0]))
    order = order[torch.randperm(len(order))].split([level.numel() for level in outs[0]])
    scores = [new.view_as(level) for new, level in zip(order, outs[0], strict=True)]
    if kind.startswith('TOOD'):
        scores = [level.sigmoid() for level in scores]
    outs = (scores, outs[1], *([torch.full_like(x, 99.0) for x in level] for level in outs[2:]))
    record = model.distiller.teacher_recorders.get_recorder('head').adapter.outputs(outs, None)
    cfg = ConfigDict(nms_pre=10000, score_thr=-1.0, min_bbox_size=-1)
    metas = [sample.metainfo for sample in data['data_samples']]
    head = teacher.bbox_head
    if kind == 'PAA':
        # Its own prediction votes over the boxes that ATSS's gives.
        head.__class__ = ATSSHead
    found = head.predict_by_feat(*outs, batch_img_metas=metas, cfg=cfg, with_nms=False)
    for i, theirs in enumerate(found):
        scores, ours = record.cls_logits[i].sigmoid(), record.boxes[i] * strides_of(record)
        if kind == 'YOLOX':
            # One class of each anchor, all anchors in their order, not clipped.
            torch.testing.assert_close(scores.amax(1), theirs.scores)
            torch.testing.assert_close(ours, theirs.bboxes, rtol=1e-4, atol=1e-3)
            continue
        assert len(theirs) == scores.numel()
        if not kind.startswith('TOOD'):  # whose boxes are not clipped
            ours = ours.clamp(0, SIZE)
        ours = ours[:, None].expand(-1, scores.shape[1], -1).reshape(-1, 4)
        ours, order = ours[scores.flatten().argsort()], theirs.scores.argsort()
        torch.testing.assert_close(ours, theirs.bboxes[order], rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('empty', [(), (1,), (0, 1)])
def test_every_term_is_finite_and_reaches_the_student(kind, empty):
    model = pair(kind)
    with torch.no_grad():
        # Predictions of every sign and size; VFNet's own end in inf * 0 beyond.
        for network in (model.student, model.teacher.network):
            for p in network.bbox_head.parameters():
                p.mul_(1.5 if kind.startswith('VFNet') else 4)
    found, student, teacher = step(model, images(empty=empty))
    for record in (student, teacher):
        assert record.cls_logits.isfinite().all()
        assert (record.boxes[..., 2:] >= record.boxes[..., :2]).all()
    assert student.targets.positive[list(empty)].sum() == 0
    distilled = found['distill.loss_bckd_cls'] + found['distill.loss_bckd_loc']
    some = bool(student.targets.positive.any())
    assert distilled.isfinite() and (distilled > 0) == some and some <= (len(empty) < 2)
    distilled.backward()
    grads = [p.grad for p in model.student.bbox_head.parameters() if p.grad is not None]
    assert grads and all(grad.isfinite().all() for grad in grads)
    assert any(grad.any() for grad in grads) == some


@pytest.mark.parametrize('kind', MORE_HEADS)
def test_nothing_is_left_on_the_heads(kind):
    model = pair(kind)
    heads = [model.student.bbox_head, model.teacher.network.bbox_head]
    before = [{k for k in vars(head) if callable(vars(head)[k])} for head in heads]
    losses(model, images())
    assert [{k for k in vars(head) if callable(vars(head)[k])} for head in heads] == before


@pytest.mark.parametrize('kind', [kind for kind in MORE_HEADS if kind not in ('TOOD', 'VFNet')])
def test_bfloat16_autocast(kind):
    model = pair(kind)
    with torch.autocast('cpu', torch.bfloat16):
        found, student, _ = step(model, images())
    assert student.boxes.dtype == torch.float32
    assert found['distill.loss_bckd_cls'].isfinite() and found['distill.loss_bckd_loc'].isfinite()


def test_heads_of_two_kinds_teach_each_other():
    for student, teacher in (('TOOD', 'VFNet'), ('YOLOX', 'PAA'), ('DDOD', 'YOLOX')):
        model = build(detector(student), detector(teacher, width=16)).train()
        found, *_ = step(model, images())
        assert found['distill.loss_bckd_cls'] > 0 and found['distill.loss_bckd_loc'] > 0


def test_a_head_with_another_assignment_is_refused():
    from mmdet.models.dense_heads import PAAHead
    from mmdet.registry import MODELS as MMDETS

    @MMDETS.register_module(force=True)
    class OtherPAAHead(PAAHead):
        def paa_reassign(self, *args, **kwargs):
            return super().paa_reassign(*args, **kwargs)

    with pytest.raises(ValueError, match='the head OtherPAAHead is not one that can be read'):
        build(detector('PAA', type='OtherPAAHead'), detector('PAA'))


def logit(p):
    return math.log(p) - math.log1p(-p)


@pytest.mark.parametrize(('a', 'b'), [(0.0, 0.0), (3.0, -2.0), (-8.0, 5.0), (12.0, 11.0)])
def test_the_logit_of_a_product_is_the_logit_of_the_product(a, b):
    x, y = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (a, b))
    value = _both(x, y)
    p = 1 / (1 + math.exp(-a)) / (1 + math.exp(-b))
    assert value.item() == pytest.approx(logit(p), rel=1e-10)
    value.backward()
    # d logit / da = p (1 - sigmoid(a)) / (p (1 - p)).
    assert x.grad.item() == pytest.approx((1 - 1 / (1 + math.exp(-a))) / (1 - p), rel=1e-9)
    assert y.grad.item() == pytest.approx((1 - 1 / (1 + math.exp(-b))) / (1 - p), rel=1e-9)


def test_logits_at_the_ends_are_finite_with_finite_gradients():
    for function, inputs in (
        (_logit, [torch.tensor([0.0, 1e-30, 0.5, 1.0])]),
        (_both, [torch.tensor([-300.0, 300.0, 0.0]), torch.tensor([-300.0, 300.0, 300.0])]),
    ):
        inputs = [x.requires_grad_() for x in inputs]
        values = function(*inputs)
        values.sum().backward()
        assert values.isfinite().all() and all(x.grad.isfinite().all() for x in inputs)
    assert _logit(torch.tensor(0.25)).item() == pytest.approx(logit(0.25), rel=1e-6)
