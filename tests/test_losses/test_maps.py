"""What CWD, MSE, cosine, Gram, PKD, MGD and SL2 share: levels, precision, checks."""

import pytest
import torch
from helpers.maps import head, maps, set_weights, specs
from mmengine.registry import MODELS

from kd_plugins.losses import CosineLoss, CWDLoss, GramLoss, MGDLoss, MSELoss, PKDLoss, SL2Loss
from kd_plugins.losses.maps import to_coarser
from kd_plugins.structures import Progress


def mgd(number=1, dtype=torch.float64, **changes):
    loss = MGDLoss([3] * number, [6] * number, loss_weight=1.0, **changes)
    loss.set_progress(Progress(iter=3, max_iters=10, epoch=0, max_epochs=1, seed=5))
    return set_weights(loss.to(dtype))


def sl2(number=1, dtype=torch.float64, **changes):
    return set_weights(SL2Loss([3] * number, [6] * number, loss_weight=1.0, **changes).to(dtype))


#: How to build a loss, the teacher's channels, and what else it takes of maps of some sizes.
CASES = {
    'CWD': (lambda number=1, dtype=None, **k: CWDLoss(loss_weight=1.0, **k), 3, lambda *s, **k: ()),
    'MSE': (lambda number=1, dtype=None, **k: MSELoss(loss_weight=1.0, **k), 3, lambda *s, **k: ()),
    'PKD': (lambda number=1, dtype=None, **k: PKDLoss(loss_weight=1.0, **k), 3, lambda *s, **k: ()),
    'Cosine': (
        lambda number=1, dtype=None, **k: CosineLoss(loss_weight=1.0, **k),
        3,
        lambda *s, **k: (),
    ),
    'Gram': (
        lambda number=1, dtype=None, **k: GramLoss(loss_weight=1.0, **k),
        6,
        lambda *s, **k: (),
    ),
    'MGD': (mgd, 6, lambda *sizes, **k: ()),
    'SL2': (sl2, 6, lambda *sizes, **k: (head(*sizes, **k),)),
}
EVERY = pytest.mark.parametrize('case', CASES)


@EVERY
def test_levels_are_added_up_and_can_be_chosen(case):
    make, c_t, more = CASES[case]
    # MGD's masks are those of a level's place.
    options = dict(mask_ratio=0.0) if case == 'MGD' else {}
    student, teacher = zip(maps(c_t=c_t), maps(c_t=c_t, size=(2, 3)), strict=True)
    rest = more((4, 5), (2, 3))
    whole = make(number=2, **options)
    both = whole(student, teacher, *rest)
    both.backward()
    assert all(x.grad.any() for x in student)
    parts = []
    for level in range(2):
        loss = make(levels=[level], **options)
        if case in ('MGD', 'SL2'):
            loss.projectors[0].load_state_dict(whole.projectors[level].state_dict())
        parts.append(loss(student, teacher, *rest).item())
    assert parts[0] > 0 < parts[1]
    assert both.item() == pytest.approx(sum(parts), rel=1e-12)


@EVERY
def test_gradient_is_the_slope(case):
    make, c_t, more = CASES[case]
    loss, (student, teacher) = make(), maps(c_t=c_t)
    assert torch.autograd.gradcheck(lambda s: loss(s, teacher, *more((4, 5))), student)


@EVERY
def test_teacher_gets_no_gradient_and_the_weight_is_a_factor(case):
    make, c_t, more = CASES[case]
    loss, (student, teacher) = make(), maps(c_t=c_t)
    teacher.requires_grad_()
    rest = more((4, 5))
    for record in rest:
        record.cls_logits.requires_grad_()
    value = loss(student, teacher, *rest)
    value.backward()
    assert student.grad.any() and teacher.grad is None
    assert all(record.cls_logits.grad is None for record in rest)
    assert all(p.grad is not None and p.grad.any() for p in loss.parameters())
    loss.loss_weight = 2.5
    assert loss(student, teacher, *rest).item() == pytest.approx(2.5 * value.item(), rel=1e-12)
    loss.loss_weight = 0.0
    nothing = loss(student, teacher, *rest)
    assert nothing.item() == 0 and nothing.requires_grad


@EVERY
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32])
def test_half_inputs_and_autocast_are_computed_in_float32(case, dtype):
    make, c_t, more = CASES[case]
    loss = make(dtype=torch.float32)
    student, teacher = maps(c_t=c_t, dtype=dtype)
    rest = more((4, 5), dtype=dtype)
    exact = loss(student.float(), teacher.float(), *rest)
    with torch.autocast('cpu', torch.bfloat16):
        value = loss(student, teacher, *rest)
    value.backward()
    assert value.dtype == torch.float32
    # What MGD and SL2 learn runs in half precision, nothing else does.
    tolerance = 0.05 if case in ('MGD', 'SL2') else 1e-6
    assert value.item() == pytest.approx(exact.item(), rel=tolerance)
    assert torch.isfinite(student.grad).all()


@EVERY
@pytest.mark.parametrize('scale', [0.0, 1e-6, 300.0])
def test_flat_tiny_and_large_maps_give_finite_gradients(case, scale):
    make, c_t, more = CASES[case]
    student, teacher = maps(c_t=c_t, dtype=torch.float32)
    student = (scale * student).detach().requires_grad_()
    value = make(dtype=torch.float32)(student, 200 * teacher, *more((4, 5), dtype=torch.float32))
    value.backward()
    assert torch.isfinite(value) and torch.isfinite(student.grad).all()


@EVERY
def test_channels_last_maps_are_the_same_maps(case):
    make, c_t, more = CASES[case]
    loss, (student, teacher) = make(), maps(c_t=c_t)
    last = [x.contiguous(memory_format=torch.channels_last) for x in (student, teacher)]
    expected = loss(student, teacher, *more((4, 5))).item()
    assert loss(*last, *more((4, 5))).item() == pytest.approx(expected, rel=1e-12)


@EVERY
def test_empty_batch_is_zero_with_a_gradient(case):
    make, c_t, more = CASES[case]
    student, teacher = (x[:0].detach() for x in maps(c_t=c_t))
    student.requires_grad_()
    value = make()(student, teacher, *more((4, 5), number=0))
    value.backward()
    assert value.item() == 0 and student.grad.shape == student.shape


@EVERY
def test_maps_that_do_not_fit_are_refused_with_both_shapes(case):
    make, c_t, more = CASES[case]
    loss, (student, teacher) = make(), maps(c_t=c_t)
    name = f'{case}Loss'
    with pytest.raises(ValueError, match=rf'{name}.*\(2, 3, 4, 5\).*\(1, {c_t}, 4, 5\)'):
        loss(student, teacher[:1], *more((4, 5), number=1))
    with pytest.raises(ValueError, match=rf'{name} needs maps .* of the same levels'):
        loss([student, student], teacher, *more((4, 5)))
    if case != 'Gram':
        with pytest.raises(ValueError, match=rf'{name}.*(\(2, 2, 4, 5\)|\[2\] \(student\))'):
            loss(student[:, :2], teacher, *more((4, 5)))
    if case not in ('MGD', 'SL2'):
        with pytest.raises(ValueError, match=rf'{name}\.levels=\[1\] do not fit 1 levels'):
            make(levels=[1])(student, teacher)
    if case != 'PKD':
        with pytest.raises(ValueError, match=rf'{name} needs maps .* of the same levels and sizes'):
            loss(student, teacher[:, :, :3], *more((3, 5)))


@EVERY
@pytest.mark.parametrize('levels', [[], 0, [0, 0], [-1], [0.5], 'ab'])
def test_bad_levels_are_refused_by_name(case, levels):
    more = dict(channels_S=[3], channels_T=[6]) if case in ('MGD', 'SL2') else {}
    with pytest.raises(ValueError, match=rf'{case}Loss\.levels='):
        MODELS.build(dict(type=f'kd_plugins.{case}Loss', levels=levels, **more))


@pytest.mark.parametrize('kind', [MGDLoss, SL2Loss])
@pytest.mark.parametrize('key', ['channels_S', 'channels_T'])
@pytest.mark.parametrize('value', [[], 3, [0], [2.0], [3, 3], '3'])
def test_bad_channels_are_refused_by_name(kind, key, value):
    with pytest.raises(ValueError, match=rf'{kind.__name__}\.channels_'):
        kind(**{'channels_S': [3], 'channels_T': [6], key: value})


@EVERY
def test_necks_that_do_not_fit_are_refused_before_training(case):
    layers = dict(channels_S=[3, 3], channels_T=[3, 3]) if case in ('MGD', 'SL2') else {}
    loss = MODELS.build(dict(type=f'kd_plugins.{case}Loss', **layers))
    sl2 = case == 'SL2'
    loss.check_specs('key', **specs(sl2=sl2))
    says = r'key.*neck of the (student|teacher).* gives 2 levels of \[3, 3\] channels'
    for wrong in (
        *([] if case == 'Gram' else [dict(channels_T=(4, 4))]),
        dict(channels_T=(3, 3, 3), strides_T=(8, 16, 32)),
        *([] if case == 'PKD' else [dict(strides_T=(4, 8))]),
    ):
        with pytest.raises(ValueError, match=says if 'channels_T' not in wrong else 'key'):
            loss.check_specs('key', **specs(sl2=sl2, **wrong))
    more = dict(layers, levels=[1, 2])
    with pytest.raises(ValueError, match=r'key\.levels=\[1, 2\] do not fit neck'):
        MODELS.build(dict(type=f'kd_plugins.{case}Loss', **more)).check_specs(
            'key', **specs(sl2=sl2)
        )


def naive_area(x, size):
    """Averages over areas, by loops."""
    out = torch.zeros(*x.shape[:2], *size, dtype=x.dtype)
    for i in range(size[0]):
        for j in range(size[1]):
            spans = [
                slice(k * of // to, -(-(k + 1) * of // to))
                for k, of, to in zip((i, j), x.shape[2:], size, strict=True)
            ]
            out[:, :, i, j] = x[:, :, spans[0], spans[1]].mean((2, 3))
    return out


@EVERY
@pytest.mark.parametrize(
    ('of_student', 'of_teacher', 'at'),
    [((4, 6), (2, 3), (2, 3)), ((2, 3), (4, 6), (2, 3)), ((5, 7), (3, 2), (3, 2)),
     ((3, 8), (6, 4), (3, 4)), ((4, 5), (4, 5), (4, 5))],
)  # fmt: skip
def test_maps_of_other_sizes_are_averaged_to_the_coarser(case, of_student, of_teacher, at):
    make, c_t, more = CASES[case]
    student, teacher = maps(size=of_student)[0], maps(c_t=c_t, size=of_teacher)[1]
    options = dict(mask_ratio=0.0) if case == 'MGD' else {}
    loss = make(resize='coarser', **options)
    value = loss(student, teacher, *more(of_teacher))
    value.backward()
    same = [naive_area(x, at) for x in (student.detach(), teacher)]
    if case != 'SL2' or of_teacher == at:
        assert value.item() == pytest.approx(loss(*same, *more(at)).item(), rel=1e-12)
    assert value.item() > 0 and student.grad.any(dim=1).all()


def test_scores_of_merged_positions_are_their_largest():
    loss, teacher = sl2(resize='coarser'), maps(c_t=6, size=(4, 6))[1]
    student = maps(size=(2, 3))[0]
    scores = head((4, 6)).cls_logits.amax(2).sigmoid().reshape(2, 1, 4, 6)
    largest = torch.stack(
        [scores[:, :, i : i + 2, j : j + 2].amax((2, 3)) for i in (0, 2) for j in (0, 2, 4)], 2
    ).reshape(2, 1, 2, 3)
    squared = (loss.projectors[0](student) - naive_area(teacher, (2, 3))).square()
    expected = (largest * squared).sum() / (6 * largest.sum())
    assert loss(student, teacher, head((4, 6))).item() == pytest.approx(expected.item(), rel=1e-8)


def test_sizes_that_divide_and_others_are_averaged_alike():
    x = maps(size=(6, 9))[0].detach()
    for size in ((3, 3), (2, 9), (4, 5)):
        small, same = to_coarser(x, x[:, :, : size[0], : size[1]])
        torch.testing.assert_close(small, naive_area(x, size), rtol=1e-12, atol=1e-12)
        assert same.shape[2:] == size


@EVERY
@pytest.mark.parametrize('resize', ['finer', True, 2])
def test_bad_resize_is_refused_by_name(case, resize):
    more = dict(channels_S=[3], channels_T=[6]) if case in ('MGD', 'SL2') else {}
    with pytest.raises(ValueError, match=rf"{case}Loss\.resize=.*'coarser'"):
        MODELS.build(dict(type=f'kd_plugins.{case}Loss', resize=resize, **more))


@EVERY
def test_necks_of_other_strides_fit_where_maps_are_resized(case):
    layers = dict(channels_S=[3, 3], channels_T=[3, 3]) if case in ('MGD', 'SL2') else {}
    loss = MODELS.build(dict(type=f'kd_plugins.{case}Loss', resize='coarser', **layers))
    loss.check_specs('key', **specs(sl2=case == 'SL2', strides_T=(4, 8)))


@pytest.mark.parametrize(
    ('given', 'of', 'says'),
    [
        ((2, 48, 4), (2, 4, 7, 7), r'tokens \(N, L, C\) become a map by .*extra_tokens'),
        ((2, 7, 7, 4), (2, 4, 7, 7), r'\(2, 7, 7, 4\) looks as if channels came last, .*backbone'),
        ((2, 6, 7, 7), (2, 7, 7, 8), r'\(2, 7, 7, 8\) looks as if channels came last'),
        ((2, 6, 7, 7), (2, 4, 7, 7), r"give a connector, such as dict\(type='mmrazor"),
        ((2, 7, 7, 7), (2, 4, 7, 7), r"give a connector, such as dict\(type='mmrazor"),
        ((2, 4, 6, 7), (2, 4, 7, 7), r'check the sources of the recorders'),
    ],
)
@pytest.mark.parametrize('resize', [None, 'coarser'])
def test_what_is_no_map_is_told_how_to_become_one(given, of, says, resize):
    """As Swin's tokens, and maps of other packages with channels last."""
    if resize and given[2:] == (6, 7):
        return
    with pytest.raises(ValueError, match=says) as caught:
        CWDLoss(resize=resize)(torch.randn(given), torch.randn(of))
    assert str(given) in str(caught.value) and str(of) in str(caught.value)


@pytest.mark.parametrize('resize', [None, 'coarser'])
@pytest.mark.parametrize('term', [CWDLoss, PKDLoss])
def test_maps_of_as_many_channels_as_rows_are_maps(term, resize):
    """256 channels of pictures of 1024 x 992 pixels, say, whose coarsest level is a square."""
    sizes = [(2, 8, 8, 7), (2, 8, 4, 4)]
    student, teacher = [torch.randn(x) for x in sizes], [torch.randn(x) for x in sizes]
    parts = [term()(*pair) for pair in zip(student, teacher, strict=True)]
    assert term(resize=resize)(student, teacher).item() == pytest.approx(sum(parts).item())


@pytest.mark.parametrize(('case', 'refused'), {'CWD': True, 'Gram': True, 'MSE': False,
                                               'PKD': False, 'Cosine': False}.items())  # fmt: skip
def test_a_term_of_positions_refuses_maps_of_one_position(case, refused):
    """As a ResNet of ImageNet gives of pictures of 32 pixels."""
    make, c_t, _ = CASES[case]
    (student, teacher), (finer, finer_T) = maps(c_t=c_t, size=(1, 1)), maps(c_t=c_t)
    if refused:
        with pytest.raises(ValueError, match=r'every map has one: preds_S has \[\(2, 3, 1, 1\)\]'):
            make()(student, teacher)
    else:
        make()(student, teacher).backward()
        assert student.grad.any()
    # Of two levels the other one teaches.
    assert make(number=2)([student, finer], [teacher, finer_T]).item() > 0
    coarser = make(resize='coarser')
    if refused:
        with pytest.raises(ValueError, match='every map has one'):
            coarser(finer, teacher)
