"""SL2."""

import math

import pytest
import torch
from helpers.maps import head, maps, set_weights, specs

from kd_plugins.losses import SL2Loss


def sl2():
    return set_weights(SL2Loss([3], [6], loss_weight=1.0).double())


def naive(loss, student, teacher, record, anchors=1):
    """Loops over pictures, positions and channels."""
    w = [p.detach() for p in loss.parameters()]
    x = torch.einsum('nchw,dc->ndhw', student, w[0].flatten(1)) + w[1][:, None, None]
    x = torch.einsum('nchw,dc->ndhw', x.relu(), w[2].flatten(1)) + w[3][:, None, None]
    n, c, height, width = teacher.shape
    above = below = 0.0
    for i in range(n):
        for y in range(height):
            for z in range(width):
                place = (y * width + z) * anchors
                logits = record.cls_logits[i, place : place + anchors].flatten().tolist()
                score = max(1 / (1 + math.exp(-logit)) for logit in logits)
                pairs = zip(x[i, :, y, z].tolist(), teacher[i, :, y, z].tolist(), strict=True)
                above += score * math.fsum((a - b) ** 2 for a, b in pairs)
                below += score
    return above / (c * below + 1e-9)


@pytest.mark.parametrize('anchors', [1, 3])
def test_value_is_the_naive_loop(anchors):
    loss, (student, teacher) = sl2(), maps(c_t=6)
    record = head((4, 5), anchors=anchors)
    expected = naive(loss, student, teacher, record, anchors)
    assert loss(student, teacher, record).item() == pytest.approx(expected, rel=1e-12)


def test_positions_without_an_object_do_not_count():
    loss, (student, teacher) = sl2(), maps(c_t=6)
    record = head((4, 5))
    record.cls_logits[:] = -80.0
    record.cls_logits[1, 7, 2] = 3.0
    loss(student, teacher, record).backward()
    place = student.grad[1, :, 7 // 5, 7 % 5].clone()
    assert place.abs().min() > 1e-3
    student.grad[1, :, 7 // 5, 7 % 5] = 0
    assert student.grad.abs().max() < 1e-20
    # Equal weights everywhere are a mean.
    record.cls_logits[:] = 1.0
    plain = (loss.projectors[0](student) - teacher).square().mean()
    assert loss(student, teacher, record).item() == pytest.approx(plain.item(), rel=1e-9)


def test_layers_are_there_even_where_widths_agree():
    loss = SL2Loss([6], [6])
    assert [tuple(p.shape) for p in loss.parameters()] == [
        (6, 6, 1, 1), (6,), (6, 6, 1, 1), (6,),
    ]  # fmt: skip


def test_a_head_of_other_maps_is_refused():
    loss, (student, teacher) = sl2(), maps(c_t=6)
    for record in (head((4, 4)), head((4, 5), (2, 3))):
        with pytest.raises(ValueError, match=r'maps of \[20\] positions.*AHead'):
            loss(student, teacher, record)
    loss = SL2Loss([3, 3], [3, 3])
    wanted = specs(sl2=True)
    del wanted['head_T']
    with pytest.raises(ValueError, match=r'key .*head_T.*kd_plugins\.DetectionHead'):
        loss.check_specs('key', **wanted)
    wanted = specs((3, 3), (3, 3), sl2=True)
    object.__setattr__(wanted['head_T'], 'strides', (8, 16, 32))
    with pytest.raises(ValueError, match=r'key: the AHead of the teacher has 3 levels'):
        loss.check_specs('key', **wanted)
