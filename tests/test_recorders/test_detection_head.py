"""What recorders hand on, against what mmdet's own loss and prediction code works with."""

import copy

import pytest
import torch
from helpers.detection import HEADS, build, detector, images, losses
from mmengine.config import ConfigDict

from kd_plugins.recorders.head_adapter import opened
from kd_plugins.registry import MODELS

#: RetinaNet's own loss compares deltas, unless it is told to decode them.
DECODED = dict(RetinaNet=dict(reg_decoded_bbox=True, loss_bbox=dict(type='GIoULoss')))
KINDS = [*HEADS, 'FCOS, normed']


def pair(kind, **teacher):
    name, _, normed = kind.partition(', ')
    changes = dict(DECODED.get(name, {}), **(dict(norm_on_bbox=True) if normed else {}))
    return build(detector(name, **changes), detector(name, width=16, **changes)).train()


def listen(module):
    """Keep the arguments that a loss module is called with."""
    calls = []
    module.register_forward_hook(
        lambda m, args, kwargs, out: calls.append((args, kwargs)), with_kwargs=True
    )
    return calls


def recorded(model):
    """The records of both sides after a step; the recorders let go of them."""
    kept = {}
    for side in ('student', 'teacher'):
        recorder = getattr(model.distiller, f'{side}_recorders').get_recorder('head')
        kept[side] = recorder.get_record_data()
    return kept['student'], kept['teacher']


def step(model, data):
    """One step whose records are kept."""
    kept = []
    compute = model.distiller.compute_distill_losses
    model.distiller.compute_distill_losses = lambda: (kept.extend(recorded(model)), compute())[1]
    try:
        return losses(model, data), *kept
    finally:
        del model.distiller.compute_distill_losses


def by_level(x, sizes):
    """All images of one level after another, as heads hand it to their losses."""
    return torch.cat([level.flatten(0, 1) for level in x.split(sizes, dim=1)])


def strides_of(record):
    """The stride of every anchor, (A, 1)."""
    return torch.tensor([8, 16, 32, 64, 128]).repeat_interleave(torch.tensor(record.level_sizes))[
        :, None
    ]


@pytest.mark.parametrize('kind', KINDS)
def test_logits_and_targets_are_what_the_heads_own_loss_receives(kind):
    model = pair(kind)
    calls = listen(model.student.bbox_head.loss_cls)
    _, student, teacher = step(model, images())
    logits = torch.cat([args[0] for args, _ in calls])
    assert torch.equal(by_level(student.cls_logits, student.level_sizes), logits)
    labels = [args[1] if isinstance(args[1], torch.Tensor) else args[1][0] for args, _ in calls]
    labels = torch.cat(labels)
    targets = student.targets
    positive = by_level(targets.positive, student.level_sizes)
    assert torch.equal(positive, (labels >= 0) & (labels < 3)) and 0 < positive.sum() < 200
    weights = [args[2] if len(args) > 2 else kwargs.get('weight') for args, kwargs in calls]
    expected = torch.ones(len(labels)) if weights[0] is None else torch.cat(weights)
    assert torch.equal(by_level(targets.label_weights, student.level_sizes), expected)
    assert teacher.targets is None and not teacher.cls_logits.requires_grad
    of_images = targets.positive.sum(dim=1).tolist()
    assert targets.num_pos.item() == sum(max(n, 1) for n in of_images)


@pytest.mark.parametrize('kind', KINDS)
def test_boxes_of_positive_anchors_are_what_the_heads_own_loss_receives(kind):
    model = pair(kind)
    calls = listen(model.student.bbox_head.loss_bbox)
    _, student, _ = step(model, images())
    theirs = torch.cat([args[0] for args, _ in calls])
    strides = strides_of(student)
    ours = student.boxes if kind == 'GFL' else student.boxes * strides
    if kind == 'FCOS, normed':
        # Its own loss adds strides to pixels, which shifts both boxes alike.
        theirs = torch.cat([theirs[:, :2] - theirs[:, 2:], theirs[:, 2:] - theirs[:, :2]], 1)
        ours = torch.cat([student.boxes[..., :2] - student.boxes[..., 2:],
                          student.boxes[..., 2:] - student.boxes[..., :2]], -1)  # fmt: skip
    keep = torch.ones_like(student.targets.positive) if kind == 'RetinaNet' else None
    ours = by_level(ours, student.level_sizes)
    keep = by_level(student.targets.positive if keep is None else keep, student.level_sizes)
    torch.testing.assert_close(ours[keep], theirs, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize('kind', KINDS)
def test_the_teachers_boxes_of_all_anchors_are_those_it_would_predict(kind):
    model = pair(kind)
    teacher = model.teacher.network
    data = model.data_preprocessor(images(), True)
    with torch.no_grad():
        outs = teacher(**data, mode='tensor')
    # Scores that tell every anchor and class from the others, and a centerness of 1.
    order = torch.linspace(-4, 4, sum(level.numel() for level in outs[0]))
    order = order[torch.randperm(len(order))].split([level.numel() for level in outs[0]])
    scores = [new.view_as(level) for new, level in zip(order, outs[0], strict=True)]
    outs = (scores, outs[1], *([torch.full_like(x, 99.0) for x in level] for level in outs[2:]))
    record = model.distiller.teacher_recorders.get_recorder('head').adapter.outputs(outs, None)
    cfg = ConfigDict(nms_pre=10000, score_thr=-1.0, min_bbox_size=-1)
    metas = [sample.metainfo for sample in data['data_samples']]
    found = teacher.bbox_head.predict_by_feat(*outs, batch_img_metas=metas, cfg=cfg, with_nms=False)
    strides = strides_of(record)
    for i, theirs in enumerate(found):
        scores = record.cls_logits[i].sigmoid()
        assert len(theirs) == scores.numel()
        # Both in the order of the scores, which are different numbers.
        ours = (record.boxes[i] * strides).clamp(0, 64)
        ours = ours[:, None].expand(-1, scores.shape[1], -1).reshape(-1, 4)
        ours, order = ours[scores.flatten().argsort()], theirs.scores.argsort()
        torch.testing.assert_close(ours, theirs.bboxes[order], rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize('empty', [(1,), (0, 1)])
def test_an_empty_picture_counts_as_one_positive_anchor(empty):
    _, student, _ = step(pair('GFL'), images(empty=empty))
    of_images = student.targets.positive.sum(dim=1).tolist()
    assert [n == 0 for n in of_images] == [i in empty for i in range(2)]
    assert student.targets.num_pos.item() == sum(of_images) + len(empty)


@pytest.mark.parametrize('kind', HEADS)
def test_boxes_are_decoded_in_full_precision_under_autocast(kind):
    model = pair(kind)
    data = model.data_preprocessor(images(), True)
    with torch.no_grad():
        outs = model.teacher.network(**data, mode='tensor')
    adapter = model.distiller.teacher_recorders.get_recorder('head').adapter
    with torch.autocast('cpu', torch.bfloat16):
        half = adapter.outputs(outs, None).boxes
    assert half.dtype == torch.float32
    assert torch.equal(half, adapter.outputs(outs, None).boxes)


def test_boxes_do_not_depend_on_the_mode_of_the_head():
    model = pair('FCOS, normed')
    data = model.data_preprocessor(images(), True)
    head = model.student.eval().bbox_head
    with torch.no_grad():
        features = model.student.extract_feat(data['inputs'])
    boxes = []
    for mode in (True, False):
        head.train(mode)
        with torch.no_grad(), model.distiller.student_recorders:
            head(features)
        boxes.append(model.distiller.student_recorders.get_recorder('head').get_record_data())
    # Decoded only now, in whatever mode the head is by then.
    torch.testing.assert_close(boxes[0].boxes, boxes[1].boxes)


def test_targets_are_computed_once_and_only_for_the_student():
    model = pair('GFL')
    calls = []
    for side, head in (('S', model.student.bbox_head), ('T', model.teacher.network.bbox_head)):
        assign = head.assigner.assign
        head.assigner.assign = lambda *a, side=side, assign=assign, **k: (
            calls.append(side), assign(*a, **k))[1]  # fmt: skip
    losses(model, images())
    assert calls == ['S', 'S']


def test_levels_without_a_positive_anchor_weigh_nothing():
    model = pair('GFL')
    _, student, _ = step(model, images())
    targets, has = student.targets, []
    for positive, before, after in zip(
        *(x.split(student.level_sizes, dim=1)
          for x in (targets.positive, targets.label_weights, targets.weights)), strict=True
    ):  # fmt: skip
        has.append(bool(positive.sum()))
        assert torch.equal(after, before if has[-1] else torch.zeros_like(before))
    assert True in has and False in has


def test_a_copy_of_the_model_listens_to_itself():
    model = pair('GFL')
    copied = copy.deepcopy(model)
    with torch.no_grad():
        for p in copied.student.bbox_head.gfl_cls.parameters():
            p.add_(1.0)
    _, of_model, _ = step(model, images())
    _, of_copy, _ = step(copied, images())
    assert not torch.allclose(of_model.cls_logits, of_copy.cls_logits)
    calls = listen(copied.student.bbox_head.loss_cls)
    _, of_copy, _ = step(copied, images())
    theirs = torch.cat([args[0] for args, _ in calls])
    assert torch.equal(by_level(of_copy.cls_logits, of_copy.level_sizes), theirs)


def test_nothing_is_left_on_the_heads_even_after_an_error():
    model = pair('GFL')
    heads = [model.student.bbox_head, model.teacher.network.bbox_head]
    before = [set(vars(head)) for head in heads]
    losses(model, images())
    assert [set(vars(head)) for head in heads] == before
    broken = images()
    del broken['data_samples'][0].gt_instances
    with pytest.raises(AttributeError):
        losses(model, broken)
    assert [set(vars(head)) for head in heads] == before
    assert not model.distiller.student_recorders.get_recorder('head').data_buffer
    losses(model, images())


def test_who_listens_already_goes_on_listening():
    model = pair('GFL')
    head, seen = model.student.bbox_head, []
    forward = head.forward
    head.forward = mine = lambda x: (seen.append(x), forward(x))[1]
    losses(model, images())
    assert len(seen) == 1 and head.forward is mine


def test_records_let_go_of_the_step():
    model = pair('GFL')
    losses(model, images())
    for manager in (model.distiller.student_recorders, model.distiller.teacher_recorders):
        recorder = manager.get_recorder('head')
        assert not recorder.data_buffer and not recorder._outs
        assert not recorder._assigned and not recorder._sampled


#: Heads by every option that changes how they decode; RTMDet's plain numbers are its stock ones.
DECODERS = {
    **{kind: (kind, {}) for kind in HEADS},
    'FCOS, normed': ('FCOS', dict(norm_on_bbox=True)),
    'RTMDet, plain numbers': ('RTMDet', dict(exp_on_reg=False)),
    'RTMDet, plain numbers, own convolutions': (
        'RTMDet', dict(exp_on_reg=False, share_conv=False)
    ),
    'RetinaNet, distances': (
        'RetinaNet',
        dict(bbox_coder=dict(type='TBLRBBoxCoder', normalizer=4.0), reg_decoded_bbox=True,
             loss_bbox=dict(type='GIoULoss')),
    ),
    'RetinaNet, decoded': ('RetinaNet', DECODED['RetinaNet']),
}  # fmt: skip


def wild(kind, **teacher):
    """A pair of heads whose predictions have every sign and size, and their records."""
    name, changes = DECODERS[kind]
    model = build(detector(name, **changes), detector(name, width=16, **changes)).train()
    with torch.no_grad():
        for network in (model.student, model.teacher.network):
            for p in network.bbox_head.parameters():
                p.mul_(6)
    return model, *step(model, images())


@pytest.mark.parametrize('kind', DECODERS)
def test_no_box_is_inside_out_and_every_box_term_keeps_its_range(kind):
    _, found, *records = wild(kind)
    for record in records:
        assert (record.boxes[..., 2:] >= record.boxes[..., :2]).all()
    loss = MODELS.build(dict(type='kd_plugins.BCKDLocalizationLoss', loss_weight=1.0))
    value = loss(*records)
    # A GIoU loss is at most 2, and at most all anchors count, each with at most weight 1.
    targets = records[0].targets
    assert 0 < value.item() <= 2 * (targets.weights > 0).sum().item() / targets.num_pos.item()
    assert found['distill.loss_bckd_loc'].item() >= 0


def test_plain_numbers_do_turn_boxes_inside_out():
    model, _, student, _ = wild('RTMDet, plain numbers')
    adapter = model.distiller.student_recorders.get_recorder('head').adapter
    with torch.no_grad():
        outs = model.student.bbox_head(
            model.student.extract_feat(model.data_preprocessor(images(), True)['inputs'])
        )
    assert any((preds[:, 0] + preds[:, 2] < 0).any() for preds in outs[1])
    assert adapter.spec.num_bins is None


def test_a_box_that_is_inside_out_is_opened_by_the_gradient():
    teacher = torch.tensor([[10.0, 10.0, 50.0, 40.0]], dtype=torch.float64)
    # Edges crossed in both directions, and one box whose edges stand right.
    start = [[30.0, 20.0, 25.0, 18.0], [45.0, 12.0, 15.0, 39.0], [20.0, 20.0, 30.0, 30.0]]
    raw = torch.tensor(start, dtype=torch.float64, requires_grad=True)
    giou = MODELS.build(dict(type='mmdet.GIoULoss'))
    optimizer = torch.optim.Adam([raw], lr=0.5)
    for _ in range(400):
        boxes = opened(raw)
        loss = giou(boxes, teacher.expand_as(boxes), reduction_override='none')
        assert (loss >= 0).all() and (loss <= 2).all()
        optimizer.zero_grad()
        loss.sum().backward()
        optimizer.step()
    torch.testing.assert_close(raw.detach(), teacher.expand_as(raw), atol=1.0, rtol=0)
