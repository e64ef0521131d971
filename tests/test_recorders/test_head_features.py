"""Maps inside of detection heads, and the rest of a head."""

import copy

import pytest
import torch
from helpers.detection import HEADS, MORE_HEADS, build, detector, images
from mmengine.logging import MessageHub

from kd_plugins.recorders.head_features import HeadFeaturesRecorder, rest_of_head

#: Heads by every option that changes what is between the maps and the predictions.
KINDS = {
    **{kind: (kind, {}) for kind in (*HEADS, *MORE_HEADS) if kind not in ('TOOD', 'YOLOX')},
    'FCOS, normed': ('FCOS', dict(norm_on_bbox=True, centerness_on_reg=True)),
    'RTMDet, of one head': ('RTMDet', dict(type='RTMDetHead')),
    'RTMDet, with objects': ('RTMDet', dict(with_objectness=True)),
    'RTMDet, plain distances': ('RTMDet', dict(exp_on_reg=False, share_conv=False)),
    'VFNet, by range': ('VFNet', dict(bbox_norm_type='reg_denom')),
}


@pytest.fixture(autouse=True)
def training():
    """What heads ask mmengine for."""
    MessageHub.get_current_instance().update_info('epoch', 0)


def pair(kind, after=1, **more):
    """Two detectors with two convolutions a branch, and a CrossHead beside BCKD."""
    name, options = KINDS.get(kind, (kind, {}))
    options = dict(options)
    if options.get('type') == 'RTMDetHead':
        for key in ('share_conv', 'exp_on_reg'):
            options[key] = None
    cfgs = []
    for width in (8, 16):
        cfg = detector(name, width=width)
        cfg['bbox_head'].update(dict(options, stacked_convs=2))
        for key in [key for key, value in cfg['bbox_head'].items() if value is None]:
            del cfg['bbox_head'][key]
        cfgs.append(cfg)
    head = dict(type='kd_plugins.DetectionHead')
    return build(
        *cfgs,
        student_recorders=dict(head=head, inside=dict(type='kd_plugins.HeadFeatures', after=after)),
        teacher_recorders=dict(
            head=head, cross=dict(type='kd_plugins.CrossHead', question='inside', **more)
        ),
    ).train()


@pytest.mark.parametrize('after', [0, 1, 2])
@pytest.mark.parametrize('kind', KINDS)
def test_the_rest_of_a_head_on_its_own_maps_is_the_whole_head(kind, after):
    model = pair(kind, after)
    recorders = model.distiller.teacher_recorders
    network = model.teacher.network
    model.teacher.record(recorders, model.data_preprocessor(images())['inputs'])
    whole, cross = recorders.get_recorder('head').data_buffer[0], recorders.get_recorder('cross')
    own = cross._heard[0]
    head = network.bbox_head
    assert [len(x) for x in (own.cls, own.reg)] == [5, 5]
    with torch.no_grad(), rest_of_head(head, after, own.cls, own.reg):
        rest = cross.adapter.outputs(head(tuple(own.cls)), None)
    assert torch.equal(rest.cls_logits, whole.cls_logits)
    assert torch.equal(rest.boxes, whole.boxes)
    for name in ('bin_logits', 'quality_logits'):
        a, b = getattr(rest, name), getattr(whole, name)
        assert (a is None and b is None) or torch.equal(a, b)
    assert 'cls_convs' not in vars(head) and 'reg_convs' not in vars(head)
    # And it is a whole head again.
    model.teacher.record(recorders, model.data_preprocessor(images())['inputs'])
    again = recorders.get_recorder('head').data_buffer[-1]
    assert again is not whole and torch.equal(again.cls_logits, whole.cls_logits)


@pytest.mark.parametrize('kind', ['GFL', 'RTMDet'])
def test_maps_are_those_after_the_activation(kind):
    model = pair(kind, 2)
    head = model.student.bbox_head
    seen = {}
    for branch in ('cls_convs', 'reg_convs'):
        convs = getattr(head, branch)
        for conv in [each[1] for each in convs] if kind == 'RTMDet' else [convs[1]]:
            seen.setdefault(branch, [])
            conv.activate.register_forward_hook(
                lambda module, args, out, branch=branch: seen[branch].append(out)
            )
    recorders = model.distiller.student_recorders
    with recorders:
        model.student(**model.data_preprocessor(images(), True), mode='loss')
    (record,) = recorders.get_recorder('inside').data_buffer
    for maps, branch in ((record.cls, 'cls_convs'), (record.reg, 'reg_convs')):
        assert len(maps) == len(seen[branch]) == 5
        assert all(torch.equal(a, b) for a, b in zip(maps, seen[branch], strict=True))
        assert kind == 'RTMDet' or min(x.min() for x in maps) == 0
    # Nothing is heard outside.
    model.student(**model.data_preprocessor(images(), True), mode='loss')
    assert len(recorders.get_recorder('inside').data_buffer) == 1


@pytest.mark.parametrize(('kind', 'rectified'), [('GFL', True), ('RTMDet', False)])
def test_relu_follows_the_alignment_where_the_teachers_convolutions_end_in_one(
    kind, rectified, monkeypatch
):
    model = pair(kind)
    given = []
    head = model.teacher.network.bbox_head
    convs = head.cls_convs[0] if kind == 'RTMDet' else head.cls_convs
    convs[1].register_forward_pre_hook(lambda module, args: given.append(args[0]))
    model(**model.data_preprocessor(images(), True), mode='loss')
    # First its own maps of each level that passes there, then the aligned.
    aligned = given[len(given) // 2]
    assert aligned.requires_grad
    assert (aligned.min() == 0) == rectified


def test_copies_and_errors_leave_both_heads_as_they_were():
    model = pair('GFL')
    average = copy.deepcopy(model)
    data = images()

    def fail(*args):
        raise RuntimeError('in the middle')

    head = model.teacher.network.bbox_head
    hook = head.gfl_cls.register_forward_pre_hook(
        lambda module, args: fail() if args[0].requires_grad else None
    )
    with pytest.raises(RuntimeError, match='in the middle'):
        model(**model.data_preprocessor(data, True), mode='loss')
    hook.remove()
    for network in (model.teacher.network, model.student, average.student):
        convs = (*network.bbox_head.cls_convs, *network.bbox_head.reg_convs)
        assert not any('forward' in vars(m) for m in (network.bbox_head, *convs))
        assert 'cls_convs' not in vars(network.bbox_head)
    again = model(**model.data_preprocessor(data, True), mode='loss')
    assert all(torch.isfinite(v) for name, v in again.items() if name.startswith('distill.loss'))


@pytest.mark.parametrize('kind', ['TOOD', 'YOLOX'])
def test_heads_of_another_build_are_refused(kind):
    with pytest.raises(
        ValueError,
        match=rf'of the student \({kind}\) is a {kind}Head, which does '
        r'not classify and find boxes in two branches .*GFLHead.*DDODHead\.$',
    ):
        pair(kind)


def test_what_does_not_fit_is_refused():
    with pytest.raises(
        ValueError,
        match=r'inside\.after=3: the branches of the GFLHead of the stu'
        r'dent have 2 convolutions: give at most 2',
    ):
        pair('GFL', 3)
    with pytest.raises(ValueError, match=r'HeadFeatures\.after=-1 is wrong'):
        HeadFeaturesRecorder(-1)
    with pytest.raises(ValueError, match=r"question='head' is no HeadFeatures of the student"):
        build(detector(), detector(width=16), **recorders('head'))
    deep, flat = detector('GFL'), detector('GFL', width=16)
    deep['bbox_head']['stacked_convs'] = 2
    with pytest.raises(
        ValueError,
        match=r'after 2 convolutions of the GFLHead of the student, and '
        r'the branches of the GFLHead of the teacher have 1: give inside an',
    ):
        build(deep, flat, **recorders('inside', 2))


def recorders(question, after=1):
    head = dict(type='kd_plugins.DetectionHead')
    return dict(
        student_recorders=dict(head=head, inside=dict(type='kd_plugins.HeadFeatures', after=after)),
        teacher_recorders=dict(
            head=head, cross=dict(type='kd_plugins.CrossHead', question=question)
        ),
    )
