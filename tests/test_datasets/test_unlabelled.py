"""Labelled pictures beside unlabelled ones: what batches hold, and what they train."""

import copy
import functools
import json
import shutil
from collections import Counter
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from helpers.tiny_pictures import half_labelled, patches
from helpers.tiny_training import config, train
from mmengine.dataset import ConcatDataset
from mmengine.hooks import Hook
from mmengine.registry import DATASETS, HOOKS, MODELS, DefaultScope
from mmengine.runner import Runner
from mmpretrain.datasets import CIFAR10
from mmpretrain.structures import DataSample
from torch.utils.data import DataLoader

from kd_plugins.algorithms import single_teacher_distill
from kd_plugins.datasets import MultiSourceSampler, WithUnlabelled, unlabelled
from kd_plugins.hooks.term_watch import TermWatch
from kd_plugins.inspect.check import check
from kd_plugins.losses import KDLoss
from kd_plugins.models import ClsDataPreprocessor
from kd_plugins.structures import Progress
from kd_plugins.teachers.filling import fill

PIPELINE = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]
WITH_STRONG_VIEW = [
    PIPELINE[0],
    dict(type='kd_plugins.StrongView', transforms=[dict(type='Cutout', shape=16, prob=1.0)]),
    dict(type='PackInputs', algorithm_keys=['strong_view']),
]


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
    """Six labelled pictures of five classes and nine unlabelled ones, 32 x 32."""
    root = tmp_path_factory.mktemp('pictures')
    generator = np.random.default_rng(0)
    names = [f'labelled/{"abcde"[i % 5]}/{i}.png' for i in range(6)]
    names += [f'unlabelled/{"xy"[i % 2]}/{i}.png' for i in range(9)]
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(root / name), generator.integers(0, 255, (32, 32, 3), dtype=np.uint8))
    return root


def folder(path, **changes):
    return dict(type='mmpretrain.CustomDataset', data_root=str(path), pipeline=PIPELINE, **changes)


def both(root, **changes):
    cfg = dict(
        type='kd_plugins.WithUnlabelled',
        labelled=folder(root / 'labelled'),
        unlabelled=folder(root / 'unlabelled', with_label=False),
    )
    return cfg | changes


def build(cfg):
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        return DATASETS.build(cfg)


class Sized:
    """A dataset of nothing but a length."""

    metainfo = {}

    def __init__(self, *sizes):
        self.datasets = [range(size) for size in sizes]


def drawn(sampler, epoch):
    sampler.set_epoch(epoch)
    return np.array([*sampler]).reshape(-1, sampler.batch_size)


@pytest.fixture
def world(monkeypatch):
    """Let samplers think that they are one of several processes."""

    def as_rank(rank, size, *args, **kwargs):
        monkeypatch.setattr(unlabelled, 'get_dist_info', lambda: (rank, size))
        return MultiSourceSampler(*args, **kwargs)

    return as_rank


def test_every_batch_has_the_ratio_and_processes_share_the_pictures(world):
    for epoch_of, iterations in ((0, 4), (1, 6)):
        ranks = [
            world(rank, 3, Sized(20, 101), 8, [1, 3], epoch_of=epoch_of, seed=7)
            for rank in range(3)
        ]
        seen = Counter()
        for epoch in range(4):
            batches = [drawn(rank, epoch) for rank in ranks]
            for batch in batches:
                assert batch.shape == (iterations, 8) and len(ranks[0]) == 8 * iterations
                assert (batch[:, :2] < 20).all() and (batch[:, 2:] >= 20).all()
                seen.update(batch.flatten().tolist())
        # Each is seen once before any is seen again.
        for indices in (range(20), range(20, 121)):
            counts = [seen[i] for i in indices]
            assert max(counts) - min(counts) <= 1
        assert sum(seen.values()) == 4 * iterations * 24


def test_epochs_are_a_function_of_the_seed_and_go_on_for_ever(world):
    def make(seed=7, **changes):
        return world(0, 1, Sized(4, 10), 4, [1, 1], seed=seed, **changes)

    whole = [drawn(make(), epoch) for epoch in range(5)]
    again = make()
    for epoch in (3, 1, 4):
        assert (drawn(again, epoch) == whole[epoch]).all()
    assert (whole[0] != whole[1]).any() and (drawn(make(seed=8), 0) != whole[0]).any()
    endless = iter(make(infinite=True))
    assert [next(endless) for _ in range(40)] == np.concatenate(whole).flatten().tolist()
    plain = make(shuffle=False)
    assert drawn(plain, 0).tolist() == [[0, 1, 4, 5], [2, 3, 6, 7]]
    assert drawn(plain, 1).tolist() == [[0, 1, 8, 9], [2, 3, 10, 11]]
    assert drawn(plain, 2)[1].tolist() == [2, 3, 4, 5]


@pytest.mark.parametrize(
    'sizes, batch_size, ratio, more, says',
    [
        ((4, 10), 9, [1, 7], {}, r'batch_size=9 .*a multiple of 8, which makes the ratio 1:7'),
        (
            (4, 10),
            8,
            [1, 1, 2],
            {},
            r'\[1, 1, 2\] is for 3 datasets, and .* joins those of \[4, 10',
        ),
        ((4, 0), 8, [1, 1], {}, r'those of \[4, 0\] samples: .*not empty'),
        ((4, 10), 8, [1, 0.5], {}, r'source_ratio\[1\]=0.5'),
        ((4, 10), 8, 3, {}, r'source_ratio=3 is wrong: give a list'),
        ((4, 10), 8, [1, 1], dict(epoch_of=2), r'epoch_of=2 .*0 or 1'),
    ],
)
def test_batches_that_do_not_make_the_ratio_are_refused(sizes, batch_size, ratio, more, says):
    with pytest.raises(ValueError, match=says):
        MultiSourceSampler(Sized(*sizes), batch_size, ratio, seed=0, **more)
    with pytest.raises(ValueError, match='joins those of'):
        MultiSourceSampler(range(8), 4, [1, 1], seed=0)


def test_the_labels_of_one_part_are_needed_and_those_of_the_other_are_taken_off(folders):
    for with_label in (False, True):
        unlabelled = folder(folders / 'unlabelled', with_label=with_label)
        dataset = build(both(folders, unlabelled=unlabelled))
        assert isinstance(dataset, ConcatDataset) and len(dataset) == 15
        assert dataset.metainfo['classes'] == ('a', 'b', 'c', 'd', 'e')
        assert ['gt_label' in dataset[i]['data_samples'] for i in range(15)] == [True] * 6 + [
            False
        ] * 9
    labelled = folder(folders / 'labelled', with_label=False)
    dataset = build(both(folders, labelled=labelled))
    with pytest.raises(ValueError, match=r"picture '.*labelled/a/0.png' of .* has no label"):
        dataset[0]


def samples(labels):
    return [DataSample() if y is None else DataSample().set_gt_label(y) for y in labels]


@pytest.mark.parametrize('stacked', [True, False])
def test_the_preprocessor_keeps_both_parts_apart(stacked):
    generator = torch.Generator().manual_seed(0)
    pictures = torch.randint(0, 255, (5, 3, 8, 8), generator=generator, dtype=torch.uint8)
    settings = dict(mean=[100, 110, 120], std=[50, 60, 70], num_classes=4)
    ours = ClsDataPreprocessor(**settings)
    upstreams = MODELS.build(dict(settings, type='mmpretrain.ClsDataPreprocessor'))

    def batch(labels, chosen=slice(None)):
        inputs = pictures[chosen]
        return dict(inputs=inputs if stacked else [*inputs], data_samples=samples(labels))

    seen = ours(batch([None, 3, None, 1, None]), True)
    wanted = upstreams(batch([3, 1], [1, 3]), True)
    torch.testing.assert_close(seen['inputs'], wanted['inputs'], rtol=0, atol=0)
    assert [int(s.gt_label) for s in seen['data_samples']] == [3, 1]
    rest = upstreams(batch([None] * 3, [0, 2, 4]), True)
    torch.testing.assert_close(seen['unlabelled']['inputs'], rest['inputs'], rtol=0, atol=0)
    assert not any('gt_label' in s for s in seen['unlabelled']['data_samples'])
    for labels in ([0, 1, 2, 3, 0], [None] * 5):
        one = ours(batch(labels), True)
        assert sorted(one) == ['data_samples', 'inputs'] and len(one['inputs']) == 5
    # Validation is upstream's, whatever the samples have.
    assert sorted(ours(batch([None, 3, None, 1, None]), False)) == ['data_samples', 'inputs']


def test_pictures_are_mixed_with_those_of_their_own_part():
    preprocessor = ClsDataPreprocessor(
        num_classes=4, to_onehot=True, batch_augments=dict(augments=dict(type='Mixup', alpha=5.0))
    )
    # Labelled pictures are 0 or 1, unlabelled ones 10 or 11: what is mixed stays between them.
    levels = torch.tensor([0.0, 1, 0, 1, 10, 11, 10, 11])
    np.random.seed(0)
    torch.manual_seed(0)
    seen = preprocessor(
        dict(
            inputs=levels[:, None, None, None].expand(8, 3, 4, 4).clone(),
            data_samples=samples([0, 1, 0, 1, None, None, None, None]),
        ),
        True,
    )
    for part, low in ((seen['inputs'], 0), (seen['unlabelled']['inputs'], 10)):
        mixed = part[:, 0, 0, 0]
        assert ((mixed >= low) & (mixed <= low + 1)).all()
        assert ((mixed > low + 0.01) & (mixed < low + 0.99)).any()
    labels = torch.stack([s.gt_score for s in seen['data_samples']])
    torch.testing.assert_close(labels[:, 1], seen['inputs'][:, 0, 0, 0])
    assert not any('gt_score' in s for s in seen['unlabelled']['data_samples'])


# --- what the algorithm makes of them

KD = dict(type='kd_plugins.KDLoss', tau=2.0)
DKD = dict(type='kd_plugins.DKDLoss', tau=2.0)
INPUT = dict(type='kd_plugins.ClsDataPreprocessor', mean=[127.0], std=[60.0])
algorithm = functools.partial(half_labelled, data_preprocessor=INPUT)


def built(**changes):
    torch.manual_seed(0)
    model = MODELS.build(algorithm(**changes))
    model.init_weights()
    return model.train()


def mixed_batch(labels=(0, None, 3, None, None)):
    generator = torch.Generator().manual_seed(1)
    pictures = 255 * torch.rand(len(labels), 3, 32, 32, generator=generator)
    return dict(inputs=pictures, data_samples=samples(labels))


def step(model, batch, missing=False):
    model.zero_grad()
    losses = model._run_forward(model.data_preprocessor(batch, True), mode='loss')
    total, log = model.parse_losses(losses)
    total.backward()
    grads = {k: p.grad for k, p in model.named_parameters()}
    assert missing or None not in grads.values()
    return losses, log, {k: g if g is None else g.clone() for k, g in grads.items()}


def test_both_parts_train_as_one_batch_whose_label_loss_sees_the_labelled():
    model = built(losses=dict(loss_kd=KD, loss_dkd=dict(DKD, missing_label='teacher'))).double()
    model.teacher.network.double()
    losses, log, grads = step(model, mixed_batch())
    # By the formulas, on the whole batch at once.
    model.zero_grad()
    inputs = (mixed_batch()['inputs'].double() - 127) / 60
    logits = model.student(inputs)
    with torch.no_grad():
        answers = model.teacher.network(inputs)
    labelled = torch.tensor([0, 2])
    task = torch.nn.functional.cross_entropy(logits[labelled], torch.tensor([0, 3]))
    p_T, p_S = (answers / 2).softmax(1), (logits / 2).softmax(1)
    kd = 4 * (p_T * (p_T / p_S).log()).sum(1).mean()
    targets = answers.argmax(1)
    targets[labelled] = torch.tensor([0, 3])
    dkd = 0.0
    for i, t in enumerate(targets):
        others = [c for c in range(5) if c != t]
        pair_T, pair_S = (torch.stack([p[i, t], 1 - p[i, t]]) for p in (p_T, p_S))
        q_T, q_S = (p[i, others] / (1 - p[i, t]) for p in (p_T, p_S))
        dkd = dkd + 4 * (pair_T * (pair_T / pair_S).log()).sum() / 5
        dkd = dkd + 8 * 4 * (q_T * (q_T / q_S).log()).sum() / 5
    (task + kd + dkd).backward()
    for name, wanted in (('student.loss', task), ('distill.loss_kd', kd),
                         ('distill.loss_dkd', dkd)):  # fmt: skip
        torch.testing.assert_close(losses[name], wanted, rtol=1e-9, atol=1e-12)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(grads[name], parameter.grad, rtol=1e-7, atol=1e-10)
    rest = [1, 3, 4]
    alone = 4 * (p_T[rest] * (p_T[rest] / p_S[rest]).log()).sum(1).mean()
    torch.testing.assert_close(log['unlabelled_kd'], alone.detach(), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(log['loss'], (task + kd + dkd).detach(), rtol=1e-9, atol=1e-12)


def test_with_weight_0_the_weights_are_those_of_the_labelled_pictures_alone():
    def trained(batch):
        model = built(losses=dict(loss_kd=dict(KD, loss_weight=0.0)), student=dict(norm_eval=False))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        for _ in range(3):
            step(model, batch())
            optimizer.step()
        return dict(model.named_parameters())

    beside = trained(mixed_batch)

    def labelled():
        batch = mixed_batch()
        return dict(inputs=batch['inputs'][[0, 2]], data_samples=samples([0, 3]))

    alone = trained(labelled)
    assert all(torch.equal(beside[name], alone[name]) for name in alone)


def test_no_label_reaches_a_loss_without_the_students_own():
    model = built(calculate_student_loss=False)
    losses, log, grads = step(model, mixed_batch([None] * 5))
    assert list(losses) == ['distill.loss_kd'] and 'task_loss' not in log
    # Labels that are there change nothing.
    _, _, others = step(model, mixed_batch([0, 1, 2, 3, 4]))
    assert all(torch.equal(grads[name], others[name]) for name in grads)
    assert all(grad.abs().sum() > 0 for grad in grads.values())


@pytest.mark.parametrize('kind, settings', [
    ('KD', dict(tau=dict(type='kd_plugins.GlobalTemperature'))), ('DIST', {}), ('WTTM', {}),
    ('DKD', dict(missing_label='teacher')), ('DeiT', {}), ('DeiT', dict(form='soft')),
])  # fmt: skip
def test_poisoned_labels_train_bit_for_bit_as_none(kind, settings):
    model = built(
        losses=dict(loss_kd=dict(settings, type=f'kd_plugins.{kind}Loss')),
        calculate_student_loss=False,
    )
    model.set_progress(Progress(iter=5, max_iters=10, epoch=5, max_epochs=10))
    grads = step(model, mixed_batch([None] * 5), missing=True)[2]
    assert sum(g.abs().sum() for g in grads.values() if g is not None) > 0
    for labels in ([0, 1, 2, 3, 4], [3, 3, 0, 1, 3], [999, -7, 5, 0, 2**40]):
        others = step(model, mixed_batch(labels), missing=True)[2]
        for name, grad in grads.items():
            assert (grad is None and others[name] is None) or torch.equal(grad, others[name]), name


def test_terms_that_need_labels_are_refused_or_take_the_teachers_class():
    says = r"loss_dkd=DKDLoss no labels, and it needs gt_labels: set its missing_label='teacher'"
    losses = dict(loss_dkd=DKD)
    with pytest.raises(ValueError, match=r'^model.calculate_student_loss=False gives .*' + says):
        MODELS.build(algorithm(losses, calculate_student_loss=False))
    model = built(losses=losses)
    with pytest.raises(ValueError, match=r'^an unlabelled picture of .* gives .*' + says):
        step(model, mixed_batch())
    step(model, mixed_batch([0, 1, 2, 3, 4]))
    unmapped = algorithm(losses)
    del unmapped['distiller'].loss_forward_mappings.loss_dkd.gt_labels
    with pytest.raises(ValueError, match=r'lacks gt_labels, which DKDLoss needs: map it, or set'):
        MODELS.build(unmapped)
    model = built(
        losses=dict(loss_dkd=dict(DKD, missing_label='teacher')), calculate_student_loss=False
    )
    losses, _, _ = step(model, mixed_batch([None] * 5))
    assert losses['distill.loss_dkd'] > 0


def test_a_transformer_with_a_token_for_the_teacher_needs_no_labels(monkeypatch):
    """Its class token, which labels would train, wants a term of its own."""
    heard = []
    monkeypatch.setattr(
        single_teacher_distill, 'print_log', lambda message, **settings: heard.append(message)
    )
    cfg = patches(calculate_student_loss=False, data_preprocessor=None)
    cfg['data_preprocessor'] = dict(type='kd_plugins.ClsDataPreprocessor')

    def trained(cfg):
        model = MODELS.build(cfg)
        model.init_weights()
        model.set_progress(Progress(iter=0, max_iters=4, epoch=0, max_epochs=2))
        losses, _, grads = step(model.train(), mixed_batch([None] * 5), missing=True)
        return sorted(losses), {name for name, grad in grads.items() if grad is None}

    names, missed = trained(cfg)
    assert names == ['distill.loss_cskd', 'distill.loss_deit']
    assert missed == {'head.layers.head.weight', 'head.layers.head.bias'}
    said = "leaves 2 parameters of the student's head, such as 'head.layers.head.weight'"
    assert len(heard) == 1 and said in heard.pop()
    parts = cfg['distiller']
    parts.student_recorders['token'] = dict(type='ModuleOutputs', source='head.layers.head')
    parts.distill_losses['loss_token'] = dict(type='kd_plugins.DeiTLoss', loss_weight=0.5)
    parts.loss_forward_mappings['loss_token'] = dict(
        parts.loss_forward_mappings['loss_deit'], preds_S=dict(recorder='token', from_student=True)
    )
    assert trained(cfg)[1] == set() and not heard


# --- whole trainings on the upstream Runner


def training(folders, work_dir, epochs=2, model=None, **options):
    cfg = config(work_dir, epochs, model or algorithm(student=dict(norm_eval=False)))
    cfg.merge_from_dict(dict.fromkeys(('val_dataloader', 'val_evaluator', 'val_cfg')))
    del cfg.default_hooks.checkpoint['save_best']
    cfg.default_scope = 'mmpretrain'
    cfg.train_dataloader = dict(
        batch_size=4,
        num_workers=0,
        dataset=both(folders),
        sampler=dict(type='kd_plugins.MultiSourceSampler', batch_size=4, source_ratio=[1, 1]),
        collate_fn=dict(type='default_collate'),
    )
    cfg.default_hooks.update(
        log=dict(type='kd_plugins.DistillationLogHook'),
        guard=dict(type='kd_plugins.DistillationGuardHook'),
    )
    cfg.default_hooks.logger = dict(type='LoggerHook', interval=1)
    cfg.merge_from_dict(options)
    return cfg


class Stopped(Exception):
    pass


@HOOKS.register_module(force=True)
class StopInTheSecond(Hook):
    """Ends a training in its second epoch, after the checkpoint of the first."""

    def before_train_epoch(self, runner):
        if runner.epoch == 1:
            raise Stopped


def test_an_interrupted_training_beside_unlabelled_pictures_resumes_to_the_same_weights(
    folders, tmp_path
):
    whole = train(training(folders, tmp_path / 'whole'))
    broken = training(folders, tmp_path / 'parts')
    broken.custom_hooks.append(dict(type='StopInTheSecond'))
    with pytest.raises(Stopped):
        train(broken)
    resumed = train(training(folders, tmp_path / 'parts', resume=True))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    other = train(training(folders, tmp_path / 'other', **{'randomness.seed': 1}))
    assert any(not torch.equal(whole[name], other[name]) for name in whole)


def test_loops_of_iterations_go_on_without_end_and_resume(folders, tmp_path):
    def of_iterations(name, iterations, **options):
        cfg = training(folders, tmp_path / name, **options)
        cfg.train_cfg = dict(by_epoch=False, max_iters=iterations)
        cfg.train_dataloader.sampler.infinite = True
        cfg.param_scheduler = []
        cfg.default_hooks.checkpoint.update(by_epoch=False, interval=2)
        return cfg

    whole = train(of_iterations('whole', 7))
    train(of_iterations('parts', 4))
    resumed = train(of_iterations('parts', 7, resume=True))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def in_views(cfg, path=None, views=2):
    dataset = dict(type='kd_plugins.RepeatableViews', views=views, dataset=None)
    cfg.train_dataloader.dataset = dict(dataset, dataset=cfg.train_dataloader.dataset)
    if path is not None:
        root = path / 'teacher.pth'
        torch.manual_seed(7)
        network = MODELS.build(cfg.model.teacher)
        network.init_weights()
        torch.save(dict(state_dict=network.state_dict(), meta=dict()), root)
        cfg.model.update(teacher_ckpt=str(root), allow_random_teacher=False)
        cfg.model.teacher_cache = dict(dir=str(path / 'store'), views=views, dtype='float32')
    return cfg


def test_unlabelled_pictures_come_again_in_views_and_are_stored(folders, tmp_path):
    live = in_views(training(folders, tmp_path / 'live'), tmp_path)
    del live.model['teacher_cache']
    wanted = train(live)
    cfg = in_views(training(folders, tmp_path / 'filled'), tmp_path)
    assert fill(Runner.from_cfg(cfg)).written == 2 * 15
    cfg = in_views(training(folders, tmp_path / 'stored'), tmp_path)
    report = check(copy.deepcopy(cfg), iterations=1)
    assert [each.samples for each in report.stored] == [2]
    assert not [each for each in report.findings if each.level == 'error']
    runner = Runner.from_cfg(cfg)
    assert runner.model.teacher.complete and runner.model.teacher.network is None
    runner.train()
    for name, value in runner.model.state_dict().items():
        torch.testing.assert_close(value, wanted[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    'wrong, said',
    [
        ({'train_dataloader.sampler': dict(type='DefaultSampler', shuffle=True, _delete_=True)},
         "sampler is a DefaultSampler of batches of None, and its dataset WithUnlabelled"),
        ({'model.data_preprocessor.type': 'mmpretrain.ClsDataPreprocessor'},
         'does not keep the labelled and the unlabelled pictures'),
    ],
)  # fmt: skip
def test_unlabelled_pictures_in_views_are_checked_as_those_without(folders, tmp_path, wrong, said):
    with pytest.raises(ValueError, match=said):
        train(in_views(training(folders, tmp_path, **wrong)))


def test_a_store_keeps_one_answer_for_a_picture_and_is_refused_beside_strong_views(
    folders, tmp_path
):
    cfg = in_views(training(folders, tmp_path), tmp_path)
    cfg.train_dataloader.dataset.dataset.unlabelled.pipeline = WITH_STRONG_VIEW
    said = r'datasets\[1\].*=StrongView shows a picture a second time.*teacher_cache'
    with pytest.raises(ValueError, match=said):
        fill(Runner.from_cfg(cfg))
    with pytest.raises(ValueError, match=said):
        train(cfg)


def test_the_log_says_what_an_epoch_is_and_how_both_parts_agree(folders, tmp_path):
    # A name of its own: mmengine gives runs of one name and second one logger.
    cfg = training(folders, tmp_path, log_level='INFO', experiment_name='an epoch')
    runner = Runner.from_cfg(cfg)
    runner.train()
    text = next(tmp_path.glob('*/*.log')).read_text()
    assert (
        'an epoch is 3 iterations with 6 of the 6 samples of CustomDataset and 6 of the 9 samples '
        'of CustomDataset, in batches of 2 + 2 on each of 1 processes' in text
    )
    scalars = runner.message_hub.log_scalars
    for name in ('distill.loss_kd', 'unlabelled_kd', 'agreement', 'unlabelled_agreement'):
        assert len(scalars[f'train/{name}'].data[0]) == 6, name


@pytest.mark.parametrize(
    'changes, says',
    [
        (dict(sampler=dict(type='DefaultSampler', shuffle=True)),
         r'train_dataloader.sampler is a DefaultSampler .* wants some labelled and some'),
        (dict(batch_size=6), r'MultiSourceSampler of batches of 4, .*batch_size=6'),
        (dict(dataset=None), r'train_dataloader.dataset \(CustomDataset, with_label=False\) has '
                             r'no labels, .*set model.calculate_student_loss=False'),
    ],
)  # fmt: skip
def test_what_would_mix_labelled_and_unlabelled_up_is_refused_before_training(
    folders, tmp_path, changes, says
):
    cfg = training(folders, tmp_path)
    if 'dataset' in changes:
        unlabelled = folder(folders / 'unlabelled', with_label=False)
        changes = dict(dataset=unlabelled, sampler=dict(type='DefaultSampler', shuffle=True))
    for name, value in changes.items():
        cfg.train_dataloader[name] = value
    with pytest.raises(ValueError, match=says):
        train(cfg)
    if 'dataset' in changes:
        cfg.model.calculate_student_loss = False
        train(cfg)


def test_a_preprocessor_or_term_that_cannot_take_them_is_refused_before_training(folders, tmp_path):
    cfg = training(folders, tmp_path)
    cfg.model.data_preprocessor.type = 'mmpretrain.ClsDataPreprocessor'
    with pytest.raises(ValueError, match=r"give data_preprocessor.type='kd_plugins.Cls"):
        train(cfg)
    cfg.model.data_preprocessor = dict(type='kd_plugins.DetDataPreprocessor')
    with pytest.raises(ValueError, match=r"Det.* for a ImageCl.*type='kd_plugins.Cls"):
        train(cfg)
    cfg = training(folders, tmp_path, model=algorithm(dict(loss_dkd=DKD)))
    with pytest.raises(ValueError, match=r'an unlabelled picture of train_dataloader.dataset'):
        train(cfg)


def without_labels(folders, work_dir, dataset=None, **options):
    cfg = training(folders, work_dir, **options)
    cfg.model.calculate_student_loss = False
    cfg.train_dataloader['dataset'] = dataset or folder(folders / 'unlabelled', with_label=False)
    cfg.train_dataloader['sampler'] = dict(type='DefaultSampler', shuffle=True)
    return cfg


MIXUP = dict(augments=dict(type='Mixup', alpha=1.0))


def test_what_mixes_pictures_without_labels_is_refused_before_training(folders, tmp_path):
    """Upstream's preprocessor would not mix them at all; ours would mix what is seen twice."""
    later = dict(action_epoch=2, batch_augments=MIXUP)
    switch = dict(type='mmpretrain.SwitchRecipeHook', schedule=[later])
    for key in ('preprocessor', 'train_cfg', 'hook'):
        cfg = without_labels(folders, tmp_path / key, epochs=1)
        cfg.model.data_preprocessor.update(type='mmpretrain.ClsDataPreprocessor', num_classes=5)
        if key == 'train_cfg':
            cfg.model.architecture.train_cfg = MIXUP
        elif key == 'hook':
            cfg.custom_hooks.append(switch)
        else:
            cfg.model.data_preprocessor.batch_augments = MIXUP
        says = r'train_cfg.augments .* leave .*CustomDataset, with_label=False\) as they are: give'
        with pytest.raises(ValueError, match=says):
            train(cfg)
        cfg.model.data_preprocessor.type = 'kd_plugins.ClsDataPreprocessor'
        train(cfg)
    cfg = training(folders, tmp_path / 'twice')
    cfg.train_dataloader.dataset.unlabelled.pipeline = WITH_STRONG_VIEW
    cfg.model.data_preprocessor.num_classes = 5
    cfg.custom_hooks.append(switch)
    runner = Runner.from_cfg(cfg)
    with pytest.raises(ValueError, match=r'would mix pictures .* two views .*StrongView\)'):
        runner.train()
    assert runner.iter == 0 and runner.train_dataloader._iterator is None


def test_joined_pictures_with_and_without_labels_want_our_preprocessor(folders, tmp_path):
    parts = [folder(folders / 'labelled'), folder(folders / 'unlabelled', with_label=False)]
    joined = dict(type='ConcatDataset', datasets=parts, ignore_keys=['classes'])
    cfg = without_labels(folders, tmp_path, joined, epochs=1)
    cfg.model.data_preprocessor.type = 'mmpretrain.ClsDataPreprocessor'
    with pytest.raises(ValueError, match=r"joins pictures .* give data_preprocessor.type='kd_plug"):
        train(cfg)
    cfg.model.data_preprocessor.type = 'kd_plugins.ClsDataPreprocessor'
    train(cfg)


def test_labels_of_a_part_of_one_batch_are_refused_before_training(folders, tmp_path):
    """A term that takes the teacher's class beside would get fewer labels than pictures."""
    loss = dict(DKD, missing_label='teacher')
    weighted = dict(type='kd_plugins.Weighted', loss=loss, loss_weight=0.5)
    losses = dict(loss_kd=KD, loss_dkd=weighted)
    cfg = training(folders, tmp_path, 1, algorithm(losses))
    assert 'gt_labels' in cfg.model.distiller.loss_forward_mappings.loss_kd
    cfg.train_dataloader.dataset.unlabelled.pipeline = WITH_STRONG_VIEW
    says = r'loss_forward_mappings.loss_dkd.gt_labels gives labels of the labelled pictures alone'
    with pytest.raises(ValueError, match=says):
        train(cfg)
    del cfg.model.distiller.loss_forward_mappings.loss_dkd['gt_labels']
    train(cfg)


@pytest.mark.parametrize('kind', ['labelled', 'unlabelled'])
def test_a_distillation_that_is_all_there_is_does_not_stop(folders, tmp_path, kind):
    dataset = folder(folders / kind, with_label=kind == 'labelled')
    for stop in (1, 2):
        cfg = without_labels(folders, tmp_path / str(stop), dataset)
        cfg.custom_hooks.append(dict(type='mmrazor.StopDistillHook', stop_epoch=stop))
        if stop == 2:
            train(cfg)
            continue
        with pytest.raises(ValueError, match=r'StopDistillHook\.stop_epoch=1 leaves the student'):
            train(cfg)
    model = built(calculate_student_loss=False)
    model.distillation_stopped = True
    with pytest.raises(ValueError, match='the distillation was stopped'):
        model._run_forward(model.data_preprocessor(mixed_batch([1, 2]), True), mode='loss')


@pytest.mark.parametrize('wrapped', [False, True])
def test_a_class_without_labelled_pictures_does_not_move_the_others(folders, tmp_path, wrapped):
    def with_val(name):
        cfg = training(folders, tmp_path / name, epochs=1)
        cfg.train_dataloader.dataset = both(folders, labelled=folder(tmp_path / 'few'))
        if wrapped:
            cfg.train_dataloader.dataset = dict(
                type='kd_plugins.RepeatableViews', views=2, dataset=cfg.train_dataloader.dataset
            )
        cfg.val_dataloader = dict(
            batch_size=2,
            dataset=folder(folders / 'labelled'),
            sampler=dict(type='DefaultSampler', shuffle=False),
            collate_fn=dict(type='default_collate'),
        )
        cfg.val_evaluator, cfg.val_cfg = dict(type='Level'), dict()
        return cfg

    for kind in 'abde':
        shutil.copytree(folders / 'labelled' / kind, tmp_path / 'few' / kind)
    said = r"class 'd' has the number 3 in the validation set \(CustomDataset\) and 2 in the train"
    with pytest.raises(ValueError, match=said):
        train(with_val('wrong'))
    (tmp_path / 'few/c').mkdir()
    train(with_val('right'))


@pytest.mark.parametrize('order', ['ebcda', 'abcde'])
def test_the_teachers_classes_are_compared_with_those_that_measure(folders, tmp_path, order):
    cfg = without_labels(folders, tmp_path, epochs=1)
    cfg.val_dataloader = dict(
        cfg.train_dataloader,
        dataset=folder(folders / 'labelled'),
        sampler=dict(type='DefaultSampler', shuffle=False),
    )
    cfg.val_evaluator = dict(type='mmpretrain.Accuracy', topk=(1,))
    cfg.val_cfg = {}
    state = MODELS.build(dict(cfg.model.teacher)).state_dict()
    meta = dict(dataset_meta=dict(classes=tuple(order)))
    torch.save(dict(state_dict=state, meta=meta), tmp_path / 'teacher.pth')
    cfg.model.update(teacher_ckpt=str(tmp_path / 'teacher.pth'), allow_random_teacher=False)
    if order == 'abcde':
        train(cfg)
        return
    with pytest.raises(ValueError, match="class 0 is 'a' in the data and 'e' of the teacher"):
        train(cfg)


def test_an_epoch_ends(folders, tmp_path):
    cfg = training(folders, tmp_path)
    cfg.train_dataloader.sampler.infinite = True
    with pytest.raises(ValueError, match=r'MultiSourceSampler\) draws for ever, .*infinite=True'):
        train(cfg)
    cfg = training(folders, tmp_path)
    cfg.train_dataloader['dataset'] = folder(folders / 'labelled')
    cfg.train_dataloader['sampler'] = dict(type='InfiniteSampler')
    with pytest.raises(ValueError, match=r'InfiniteSampler\) draws for ever, .*DefaultSampler'):
        train(cfg)


def test_an_epoch_may_have_a_given_number_of_batches(folders, tmp_path):
    """And mmengine's wrapper for it hides nothing from the checks."""
    cfg = training(folders, tmp_path / 'few')
    cfg.train_dataloader.num_batch_per_epoch = 2
    runner = Runner.from_cfg(cfg)
    runner.train()
    assert runner.iter == 4 and len(runner.train_dataloader) == 2
    cfg = training(folders, tmp_path / 'most')
    cfg.train_dataloader.num_batch_per_epoch = 5
    assert len(Runner.build_dataloader(cfg.train_dataloader)) == 3
    cfg.train_dataloader.dataset.unlabelled = folder(folders / 'unlabelled')
    cfg.model.data_preprocessor.type = 'mmpretrain.ClsDataPreprocessor'
    with pytest.raises(ValueError, match=r"give data_preprocessor.type='kd_plugins.Cls"):
        train(cfg)


def test_what_is_wrapped_is_refused(folders, tmp_path):
    for kind in (dict(with_label=False), {}):
        cfg = training(folders, tmp_path)
        dataset = both(folders, unlabelled=folder(folders / 'unlabelled', **kind))
        cfg.train_dataloader['dataset'] = dict(type='RepeatDataset', times=2, dataset=dataset)
        cfg.train_dataloader['sampler'] = dict(type='DefaultSampler', shuffle=True)
        with pytest.raises(ValueError, match='is a RepeatDataset around WithUnlabelled, which Mul'):
            train(cfg)
    inside = dict(type='RepeatDataset', times=2, dataset=folder(folders / 'labelled'))
    with pytest.raises(ValueError, match=r'WithUnlabelled\.labelled is a RepeatDataset: give'):
        build(both(folders, labelled=inside))


@DATASETS.register_module(force=True)
class InMemory(CIFAR10):
    """Two pictures that lie in memory."""

    def _check_integrity(self):
        return True

    def load_data_list(self):
        return [dict(img=np.zeros((32, 32, 3), np.uint8), gt_label=i) for i in range(2)]


@pytest.mark.parametrize('beside', ['train', 'val'])
def test_red_and_blue_are_not_exchanged_in_a_part_of_the_pictures(folders, tmp_path, beside):
    memory = dict(type='InMemory', data_root=str(tmp_path), pipeline=[PIPELINE[1]])

    def of(name, **reading):
        cfg = training(folders, tmp_path / name, epochs=1)
        if beside == 'train':
            cfg.train_dataloader.dataset['labelled'] = memory
        else:
            cfg = without_labels(folders, tmp_path / name, epochs=1)
            cfg.val_dataloader = dict(
                batch_size=2, dataset=memory, collate_fn=dict(type='default_collate'),
                sampler=dict(type='DefaultSampler', shuffle=False),
            )  # fmt: skip
            cfg.val_evaluator, cfg.val_cfg = dict(type='Level'), dict()
        dataset = cfg.train_dataloader.dataset
        files = dataset.unlabelled if beside == 'train' else dataset
        files.pipeline = [dict(PIPELINE[0], **reading), *files.pipeline[1:]]
        return cfg

    says = r'InMemory \((train|val)_dataloader\) gives pictures as RGB'
    with pytest.raises(ValueError, match=says) as left:
        train(of('wrong'))
    assert 'CustomDataset (train_dataloader) gives pictures as BGR' in str(left.value)
    train(of('right', type='kd_plugins.LoadImageFromFile', channel_order='rgb'))
    exchanged = of('exchanged')
    dataset = exchanged.train_dataloader.dataset
    files = dataset.unlabelled if beside == 'train' else dataset
    pil = [dict(type='NumpyToPIL', to_rgb=True), dict(type='PILToNumpy')]
    files.pipeline = [files.pipeline[0], *pil, files.pipeline[1]]
    train(exchanged)


def test_folders_without_pictures_are_refused(folders, tmp_path):
    (tmp_path / 'empty').mkdir()
    for name in ('empty', 'missing'):
        for kind in ('labelled', 'unlabelled'):
            given = folder(tmp_path / name, with_label=kind == 'labelled')
            with pytest.raises(ValueError, match=rf'WithUnlabelled\.{kind} has no .*{name}'):
                build(both(folders, **{kind: given}))


def test_a_term_in_another_that_needs_labels_is_refused_before_training():
    term = dict(type='kd_plugins.Weighted', loss=DKD, loss_weight=0.5)
    with pytest.raises(ValueError, match=r"Weighted no labels, .*missing_label='teacher'"):
        built(losses=dict(loss_dkd=term), calculate_student_loss=False)


def test_workers_give_the_batches_of_one_process(folders):
    dataset = build(both(folders))
    assert isinstance(dataset, WithUnlabelled)

    def batches(workers):
        sampler = MultiSourceSampler(dataset, 6, [1, 2], seed=3)
        loader = DataLoader(
            dataset, 6, sampler=sampler, num_workers=workers, collate_fn=lambda batch: batch
        )
        return [[each['data_samples'].img_path for each in batch] for batch in loader]

    assert batches(0) == batches(2)


@pytest.mark.parametrize('broken', [0, 1])
def test_a_term_that_went_wrong_on_one_part_is_left_out_of_the_step(broken):
    runner = SimpleNamespace(iter=0)
    loss = KDLoss(tau=2.0)
    watch = TermWatch('distill.loss_kd', loss, runner, skip=True)

    def gradients(broken):
        parts = [torch.randn(3, 4, requires_grad=True) for _ in range(2)]
        answers = [torch.randn(3, 4) for _ in range(2)]
        if broken is not None:
            answers[broken][1, 2] = torch.nan
        sum(loss(s, t) for s, t in zip(parts, answers, strict=True)).backward()
        runner.iter += 1
        return [part.grad.abs().max().item() for part in parts]

    assert min(gradients(None)) > 0
    assert gradients(broken) == [0, 0]
    assert min(gradients(None)) > 0 and int(watch.count) == 1


# --- few labels, and a strong view


def many(root, tmp_path, **changes):
    """Twelve labelled pictures of three classes and the nine unlabelled ones."""
    generator = np.random.default_rng(1)
    for i in range(12):
        path = tmp_path / f'many/{"abc"[i % 3]}/{i:02}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), generator.integers(0, 255, (32, 32, 3), dtype=np.uint8))
    return build(both(root, labelled=folder(tmp_path / 'many'), **changes))


def test_few_labels_are_as_many_of_each_class_and_those_of_the_published_draws(folders, tmp_path):
    everything = many(folders, tmp_path).datasets[0]
    labels = np.array(everything.get_gt_labels())
    seen = set()
    for seed in range(4):
        dataset = many(folders, tmp_path, labels_per_class=2, labels_seed=seed)
        assert len(dataset) == 6 + 9 and len(dataset.datasets[1]) == 9
        # sample_labeled_data of TorchSSL's and FullMatch's data_utils.py, after np.random.seed.
        np.random.seed(seed)
        chosen = [i for c in range(3) for i in np.random.choice(np.where(labels == c)[0], 2, False)]
        paths = [dataset.datasets[0].get_data_info(i)['img_path'] for i in range(6)]
        assert paths == [everything.get_data_info(int(i))['img_path'] for i in chosen]
        assert [int(dataset[i]['data_samples'].gt_label) for i in range(6)] == [0, 0, 1, 1, 2, 2]
        seen.add(tuple(paths))
    assert len(seen) > 1
    with pytest.raises(ValueError, match=r"labels_per_class=5 is wrong: give at most 4, .*'a'"):
        many(folders, tmp_path, labels_per_class=5)
    for key in ('labels_per_class', 'labels_seed'):
        with pytest.raises(ValueError, match=rf'WithUnlabelled.{key}=-1'):
            many(folders, tmp_path, **dict(dict(labels_per_class=1), **{key: -1}))


def test_labels_of_each_class_need_classes_and_one_label_a_picture(folders, tmp_path):
    names = sorted(path.name for path in (folders / 'labelled/a').iterdir())
    (tmp_path / 'list.txt').write_text(''.join(f'labelled/a/{name} 0\n' for name in names))
    nameless = folder(folders, ann_file=str(tmp_path / 'list.txt'))
    pictures = [dict(img_path=f'labelled/a/{name}', gt_label=[0, 2]) for name in names]
    lists = dict(metainfo=dict(classes=['x', 'y', 'z']), data_list=pictures)
    (tmp_path / 'lists.json').write_text(json.dumps(lists))
    several = dict(
        type='mmpretrain.MultiLabelDataset', data_root=str(folders), pipeline=PIPELINE,
        ann_file=str(tmp_path / 'lists.json'),
    )  # fmt: skip
    for labelled, lacks in (
        (nameless, 'CustomDataset. names no classes'),
        (several, 'MultiLabelDataset. has pictures without one class each'),
        (folder(folders / 'unlabelled', with_label=False), 'names no classes'),
    ):
        with pytest.raises(ValueError, match=rf'labels_per_class=1 takes as many.*{lacks}: give'):
            build(both(folders, labelled=labelled, labels_per_class=1))


def test_a_strong_view_is_of_the_same_picture_and_leaves_the_other_alone(folders):
    strong, pipeline = WITH_STRONG_VIEW[1], WITH_STRONG_VIEW
    plain = build(folder(folders / 'unlabelled', with_label=False))
    dataset = build(folder(folders / 'unlabelled', with_label=False) | dict(pipeline=pipeline))
    for i in range(3):
        data, picture = dataset[i], plain[i]['inputs']
        view = data['data_samples'].strong_view
        assert torch.equal(data['inputs'], picture) and view.shape == picture.shape
        cut = (view != picture).any(dim=0)
        assert (view[:, cut] == 128).all() and 0 < cut.float().mean() <= 0.25
        assert data['data_samples'].sample_idx == i
    with pytest.raises(ValueError, match=r'StrongView.transforms=\[\] leaves the picture as it is'):
        build(folder(folders / 'unlabelled') | dict(pipeline=[dict(strong, transforms=[])]))


@pytest.mark.parametrize('stacked', [True, False])
def test_the_preprocessor_gives_both_views(stacked):
    generator = torch.Generator().manual_seed(0)
    pictures = torch.randint(0, 255, (7, 3, 8, 8), generator=generator, dtype=torch.uint8)
    ours = ClsDataPreprocessor(mean=[100, 110, 120], std=[50, 60, 70])
    marked = samples([2, None, None])
    for sample, view in zip(marked[1:], pictures[3:], strict=False):
        sample.set_field(view, 'strong_view')
    inputs = pictures[:3] if stacked else [*pictures[:3]]
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in ([100, 110, 120], [50, 60, 70]))
    for _ in range(2):  # A batch may be asked again, and says the same.
        seen = ours(dict(inputs=inputs, data_samples=marked), True)
        rest = seen['unlabelled']
        for got, wanted in ((seen['inputs'], pictures[:1]), (rest['inputs'], pictures[1:3]),
                            (rest['strong'], pictures[3:5])):  # fmt: skip
            torch.testing.assert_close(got, (wanted - mean) / std)


def test_counts_of_another_dataset_are_refused_before_training(folders, tmp_path):
    from helpers.two_views import two_views

    cfg = config(tmp_path, 1, model=two_views('flexmatch', num_unlabelled=8))
    cfg.default_scope = 'mmpretrain'
    cfg.train_dataloader.dataset = both(folders)
    cfg.train_dataloader.collate_fn.type = 'pseudo_collate'
    cfg.train_dataloader.sampler = dict(
        type='kd_plugins.MultiSourceSampler', batch_size=4, source_ratio=[1, 3]
    )
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    says = r'connectors.pseudo_labels.num_unlabelled=8 is wrong: give 9, the pictures of'
    with pytest.raises(ValueError, match=says):
        train(cfg)
