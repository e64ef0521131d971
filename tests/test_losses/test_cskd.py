"""CSKD."""

import math

import pytest
import torch
from helpers import oracles
from helpers.waves import wave

from kd_plugins.losses import CSKDLoss, DeiTLoss, fused_target
from kd_plugins.registry import MODELS
from kd_plugins.structures import Progress

FORMS = [('hard', 1.0), ('soft', 2.0)]


def tokens():
    """The student's logits of 196 patches: 3 samples, 5 classes."""
    return wave((3, 196, 5), 3, 1.3, 0.2) + wave((3, 196, 5), 2, 0.05, 1.6)


def as_map(tokens, rows=14):
    return tokens.reshape(len(tokens), rows, -1, tokens.shape[2]).movedim(-1, 1)


def dense_T(rows=7, columns=7):
    shape = (3, 5, rows, columns)
    return wave(shape, 4, 0.7, 0.5) + wave(shape, 3, 0.021, 1.6)


def at(epoch, max_epochs=300):
    return Progress(iter=epoch * 10, max_iters=max_epochs * 10, epoch=epoch, max_epochs=max_epochs)


def cskd(*args, progress=None, **kwargs):
    loss = CSKDLoss(*args, **kwargs)
    loss.set_progress(progress or at(0))
    return loss


# Printed by CSKDLoss.get_loss_cskd of cskd/cskd.py, Zzzzz1/CSKD at
# fa0d8b8d922f4914d7d82feaded69845d21e47b4, with deit_tau 2 for the soft form, in epoch
# 0, 100 and 299 of 300: the loss, its gradient's projection on a wave, and the second
# sample's target, all classes or the distribution at (2, 3).
PUBLISHED = {
    ('hard', 'linear', 0): (1.573438718484, -0.003367323398947,
        '2211111002211110000211110000011110000011110000011'),
    ('hard', 'linear', 100): (1.567836159957, -0.008209262979486,
        '2211111000211110000011110000011110000011110000011'),
    ('hard', 'linear', 299): (1.544260995491, 0.002813550531626,
        '1111111111111111111111111111111111111111111111111'),
    ('hard', 'quadratic', 100): (1.560131077429, 0.006167773680649,
        '0111111000011110000011110000011110000011110000011'),
    ('hard', 'quadratic', 299): (1.544260995491, 0.002813550531626,
        '1111111111111111111111111111111111111111111111111'),
    ('hard', 'cosine', 100): (1.57278805447, -0.007475540385512,
        '2211111002211110000211110000011110000011110000011'),
    ('hard', 'cosine', 299): (1.544260995491, 0.002813550531626,
        '1111111111111111111111111111111111111111111111111'),
    ('soft', 'linear', 0): (144.2924915979, -0.3413617050692,
        [-0.40239275681, -4.02169047083, -1.24820740410, -6.10743620532, -3.72495390620]),
    ('soft', 'linear', 100): (114.3533750683, -0.1298324549886,
        [-0.45000280754, -2.80669683572, -1.33102032608, -5.03061308392, -3.46646892235]),
    ('soft', 'linear', 299): (67.73259634726, 0.1309457861041,
        [-1.00836530261, -0.85247799597, -1.95943653493, -3.35135356644, -3.41570229860]),
    ('soft', 'quadratic', 100): (92.59894929804, 0.00274086657745,
        [-0.53433658973, -2.04929482735, -1.43882268910, -4.36532475135, -3.34673934815]),
    ('soft', 'quadratic', 299): (67.72890573512, 0.1316062047665,
        [-1.01419324566, -0.84572198895, -1.96561533326, -3.34597465888, -3.41847949447]),
    ('soft', 'cosine', 100): (133.067113458, -0.2647115269336,
        [-0.41456325055, -3.5263905076, -1.27452676922, -5.66767025843, -3.61409752395]),
    ('soft', 'cosine', 299): (67.73617720671, 0.130567081998,
        [-1.00504499005, -0.85636448824, -1.95591528819, -3.35445139642, -3.41412914328]),
}  # fmt: skip


@pytest.mark.parametrize('case', PUBLISHED, ids=lambda case: '-'.join(map(str, case)))
def test_agrees_with_the_published_code(case):
    form, decay, epoch = case
    value, projection, target = PUBLISHED[case]
    preds_S = tokens().requires_grad_()
    tau = dict(FORMS)[form]
    loss = cskd(form, tau=tau, decay=decay, progress=at(epoch))
    result = loss(as_map(preds_S), dense_T())
    result.backward()
    assert result.item() == pytest.approx(value, rel=1e-10)
    gradient = preds_S.grad
    against = (gradient * wave(gradient.shape, 1, 0.9, 0.1)).sum().item()
    assert against == pytest.approx(projection, rel=1e-8, abs=1e-10)
    share = loss.decay(at(epoch))
    fused = fused_target(dense_T(), dense_T().mean(dim=(2, 3)), share)[1]
    if form == 'hard':
        assert ''.join(map(str, fused.argmax(dim=0).flatten().tolist())) == target
    else:
        assert (fused[:, 2, 3] / tau).log_softmax(0).tolist() == pytest.approx(target, rel=1e-9)


def naive(preds_S, preds_T, share, form, tau):
    """Sum over samples and positions of one grid, as loops over python floats."""
    total = 0.0
    for s, t in zip(preds_S.tolist(), preds_T.tolist(), strict=True):
        flat = [[v for row in channel for v in row] for channel in t]
        whole = [sum(channel) / len(channel) for channel in flat]
        student = [[v for row in channel for v in row] for channel in s]
        for place in range(len(flat[0])):
            z_s = [channel[place] for channel in student]
            z_t = [share * c[place] + (1 - share) * g for c, g in zip(flat, whole, strict=True)]
            if form == 'soft':
                total += oracles.kd(z_s, z_t, tau)
            else:
                label = max(range(len(z_t)), key=z_t.__getitem__)
                total += -math.log(oracles.softmax(z_s, 1)[label])
    return total


@pytest.mark.parametrize('form, tau', FORMS)
@pytest.mark.parametrize('rows, columns', [(1, 1), (2, 3)])
def test_on_one_grid_it_is_the_naive_loop(form, tau, rows, columns):
    preds_S, preds_T = wave((3, 5, rows, columns), 2, 2.3, 0.7), dense_T(rows, columns)
    total = naive(preds_S, preds_T, 0.6, form, tau)
    places = rows * columns
    for normalizer in ('published', 'mean'):
        loss = cskd(form, tau, 0.5, normalizer, progress=at(4, 10))(preds_S, preds_T)
        divisor = 3 if (form, normalizer) == ('soft', 'published') else 3 * places
        assert loss.item() == pytest.approx(0.5 * total / divisor, rel=1e-12)


def test_consistent_normalizers_agree_with_deits_where_there_is_one_position():
    preds_S, preds_T = wave((3, 5, 1, 1), 2, 2.3, 0.7), dense_T(1, 1)
    for form, tau in FORMS:
        token = DeiTLoss(form, tau, normalizer='mean')(preds_S[:, :, 0, 0], preds_T[:, :, 0, 0])
        dense = cskd(form, tau, normalizer='mean', progress=at(3, 10))(preds_S, preds_T)
        assert dense.item() == pytest.approx(token.item(), rel=1e-12)


def test_the_target_is_dense_at_the_start_and_global_at_the_end():
    dense, whole = dense_T(), dense_T().mean(dim=(2, 3))
    assert torch.equal(fused_target(dense, whole, 1.0), dense)
    assert torch.equal(fused_target(dense, whole, 0.0), whole[:, :, None, None].expand_as(dense))
    # In between, the mean over positions, the whole picture's answer, stays.
    torch.testing.assert_close(fused_target(dense, whole, 0.3).mean(dim=(2, 3)), whole)


def test_a_student_that_answers_as_the_target_has_no_soft_loss():
    target = fused_target(dense_T(), dense_T().mean(dim=(2, 3)), 0.5).requires_grad_()
    loss = cskd('soft', 3.0, progress=at(5, 10))(target, dense_T())
    loss.backward()
    assert abs(loss.item()) < 1e-12 and target.grad.abs().max() < 1e-12


@pytest.mark.parametrize('form, tau', FORMS)
def test_gradients_are_finite_differences_of_the_value(form, tau):
    loss = cskd(form, tau, progress=at(3, 10))
    for rows_S, rows_T in ((4, 2), (2, 4), (3, 2)):
        preds_S = wave((2, 3, rows_S, rows_S), 1, 2.3, 0.7).requires_grad_()
        preds_T = dense_T(rows_T, rows_T)[:2, :3]
        assert torch.autograd.gradcheck(lambda x, t=preds_T: loss(x, t), [preds_S])


def test_a_finer_student_is_averaged_over_the_teachers_cells():
    preds_S, preds_T = wave((2, 5, 4, 6), 2, 2.3, 0.7), dense_T(2, 3)[:2]
    cells = torch.zeros(2, 5, 2, 3, dtype=torch.float64)
    for row in range(4):
        for column in range(6):
            cells[:, :, row // 2, column // 2] += preds_S[:, :, row, column] / 4
    for form, tau in FORMS:
        loss = cskd(form, tau, progress=at(3, 10))
        assert loss(preds_S, preds_T).item() == pytest.approx(
            naive(cells, preds_T, 0.7, form, tau) / (2 if form == 'soft' else 12), rel=1e-12
        )


def test_a_finer_teacher_is_averaged_and_keeps_its_global_answer():
    preds_S, preds_T = wave((2, 5, 2, 2), 2, 2.3, 0.7), dense_T(6, 6)[:2]
    cells = preds_T.unflatten(2, (2, 3)).unflatten(4, (2, 3)).mean(dim=(3, 5))
    for form, tau in FORMS:
        loss = cskd(form, tau, progress=at(3, 10))
        assert loss(preds_S, preds_T).item() == pytest.approx(
            naive(preds_S, cells, 0.7, form, tau) / (2 if form == 'soft' else 8), rel=1e-12
        )


@pytest.mark.parametrize('size_S, size_T', [((5, 5), (3, 3)), ((3, 4), (7, 4)), ((7, 9), (7, 4))])
def test_other_ratios_are_interpolated_from_the_finer_grid(size_S, size_T):
    # A picture whose answers change linearly keeps them under interpolation, inside.
    def plane(rows, columns):
        y, x = ((torch.arange(n, dtype=torch.float64) + 0.5) / n for n in (rows, columns))
        return torch.stack([y[:, None] + 2 * x, 3 * y[:, None] - x])[None]

    from kd_plugins.losses.cskd import on_one_grid

    preds_S, preds_T = on_one_grid(plane(*size_S), plane(*size_T))
    grid = tuple(min(a, b) for a, b in zip(size_S, size_T, strict=True))
    assert preds_S.shape == preds_T.shape == (1, 2, *grid)
    inside = (..., slice(1, -1), slice(1, -1))
    torch.testing.assert_close(preds_S[inside], plane(*grid)[inside], rtol=0, atol=0.02)
    torch.testing.assert_close(preds_T[inside], plane(*grid)[inside], rtol=0, atol=0.02)


def test_grids_of_which_neither_is_finer_are_refused():
    says = r'cannot match the grids: the student has 14 x 7 positions, the teacher 7 x 14, so'
    with pytest.raises(ValueError, match=says) as caught:
        cskd()(torch.zeros(1, 5, 14, 7), torch.zeros(1, 5, 7, 14))
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize('shape', [(3, 4, 7, 7), (2, 5, 7, 7), (3, 5)])
def test_other_classes_batches_and_no_positions_are_refused(shape):
    with pytest.raises(ValueError, match=r'CSKDLoss needs dense logits .*\(3, 5, 7, 7\)'):
        cskd()(dense_T(), torch.zeros(shape))


def test_progress_alone_decides_the_target_so_that_a_resumed_run_goes_on():
    preds_S, preds_T = as_map(tokens()), dense_T()
    values = {}
    loss = cskd('soft')
    for epoch in range(10):
        loss.set_progress(at(epoch, 10))
        values[epoch] = loss(preds_S, preds_T).item()
    assert len(set(values.values())) == 10
    assert cskd('soft', progress=at(7, 10))(preds_S, preds_T).item() == values[7]


def test_iterations_count_where_asked():
    loss = CSKDLoss('soft', decay=dict(form='linear', by_epoch=False))
    loss.set_progress(Progress(iter=30, max_iters=40, epoch=0, max_epochs=1))
    preds_S, preds_T = wave((3, 5, 2, 2), 2, 2.3, 0.7), dense_T(2, 2)
    expected = naive(preds_S, preds_T, 0.25, 'soft', 1.0) / 3
    assert loss(preds_S, preds_T).item() == pytest.approx(expected, rel=1e-12)


def test_epochs_in_a_loop_without_them_are_refused():
    loss = cskd(progress=Progress(iter=3, max_iters=40, epoch=0, max_epochs=1))
    with pytest.raises(ValueError, match=r"CSKDLoss.decay='linear' counts epochs.*by_epoch=False"):
        loss(dense_T(), dense_T() + 1)


def test_without_progress_it_says_who_gives_it():
    with pytest.raises(RuntimeError, match=r'CSKDLoss.decay=.*set_progress'):
        CSKDLoss()(dense_T(), dense_T() + 1)


def test_teacher_takes_no_gradient_weight_zero_keeps_the_graph():
    preds_S, preds_T = as_map(tokens()).requires_grad_(), dense_T().requires_grad_()
    loss = cskd('soft', loss_weight=0.0)(preds_S, preds_T)
    loss.backward()
    assert loss.item() == 0 and preds_T.grad is None
    assert preds_S.grad is not None and not preds_S.grad.any()


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
@pytest.mark.parametrize('form, tau', FORMS)
def test_half_precision_loses_only_the_rounding_of_its_inputs(form, tau, dtype):
    preds_S, preds_T = as_map(tokens()).to(dtype), dense_T().to(dtype)
    expected = cskd(form, tau, progress=at(100))(preds_S.double(), preds_T.double()).item()
    with torch.autocast('cpu', torch.bfloat16):
        loss = cskd(form, tau, progress=at(100))(preds_S, preds_T)
    assert loss.dtype == torch.float32 and loss.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize('form', ['hard', 'soft'])
def test_extreme_logits_stay_finite(form, dtype):
    preds_S = torch.full((2, 4, 4, 4), -3e4, dtype=dtype)
    preds_S[:, 0] = 3e4
    preds_T = preds_S.roll(1, dims=1)[:, :, :2, :2]
    preds_S.requires_grad_()
    loss = cskd(form, progress=at(100))(preds_S, preds_T)
    loss.backward()
    assert torch.isfinite(loss) and loss > 5e4
    assert torch.isfinite(preds_S.grad).all() and preds_S.grad.any()


@pytest.mark.parametrize('form', ['hard', 'soft'])
@pytest.mark.parametrize('rows', [2, 4, 3])
def test_an_empty_batch_is_zero_with_a_gradient(form, rows):
    preds_S = torch.zeros(0, 5, rows, rows, requires_grad=True)
    loss = cskd(form)(preds_S, torch.zeros(0, 5, 2, 2))
    loss.backward()
    assert loss.item() == 0 and preds_S.grad.shape == preds_S.shape


@pytest.mark.parametrize(
    'arguments, says',
    [
        (
            dict(decay='x2'),
            r"CSKDLoss.decay='x2' is wrong: give 'linear' or 'quadratic' or 'cosine'",
        ),
        (dict(decay=dict(by_epoch=False)), r'CSKDLoss.decay=.* give dict\(form=\.\.\., by_epoch'),
        (dict(form='argmax'), r"CSKDLoss.form='argmax' is wrong"),
        (dict(tau=2.0), r"CSKDLoss.tau=2.0 has no effect with form='hard'"),
        (dict(normalizer='N'), r"CSKDLoss.normalizer='N' is wrong"),
    ],
)
def test_bad_settings_are_named(arguments, says):
    with pytest.raises(ValueError, match=says) as caught:
        CSKDLoss(**arguments)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize('kind', ['GlobalTemperature', 'InstanceTemperature'])
def test_a_learned_temperature_reads_every_position(kind):
    tau = dict(type=f'kd_plugins.{kind}')
    if kind == 'InstanceTemperature':
        tau.update(num_classes=5)
    loss = MODELS.build(dict(type='kd_plugins.CSKDLoss', form='soft', tau=tau))
    loss.set_progress(at(3, 20))
    loss.tau.set_progress(at(3, 20))
    loss(as_map(tokens()), dense_T()).backward()
    assert any(p.grad is not None and p.grad.any() for p in loss.tau.parameters())
