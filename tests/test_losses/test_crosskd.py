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
