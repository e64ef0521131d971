"""Zipf's label smoothing."""

import math

import numpy as np
import pytest
import torch
from helpers import ROOT, oracles
from helpers.published_networks import classifier, published_key, weight
from helpers.waves import wave
from mmengine.config import Config
from mmengine.optim import OptimWrapper
from mmengine.registry import MODELS, init_default_scope

from kd_plugins.losses import ZipfLoss, vote_ranks, zipf_target

LABELS = torch.tensor([1, 0, 6, 2])
POWER = dict(form='zipf', power=1.5)
LINEAR = dict(form='linear', smallest=1e-3)
EXPONENTIAL = dict(form='exponential', rate=0.3)


def logits():
    """Of 4 samples and 7 classes; the first and the third sample are right."""
    return wave((4, 7), 2, 1.3, 0.2)


def dense(rows=4, columns=4, frequency=0.7):
    shape = (4, 7, rows, columns)
    return wave(shape, 3, frequency, 0.5) + wave(shape, 2, 0.021, 1.6)


SEVERAL = [dense(), dense(8, 6, 0.37)]

# Printed by zipf_loss of pytorch_zipfls/losses.py, megvii-research/zipfls at
# 108e27aaf81aee0dc6dcd965ed6389f2ea06ba10, with its rounding to float32 taken out: the
# loss and its gradient's projection on a wave, with one map and with two, then the same
# for the samples that are right.
PUBLISHED = [
    ('zipf', (1.0834649323411942, 0.05682133631971854), (1.0472229701374176, 0.19946260203287364),
     (1.2368041995704022, 0.30551543828562705), (0.9552443786512578, 0.48569499708751157)),
    (POWER, (1.3771081298518708, 0.0956575350732906), (1.3937597318120136, 0.275324157992374),
     (1.577979744174359, 0.35979901468266395), (1.2215542746087955, 0.6055951874135632)),
    ('constant', (0.7651157226853375, -0.02966102862774355),
     (0.7651157226853375, -0.02966102862774355), (0.7340803969211264, 0.1741685766787937),
     (0.7340803969211264, 0.1741685766787937)),
    (LINEAR, (0.9305402980064962, 0.010778984837632968), (0.868891682406175, 0.20509460841740187),
     (1.0687593875748445, 0.22810090452250736), (0.9186219323882704, 0.4549903573031455)),
    (EXPONENTIAL, (0.9350570744263365, 0.014720831013551539),
     (0.8649750920010628, 0.18409149796173396), (1.0715041038045476, 0.24360528168421675),
     (0.8647448981904867, 0.4407296736719309)),
]  # fmt: skip


@pytest.mark.parametrize('case', PUBLISHED, ids=lambda case: str(case[0]))
def test_agrees_with_the_published_code(case):
    target, *numbers = case
    for number, (value, projection) in enumerate(numbers):
        preds_S = logits().requires_grad_()
        loss = ZipfLoss(target=target, mask=number > 1)
        result = loss(preds_S, SEVERAL if number % 2 else dense(), LABELS)
        result.backward()
        assert result.item() == pytest.approx(value, rel=1e-12)
        against = (preds_S.grad * wave((4, 7), 1, 0.9, 0.1)).sum().item()
        assert against == pytest.approx(projection, rel=1e-9)


# Five steps of CIFAR_ResNet10 of the same repository (cifar_models/resnet.py) as its
# train.py does them, with the weights of helpers.published_networks, upsample bilinear,
# lambda 0.1, SGD of rate 0.02: cross-entropy and Zipf's loss, then sums of magnitudes.
TRAINED = [
    (3.771438943552324, 0.32639103577497736),
    (14.19035950890862, 9.235607469866256),
    (15.879820338434747, 8.105591728189099),
    (15.449587057967534, 7.847506827904239),
    (13.902545033841768, 10.749406040960835),
]
ENDED = {
    'backbone.conv1.weight': 401.86169370188117,
    'backbone.layer4.0.conv1.weight': 30114.371583496424,
    'backbone.layer4.0.bn2.running_var': 454.98317135295747,
    'head.fc.weight': 252.851515691707,
    'head.fc.bias': 2.8775288915532586,
}


def test_a_small_training_is_the_published_one():
    from mmpretrain.structures import DataSample

    init_default_scope('mmpretrain')
    distiller = Config.fromfile(ROOT / 'configs/_base_/distill/zipf.py').distiller
    distiller.student_recorders.dense.upsample = 2
    distiller.distill_losses = dict(loss_zipf=dict(type='kd_plugins.ZipfLoss', loss_weight=0.1))
    model = MODELS.build(
        dict(
            type='kd_plugins.SingleTeacherDistill',
            architecture=dict(classifier('preact10', 10), _scope_='mmpretrain'),
            teacher=None,
            distiller=distiller,
            data_preprocessor=dict(type='BaseDataPreprocessor'),
        )
    )
    model.double().train()
    for key, value in model.state_dict().items():
        value.copy_(weight(published_key(key, 'preact10'), value.shape))
    sgd = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9, weight_decay=1e-4)
    wrapper, draw = OptimWrapper(sgd), np.random.RandomState(7)
    for ce, zipf in TRAINED:
        inputs = torch.from_numpy(draw.standard_normal((4, 3, 32, 32)))
        labels = torch.from_numpy(draw.randint(10, size=4))
        samples = [DataSample().set_gt_label(label) for label in labels]
        log = model.train_step(dict(inputs=inputs, data_samples=samples), wrapper)
        assert log['student.loss'].item() == pytest.approx(ce, rel=1e-9)
        assert log['distill.loss_zipf'].item() == pytest.approx(0.1 * zipf, rel=1e-9)
    state = model.state_dict()
    assert not any('distiller' in key for key in state)
    for key, total in ENDED.items():
        assert state[key].abs().sum().item() == pytest.approx(total, rel=1e-9)


SHARES = {
    'zipf': lambda rank, classes: rank**-1.0,
    'constant': lambda rank, classes: 1.0,
    'linear': lambda rank, classes: (classes - rank) * 2 * (1 - classes * 1e-3)
    / (classes * (classes - 1)) + 1e-3,
    'exponential': lambda rank, classes: math.exp(-0.3 * (rank - 1)),
}  # fmt: skip
SETTINGS = dict(zipf='zipf', constant='constant', linear=LINEAR, exponential=EXPONENTIAL)


def naive(preds_S, maps, labels, form):
    """The losses of the samples, as loops over python numbers."""
    losses = []
    for n, label in enumerate(labels.tolist()):
        votes = [
            max(range(m.shape[1]), key=m[n, :, row, column].tolist().__getitem__)
            for m in maps
            for row in range(m.shape[2])
            for column in range(m.shape[3])
        ]
        z = preds_S[n].tolist()
        counts = [votes.count(c) for c in range(len(z))]
        ranks = [1 + sum(other > count for other in counts) for count in counts]
        others = [c for c in range(len(z)) if c != label]
        shares = [SHARES[form](ranks[c], len(z)) for c in others]
        p = [share / sum(shares) for share in shares]
        losses.append(oracles.kl(p, oracles.softmax([z[c] for c in others], 1)))
    return losses


@pytest.mark.parametrize('form', SHARES)
@pytest.mark.parametrize('maps', [[dense(1, 1)], [dense(2, 3)], SEVERAL], ids=len)
def test_is_the_naive_loop(form, maps):
    losses = naive(logits(), maps, LABELS, form)
    loss = ZipfLoss(0.5, SETTINGS[form])(logits(), maps, LABELS)
    assert loss.item() == pytest.approx(0.5 * oracles.batch_of(losses), rel=1e-12)
    masked = ZipfLoss(0.5, SETTINGS[form], mask=True)(logits(), maps, LABELS)
    assert masked.item() == pytest.approx(0.5 * (losses[0] + losses[2]) / 2, rel=1e-12)


def test_ranks_are_scipys():
    from scipy.stats import rankdata

    generator = torch.Generator().manual_seed(0)
    for classes, positions in ((3, 1), (10, 64), (1000, 49)):
        # Few favourites, so that there are ties among them, too.
        votes = torch.randint(classes // 2 + 1, (5, positions), generator=generator)
        counts = np.array([np.bincount(row, minlength=classes) for row in votes.numpy()])
        wanted = rankdata(-counts, axis=1, method='min')
        assert np.array_equal(vote_ranks(votes, classes).numpy(), wanted)


def test_the_target_is_a_distribution_over_the_others_that_falls_with_the_rank():
    ranks = torch.tensor([[1, 4, 2, 4, 2], [1, 1, 1, 4, 5]]).double()
    labels = torch.tensor([2, 3])
    for form, setting in SETTINGS.items():
        settings = {} if isinstance(setting, str) else dict(setting)
        settings.pop('form', None)
        target = zipf_target(ranks, labels, form, **(settings or dict(power=1.0)))
        torch.testing.assert_close(target.sum(1), torch.ones(2).double())
        assert (
            target[0, 2] == target[1, 3] == 0 and (target.scatter(1, labels[:, None], 1) > 0).all()
        )
        assert target[0, 1] == target[0, 3] and target[1, 0] == target[1, 1] == target[1, 2]
        assert (target[0, 0] > target[0, 4] > target[0, 1]) == (form != 'constant')
    assert target[0, 4] / target[0, 0] == pytest.approx(math.exp(-0.3))


def test_half_precision_and_extremes_stay_finite():
    exact = ZipfLoss()(logits(), dense(), LABELS)
    for dtype in (torch.bfloat16, torch.float16):
        preds_S = logits().to(dtype).requires_grad_()
        loss = ZipfLoss()(preds_S, dense().to(dtype), LABELS)
        loss.backward()
        assert loss.dtype == torch.float32
        assert loss.item() == pytest.approx(exact.item(), rel=0.05)
        assert torch.isfinite(preds_S.grad).all()
    # A network that is certain, rightly or wrongly, and a target that underflows.
    for scale in (1e4, -1e4):
        preds_S = (scale * logits().float()).requires_grad_()
        for target in ('zipf', dict(form='exponential', rate=500.0)):
            loss = ZipfLoss(target=target)(preds_S, dense(), LABELS)
            loss.backward()
            assert torch.isfinite(loss) and torch.isfinite(preds_S.grad).all()


def test_gradients_are_the_slopes():
    preds_S = logits().requires_grad_()
    for form in SETTINGS.values():
        for mask in (False, True):
            loss = ZipfLoss(target=form, mask=mask)
            assert torch.autograd.gradcheck(lambda z, of=loss: of(z, dense(), LABELS), preds_S)


def test_the_right_class_and_the_votes_get_no_gradient():
    preds_S, votes = logits().requires_grad_(), dense().requires_grad_()
    ZipfLoss()(preds_S, votes, LABELS).backward()
    assert votes.grad is None
    right = preds_S.grad.gather(1, LABELS[:, None])
    assert not right.any() and (preds_S.grad != 0).sum() == 4 * 6


def test_empty_batches_two_classes_and_nobody_right():
    preds_S = torch.zeros(0, 5, requires_grad=True)
    loss = ZipfLoss()(preds_S, torch.zeros(0, 5, 2, 2), torch.zeros(0, dtype=torch.int64))
    loss.backward()
    assert loss == 0 and preds_S.grad.shape == (0, 5)
    pair = torch.randn(3, 2, requires_grad=True)
    loss = ZipfLoss()(pair, torch.randn(3, 2, 2, 2), torch.tensor([0, 1, 1]))
    loss.backward()
    assert loss == 0 and not pair.grad.any()
    preds_S = logits().requires_grad_()
    wrong = (preds_S.detach().argmax(1) + 1) % 7
    loss = ZipfLoss(mask=True)(preds_S, dense(), wrong)
    loss.backward()
    assert loss == 0 and not preds_S.grad.any()


def test_what_is_logged_counts_votes():
    votes = torch.nn.functional.one_hot(torch.tensor([[[1, 1], [1, 2]], [[0, 0], [0, 0]]]), 4)
    maps = votes.movedim(-1, 1).double()
    seen = ZipfLoss().diagnose(torch.zeros(2, 4).double(), maps, torch.tensor([1, 3]))
    assert seen['voted_classes'] == 1.5 and seen['right_votes'] == 37.5


@pytest.mark.parametrize(
    'settings, says',
    [
        (dict(target='pareto'), r"ZipfLoss\.target='pareto' is wrong: give 'zipf' or"),
        (dict(target=dict(power=2)), r'ZipfLoss\.target=None is wrong'),
        (
            dict(target=dict(form='linear', power=2)),
            r"power=2 is wrong: give smallest beside form='linear'",
        ),
        (dict(target=dict(form='constant', power=2)), r"give nothing beside form='constant'"),
        (dict(target=dict(form='zipf', power=0)), r'ZipfLoss\.target\.power=0 is wrong: .*above 0'),
        (dict(mask='yes'), r"ZipfLoss\.mask='yes' is wrong: give True or False"),
        (dict(loss_weight=-1), r'ZipfLoss\.loss_weight=-1'),
    ],
)
def test_bad_settings_are_named(settings, says):
    with pytest.raises(ValueError, match=says):
        ZipfLoss(**settings)


def test_mixed_labels_and_other_shapes_are_named():
    one_hot = torch.nn.functional.one_hot(LABELS, 7).double()
    with pytest.raises(
        ValueError, match=r'are one-hot rows of shape .* out data_preprocessor\.to_'
    ):
        ZipfLoss()(logits(), dense(), one_hot)
    mixed = 0.7 * one_hot + 0.3 * one_hot.flip(0)
    several = (one_hot + one_hot.roll(1, 1)).clamp(max=1)
    for labels in (mixed, several, LABELS.double(), LABELS[:3]):
        with pytest.raises(ValueError, match=r'gt_labels has shape .* leave out mixup, CutMix'):
            ZipfLoss()(logits(), dense(), labels)
    for maps in (dense()[:, :6], dense()[:3], dense().flatten(2), [dense(), dense()[:2]]):
        with pytest.raises(ValueError, match=r"dense_S has .* type='kd_plugins\.DenseLogits'"):
            ZipfLoss()(logits(), maps, LABELS)
    with pytest.raises(ValueError, match='needs at least 2 classes'):
        ZipfLoss()(torch.zeros(2, 1), torch.zeros(2, 1, 2, 2), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ValueError, match=r'smallest=0\.2 is wrong: give at most 1 / 7, for 7'):
        ZipfLoss(target=dict(form='linear', smallest=0.2))(logits(), dense(), LABELS)
