"""CTC: the losses of both stages, the memories, the negatives."""

import copy
import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from kd_plugins.losses import CTCLoss, nce_loss
from kd_plugins.losses.ctc import OtherClasses

N = 12


def wave(shape, scale, frequency, phase):
    """The same numbers on every machine."""
    steps = torch.arange(math.prod(shape), dtype=torch.float64)
    return (scale * torch.sin(frequency * steps + phase)).view(shape)


def samples(rows):
    return [SimpleNamespace(sample_idx=int(row)) for row in rows]


def ctc(**changes):
    loss = CTCLoss(**dict(dict(samples=N, channels=5, negatives=6, embed_dims=4), **changes))
    loss.set_classes([i % 3 for i in range(N)], 0)
    loss.double()
    loss.state.tensors['memory_1'].copy_(wave((N, 4), 0.8, 1.7, 0.3))
    loss.state.tensors['projector_weight'].copy_(wave((4, 5), 0.5, 1.9, 0.1))
    loss.state.tensors['projector_bias'].copy_(wave((4,), 0.3, 0.6, 0.2))
    return loss


def set_maps(loss):
    for linear, phase in ((loss.embed_S, 0.5), (loss.embed_T, 1.5)):
        linear.weight.data = wave((4, 5), 0.6, 2.1, phase)
        linear.bias.data = wave((4,), 0.3, 1.1, phase)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.fc = nn.Linear(6, 5), nn.Linear(5, 3)
        self.double()
        self.body.weight.data = wave((5, 6), 0.8, 1.1, 0.2)
        self.body.bias.data = wave((5,), 0.5, 0.9, 0.1)
        self.fc.weight.data = wave((3, 5), 0.7, 1.3, 0.4)
        self.fc.bias.data = wave((3,), 0.2, 0.8, 0.3)


X = wave((N, 6), 2, 0.7, 0.5)
Y = torch.arange(N) % 3


def batches(epoch):
    """The samples of every step, and their negatives."""
    order = [(7 * i + 3 * epoch) % N for i in range(N)]
    for b in range(0, N, 4):
        drawn = []
        for i in order[b : b + 4]:
            others = [j for j in range(N) if j % 3 != i % 3]
            k = (i + epoch) % len(others)
            drawn.append((others[k:] + others[:k])[:6])
        yield torch.tensor(order[b : b + 4]), torch.tensor(drawn)


# Printed by train_ctc and update_memory_bank of helper/loops.py, with LinearAverage and
# ContrastiveLoss of ctc/, DTennant/dt-tradeoff at a36516be7d83, in float64 on a CPU, with the
# constants of its README for transferability: two epochs of three steps in each stage, on the
# network, batches, negatives and starts above. Mean losses by epoch; then weights and memories.
LOSSES = [2.667110727769812, 2.258613704982382, 6.54079321622084, 2.541320788432268]
RATES = [0.0375, 0.0125, 0.00375, 0.00125]
AFTER_ONE = dict(
    memory_1=[0.14288015171431304, 0.8009805213307742, -0.39922779024476207, -0.4226495453576878],
    body=[0.3975957822445372, 0.7966149063781822, 0.32368771896067483, -0.5066327534943871,
          -0.7875077011305227, -0.210558179243516],
)  # fmt: skip
NORMALISERS = [4007.942834794636, 6759.219185801412]
AFTER_TWO = dict(
    body=[0.4001265507897369, 0.7965142291435838, 0.3210384697894943, -0.5105699358051962,
          -0.7909033266161658, -0.2118500531246287],
    embed_S=[0.19759542365170335, -0.6985042159362063, 0.22311182397696125, 0.1837581418623892,
             -0.6172554964519772],
    embed_T=[0.26869126326932447, 0.1545330260706742, -0.07948488834958564, -0.3181413284323814],
    memory_1=[0.8096422475125226, 0.238267913293293, -0.3539583819962785, 0.40301525573147673],
    memory_2=[0.57420845503191, 0.46681766594060964, -0.6570470274029215, -0.14371889477940192],
)  # fmt: skip


def near(values):
    return pytest.approx(values, rel=1e-9)


def test_a_small_training_through_both_stages_is_the_published_one(monkeypatch):
    student, loss = Net(), ctc()
    sgd = torch.optim.SGD(
        [*student.parameters(), *loss.parameters()], lr=0.05, momentum=0.9, weight_decay=1e-3
    )
    bank, means = None, []
    for epoch in range(1, 5):
        if epoch == 3:
            kept = loss.state.kept()
            assert kept['memory_1'][0].tolist() == near(AFTER_ONE['memory_1'])
            assert student.body.weight[1].tolist() == near(AFTER_ONE['body'])
            bank = copy.deepcopy(student)
            loss.begin_stage_two()
            set_maps(loss)
            for p in loss.parameters():
                sgd.state.pop(p, None)
            for rows, _ in batches(100):
                loss.refresh(samples(rows), torch.tanh(bank.body(X[rows])).detach())
        for group in sgd.param_groups:
            group.update(lr=RATES[epoch - 1], weight_decay=1e-3 if epoch < 3 else 5e-4)
        totals = []
        for rows, drawn in batches(epoch):
            monkeypatch.setattr(loss, 'draw', lambda given, drawn=drawn: drawn)
            features = torch.tanh(student.body(X[rows]))
            task = nn.functional.cross_entropy(student.fc(features), Y[rows])
            of_bank = torch.tanh(bank.body(X[rows])).detach() if bank else None
            total = task + loss(features, samples(rows), of_bank)
            sgd.zero_grad()
            total.backward()
            sgd.step()
            totals.append(total.item())
        means.append(sum(totals) / 3)
        if epoch == 3:
            assert loss.state.tensors['log_normaliser'].exp().tolist() == near(NORMALISERS)
    assert means == near(LOSSES)
    kept = loss.state.kept()
    got = dict(
        body=student.body.weight[1],
        embed_S=loss.embed_S.weight[2],
        embed_T=loss.embed_T.bias,
        memory_1=kept['memory_1'][5],
        memory_2=kept['memory_2'][5],
    )
    for name, values in AFTER_TWO.items():
        assert got[name].tolist() == near(values), name


def test_nce_is_the_naive_loop():
    p = wave((3, 5), 0.4, 1.3, 0.2).abs() + 0.01
    for row, got in zip(p.tolist(), nce_loss(p.log(), 50).tolist(), strict=True):
        noise = 4 / 50
        expected = -math.log(row[0] / (row[0] + noise + 1e-7)) - sum(
            math.log(noise / (q + noise + 1e-7)) for q in row[1:]
        )
        assert got == pytest.approx(expected, rel=1e-12)


def test_gradients_are_finite_differences_of_the_value(monkeypatch):
    log_p = wave((3, 5), 3, 1.3, 0.2).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: nce_loss(x, 50), log_p)
    rows, drawn = next(batches(1))
    features = wave((4, 5), 1, 0.7, 0.1).requires_grad_()
    loss = ctc().eval()
    assert torch.autograd.gradcheck(lambda f: loss(f, samples(rows)), features)
    loss.begin_stage_two()
    monkeypatch.setattr(loss, 'draw', lambda given: drawn)
    bank = wave((4, 5), 1, 0.9, 0.6)
    loss(features, samples(rows), bank)  # fixes Z
    parameters = [features, loss.embed_S.weight, loss.embed_T.bias]
    assert torch.autograd.gradcheck(lambda *_: loss(features, samples(rows), bank), parameters)


def test_evaluation_leaves_the_memories_alone():
    rows, _ = next(batches(1))
    features, loss = wave((4, 5), 1, 0.7, 0.1), ctc()
    before = {k: v.clone() for k, v in loss.state.kept().items()}
    loss.eval()(features.requires_grad_(), samples(rows))
    with torch.no_grad():
        loss.train()(features, samples(rows))
    assert all(torch.equal(before[k], v) for k, v in loss.state.kept().items() if 'log' not in k)
    loss(features, samples(rows)).backward()
    changed = (before['memory_1'] != loss.state.kept()['memory_1']).any(dim=1)
    assert changed.nonzero().flatten().tolist() == sorted(rows.tolist())


@pytest.mark.parametrize('classes', [[[0, 1]] * N, [-1] * 3 + [0] * (N - 3)])
def test_classes_that_are_not_one_a_sample_are_refused(classes):
    with pytest.raises(ValueError, match='of one class a sample, counted from 0; this one has'):
        ctc().set_classes(classes, 0)


def test_a_sample_that_comes_twice_counts_once():
    loss = ctc()
    values = wave((3, 4), 1, 0.7, 0.1)
    before = loss.state.tensors['memory_2'][7].clone()
    loss.state.update('memory_2', torch.tensor([7, 2, 7]), values, 0.5)
    expected = nn.functional.normalize(0.5 * before + 0.5 * values[2], dim=0)
    torch.testing.assert_close(loss.state.tensors['memory_2'][7], expected)


def test_a_step_that_overflows_leaves_the_memories_and_z_as_they_were():
    """It would stay in a row, and in every loss from then on."""
    rows = torch.tensor([3, 8])
    features, bad = wave((2, 5), 1, 0.7, 0.1), wave((2, 5), 1, 0.7, 0.1)
    bad[0, 2] = math.inf
    loss = ctc()
    before = loss.state.tensors['memory_1'].clone()
    assert not loss(bad.requires_grad_(), samples(rows)).isfinite()
    changed = (loss.state.kept()['memory_1'] != before).any(dim=1)
    assert changed.nonzero().flatten().tolist() == [8]
    assert loss(features, samples(rows)).isfinite()
    loss.begin_stage_two()
    loss.double()
    assert not loss(bad, samples(rows), features).isfinite()
    assert loss(features.requires_grad_(), samples(rows), features).isfinite()
    assert all(value.isfinite().all() for value in loss.state.kept().values())


@pytest.mark.parametrize('classes', [[i % 3 for i in range(30)], [0] * 20 + [1] * 9 + [4]])
@pytest.mark.parametrize('number', [1, 6, 12, 25, 40])
def test_negatives_are_of_other_classes_and_even(classes, number):
    """Balanced or not; without replacement where there are enough."""
    classes = torch.tensor(classes)
    rows = torch.arange(30).repeat(300)
    drawn = OtherClasses(classes).draw(rows, number, torch.Generator().manual_seed(0))
    assert drawn.shape == (9000, number)
    assert (classes[drawn] != classes[rows][:, None]).all()
    for row in (0, 28, 29):
        others = (classes != classes[row]).nonzero().flatten()
        mine = drawn[rows == row]
        unique = [len(set(each)) for each in mine.tolist()]
        if len(others) >= number:
            assert set(unique) == {number}
        counts = torch.bincount(mine.flatten(), minlength=30)[others].double()
        expected = 300 * number / len(others)
        # Five deviations of a binomial count.
        share = min(number / len(others), 1)
        spread = 5 * math.sqrt(max(expected * (1 - share if number <= len(others) else 1), 1e-9))
        assert (counts - expected).abs().max() <= spread + 1e-6
    again = OtherClasses(classes).draw(rows, number, torch.Generator().manual_seed(0))
    assert torch.equal(drawn, again)


def test_every_step_draws_others_and_the_students_draws_are_untouched():
    from kd_plugins.structures import Progress

    loss, rows = ctc(), torch.arange(4)
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    drawn = []
    for step in (0, 1, 1):
        loss.set_progress(Progress(step, 10, 0, 1))
        drawn.append(loss.draw(rows))
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(drawn[1], drawn[2]) and not torch.equal(drawn[0], drawn[1])


def test_it_does_not_train_a_single_stage_without_its_hook():
    loss = CTCLoss(samples=N, channels=5, negatives=6, embed_dims=4).double()
    with pytest.raises(
        ValueError, match=r'does not know the classes.*add default_hooks=dict\(ctc='
    ):
        loss(wave((2, 5), 1, 0.7, 0.1), samples([3, 8]))


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32])
def test_extreme_features_stay_finite(dtype):
    loss = CTCLoss(samples=N, channels=5, negatives=6, embed_dims=4, nce_tau=0.02)
    loss.set_classes([i % 3 for i in range(N)], 0)
    rows, _ = next(batches(1))
    features = (300 * wave((4, 5), 1, 0.7, 0.1)).to(dtype)
    for stage in (1, 2):
        if stage == 2:
            loss.begin_stage_two()
        given = features.clone().requires_grad_()
        with torch.autocast('cpu', torch.bfloat16):
            value = loss(given, samples(rows), -features)
        value.backward()
        assert value.dtype == torch.float32 and torch.isfinite(value)
        assert torch.isfinite(given.grad).all()
        assert all(torch.isfinite(p.grad).all() for p in loss.parameters())


def test_an_empty_batch_is_zero_with_a_gradient():
    for stage in (1, 2):
        loss = ctc()
        if stage == 2:
            loss.begin_stage_two()
        features = torch.zeros(0, 5, dtype=torch.float64, requires_grad=True)
        value = loss(features, [], features.detach())
        value.backward()
        assert value.item() == 0 and features.grad.shape == (0, 5)


def test_weights_are_factors_and_zero_has_a_graph():
    rows, _ = next(batches(1))
    features = wave((4, 5), 1, 0.7, 0.1).requires_grad_()
    one = ctc(alpha=0.5)(features, samples(rows)).item()
    assert ctc(alpha=1.0, loss_weight=3.0)(features, samples(rows)).item() == near(6 * one)
    ctc(alpha=0.0)(features, samples(rows)).backward()
    assert not features.grad.any()


@pytest.mark.parametrize(
    ('settings', 'says'),
    [
        (dict(samples=1), r'CTCLoss\.samples=1'),
        (dict(negatives=0), r'CTCLoss\.negatives=0'),
        (dict(nce_tau=0), r'CTCLoss\.nce_tau=0'),
        (dict(instance_momentum=1.5), r'CTCLoss\.instance_momentum=1\.5'),
        (dict(alpha=-1), r'CTCLoss\.alpha=-1'),
    ],
)
def test_bad_settings_are_refused_by_name(settings, says):
    with pytest.raises(ValueError, match=says):
        CTCLoss(**dict(dict(samples=N, channels=5), **settings))


def test_samples_without_a_place_are_refused():
    features = torch.zeros(2, 5, dtype=torch.float64)
    for given in ([SimpleNamespace()] * 2, samples([0, 12]), samples([0]), None):
        with pytest.raises(ValueError, match=r'needs the place of every sample.*sample_idx'):
            ctc()(features, given)
    with pytest.raises(ValueError, match=r'CTCLoss\.channels=5.*\(2, 4\)'):
        ctc()(features[:, :4], samples([0, 1]))
    with pytest.raises(ValueError, match=r'samples=12 is wrong: the training set has 3'):
        ctc().set_classes([0, 1, 2], 0)
    with pytest.raises(ValueError, match='all of the training set are of one'):
        ctc().set_classes([1] * 12, 0)
