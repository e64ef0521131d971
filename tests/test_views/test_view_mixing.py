"""Mixup, CutMix and ResizeMix of single samples, beside mmpretrain's of batches."""

import copy

import numpy as np
import pytest
import torch
from helpers.view_data import (
    Photos,
    disturb,
    every_view,
    of_batches,
    repeatable,
    stock,
    train_data,
)
from mmengine.hub import get_config
from mmengine.registry import DATASETS, MODELS, init_default_scope
from mmengine.runner import Runner
from scipy import stats

from kd_plugins.views import SampleMix, SampleView, check_no_batch_augments
from kd_plugins.views.mixing import _mixed

AUGMENTS = dict(
    mixup=dict(type='Mixup', alpha=0.8),
    mixup_thin=dict(type='Mixup', alpha=0.2),
    cutmix=dict(type='CutMix', alpha=1.0),
    cutmix_uncorrected=dict(type='CutMix', alpha=1.0, correct_lam=False),
    cutmix_minmax=dict(type='CutMix', alpha=1.0, cutmix_minmax=[0.2, 0.8]),
    resizemix=dict(type='ResizeMix', alpha=1.0),
)
SIZE = 16


@DATASETS.register_module(force=True)
class Levels(Photos):
    """Picture i is i everywhere, and its class is i: a mixture tells what is in it."""

    METAINFO = dict(classes=tuple(map(str, range(SIZE))))

    def __init__(self, **kwargs):
        super().__init__(size=SIZE, shape=(20, 24, 3), pipeline=[dict(type='PackInputs')], **kwargs)

    def load_data_list(self):
        return [
            dict(img=np.full(self.shape, 10 * i, dtype=np.uint8), gt_label=i) for i in range(SIZE)
        ]


def levels(augments, views=1, **mix):
    init_default_scope('mmpretrain')
    return repeatable(dict(type='Levels'), views=views, mix=dict(augments=augments, **mix))


def built(name):
    from mmpretrain.registry import BATCH_AUGMENTS

    return BATCH_AUGMENTS.build(copy.deepcopy(AUGMENTS[name]))


def shares(dataset, views):
    """What part of each mixture is the sample itself, and which the partner is."""
    own, partners = [], []
    for view in range(views):
        for index in range(SIZE):
            score = dataset[SampleView(index, view)]['data_samples'].gt_score
            assert float(score.sum()) == pytest.approx(1, abs=1e-6)
            rest = score.clone()
            rest[index] = 0
            if float(rest.sum()) > 1e-6:
                assert (rest > 0).sum() == 1
                own.append(float(score[index]))
                partners.append((index, int(rest.argmax())))
    return own, partners


def batches_shares(name, number):
    """What part upstream leaves of the first picture of a batch: one value a batch."""
    augment, found = built(name), []
    inputs = torch.zeros(8, 1, 20, 24)
    disturb(11)
    for _ in range(number):
        _, scores = augment(inputs.clone(), torch.eye(8))
        mixed = scores[scores.max(1).values < 1]
        if len(mixed):
            rows = [i for i in range(8) if scores[i].max() < 1]
            found.append(float(scores[rows[0], rows[0]]))
    return found


@pytest.mark.parametrize('name', AUGMENTS)
def test_the_ratio_has_the_law_of_upstreams(name):
    dataset = levels(AUGMENTS[name], views=80)
    own, _ = shares(dataset, 80)
    theirs = batches_shares(name, 1200)
    # The laws are discrete where boxes are; the test is then on the safe side.
    assert stats.ks_2samp(own, theirs).pvalue > 0.01 and len(own) > 700
    if name.startswith('mixup'):
        alpha = AUGMENTS[name]['alpha']
        # Of a partner that is the sample itself one sees nothing.
        assert stats.kstest(own, stats.beta(alpha, alpha).cdf).pvalue > 0.01
    else:
        assert stats.ks_2samp(own, batches_shares('mixup_thin', 1200)).pvalue < 1e-6


def test_every_partner_is_as_likely_and_every_picture_has_a_ratio_of_its_own():
    own, partners = shares(levels(AUGMENTS['mixup'], views=100), 100)
    counts = np.zeros((SIZE, SIZE))
    for pair in partners:
        counts[pair] += 1
    off_diagonal = counts[~np.eye(SIZE, dtype=bool)]
    assert stats.chisquare(off_diagonal).pvalue > 0.01
    # The sample itself, one time in sixteen.
    assert abs(1 - len(partners) / 1600 - 1 / SIZE) < 3 * np.sqrt(1 / SIZE / 1600)
    assert len(set(own)) > 0.95 * len(own)


@pytest.mark.parametrize('probs', [None, [0.2, 0.5], [0.0, 1.0], 0.3])
def test_augments_are_as_likely_as_upstreams(probs):
    names = ['mixup', 'cutmix'] if not isinstance(probs, float) else ['mixup']
    given = copy.deepcopy(probs)
    dataset = levels([AUGMENTS[name] for name in names], views=60, probs=given)
    assert given == probs  # upstream's own adds to the list
    counts = dict(mixup=0, cutmix=0, none=0)
    for view in range(60):
        for index in range(SIZE):
            sample = dataset[SampleView(index, view)]
            score, picture = sample['data_samples'].gt_score, sample['inputs']
            assert picture.dtype == torch.float32
            if float(score[index]) == 1 and bool((picture == 10 * index).all()):
                counts['none'] += 1
            elif len(picture.unique()) == 1:
                counts['mixup'] += 1
            else:
                counts['cutmix'] += 1
    wanted = [0.5, 0.5] if probs is None else [probs] if isinstance(probs, float) else probs
    total = 60 * SIZE
    # A mixture with itself shows as none; of CutMix some whole or empty boxes, too.
    whole = dict(mixup=0, cutmix=0.03)
    for name, share in zip(names, wanted, strict=True):
        seen = share * (1 - 1 / SIZE)
        slack = 4 * np.sqrt(max(seen * (1 - seen), 0.001) / total)
        assert abs(counts[name] / total - seen) < slack + whole[name]


@pytest.mark.parametrize('name', AUGMENTS)
def test_a_mixture_is_upstreams_of_a_batch_of_two_to_the_bit(name, monkeypatch):
    init_default_scope('mmpretrain')
    augment = built(name)
    monkeypatch.setattr(torch, 'randperm', lambda n: torch.tensor([1, 0]))
    generator = torch.Generator().manual_seed(0)
    for seed in range(40):
        pictures = torch.rand(2, 3, 20, 24, generator=generator)
        before = pictures.clone()
        np.random.seed(seed)
        ours, share = _mixed(augment, pictures[0], pictures[1])
        assert torch.equal(pictures, before)
        np.random.seed(seed)
        theirs, scores = augment(before.clone(), torch.eye(2))
        assert torch.equal(ours, theirs[0])
        torch.testing.assert_close(torch.tensor([share, 1 - share]), scores[0])


@pytest.mark.parametrize('name', AUGMENTS)
def test_mixing_before_the_normalisation_comes_to_the_same(name, monkeypatch):
    init_default_scope('mmpretrain')
    settings = dict(
        type='ClsDataPreprocessor', mean=[123.7, 116.3, 103.5], std=[58.4, 57.1, 57.4],
        to_rgb=True, num_classes=SIZE,
    )  # fmt: skip
    upstream = MODELS.build(dict(settings, batch_augments=dict(augments=[AUGMENTS[name]])))
    dataset = DATASETS.build(dict(type='Photos', size=SIZE, pipeline=[dict(type='PackInputs')]))
    mix = SampleMix(AUGMENTS[name], num_classes=SIZE)
    monkeypatch.setattr(torch, 'randperm', lambda n: torch.tensor([1, 0]))
    batch = [dataset[3], dataset[7]]
    monkeypatch.setattr(np.random, 'randint', partner_first(7, np.random.randint))
    np.random.seed(4)
    ours = mix(dataset[3], dataset)
    np.random.seed(4)
    wanted = upstream(
        dict(
            inputs=[each['inputs'] for each in batch],
            data_samples=[each['data_samples'] for each in batch],
        ),
        training=True,
    )  # fmt: skip
    got = MODELS.build(settings)(
        dict(inputs=[ours['inputs']], data_samples=[ours['data_samples']]), training=True
    )
    torch.testing.assert_close(got['inputs'][0], wanted['inputs'][0], rtol=1e-5, atol=1e-5)
    got, wanted = got['data_samples'][0], wanted['data_samples'][0]
    torch.testing.assert_close(got.gt_score, wanted.gt_score)
    assert torch.equal(got.gt_label, wanted.gt_label) and got.num_classes == wanted.num_classes


def partner_first(partner, randint):
    """Give the partner without drawing, then draw the boxes."""
    calls = []

    def drawn(*args, **kwargs):
        calls.append(args)
        return partner if len(calls) == 1 else randint(*args, **kwargs)

    return drawn


def test_upstreams_loss_takes_the_soft_labels():
    init_default_scope('mmpretrain')
    cfg = dict(
        type='kd_plugins.RepeatableViews', views=1,
        dataset=dict(type='Levels'), mix=dict(augments=AUGMENTS['mixup']),
    )  # fmt: skip
    loader = Runner.build_dataloader(
        dict(dataset=cfg, batch_size=5, num_workers=0, sampler=dict(type='DefaultSampler')), seed=0
    )
    batch = next(iter(loader))
    model = MODELS.build(
        dict(
            type='ImageClassifier',
            backbone=dict(type='ResNet_CIFAR', depth=18, stem_channels=4, base_channels=4),
            neck=dict(type='GlobalAveragePooling'),
            head=dict(
                type='LinearClsHead', num_classes=SIZE, in_channels=32,
                loss=dict(type='CrossEntropyLoss', use_soft=True),
            ),
            data_preprocessor=dict(mean=[100.0] * 3, std=[50.0] * 3),
        )
    )  # fmt: skip
    # Its batch statistics would be other ones the second time.
    model.double().eval()
    scores = torch.stack([said.gt_score for said in batch['data_samples']])
    assert (scores.max(1).values < 1).sum() >= 3
    data = model.data_preprocessor(batch, True)
    inputs = data['inputs'].double().requires_grad_()
    loss = model.loss(inputs, data['data_samples'])['loss']
    (got,) = torch.autograd.grad(loss, inputs)
    logits = model.head(model.extract_feat(inputs))
    oracle = -(scores.double() * logits.log_softmax(1)).sum(1).mean()
    (wanted,) = torch.autograd.grad(oracle, inputs)
    torch.testing.assert_close(loss, oracle)
    torch.testing.assert_close(got, wanted)


def test_deits_recipe_comes_again_in_any_worker(tmp_path):
    init_default_scope('mmpretrain')
    path = 'mmpretrain::deit/deit-small_4xb256_in1k.py'
    mix = dict(get_config(path).model.train_cfg)
    assert [each['type'] for each in mix['augments']] == ['Mixup', 'CutMix']
    cfg = dict(type='kd_plugins.RepeatableViews', dataset=stock(path, tmp_path), views=2, mix=mix)
    dataset = DATASETS.build(copy.deepcopy(cfg))
    wanted = every_view(dataset, 0)
    disturb(3)
    assert every_view(dataset, 1) == wanted
    loader = dict(train_data(path), dataset=cfg, batch_size=2, num_workers=2)
    made, found = Runner.build_dataloader(loader, seed=1), {}
    for epoch in range(2):
        made.sampler.set_epoch(epoch)
        found.update(of_batches(made))
    assert found == wanted and len({each[2] for each in wanted.values()}) == len(wanted)
    plain = every_view(repeatable(cfg['dataset'], views=2))
    assert all(plain[key] != wanted[key] for key in wanted)


def test_a_partner_is_made_anew_and_the_sample_is_as_without_mixing():
    init_default_scope('mmpretrain')
    crops = [dict(type='RandomCrop', crop_size=8), dict(type='PackInputs')]
    cfg = dict(type='Photos', pipeline=crops)
    mixed = repeatable(cfg, views=3, mix=dict(augments=AUGMENTS['mixup'], probs=[0.5]))
    plain = every_view(repeatable(cfg, views=3))
    same = 0
    for (index, view), (_, _, picture, _) in plain.items():
        bytes_of = mixed[SampleView(index, view)]['inputs'].to(torch.uint8).numpy().tobytes()
        same += bytes_of == picture
    assert 8 < same < 28


def test_several_labels_a_picture_and_labels_that_are_scores():
    from mmpretrain.structures import DataSample

    init_default_scope('mmpretrain')

    class Held(list):
        metainfo = dict(classes=('a', 'b', 'c'))

    several = Held(
        dict(inputs=torch.zeros(3, 4, 4), data_samples=DataSample().set_gt_label(labels))
        for labels in ([0, 2], [1], [0])
    )
    mix = SampleMix(AUGMENTS['mixup'])
    np.random.seed(0)
    scores = [
        mix(dict(several[0], data_samples=several[0]['data_samples'].clone()), several)
        for _ in range(20)
    ]
    scores = torch.stack([each['data_samples'].gt_score for each in scores])
    assert torch.equal(scores.sum(1) > 1 - 1e-6, torch.ones(20, dtype=torch.bool))
    assert float(scores.sum(1).max()) == 2.0 and float(scores.sum(1).min()) < 2.0
    soft = torch.tensor([0.5, 0.3, 0.2])
    scored = Held([dict(inputs=torch.zeros(3, 4, 4), data_samples=DataSample().set_gt_score(soft))])
    torch.testing.assert_close(mix(dict(scored[0]), scored)['data_samples'].gt_score, soft)


@pytest.mark.parametrize(
    'mix, message',
    [
        (dict(augments=dict(type='Mixup', alpha=1.0), probs=[0.5, 0.5]), r'mix\.probs='),
        (dict(augments=dict(type='Mixup', alpha=1.0), probs=[1.5]), r'mix\.probs='),
        (dict(augments=dict(type='Mixup', alpha=1.0), probs=[-0.5]), r'mix\.probs='),
        (dict(augments=dict(type='Mixup', alpha=1.0), num_classes=0), r'mix\.num_classes=0'),
        (dict(augments=[dict(type='ThirdParty')]), r"augments\[0\]\.type='ThirdParty' is wrong"),
    ],
)
def test_wrong_settings_are_refused(mix, message):
    from mmpretrain.models import Mixup
    from mmpretrain.registry import BATCH_AUGMENTS

    @BATCH_AUGMENTS.register_module(force=True)
    class ThirdParty(Mixup):
        def __init__(self):
            super().__init__(1.0)

    init_default_scope('mmpretrain')
    with pytest.raises(ValueError, match=message) as error:
        SampleMix(**mix)
    assert len(str(error.value).splitlines()) == 1


def test_what_cannot_be_mixed_is_refused(tmp_path):
    init_default_scope('mmpretrain')
    mix = dict(augments=AUGMENTS['mixup'])
    path = 'mmpretrain::resnet/resnet50_8xb32_in1k.py'
    ragged = dict(
        stock(path, tmp_path), pipeline=[dict(type='LoadImageFromFile'), dict(type='PackInputs')]
    )
    with pytest.raises(ValueError, match='mixes pictures of one size, and two have'):
        [repeatable(dict(ragged), mix=mix)[i] for i in range(6)]

    class Nameless(list):
        pass

    from mmpretrain.structures import DataSample

    sample = dict(inputs=torch.zeros(3, 4, 4), data_samples=DataSample())
    with pytest.raises(ValueError, match='mixes pictures with classes, and the dataset gives'):
        SampleMix(**mix)(sample, Nameless([sample]))
    sample['data_samples'].set_gt_label(1)
    with pytest.raises(ValueError, match='needs the number of classes'):
        SampleMix(**mix)(sample, Nameless([sample]))
    out = SampleMix(**mix, num_classes=3)(dict(sample), Nameless([sample]))
    assert out['data_samples'].gt_score.tolist() == [0, 1, 0]


def test_augments_of_a_batch_are_refused_beside_what_is_kept():
    init_default_scope('mmpretrain')
    preprocessor = MODELS.build(
        dict(
            type='ClsDataPreprocessor',
            num_classes=3,
            batch_augments=dict(augments=[AUGMENTS['cutmix']], probs=[0.5]),
        )
    )
    with pytest.raises(ValueError, match=r"batch_augments=\['CutMix'\].*teacher_cache.*mix=") as e:
        check_no_batch_augments(preprocessor, 'model.teacher_cache')
    assert len(str(e.value).splitlines()) == 1
    check_no_batch_augments(MODELS.build(dict(type='ClsDataPreprocessor')), 'x')
    init_default_scope('mmdet')
    yolox = get_config('mmdet::yolox/yolox_tiny_8xb8-300e_coco.py').model.data_preprocessor
    with pytest.raises(ValueError, match=r"\['BatchSyncRandomResize'\].*RandomChoiceResize"):
        check_no_batch_augments(MODELS.build(yolox), 'model.teacher_cache')
    pad = [dict(type='BatchFixedSizePad', size=(64, 64))]
    fixed = dict(type='mmdet.DetDataPreprocessor', batch_augments=pad)
    check_no_batch_augments(MODELS.build(fixed), 'x')
    check_no_batch_augments(torch.nn.Identity(), 'x')
