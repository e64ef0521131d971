"""CrossKD, from the maps inside of the student's head to the losses."""

import copy

import pytest
import torch
from helpers import crosskd as published
from helpers.crosskd import AFTER, HEADS, IOU, WEIGHTS
from helpers.detection import build, images, losses
from helpers.maps import wave
from mmengine.registry import MODELS, init_default_scope

from kd_plugins.losses import align
from kd_plugins.losses.crosskd import CrossKDClassificationLoss, CrossKDLocalizationLoss
from kd_plugins.structures import Branches

KINDS = list(HEADS)
# Of every term the loss, and of its gradient what helpers.crosskd.summary says:
# github.com/jbwang1997/CrossKD at 87e156a, CrossKDGFL, CrossKDATSS, CrossKDFCOS and
# CrossKDRetinaNet (mmdet/models/detectors), their whole loss(), on these heads and maps in
# float64, by reused_teacher_head_idx.
PUBLISHED = {
    ('GFL', 2): dict(
        loss_cls=(17.098336469688896, (9, 54.6090972380833, 3504.952277359026)),
        loss_loc=(6.316790913238298, (9, 14.470489824982705, 906.9868672800088)),
    ),
    ('GFL', 0): dict(
        loss_cls=(38.22338228202286, (3, 1.7275786334866319, 2478.258172437829)),
        loss_loc=(13.169998324300911, (3, 3.549644053166122, 788.566348849697)),
    ),
    ('ATSS', 2): dict(
        loss_cls=(17.098336469688896, (9, 54.57296933058271, 3504.9522773590265)),
        loss_loc=(5.56919420261205, (9, 8.857013712190643, 476.19164083593864)),
        loss_center=(1.1098477193403857, (8, 4.894323600180602, 237.4247557683475)),
    ),
    ('ATSS', 0): dict(
        loss_cls=(38.22338228202286, (3, 1.7275786334866319, 2478.258172437829)),
        loss_loc=(7.499743989560967, (3, -2.0178112740635514, 153.74538566012512)),
        loss_center=(1.749634270814907, (2, -0.2405115923470007, 151.93090271272507)),
    ),
    ('FCOS', 2): dict(
        loss_cls=(11.66943975140488, (9, 37.27015029959919, 2392.0940791343937)),
        loss_loc=(29.227094315145052, (9, 46.920816507991404, 2733.254549125798)),
    ),
    ('FCOS', 0): dict(
        loss_cls=(26.08706744224564, (3, 1.179054746935455, 1691.3858539956668)),
        loss_loc=(44.010171202673384, (3, -9.825799141529808, 1144.5764427571)),
    ),
    ('RetinaNet', 2): dict(
        loss_cls=(34.712320439016416, (9, 103.05234077353354, 6664.5228433693665)),
        loss_loc=(27.373177857853378, (9, 49.63209743048816, 1792.9108292364926)),
    ),
    ('RetinaNet', 0): dict(
        loss_cls=(78.51700600567557, (3, -3.19799835106087, 4924.109614250866)),
        loss_loc=(28.574919443629316, (3, -11.294588925585566, 369.00388846050134)),
    ),
}


def distiller(kind, after=AFTER, **changes):
    """The distiller of a published config."""
    cls, loc = WEIGHTS[kind]
    mapping = dict(
        preds_S=dict(recorder='cross', from_student=False),
        preds_T=dict(recorder='head', from_student=False),
        head_S=dict(recorder='head', from_student=True),
    )
    iou = IOU[kind] and dict(type=f'mmdet.{IOU[kind]}')
    terms = dict(
        loss_cls=dict(type='kd_plugins.CrossKDClassificationLoss', loss_weight=cls),
        loss_loc=dict(type='kd_plugins.CrossKDLocalizationLoss', loss_iou=iou, loss_weight=loc),
    )
    if kind == 'ATSS':
        terms['loss_center'] = dict(type='kd_plugins.CrossKDCenternessLoss')
    head = dict(type='kd_plugins.DetectionHead')
    cfg = dict(
        student_recorders=dict(head=head, inside=dict(type='kd_plugins.HeadFeatures', after=after)),
        teacher_recorders=dict(
            head=head, cross=dict(type='kd_plugins.CrossHead', question='inside')
        ),
        distill_losses=terms,
        loss_forward_mappings=dict.fromkeys(terms, mapping),
    )
    return copy.deepcopy(cfg | changes)


def algorithm(kind, after=AFTER, student=None, **changes):
    init_default_scope('mmdet')
    return MODELS.build(
        dict(
            type='kd_plugins.SingleTeacherDistill',
            architecture=student or published.detector(kind),
            teacher=published.detector(kind),
            allow_random_teacher=True,
            distiller=distiller(kind, after, **changes),
        )
    ).train()


@pytest.fixture
def in_float64(monkeypatch):
    """mmdet's heads predict boxes in float32 whatever they are given."""
    monkeypatch.setattr(torch.Tensor, 'float', torch.Tensor.double)


@pytest.mark.usefixtures('in_float64')
@pytest.mark.parametrize(('kind', 'after'), PUBLISHED)
def test_losses_and_gradients_are_the_published_codes(kind, after):
    model = algorithm(kind, after)
    given = published.prepare(model.student, 0)
    published.prepare(model.teacher.network, 1)
    inputs = torch.zeros(2, 3, published.SIZE, published.SIZE, dtype=torch.float64)
    found = model(inputs, published.samples(), mode='loss')
    terms = {name: value for name, value in found.items() if name.startswith('distill')}
    expected = PUBLISHED[kind, after]
    assert set(terms) == {f'distill.{name}' for name in expected}
    for name, (value, (number, *sums)) in expected.items():
        term = terms[f'distill.{name}']
        if (kind, name) == ('GFL', 'loss_loc'):
            # There the mean over four sides is a sum over 4 + 1.2e-7.
            term = term / (1 + torch.finfo(torch.float32).eps / 4)
        assert float(term) == pytest.approx(value, rel=1e-9)
        counted, *found_sums = published.summary(given, model.student.bbox_head, term)
        assert counted == number
        assert found_sums == pytest.approx(sums, rel=1e-9, abs=1e-9)


def by_hand(s, t):
    """The alignment, value by value."""
    out = torch.empty_like(s)
    for c in range(s.shape[1]):
        a, b = s[:, c].flatten().tolist(), t[:, c].flatten().tolist()
        moments = []
        for x in (a, b):
            mean = sum(x) / len(x)
            moments.append((mean, (sum((v - mean) ** 2 for v in x) / (len(x) - 1)) ** 0.5))
        (mean_s, std_s), (mean_t, std_t) = moments
        values = [(v - mean_s) / (std_s + 1e-6) * std_t + mean_t for v in a]
        out[:, c] = torch.tensor(values, dtype=s.dtype).view_as(s[:, c])
    return out


def features(dtype=torch.float64, size=(4, 5)):
    s, t = wave((2, 3, *size), 2, 1.3, 0.2), wave((2, 3, *size), 1.5, 0.7, 0.5) + 0.4
    return s.to(dtype), t.to(dtype)


def test_alignment_is_the_formula_and_so_is_its_gradient():
    s, t = features()
    torch.testing.assert_close(align(s, t), by_hand(s, t), rtol=1e-12, atol=1e-12)
    # Sizes may differ: only the moments are the teacher's.
    larger = features(size=(6, 7))[1]
    torch.testing.assert_close(align(s, larger), by_hand(s, larger), rtol=1e-12, atol=1e-12)
    assert torch.autograd.gradcheck(lambda x: align(x, t), s.clone().requires_grad_())


def test_alignment_keeps_what_has_the_teachers_moments():
    _, t = features()
    torch.testing.assert_close(align(t, t), t, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(align(3 * t - 7, t), t, rtol=1e-5, atol=1e-5)


def test_gradient_of_a_constant_channel_is_bounded():
    s, t = features()
    s[:, 1] = 0.25
    leaf = s.clone().requires_grad_()
    aligned = align(leaf, t)
    expected = t[:, 1].mean().expand_as(aligned[:, 1])
    torch.testing.assert_close(aligned[:, 1], expected)
    (grad,) = torch.autograd.grad((aligned * wave(aligned.shape, 1, 0.9)).sum(), leaf)
    # Published: 1e6 times the teacher's deviation.
    assert grad[:, 1].abs().max() < 2000 * grad[:, 0].abs().max()
    assert torch.isfinite(grad).all() and grad[:, 1].any()


@pytest.mark.parametrize('shape', [(1, 3, 1, 1), (0, 3, 4, 5)])
def test_a_channel_of_one_value_or_none_is_the_teachers_mean(shape):
    s = torch.ones(shape, requires_grad=True)
    t = torch.full(shape, 2.0)
    aligned = align(s, t)
    assert torch.equal(aligned, t)
    (grad,) = torch.autograd.grad(aligned.sum(), s)
    assert torch.equal(grad, torch.zeros(shape))


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_moments_are_taken_in_float32(dtype):
    s, t = features(dtype, (24, 24))
    with torch.autocast('cpu', dtype=torch.bfloat16):
        found = align(s.requires_grad_(), t)
    assert found.dtype == torch.float32
    exact = align(s.detach().double(), t.double())
    torch.testing.assert_close(found.double(), exact, rtol=1e-4, atol=1e-4)
    found.sum().backward()
    assert torch.isfinite(s.grad).all()


def tiny(kind, changes=None, **options):
    """Two whole detectors with two convolutions a branch, and CrossKD after the first."""
    from helpers.detection import detector

    pair = [detector(kind, width=width, **options) for width in (8, 16)]
    for cfg in pair:
        cfg['bbox_head'].update(stacked_convs=2, **(changes or {}))
    return build(*pair, whole=distiller(kind if kind in WEIGHTS else 'RetinaNet', 1)).train()


def trained(model):
    """The student's parameters that CrossKD's terms give a gradient."""
    found = losses(model, images())
    total = sum(v for name, v in found.items() if 'distill.loss' in name)
    total.backward()
    return {n for n, p in model.student.named_parameters() if p.grad is not None and p.grad.any()}


@pytest.mark.parametrize('kind', [*KINDS, 'RTMDet'])
def test_only_what_lies_before_the_maps_learns(kind):
    model = tiny(kind)
    teacher = model.teacher.network
    before = copy.deepcopy(teacher.state_dict())
    found = trained(model)
    of_head = {name.removeprefix('bbox_head.') for name in found if 'bbox_head' in name}
    assert of_head and {n.split('.')[0] for n in of_head} == {'cls_convs', 'reg_convs'}
    first = ('cls_convs.0.', 'reg_convs.0.')
    if kind == 'RTMDet':
        first = tuple(f'{branch}_convs.{i}.0.' for branch in ('cls', 'reg') for i in range(5))
    assert all(name.startswith(first) for name in of_head)
    assert any(name.startswith('backbone.layer2') for name in found)
    assert not teacher.training and not any(m.training for m in teacher.modules())
    assert all(p.grad is None and not p.requires_grad for p in teacher.parameters())
    after = teacher.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert not [key for key in model.state_dict() if key.startswith('distiller.')]
    assert not {id(p) for p in model.parameters()} & {id(p) for p in teacher.parameters()}


@pytest.mark.parametrize('kind', [*KINDS, 'RTMDet'])
def test_pictures_without_objects_give_finite_losses(kind):
    model = tiny(kind)
    found = losses(model, images(empty=(0, 1)))
    terms = {name: v for name, v in found.items() if 'distill.loss' in name}
    values = torch.stack(list(terms.values()))
    # Published: 4e7 and more for FCOS, which is divided by the objects' centerness, or 1e-6.
    assert torch.isfinite(values).all() and values.max() < 1e4
    values.sum().backward()
    grads = [p.grad for p in model.student.parameters() if p.grad is not None]
    assert grads and all(torch.isfinite(g).all() for g in grads)


def test_one_picture_whose_last_level_is_one_position_is_no_nan():
    model = tiny('GFL')
    data = {key: value[:1] for key, value in images(size=64).items()}
    found = losses(model, data)
    sum(v for name, v in found.items() if 'distill.loss' in name).backward()
    grads = [p.grad for p in model.student.parameters() if p.grad is not None]
    assert all(torch.isfinite(g).all() for g in grads)


def test_fcos_is_divided_by_the_centerness_of_its_objects():
    model = tiny('FCOS')
    kept = []
    head = model.student.bbox_head
    head.loss_bbox.register_forward_hook(
        lambda module, args, kwargs, out: kept.append(kwargs['avg_factor']), with_kwargs=True
    )
    recorders = model.distiller.student_recorders
    compute = model.distiller.compute_distill_losses

    def keep():
        kept.append(recorders.get_recorder('head').get_record_data().targets)
        return compute()

    model.distiller.compute_distill_losses = keep
    losses(model, images())
    upstreams, targets = kept
    assert 1 < upstreams < targets.num_pos
    torch.testing.assert_close(targets.sum_quality, upstreams.float())


@pytest.mark.parametrize('loss', [CrossKDClassificationLoss, CrossKDLocalizationLoss])
def test_records_of_other_recorders_are_refused(loss):
    with pytest.raises(ValueError, match=r"preds_S is a Tensor: map preds_S to a teacher's rec"):
        loss()(torch.zeros(1), torch.zeros(1), torch.zeros(1))
    with pytest.raises(ValueError, match=r"^model\.x compares what one head, the teacher's, says"):
        loss().check_specs('model.x')


def test_heads_without_distributions_need_an_iou_loss():
    changes = distiller('RetinaNet')
    changes['distill_losses']['loss_loc']['loss_iou'] = None
    with pytest.raises(ValueError, match=r'loss_loc\.loss_iou=None.*RetinaHead of the teacher'):
        algorithm('RetinaNet', **changes)


def test_heads_without_centerness_are_refused():
    changes = distiller('ATSS')
    with pytest.raises(ValueError, match='GFLHead of the teacher predicts no centerness'):
        model = algorithm('GFL', **changes)
        for i, network in enumerate((model.student, model.teacher.network)):
            published.prepare(network.float(), i)
        model(torch.zeros(2, 3, 64, 64).double(), published.samples(), mode='loss')


def test_other_widths_need_a_connector_and_learn_through_it():
    student = published.detector('GFL')
    student['bbox_head']['feat_channels'] = 4
    with pytest.raises(
        ValueError,
        match=r'have 4 channels and those of the GFLHead of the teacher '
        r'6: give .*CrossKDConnector.*in_channels=4, out_channels=6',
    ):
        algorithm('GFL', student=student)
    changes = distiller('GFL')
    changes['teacher_recorders']['cross']['connector'] = 'wider'
    with pytest.raises(ValueError, match=r"connector='wider' is not one of connectors: they are"):
        algorithm('GFL', student=student, **changes)
    wider = dict(type='kd_plugins.CrossKDConnector', in_channels=5, out_channels=6)
    with pytest.raises(ValueError, match=r'in_channels=5 does not fit the GFLHead of the student'):
        algorithm('GFL', student=student, **changes, connectors=dict(wider=wider))
    narrow = dict(wider, in_channels=4, out_channels=3)
    with pytest.raises(
        ValueError, match='4 channels, 3 behind the connector, and those of the GFL'
    ):
        algorithm('GFL', student=student, **changes, connectors=dict(wider=narrow))
    wider['in_channels'] = 4
    model = algorithm('GFL', student=student, **changes, connectors=dict(wider=wider))
    data = images(size=64)
    model.student.neck.num_outs = 3
    for i, network in enumerate((model.student, model.teacher.network)):
        network.extract_feat = lambda inputs, i=i: [x.float() for x in published.maps(i)]
    found = losses(model, data)
    sum(v for name, v in found.items() if 'distill' in name).backward()
    connector = model.distiller.connectors['wider']
    assert all(p.grad.any() for p in connector.parameters())
    assert {key for key in model.state_dict() if key.startswith('distiller.')} == {
        f'distiller.connectors.wider.{branch}.weight' for branch in ('cls', 'reg')
    }  # fmt: skip


def test_the_connector_is_a_convolution_a_branch_which_the_levels_share():
    connector = MODELS.build(
        dict(type='kd_plugins.CrossKDConnector', in_channels=3, out_channels=2)
    ).double()
    maps = [wave((2, 3, s, s), 1, 0.7, s) for s in (4, 2)]
    found = connector(Branches(tuple(maps), tuple(x + 1 for x in maps)))
    for conv, given, out in (
        (connector.cls, maps, found.cls),
        (connector.reg, [x + 1 for x in maps], found.reg),
    ):
        weight = conv.weight[:, :, 0, 0]
        for x, y in zip(given, out, strict=True):
            torch.testing.assert_close(y, torch.einsum('oc,nchw->nohw', weight, x))
