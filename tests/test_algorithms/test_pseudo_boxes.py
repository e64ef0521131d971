"""What detectors learn of pictures without labels, from the boxes that the teacher finds there."""

import copy
from dataclasses import replace
from unittest import mock

import pytest
import torch
from helpers import detection, two_stage
from helpers.detection import images
from mmengine.config import ConfigDict
from mmengine.hub import get_config
from mmengine.logging import MessageHub
from mmengine.structures import InstanceData
from mmrazor.models.losses import PKDLoss
from torch import nn

from kd_plugins.losses import CrossKDCenternessLoss, DKDLoss, KDLoss, LDLoss, RoILoss
from kd_plugins.losses.bckd import binary_classification_kd
from kd_plugins.teachers import StoredTeacher, Teacher

CLASSES = 4
DENSE = [*detection.HEADS, *detection.MORE_HEADS]
ROIS = ['Faster', 'Cascade']
#: Boxes of both pictures, every one of a class of its own in its picture, and how sure they are.
BOXES = [[[8, 8, 40, 44], [50, 40, 90, 92], [20, 60, 60, 90]], [[30, 20, 88, 70]]]
LABELS = [[2, 0, 3], [1]]
SCORES = [[0.9, 0.5, 0.7], [0.6]]


@pytest.fixture(autouse=True)
def training():
    """What heads ask mmengine for; TOOD assigns by alignment from its fourth epoch on."""
    MessageHub.get_current_instance().update_info('epoch', 4)


def build(kind='GFL', pseudo=None, **changes):
    """An algorithm whose teacher finds boxes; terms that read targets."""
    pseudo = dict(score=0.4, **(pseudo or {})) if pseudo is not False else None
    more = dict(changes, pseudo_boxes=pseudo)
    if kind in ROIS:
        student = two_stage.detector(kind, CLASSES)
        student.data_preprocessor.type = 'kd_plugins.DetDataPreprocessor'
        model = two_stage.build(student, two_stage.detector(kind, CLASSES, width=16), **more)
    else:
        student = detection.detector(kind, CLASSES)
        student['data_preprocessor']['type'] = 'kd_plugins.DetDataPreprocessor'
        model = detection.build(student, detection.detector(kind, CLASSES, width=16), changes=more)
    return model.train()


def without_labels(seed=1, size=96):
    batch = images(seed, size)
    for sample in batch['data_samples']:
        del sample.gt_instances
        sample.ignored_instances = InstanceData(bboxes=torch.zeros(1, 4))
    return batch


def finding(model, boxes=BOXES, labels=LABELS, scores=SCORES):
    """Let the teacher find these boxes beside what its recorders record of it."""
    find = model.teacher.find

    def found(recorders, inputs, samples):
        assert not model.training or all('gt_instances' not in sample for sample in samples)
        find(recorders, inputs, samples)
        return [
            InstanceData(
                bboxes=torch.tensor(b).float().view(-1, 4),
                labels=torch.tensor(y, dtype=torch.long),
                scores=torch.tensor(s).float(),
            )
            for b, y, s in zip(boxes, labels, scores, strict=True)
        ]

    return mock.patch.object(model.teacher, 'find', found)


def annotated(batch, boxes=BOXES, labels=LABELS):
    batch = copy.deepcopy(batch)
    for sample, b, y in zip(batch['data_samples'], boxes, labels, strict=True):
        sample.pop('ignored_instances', None)
        sample.gt_instances = InstanceData(
            bboxes=torch.tensor(b).float().view(-1, 4), labels=torch.tensor(y)
        )
    return batch


def both(labelled, unlabelled):
    return {key: [*labelled[key], *unlabelled[key]] for key in labelled}


def losses(model, batch):
    torch.manual_seed(0)
    out = model(**model.data_preprocessor(copy.deepcopy(batch), True), mode='loss')
    return {
        name: sum(value) if isinstance(value, (list, tuple)) else value
        for name, value in out.items()
    }


@pytest.mark.parametrize('kind', ['GFL', 'RetinaNet', 'FCOS', 'YOLOX', *ROIS])
def test_boxes_that_it_is_wholly_sure_of_are_as_good_as_annotated_ones(kind):
    model = build(kind, pseudo=dict(loss_weight=1.0), calculate_student_loss=False)
    sure = [[1.0] * len(each) for each in SCORES]
    batch = without_labels()
    with finding(model, scores=sure):
        found = losses(model, batch)
    model.calculate_student_loss, model.pseudo_boxes = True, None
    expected = losses(model, annotated(batch))
    assert found.pop('pseudo_boxes') == 2
    found = {name.replace('student.unlabelled_', 'student.'): v for name, v in found.items()}
    expected = {name: v for name, v in expected.items() if 'loss' in name}
    assert found.keys() == expected.keys() and sum(expected.values()) > 0
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-6, atol=0, msg=name)
    # The scores do something.
    model.calculate_student_loss = False
    model.pseudo_boxes = build(kind).pseudo_boxes
    with finding(model):
        less = losses(model, batch)
    names = [name for name in less if name.startswith('distill.')]
    assert names and all(0 < less[name] < found[name] for name in names)


def weights_by_label(model, kind):
    """Hear the labels of targets, each of which is that of one box; return scores by them."""
    head = model.student.bbox_head
    heard = []
    if kind in ('PAA', 'YOLOX'):
        name = 'paa_reassign' if kind == 'PAA' else '_get_targets_single'
    else:
        name = 'get_cls_targets' if kind == 'DDOD' else 'get_targets'
    method = getattr(head, name)

    def hear(*args, **kwargs):
        heard.append(method(*args, **kwargs))
        return heard[-1]

    patch = mock.patch.object(head, name, hear)

    def weights():
        at = 1 if kind in ('GFL', 'ATSS', 'RTMDet', 'TOOD', 'DDOD') else 0
        if kind == 'YOLOX':
            labels = []
            for mask, classes, *_ in heard:
                row = torch.full(mask.shape, CLASSES)
                row[mask] = classes.argmax(dim=1)
                labels.append(row)
            labels = torch.stack(labels)
        elif kind == 'PAA':
            labels = torch.stack([each[0] for each in heard])
        else:
            labels = torch.cat([level.reshape(2, -1) for level in heard[0][at]], dim=1)
        expected = torch.ones(labels.shape)
        for picture, row in enumerate(labels.tolist()):
            for anchor, label in enumerate(row):
                if 0 <= label < CLASSES:
                    expected[picture, anchor] = SCORES[picture][LABELS[picture].index(label)]
        return expected

    return patch, weights


@pytest.mark.parametrize('kind', DENSE)
def test_an_anchor_weighs_what_the_teacher_is_sure_of_its_box(kind):
    model = build(kind, calculate_student_loss=False)
    if kind == 'FCOS':
        model.student.bbox_head.norm_on_bbox = True
    patch, weights = weights_by_label(model, kind)
    seen = []
    term = model.distiller.distill_losses.loss_bckd_cls
    term.register_forward_pre_hook(
        lambda m, args, kwargs: seen.append(kwargs or args), with_kwargs=True
    )
    with patch, finding(model):
        value = losses(model, without_labels(size=128))['distill.loss_bckd_cls']
    record, expected = seen[0]['preds_S'], weights()
    targets = record.targets
    assert len({*expected[targets.positive].tolist()}) > 1
    assert torch.equal(targets.scores, expected)
    # With label weights of 1, one anchor after the other.
    known = targets.label_weights / expected
    total, first = 0.0, 0
    each = binary_classification_kd(record.cls_logits, seen[0]['preds_T'].cls_logits.detach())
    for size in targets.level_sizes:
        for anchor in range(first, first + size):
            if targets.positive[:, first : first + size].any():
                for picture in range(2):
                    weight = known[picture, anchor] * expected[picture, anchor]
                    total += (weight * each[picture, anchor]).item()
        first += size
    number = sum(max(int(row.sum()), 1) for row in targets.positive)
    assert value.item() == pytest.approx(total / number, rel=1e-4)


@pytest.mark.parametrize('kind', [*DENSE, *ROIS])
def test_a_picture_without_a_box_teaches_that_nothing_is_there(kind):
    boxes, labels, scores = (list(each) for each in (BOXES, LABELS, SCORES))
    boxes[0], labels[0], scores[0] = [], [], []
    model = build(kind, calculate_student_loss=False)
    seen = []
    (term,) = [t for n, t in model.distiller.distill_losses.items() if n.endswith(('cls', 'dkd'))]
    term.register_forward_pre_hook(lambda m, args, kwargs: seen.append(kwargs), with_kwargs=True)
    with finding(model, boxes, labels, scores):
        assert sum(v for n, v in losses(model, without_labels(size=128)).items() if 'loss' in n) > 0
    record = seen[0]['preds_S']
    if kind in ROIS:
        for each in record:
            assert {*each.labels[each.rois[:, 0] == 0].tolist()} == {CLASSES}
            torch.testing.assert_close(each.weights, torch.where(each.labels < CLASSES, 0.6, 1.0))
        return
    positive = record.targets.positive
    assert not positive[0].any() and positive[1].any()
    torch.testing.assert_close(record.targets.scores, torch.where(positive, 0.6, 1.0))


@pytest.mark.parametrize('kind', ['GFL', 'ATSS'])
def test_terms_of_positives_weigh_them_one_by_one(kind):
    model = build(kind, calculate_student_loss=False)
    seen = []
    term = model.distiller.distill_losses.loss_bckd_cls
    term.register_forward_pre_hook(lambda m, args, kwargs: seen.append(kwargs), with_kwargs=True)
    with finding(model):
        losses(model, without_labels())
    student, teacher = seen[0]['preds_S'], seen[0]['preds_T']
    loss = LDLoss() if kind == 'GFL' else CrossKDCenternessLoss()
    targets = student.targets

    def value(positive, scores):
        changed = replace(student, targets=replace(targets, positive=positive, scores=scores))
        more = {} if kind == 'GFL' else dict(head_S=changed)
        return loss(changed, teacher, **more).item()

    total = 0.0
    for picture, anchor in targets.positive.nonzero().tolist():
        one = torch.zeros_like(targets.positive)
        one[picture, anchor] = True
        total += targets.scores[picture, anchor].item() * value(one, None)
    assert value(targets.positive, targets.scores) == pytest.approx(total, rel=1e-4)
    assert 0 < total < 0.95 * value(targets.positive, None)


def test_rois_weigh_what_the_teacher_is_sure_of_their_box():
    model = build('Cascade', calculate_student_loss=False)
    seen = []
    term = model.distiller.distill_losses.loss_dkd
    term.register_forward_pre_hook(lambda m, args, kwargs: seen.append(kwargs), with_kwargs=True)
    with finding(model):
        value = losses(model, without_labels())['distill.loss_dkd']
    records, answers = seen[0]['preds_S'], seen[0]['preds_T']
    assert len(records) == 3
    total = 0.0
    plain = copy.deepcopy(term.loss)
    for record, answer in zip(records, answers, strict=True):
        assert (record.labels < CLASSES).any() and (record.labels == CLASSES).any()
        each = []
        for i, label in enumerate(record.labels.tolist()):
            picture = int(record.rois[i, 0])
            weight = 1.0
            if label < CLASSES:
                weight = SCORES[picture][LABELS[picture].index(label)]
            assert record.weights[i].item() == pytest.approx(weight)
            row = slice(i, i + 1)
            loss = plain(record.cls_logits[row], answer.cls_logits[row], record.labels[row])
            each.append(weight * loss.item())
        total += sum(each) / len(each)
    assert value.item() == pytest.approx(total, rel=1e-4)


@pytest.mark.parametrize('loss', [KDLoss(tau=2.0), DKDLoss(tau=2.0, alpha=0.5, beta=2.0)])
def test_losses_weigh_samples_one_by_one(loss):
    generator = torch.Generator().manual_seed(0)
    z_S, z_T = (torch.randn(5, 4, dtype=torch.float64, generator=generator) for _ in range(2))
    z_S.requires_grad_()
    labels, weights = torch.tensor([0, 1, 2, 3, 0]), torch.tensor([1.0, 0.3, 0.0, 0.5, 1.0])
    rows = [loss(z_S[i : i + 1], z_T[i : i + 1], labels[i : i + 1]) for i in range(5)]
    expected = sum(w * row for w, row in zip(weights.tolist(), rows, strict=True)) / 5
    value = loss(z_S, z_T, labels, weights=weights.double())
    torch.testing.assert_close(value, expected)
    grads = (torch.autograd.grad(each, z_S, retain_graph=True)[0] for each in (value, expected))
    torch.testing.assert_close(*grads)


@pytest.mark.parametrize('kind', ['GFL', 'RetinaNet', 'Faster'])
def test_above_a_score_of_1_nothing_is_learnt_but_the_labelled_pictures(kind):
    model = build(kind, pseudo=dict(loss_weight=1.0))
    model.pseudo_boxes.score = 1.01
    labelled = images(0, 96)
    alone = losses(model, labelled)
    with finding(model):
        out = losses(model, both(labelled, without_labels()))
    assert out['pseudo_boxes'] == 0
    for name, value in alone.items():
        torch.testing.assert_close(out[name], value, rtol=0, atol=0, msg=name)
    assert all(out[name] == 0 for name in out if name.startswith('student.unlabelled'))
    with mock.patch.object(model, 'calculate_student_loss', False), finding(model):
        nothing = losses(model, without_labels())
    assert sum(v for name, v in nothing.items() if 'loss' in name) == 0
    sum(v for name, v in out.items() if 'loss' in name).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize('kind', ['GFL', 'Faster'])
def test_a_term_is_the_mean_over_pictures_and_the_students_own_loss_is_as_alone(kind):
    model = build(kind)
    labelled, others = images(0, 96), without_labels()
    alone = losses(model, labelled)
    scores = [[0.9, 0.5, 0.7], [0.1]]  # of one picture it is sure
    with finding(model, scores=scores):
        out = losses(model, both(labelled, others))
        with mock.patch.object(model, 'calculate_student_loss', False):
            of_others = losses(model, others)
    assert out['pseudo_boxes'] == 1.5
    for name, value in alone.items():
        if name.startswith('student.'):
            assert torch.equal(out[name], value)
        elif kind == 'GFL':  # a box head's RoIs are drawn anew
            expected = (2 * value + 1 * of_others[name]) / 3
            torch.testing.assert_close(out[name], expected)
    assert not any(name.startswith('student.unlabelled') for name in out)


def test_the_samples_stay_as_they_are_and_what_was_ignored_is_forgotten():
    model = build()
    given = model.data_preprocessor(without_labels(), True)
    samples = model.pseudo_boxes.give(
        given['data_samples'],
        [
            InstanceData(
                bboxes=torch.rand(0, 4), labels=torch.zeros(0).long(), scores=torch.ones(0)
            ),
            InstanceData(
                bboxes=torch.tensor([[0, 0, 9, 9], [0, 0, 0.5, 9], [0, 0, 9, 9.0]]).half(),
                labels=torch.tensor([1, 2, 3]),
                scores=torch.tensor([0.41, 0.9, 0.39]).half(),
            ),
        ],
    )
    assert all('gt_instances' not in sample for sample in given['data_samples'])
    assert all('ignored_instances' not in sample for sample in samples)
    # A box thinner than a pixel is none, as in mmdet's pipelines.
    assert [sample.gt_instances.labels.tolist() for sample in samples] == [[], [1]]
    # YOLOX says boxes beyond the picture, which has none; the batch is larger.
    beyond = InstanceData(
        bboxes=torch.tensor([[-9, 40, 30, 120], [70, 8, 99, 30], [81, 0, 95, 50.0]]),
        labels=torch.tensor([1, 2, 3]),
        scores=torch.ones(3),
    )
    given['data_samples'][0].set_metainfo(dict(img_shape=(90, 80)))
    (sample, _) = model.pseudo_boxes.give(given['data_samples'], [beyond, beyond])
    assert sample.gt_instances.bboxes.tolist() == [[0, 40, 30, 90], [70, 8, 80, 30]]
    assert sample.gt_instances.labels.tolist() == [1, 2]
    model.pseudo_boxes.score = 0.3
    assert model.pseudo_boxes.give(given['data_samples'][:1], [samples[0].gt_instances])
    assert model.pseudo_boxes.boxes == 0


@pytest.mark.parametrize('kind', ['GFL', 'RetinaNet', 'Faster'])
def test_boxes_are_in_pixels_of_the_batch_and_recorders_hear_the_same_look(kind):
    model = build(kind, pseudo=False).eval()
    data = model.data_preprocessor(images(3, 96), False)
    samples = data['data_samples']
    for sample in samples:
        sample.set_metainfo(dict(scale_factor=(3.0, 2.0), flip=True))
    network, recorders = model.teacher.network, model.distiller.teacher_recorders
    found = model.teacher.find(recorders, **data)
    assert all('pred_instances' not in sample for sample in samples)
    if kind != 'Faster':
        (heard,) = recorders.get_recorder('head').data_buffer
        recorders.get_recorder('head').reset_data_buffer()
        model.teacher.record(recorders, **data)
        (plain,) = recorders.get_recorder('head').data_buffer
        assert torch.equal(heard.cls_logits, plain.cls_logits)
    for sample in samples:
        sample.set_metainfo(dict(scale_factor=(1.0, 1.0)))
    expected = network(data['inputs'], copy.deepcopy(samples), mode='predict')
    assert sum(map(len, found)) > 0
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.bboxes, other.pred_instances.bboxes)
        assert torch.equal(one.labels, other.pred_instances.labels)
    # A teacher with an input of its own size says boxes in pixels of the student's.
    model.teacher.input.size = (192, 144)
    found = model.teacher.find(recorders, **data)
    larger = nn.functional.interpolate(data['inputs'], (192, 144), mode='bilinear', antialias=True)
    for sample in samples:
        shape = dict(img_shape=(192, 144), pad_shape=(192, 144), batch_input_shape=(192, 144))
        sample.set_metainfo(shape)
    expected = network(larger, copy.deepcopy(samples), mode='predict')
    assert sum(map(len, found)) > 0
    for one, other in zip(found, expected, strict=True):
        scaled = other.pred_instances.bboxes * torch.tensor([96 / 144, 0.5, 96 / 144, 0.5])
        torch.testing.assert_close(one.bboxes, scaled)


@pytest.mark.parametrize('kind', ['Mask', 'Cascade Mask'])
def test_a_teacher_of_masks_finds_its_boxes_and_makes_no_mask(kind):
    student = two_stage.detector('Cascade' if kind != 'Mask' else 'Faster', CLASSES)
    teacher = two_stage.detector(kind, CLASSES, width=16)
    model = two_stage.build(student, teacher).eval()
    data = model.data_preprocessor(images(3, 96), False)
    network, recorders = model.teacher.network, model.distiller.teacher_recorders
    for sample in data['data_samples']:
        sample.set_metainfo(dict(ori_shape=(96, 96)))
    expected = network(data['inputs'], copy.deepcopy(data['data_samples']), mode='predict')
    # A pipeline that resizes nothing says no factor.
    for sample in data['data_samples']:
        del sample.scale_factor
    found = model.teacher.find(recorders, **data)
    assert sum(map(len, found)) > 0 and not any('masks' in each for each in found)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.bboxes, other.pred_instances.bboxes)
        torch.testing.assert_close(one.scores, other.pred_instances.scores)
    # As it was.
    assert 'predict_mask' not in vars(network.roi_head)


@pytest.mark.parametrize('kind', ['GFL', 'RetinaNet'])
def test_half_precision_gives_finite_losses_and_gradients(kind):
    model = build(kind, pseudo=dict(loss_weight=0.5))
    if kind == 'GFL':
        model.teacher.network.bbox_head.gfl_cls.bias.data.zero_()
    model.pseudo_boxes.score = 0.06
    with torch.autocast('cpu', torch.bfloat16):
        out = losses(model, both(images(0, 96), without_labels()))
    assert out['pseudo_boxes'] > 0
    with torch.autocast('cpu', torch.bfloat16):
        batch = model.data_preprocessor(without_labels(), True)
        found = model.teacher.find(model.distiller.teacher_recorders, **batch)
    assert all(o.bboxes.dtype == o.scores.dtype == torch.float32 for o in found)
    scores = torch.cat([o.scores for o in found])
    assert (scores != scores.bfloat16().float()).any()
    sum(v for name, v in out.items() if 'loss' in name).backward()
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    assert grads and all(torch.isfinite(grad).all() for grad in grads)


def test_a_term_on_features_counts_all_pictures_and_needs_no_boxes():
    neck = dict(type='ModuleOutputs', source='neck')
    cfg = ConfigDict(
        type='mmrazor.ConfigurableDistiller',
        student_recorders=dict(neck=neck), teacher_recorders=dict(neck=neck),
        **detection.term('loss_pkd', {}, type='mmrazor.PKDLoss', loss_weight=1.0),
    )  # fmt: skip
    student = detection.detector('GFL', CLASSES)
    student['data_preprocessor']['type'] = 'kd_plugins.DetDataPreprocessor'
    model = detection.build(student, detection.detector('GFL', CLASSES, width=16), whole=cfg)
    labelled, others = images(0, 96), without_labels()
    for sample in others['data_samples']:
        del sample.ignored_instances
    with mock.patch.object(model.teacher, 'find', side_effect=AssertionError):
        out = losses(model, both(labelled, others))
        alone = losses(model, labelled)['distill.loss_pkd']
    mean = (alone + out['unlabelled_pkd']) / 2
    torch.testing.assert_close(out['distill.loss_pkd'], mean)


def small_dino(preprocessor):
    cfg = get_config('mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py').model
    cfg.backbone.update(depth=18, init_cfg=None)
    cfg.neck.in_channels = [128, 256, 512]
    cfg.encoder.num_layers, cfg.decoder.num_layers = 1, 1
    cfg.update(num_queries=20, _scope_='mmdet')
    cfg.data_preprocessor.type = preprocessor
    return cfg


def test_a_detector_that_runs_beside_objects_only_learns_by_its_features():
    def built(source):
        record = dict(type='ModuleOutputs', source=source)
        distiller = ConfigDict(
            type='mmrazor.ConfigurableDistiller',
            student_recorders=dict(neck=record), teacher_recorders=dict(neck=record),
            **detection.term('loss_pkd', {}, type='mmrazor.PKDLoss', loss_weight=1.0),
        )  # fmt: skip
        student = small_dino('kd_plugins.DetDataPreprocessor')
        teacher = small_dino('mmdet.DetDataPreprocessor')
        return detection.build(student, teacher, whole=distiller).train()

    model = built('neck')
    out = losses(model, both(images(0, 64), without_labels(size=64)))
    batch = model.data_preprocessor(without_labels(size=64), True)
    ours, theirs = (
        network.extract_feat(batch['inputs']) for network in (model.student, model.teacher.network)
    )
    expected = PKDLoss(loss_weight=1.0)(ours, theirs)
    torch.testing.assert_close(out['unlabelled_pkd'], expected.detach(), rtol=1e-4, atol=1e-5)
    says = r'an unlabelled picture .* the decoder of the student .DINO. does not run'
    with pytest.raises(ValueError, match=says):
        built('encoder').check_unlabelled()


def refused(says, kind='GFL', pseudo=None, **changes):
    with pytest.raises(ValueError, match=says):
        build(kind, pseudo, **changes)


def test_what_cannot_work_together_is_refused():
    refused(r'pseudo_boxes.*is wrong: give dict\(score=0.4\)', pseudo=dict(scores=1))
    refused(r'pseudo_boxes.loss_weight=-1', pseudo=dict(loss_weight=-1))
    low = build(calculate_student_loss=False)
    for score in (-0.1, 'half', float('nan')):
        with pytest.raises(ValueError, match=r'model.pseudo_boxes.score='):
            type(low.pseudo_boxes)(score)
    low.pseudo_boxes.score = 0.01
    with pytest.raises(ValueError, match=r'score=0.01 is below .*test_cfg.score_thr=0.05\)'):
        low.pseudo_boxes.check(low.student, low.teacher, low.distiller)
    rois = build('Faster')
    rois.pseudo_boxes.score = 0.01
    with pytest.raises(ValueError, match=r'test_cfg.rcnn.score_thr=0.05'):
        rois.pseudo_boxes.check(rois.student, rois.teacher, rois.distiller)
    with pytest.raises(ValueError, match='model.teacher is nobody yet'):
        low.pseudo_boxes.check(low.student, Teacher(), low.distiller)
    low.pseudo_boxes.score = 0.4
    with pytest.raises(ValueError, match='model.teacher_cache does not store'):
        low.pseudo_boxes.check(low.student, mock.Mock(spec=StoredTeacher), low.distiller)


def test_more_than_boxes_other_classes_and_terms_without_weights_are_refused():
    model = build('Faster')
    check = model.pseudo_boxes.check
    mask = build('Faster').student
    mask.roi_head.mask_head = nn.Identity()
    with pytest.raises(ValueError, match='mask_head of the student .FasterRCNN. learns more'):
        check(mask, model.teacher, model.distiller)
    model.teacher.network.roi_head.bbox_head.num_classes = 3
    with pytest.raises(ValueError, match='finds 3 classes, and the student learns 4'):
        check(model.student, model.teacher, model.distiller)
    model.teacher.network.roi_head.bbox_head.num_classes = CLASSES
    term = model.distiller.distill_losses.loss_dkd
    model.distiller.distill_losses.loss_dkd = RoILoss(nn.KLDivLoss())
    with pytest.raises(ValueError, match=r'loss_dkd .KLDivLoss. cannot weigh RoIs'):
        check(model.student, model.teacher, model.distiller)
    model.distiller.distill_losses.loss_dkd = term
    check(model.student, model.teacher, model.distiller)
    points = build('VFNet')
    points.student.bbox_head.use_atss = False
    with pytest.raises(ValueError, match='use_atss=False'):
        points.pseudo_boxes.check(points.student, points.teacher, points.distiller)
    refused_without = build(pseudo=False)
    with pytest.raises(ValueError, match=r'student_recorders.head nothing to record.*pseudo_boxes'):
        refused_without.check_unlabelled()
