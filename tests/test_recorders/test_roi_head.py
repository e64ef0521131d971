"""RoI records: the student's against what mmdet's own loss sees, the teacher's answers against
its box head asked about one box at a time, on the input of its own preprocessor."""

import copy

import pytest
import torch
import torch.nn.functional as F
from helpers.two_stage import HEADS, build, detector, distillation, pictures, spread
from mmengine.registry import MODELS, init_default_scope
from torchvision.ops import roi_align

from kd_plugins.structures import Progress

each_head = pytest.mark.parametrize('kind', HEADS)
#: A picture that is padded, on both sides in turn.
SIZES = [(96, 80), (70, 90)]
NEEDY = ('Double-Head', 'Dynamic')
CAFFE = 'faster_rcnn/faster-rcnn_r50-caffe_fpn_ms-1x_coco.py'


def step(model, batch=None):
    """One step; return the losses and the records of both sides."""
    kept = []
    compute = model.distiller.compute_distill_losses

    def look():
        for side in ('student', 'teacher'):
            recorder = getattr(model.distiller, f'{side}_recorders').get_recorder('rois')
            kept.append(recorder.get_record_data())
        return compute()

    model.distiller.compute_distill_losses = look
    data = model.data_preprocessor(copy.deepcopy(batch or pictures(sizes=SIZES)), True)
    try:
        return model(**data, mode='loss'), *kept
    finally:
        del model.distiller.compute_distill_losses


def box_heads(network):
    heads = network.roi_head.bbox_head
    return list(heads) if isinstance(heads, torch.nn.ModuleList) else [heads]


def extractors(network):
    found = network.roi_head.bbox_roi_extractor
    return list(found) if isinstance(found, torch.nn.ModuleList) else [found]


def own_features(network, batch, size=None):
    """Features of the pictures by a network's own preprocessing, in eval mode."""
    inputs = network.data_preprocessor(copy.deepcopy(batch), False)['inputs']
    if size is not None:
        inputs = F.interpolate(inputs, size, mode='bilinear', antialias=True)
    with torch.no_grad():
        return network.extract_feat(inputs), inputs.shape[-2:]


@each_head
def test_the_record_is_what_the_students_own_loss_is_computed_on(kind):
    model = build(kind, kind)
    seen, pooled = {}, []
    for extractor in {id(e): e for e in extractors(model.student)}.values():
        extractor.register_forward_pre_hook(lambda module, args: pooled.append(args[1]))
    for stage, head in enumerate(box_heads(model.student)):
        # The last call: PISA asks the loss about its samples before.
        head.loss_cls.register_forward_pre_hook(
            lambda module, args, stage=stage: seen.update({stage: (*args[:2], pooled[-1])})
        )
    _, student, _ = step(model)
    assert [record.stage for record in student] == list(range(len(box_heads(model.student))))
    for record in student:
        logits, labels, rois = seen[record.stage]
        assert record.cls_logits is logits and logits.grad_fn is not None
        assert torch.equal(record.labels, labels) and torch.equal(record.rois, rois)
        assert record.input_shape == (96, 96)
        counts = [int((rois[:, 0] == i).sum()) for i in range(2)]
        assert list(record.rois_per_image) == counts and min(counts) > 0
        assert record.cls_logits.shape == (sum(counts), 4)
        assert (labels < 3).any() and (labels == 3).any()


@each_head
def test_the_teacher_answers_as_its_head_does_about_one_box_at_a_time(kind):
    model, batch = build(kind, kind), pictures(sizes=SIZES)
    teacher = model.teacher.network
    _, student, answers = step(model, batch)
    features, _ = own_features(teacher, batch)
    head = teacher.roi_head
    for record, answer in zip(student, answers, strict=True):
        stage = [record.stage] if len(answers) > 1 else []
        with torch.no_grad():
            one_by_one = [head._bbox_forward(*stage, features, roi[None]) for roi in record.rois]
        logits = torch.cat([outputs['cls_score'] for outputs in one_by_one])
        torch.testing.assert_close(answer.cls_logits, logits, rtol=1e-4, atol=1e-5)
        assert not answer.cls_logits.requires_grad and answer.labels is None
        assert (answer.cls_logits - record.cls_logits).abs().max() > 0.1
        if answer.bbox_preds is not None:
            boxes = torch.cat([outputs['bbox_pred'] for outputs in one_by_one])
            torch.testing.assert_close(answer.bbox_preds, boxes, rtol=1e-4, atol=1e-5)


def naive(network, features, rois, strides, size):
    """Class logits of RoIs, level, pooling and layers by hand."""
    head, rows = network.roi_head.bbox_head, []
    for roi in rois:
        x1, y1, x2, y2 = roi[1:].tolist()
        scale = ((x2 - x1) * (y2 - y1)) ** 0.5
        level = sum(scale >= edge for edge in (112, 224, 448))
        stride = strides[level]
        pooled = roi_align(features[level], roi[None], size, 1 / stride, 0, aligned=True)
        x = pooled.flatten()
        for layer in head.shared_fcs:
            x = torch.relu(layer.weight @ x + layer.bias)
        rows.append(head.fc_cls.weight @ x + head.fc_cls.bias)
    return torch.stack(rows)


STRIDED = {
    'neck.start_level': 1,
    'neck.add_extra_convs': 'on_output',
    'roi_head.bbox_roi_extractor.featmap_strides': [8, 16, 32, 64],
    'rpn_head.anchor_generator.strides': [8, 16, 32, 64, 128],
}
POOLED = {
    'roi_head.bbox_roi_extractor.roi_layer.output_size': 5,
    'roi_head.bbox_head.roi_feat_size': 5,
}
TEACHERS = {
    'as the student': (lambda: detector(), {}),
    'of another normalisation': (lambda: detector(CAFFE), {}),
    'of other strides': (lambda: detector(changes=STRIDED), dict(strides=[8, 16, 32, 64])),
    'of another RoI size': (lambda: detector(changes=POOLED), dict(size=5)),
    'of another width': (lambda: detector(width=16), {}),
}


@pytest.mark.parametrize('name', TEACHERS)
def test_an_answer_is_pooled_from_the_teachers_own_features_by_its_own_head(name):
    cfg, more = TEACHERS[name]
    model, batch = build('Faster', cfg()), pictures(sizes=SIZES)
    teacher = model.teacher.network
    _, (record,), (answer,) = step(model, batch)
    features, _ = own_features(teacher, batch)
    settings = dict(dict(strides=[4, 8, 16, 32], size=7), **more)
    with torch.no_grad():
        expected = naive(teacher, features, record.rois, **settings)
    torch.testing.assert_close(answer.cls_logits, expected, rtol=1e-3, atol=2e-4)
    assert answer.cls_logits.std() > 0.05


@pytest.mark.parametrize('size', [(192, 160), (64, 128)])
def test_boxes_are_scaled_to_an_input_of_another_size(size):
    model, batch = build(teacher_input_size=size), pictures(sizes=SIZES)
    teacher = model.teacher.network
    _, (record,), (answer,) = step(model, batch)
    features, shape = own_features(teacher, batch, size)
    assert tuple(shape) == size == answer.input_shape
    assert torch.equal(answer.rois, record.rois) and record.input_shape == (96, 96)
    scale = torch.tensor([1, size[1] / 96, size[0] / 96, size[1] / 96, size[0] / 96])
    with torch.no_grad():
        expected = naive(teacher, features, record.rois * scale, [4, 8, 16, 32], 7)
    torch.testing.assert_close(answer.cls_logits, expected, rtol=1e-3, atol=2e-4)


def boom(*args):
    raise AssertionError('nobody asked')


@each_head
def test_only_the_features_and_the_box_head_of_the_teacher_run(kind):
    model = build(kind, kind)
    teacher = model.teacher.network
    idle = [
        teacher.rpn_head,
        *(getattr(teacher.roi_head, n, None) for n in ('mask_head', 'grid_head')),
    ]
    for module in idle:
        if module is not None:
            module.register_forward_pre_hook(boom)
    ran = []
    teacher.backbone.register_forward_hook(lambda *a: ran.append('backbone'))
    for head in box_heads(teacher):
        head.register_forward_hook(lambda *a: ran.append('box'))
    step(model)
    assert ran == ['backbone', *['box'] * len(box_heads(teacher))]


def test_a_recorder_of_something_else_lets_the_whole_forward_run():
    plain = build()
    cfg = distillation()
    cfg['distiller'].teacher_recorders.rpn = dict(type='ModuleOutputs', source='rpn_head.rpn_cls')
    whole = MODELS.build(cfg).train()
    whole.load_state_dict(plain.state_dict())
    whole.teacher.network.load_state_dict(plain.teacher.network.state_dict())
    ran = []
    for each in (plain, whole):
        each.teacher.network.rpn_head.register_forward_hook(lambda *a: ran.append(1))
    results = []
    for each in (plain, whole):
        torch.manual_seed(3)
        results.append(step(each)[2][0].cls_logits)
    assert torch.equal(*results) and len(ran) == 1


@each_head
def test_at_weight_0_the_student_trains_bit_for_bit_as_alone(kind):
    model = build(kind, kind, loss=dict(loss_weight=0.0))
    alone = copy.deepcopy(model.student)
    results = []
    for network in (alone, model):
        torch.manual_seed(4)
        data = network.data_preprocessor(pictures(sizes=SIZES), True)
        losses = network(**data, mode='loss')
        network.parse_losses(losses)[0].backward()
        student = getattr(network, 'student', network)
        grads = {name: p.grad for name, p in student.named_parameters()}
        losses = {k.removeprefix('student.'): v for k, v in losses.items() if 'distill' not in k}
        results.append((losses, grads, torch.get_rng_state(), dict(student.named_buffers())))
    (losses, grads, state, buffers), (other, others, end, after) = results
    assert losses.keys() == other.keys() and grads.keys() == others.keys()
    for name, value in losses.items():
        pairs = (
            zip(value, other[name], strict=True)
            if isinstance(value, list)
            else [(value, other[name])]
        )
        assert all(torch.equal(a, b) for a, b in pairs), name
    for name, grad in grads.items():
        assert (grad is None) == (others[name] is None), name
        assert grad is None or torch.equal(grad, others[name]), name
    assert torch.equal(state, end)
    assert all(torch.equal(value, after[name]) for name, value in buffers.items())


def without_rois(kind, **loss):
    """An algorithm whose student proposes nothing; pictures without objects then give no RoI."""
    cfg = detector(kind, changes={'train_cfg.rpn_proposal.min_bbox_size': 1e5})
    return build(cfg, kind, loss=loss)


# mmdet's own Double-Head and Dynamic R-CNN take no batch without RoIs.
@pytest.mark.parametrize('kind', [kind for kind in HEADS if kind not in NEEDY])
@pytest.mark.parametrize('tau', [1.0, dict(type='kd_plugins.GlobalTemperature')])
def test_a_batch_without_any_roi_gives_0_with_a_graph(kind, tau):
    model = without_rois(kind, tau=tau)
    model.set_progress(Progress(5, 10, 5, 10))
    losses, student, answers = step(model, pictures(sizes=SIZES, empty=(0, 1)))
    assert len(student) == len(answers) == len(box_heads(model.student))
    assert [record.stage for record in student] == [record.stage for record in answers]
    for record in (*student, *answers):
        assert record.cls_logits.shape == (0, 4) and record.rois_per_image == (0, 0)
    loss = losses['distill.loss_dkd']
    assert loss.item() == 0 and loss.requires_grad
    loss.backward()
    for name, p in model.distiller.named_parameters():
        assert torch.equal(p.grad, torch.zeros_like(p)), name
    reached = [p.grad for p in box_heads(model.student)[0].parameters() if p.grad is not None]
    assert reached and not any(grad.any() for grad in reached)


def test_one_picture_without_boxes_gives_its_background():
    _, (record,), _ = step(build(), pictures(sizes=SIZES, empty=(1,)))
    assert min(record.rois_per_image) > 0
    assert (record.labels[record.rois[:, 0] == 1] == 3).all()
    assert (record.labels[record.rois[:, 0] == 0] < 3).any()


def test_nothing_of_a_step_stays_with_the_recorders():
    model = build('Cascade', 'Cascade')
    step(model)
    for manager in (model.distiller.student_recorders, model.distiller.teacher_recorders):
        recorder = manager.get_recorder('rois')
        assert recorder.data_buffer == [] and recorder._features == ()
    for module in (model.student.roi_head, *box_heads(model.student)):
        assert not {'_bbox_forward', 'get_targets'} & vars(module).keys()


def test_predictions_and_copies_are_left_alone():
    model = build()
    copied = copy.deepcopy(model)
    with torch.no_grad():
        for p in copied.student.parameters():
            p.mul_(0.5)
    batch = pictures(sizes=SIZES)
    data = model.data_preprocessor(copy.deepcopy(batch), True)
    model.eval()
    with torch.no_grad():
        model(**data, mode='predict')
    assert model.distiller.student_recorders.get_recorder('rois').data_buffer == []
    model.train()
    results = []
    for each in (model, copied):
        torch.manual_seed(2)
        seen = []
        each.student.roi_head.bbox_head.loss_cls.register_forward_pre_hook(
            lambda module, args, seen=seen: seen.append(args[0])
        )
        _, (record,), (answer,) = step(each, batch)
        assert record.cls_logits is seen[0]
        results.append(answer.cls_logits)
    assert copied.teacher is model.teacher and results[0].shape == results[1].shape


@pytest.mark.parametrize('kind', ['Faster', 'Cascade', 'Double-Head'])
def test_a_teacher_in_half_precision_pools_the_boxes_in_full(kind):
    # The student in float32: mmcv pools no bfloat16 on CPUs.
    full, half = build(kind, kind), build(kind, kind, teacher_dtype='bfloat16')
    answers = []
    for model in (full, half):
        torch.manual_seed(2)
        losses, _, answer = step(model)
        assert torch.isfinite(losses['distill.loss_dkd'])
        answers.append([record.cls_logits.float() for record in answer])
    for one, other in zip(*answers, strict=True):
        assert 0 < (one - other).abs().max() < 0.05 * one.abs().max()


def test_a_class_map_puts_the_columns_of_the_teacher_in_the_students_order(tmp_path):
    init_default_scope('mmdet')
    whole = MODELS.build(detector(classes=4)).eval()
    spread(whole)
    torch.save(dict(state_dict=whole.state_dict()), tmp_path / 'T.pth')
    asked = dict(teacher_ckpt=str(tmp_path / 'T.pth'), teacher_class_map=[2, 3, 0])
    model = MODELS.build(distillation('Faster', detector(classes=4), **asked)).train()
    batch = pictures()
    _, (record,), (answer,) = step(model, batch)
    features, _ = own_features(whole, batch)
    with torch.no_grad():
        raw = naive(whole, features, record.rois, [4, 8, 16, 32], 7)
    assert answer.cls_logits.shape == record.cls_logits.shape == (len(record.rois), 4)
    # Its class 2 is the student's 0, 3 the 1, 0 the 2, and background stays the last.
    for ours, theirs in enumerate([2, 3, 0, 4]):
        torch.testing.assert_close(answer.cls_logits[:, ours], raw[:, theirs], rtol=1e-3, atol=2e-4)


def test_a_field_of_one_stage_goes_into_a_loss_as_it_is():
    from helpers.two_stage import distillation
    from mmengine.registry import MODELS

    reads = dict(recorder='rois', record_idx=1)
    cfg = distillation('Cascade', 'Cascade')
    cfg['distiller'].distill_losses.loss_dkd = dict(
        type='kd_plugins.DKDLoss', tau=1.0, alpha=1.0, beta=0.25
    )
    cfg['distiller'].loss_forward_mappings.loss_dkd = dict(
        preds_S=dict(reads, from_student=True, data_idx='cls_logits'),
        preds_T=dict(reads, from_student=False, data_idx='cls_logits'),
        gt_labels=dict(reads, from_student=True, data_idx='labels'),
    )
    model = MODELS.build(cfg).train()
    calls = []
    model.distiller.distill_losses.loss_dkd.register_forward_pre_hook(
        lambda module, args, kwargs: calls.append(kwargs), with_kwargs=True
    )
    _, student, answers = step(model)
    assert calls[0]['preds_S'] is student[1].cls_logits
    assert calls[0]['preds_T'] is answers[1].cls_logits
    assert calls[0]['gt_labels'] is student[1].labels


def test_a_compiled_teacher_answers_the_same():
    plain, compiled = build(), build(teacher_compile=dict(backend='eager'))
    results = []
    for model in (plain, compiled):
        for seed in (2, 3):
            torch.manual_seed(seed)
            results.append(step(model, pictures(seed, sizes=SIZES))[2][0].cls_logits)
    for one, other in zip(results[:2], results[2:], strict=True):
        torch.testing.assert_close(one, other)
    assert not torch.allclose(results[0], results[1])


@pytest.mark.parametrize('kind', ['Faster', 'Cascade', 'C4'])
def test_a_teacher_in_channels_last_says_the_same(kind):
    """In float32, whose convolutions keep the layout, as those of float64 do not."""
    plain, last = build(kind, kind), build(kind, kind, teacher_channels_last=True)
    batch = pictures(size=64)
    for model in (plain, last):
        torch.manual_seed(0)
        model.found = step(model, batch)[2]
    map_ = last.teacher.network.extract_feat(torch.randn(1, 3, 64, 64))[0]
    assert map_.is_contiguous(memory_format=torch.channels_last)
    for a, b in zip(plain.found, last.found, strict=True):
        torch.testing.assert_close(a.cls_logits, b.cls_logits, rtol=1e-4, atol=1e-4)
