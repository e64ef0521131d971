"""FixMatch, FlexMatch, FullMatch and FullFlex: one batch of three views, and what it trains."""

import copy
import math

import pytest
import torch
from helpers.networks import cnn, resnet, vit
from helpers.tiny_training import config, train
from helpers.two_views import KINDS, batch, distiller_of, fill, numbers, two_views, wide
from mmengine.hooks import EMAHook, Hook
from mmengine.model import ExponentialMovingAverage as UpstreamAverage
from mmengine.optim import CosineAnnealingLR, build_optim_wrapper
from mmengine.registry import HOOKS, MODELS
from mmengine.runner import Runner
from mmpretrain.structures import DataSample

from kd_plugins.algorithms import ExponentialMovingAverage
from kd_plugins.connectors import PseudoLabels
from kd_plugins.losses import kd_loss
from kd_plugins.structures import ViewLogits


def built(kind='fullmatch', student=None, **changes):
    torch.manual_seed(0)
    model = MODELS.build(two_views(kind, student=student, **changes))
    model.init_weights()
    return model.double().train()


def step(model, data):
    model.zero_grad()
    losses = model(**model.data_preprocessor(copy.deepcopy(data), True), mode='loss')
    total, log = model.parse_losses(losses)
    total.backward()
    return losses, log


# --- against the published code

# Twelve steps of consistency_loss, cal_topK and nl_em_loss of megvii-research/FullMatch
# (c54c0b9, models/fullmatch and models/fullflex) and its adjust_learning_rate, with the WRN of
# TorchSSL/TorchSSL (f26e1d4, models/nets/wrn.py; depth 10, width 1) and torch's SGD with
# Nesterov momentum, in float64: the total loss of each step, k, the share of labels that are
# learnt; then the sum of squares of all weights and of their average (0.9), from the start
# on, the sum of bn1's running mean, and what FlexMatch remembers.
CUTOFFS = dict(fixmatch=0.3, fullmatch=0.3, flexmatch=0.45, fullflex=0.45)
PUBLISHED = dict(
    fixmatch=(
        [1.642103775, 3.05873206, 2.853212315, 2.445751331, 3.115334149, 2.619556448, 2.622145963,
         2.72093113, 2.624772495, 2.809917859, 2.170961699, 2.058553818],
        [2, 2, 4, 2, 2, 2, 2, 2, 2, 2, 2, 2],
        [0.0, 0.5, 0.667, 0.167, 0.667, 0.667, 0.667, 1.0, 1.0, 1.0, 1.0, 1.0],
        443.92782877888163, 441.22794335252183, -0.010810104740010259, None,
    ),
    flexmatch=(
        [3.070489433, 3.762696258, 3.219958963, 3.476767978, 2.534207079, 3.007503972, 3.042088682,
         2.48205792, 2.478342672, 1.625639742, 2.224291382, 2.422874895],
        [2, 3, 2, 3, 2, 2, 2, 2, 2, 2, 2, 2],
        [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.833, 1.0, 1.0],
        445.34206223141257, 441.74984199782574, -0.01633818285337233, [4, 4, 0, 0, 4, 4, 4, 4, 0],
    ),
    fullmatch=(
        [1.642103775, 3.05873206, 3.299856044, 2.710461127, 3.292775724, 2.914135764, 2.613336235,
         2.74981075, 2.802788095, 2.91657491, 2.195515667, 2.090811046],
        [2, 2, 4, 2, 2, 2, 2, 2, 2, 2, 2, 2],
        [0.0, 0.5, 0.667, 0.333, 0.833, 1.0, 0.667, 1.0, 1.0, 1.0, 1.0, 1.0],
        445.07900445188557, 441.5366227136002, -0.009891626210227256, None,
    ),
    fullflex=(
        [4.121916501, 4.298408458, 3.726473123, 3.64226957, 2.581633861, 3.601696637, 3.77156666,
         2.959569304, 2.432606153, 1.821716061, 2.787620958, 2.789068117],
        [2, 3, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2],
        [1.0, 1.0, 1.0, 1.0, 1.0, 0.833, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0],
        447.5314481647722, 442.5727429353982, -0.030774804074151764, [3, 3, 0, 0, 3, 3, 3, 3, 0],
    ),
)  # fmt: skip
STEPS, PICTURES = 12, 9


def published_batch(t):
    """Two labelled and six unlabelled pictures, as the published code was given them."""
    labelled = numbers((2, 3, 8, 8), 0.1 * t, 1.0)
    samples = [DataSample().set_gt_label((3 * t + i) % 5) for i in range(2)]
    chosen = [(6 * t + j) % PICTURES for j in range(6)]
    plain = {i: numbers((3, 8, 8), 5.0 + i, 1.0) for i in chosen}
    unlabelled = dict(
        inputs=torch.stack([plain[i] + 0.1 * math.sin(t + i) for i in chosen]),
        data_samples=[DataSample(metainfo=dict(sample_idx=i)) for i in chosen],
        strong=torch.stack([plain[i] * (1 + 0.4 * math.cos(t + 2 * i)) for i in chosen]),
    )
    return dict(inputs=labelled, data_samples=samples, unlabelled=unlabelled)


@pytest.mark.parametrize('kind', KINDS)
def test_a_training_is_the_published_one(kind):
    totals, ks, masks, weights, average, mean, latest = PUBLISHED[kind]
    model = built(
        kind, wide(), cutoff=CUTOFFS[kind], num_unlabelled=PICTURES,
        # mmpretrain's rounds to float32.
        data_preprocessor=dict(type='BaseDataPreprocessor'),
    )  # fmt: skip
    fill(model)
    wrapper = build_optim_wrapper(
        model,
        dict(
            optimizer=dict(type='SGD', lr=0.03, momentum=0.9, nesterov=True, weight_decay=5e-4),
            paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0),
        ),
    )
    # As configs/_base_/schedules/fixmatch_1m.py has it.
    schedule = CosineAnnealingLR(
        wrapper.optimizer, T_max=16 / 7 * STEPS, eta_min_ratio=-1, by_epoch=False, end=STEPS
    )
    averaged = ExponentialMovingAverage(model, from_start=True, momentum=0.1)
    seen = dict(k=[], mask_rate=[])

    def hear(term, args, kwargs):
        said = term.diagnose(*args, **kwargs)
        for name, values in seen.items():
            values.append(said[name].item())

    model.distiller.distill_losses.loss_fixmatch.register_forward_pre_hook(hear, with_kwargs=True)
    for t in range(1, STEPS + 1):
        log = model.train_step(published_batch(t), wrapper)
        schedule.step()
        averaged.update_parameters(model)
        assert log['loss'].item() == pytest.approx(totals[t - 1], rel=2e-9)
    assert seen['k'] == ks
    assert seen['mask_rate'] == pytest.approx([100 * share for share in masks], abs=0.05)
    # The dead norms of the published network are not here.
    squares = sum((p.detach() ** 2).sum().item() for p in model.parameters())
    assert squares == pytest.approx(weights, rel=1e-9)
    squares = sum((p**2).sum().item() for p in averaged.module.parameters())
    assert squares == pytest.approx(average, rel=1e-9)
    assert model.backbone.bn1.running_mean.sum().item() == pytest.approx(mean, rel=1e-7)
    if latest is not None:
        assert model.distiller.connectors.pseudo_labels.latest.tolist() == latest


@pytest.mark.parametrize(
    'network, parameters, size, first, last, magnitude',
    [
        # Forward passes of TorchSSL's WideResNet (28, 2), (28, 8) and WideResNetVar (28, 2), whose
        # norms that nothing reads count 192, 768 and 448 parameters.
        (dict(depth=28, widen_factor=2), 1469642 - 192, 32,
         -0.5824000410185816, 0.09110255926567568, 0.18841689053428962),
        (dict(depth=28, widen_factor=8), 23362922 - 768, 32,
         -1.67470591045701, 0.3604497446420527, 0.46885960005456334),
        (dict(depth=28, widen_factor=2, num_stages=4, first_stride=2), 5933770 - 448, 96,
         -0.4673173026219417, -0.10091441502373621, 0.19276676312915658),
    ],
    ids=['wrn28-2', 'wrn28-8', 'wrn37-2'],
)  # fmt: skip
def test_the_networks_are_the_published_ones(network, parameters, size, first, last, magnitude):
    model = MODELS.build(dict(wide(classes=10, **network), _scope_='mmpretrain'))
    assert sum(p.numel() for p in model.parameters()) == parameters
    with torch.no_grad():
        logits = fill(model.double().eval())(numbers((2, 3, size, size), 0.2, 2.0))
    got = [logits[0, 0].item(), logits[1, -1].item(), logits.abs().mean().item()]
    assert got == pytest.approx([first, last, magnitude], rel=1e-9)
    norms = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert {(m.eps, m.momentum) for m in norms} == {(1e-3, 1e-3)}


# --- one batch, one forward pass


def test_all_views_are_one_batch_in_the_published_order():
    model = built()
    seen = []
    model.backbone.register_forward_hook(lambda module, args, out: seen.append(args[0]))
    data = batch([0, 3], [4, 0, 2])
    losses, log = step(model, data)
    assert len(seen) == 1
    strong = torch.stack([s.strong_view for s in data['data_samples'][2:]])
    wanted = (torch.cat([data['inputs'], strong]) - 0.5) / 2
    torch.testing.assert_close(seen[0], wanted, rtol=1e-5, atol=1e-6)
    wanted = seen[0]
    grads = {name: p.grad.clone() for name, p in model.named_parameters()}
    # By hand, of the same pictures: the labelled ones first in any order of the batch.
    model.zero_grad()
    logits = model.architecture(wanted)
    task = torch.nn.functional.cross_entropy(logits[:2], torch.tensor([0, 3]))
    views = ViewLogits(logits[:2], logits[2:5], logits[5:], (4, 0, 2))
    pseudo = PseudoLabels(0.3)(views)
    terms = {
        name: term(views.strong, pseudo) for name, term in model.distiller.distill_losses.items()
    }
    (task + sum(terms.values())).backward()
    torch.testing.assert_close(losses['student.loss'], task)
    for name, value in terms.items():
        torch.testing.assert_close(losses[f'distill.{name}'], value)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(grads[name], parameter.grad, rtol=1e-7, atol=1e-10)
    torch.testing.assert_close(log['task_loss'], task.detach())
    mixed = dict(
        inputs=data['inputs'][[2, 0, 3, 4, 1]],
        data_samples=[data['data_samples'][i] for i in (2, 0, 3, 4, 1)],
    )
    others, _ = step(model, mixed)
    torch.testing.assert_close(others['student.loss'], losses['student.loss'])


def test_the_weak_views_take_no_gradient():
    model = built(cutoff=0.1)
    rows = []
    model.head.fc.register_forward_hook(
        lambda module, args, out: out.register_hook(rows.append) and None
    )
    step(model, batch([0, 3], [4, 0, 2]))
    gradient = rows[0].abs().sum(dim=1)
    assert (gradient[2:5] == 0).all() and (gradient[:2] > 0).all() and (gradient[5:] > 0).all()


def test_a_teacher_may_look_at_all_views_and_any_term_compare_two():
    parts = distiller_of('fixmatch', 0.3, 6)
    logits = dict(type='ModuleOutputs', source='head.fc')
    parts.student_recorders.update(
        logits=logits, weak=dict(type='kd_plugins.ViewLogits', view='weak')
    )
    parts.teacher_recorders = dict(logits=logits)
    kd = dict(type='kd_plugins.KDLoss', tau=2.0)
    parts.distill_losses.update(loss_kd=kd, loss_uda=kd)
    both = dict(recorder='logits', from_student=True)
    parts.loss_forward_mappings.loss_kd = dict(preds_S=both, preds_T=dict(both, from_student=False))
    parts.loss_forward_mappings.loss_uda = dict(
        preds_S=dict(both, recorder='strong'), preds_T=dict(both, recorder='weak')
    )
    model = built(teacher=dict(resnet(), _scope_='mmpretrain'), distiller=parts)
    model.teacher.network.double()
    data = batch([0, 3], [4, 0, 2])
    losses, _ = step(model, data)
    strong = torch.stack([s.strong_view for s in data['data_samples'][2:]])
    inputs = (torch.cat([data['inputs'], strong]) - 0.5) / 2
    with torch.no_grad():
        ours, theirs = model.architecture(inputs), model.teacher.network(inputs)
    torch.testing.assert_close(losses['distill.loss_kd'], kd_loss(ours, theirs, 2.0).mean())
    uda = kd_loss(ours[5:], ours[2:5], 2.0).mean()
    torch.testing.assert_close(losses['distill.loss_uda'], uda)
    assert uda > 0


def test_a_teachers_weak_views_may_teach_strong_ones():
    parts = distiller_of('fixmatch', 0.3, 6)
    parts.teacher_recorders = dict(
        weak=dict(type='kd_plugins.ViewLogits', source='head.fc', view='weak')
    )
    parts.distill_losses.loss_kd = dict(type='kd_plugins.KDLoss', tau=2.0)
    parts.loss_forward_mappings.loss_kd = dict(
        preds_S=dict(recorder='strong', from_student=True),
        preds_T=dict(recorder='weak', from_student=False),
    )
    model = built(teacher=dict(resnet(), _scope_='mmpretrain'), distiller=parts)
    model.teacher.network.double()
    for labels, numbers_of in (([0, 3], [4, 0, 2]), ([1], [5, 3])):
        data = batch(labels, numbers_of)
        losses, _ = step(model, data)
        strong = torch.stack([s.strong_view for s in data['data_samples'][len(labels) :]])
        weak = data['inputs'][len(labels) :]
        with torch.no_grad():
            ours = model.architecture((strong - 0.5) / 2)
            theirs = model.teacher.network((weak - 0.5) / 2)
        torch.testing.assert_close(losses['distill.loss_kd'], kd_loss(ours, theirs, 2.0).mean())


@pytest.mark.parametrize('head', ['LinearClsHead', 'StackedLinearClsHead', 'vit'])
def test_stock_heads_train(head):
    backbone = dict(type='kd_plugins.CIFARResNet', depth=8, norm_eval=True)
    student = cnn(backbone, 64)
    student['head'].update(type=head)
    source = 'head.fc'
    if head == 'StackedLinearClsHead':
        student['head'].update(mid_channels=[8])
        source = 'head.layers.1.fc'
    if head == 'vit':
        student, source = vit(), 'head.layers.head'
    parts = distiller_of('fullmatch', 0.1, 6)
    for recorder in parts.student_recorders.values():
        recorder.source = source
    model = built(student=student, distiller=parts)
    losses, _ = step(model, batch([0, 3], [4, 0, 2], size=32))
    assert all(torch.isfinite(value) for value in losses.values()) and len(losses) == 4
    assert all(p.grad is not None for p in model.parameters())


def test_each_of_several_classifiers_is_graded_on_the_labelled_pictures():
    arch = dict(embed_dims=24, channel_ratio=1, num_heads=2, depths=3)
    student = dict(
        type='ImageClassifier',
        backbone=dict(type='Conformer', arch=arch, drop_path_rate=0.0),
        head=dict(type='ConformerHead', in_channels=[256, 24], num_classes=5),
    )
    parts = distiller_of('fullmatch', 0.1, 6)
    for recorder in parts.student_recorders.values():
        recorder.source = 'head.trans_cls_head'
    # Its batch norms would see more pictures.
    model = built(student=student, distiller=parts).eval()
    data = batch([0, 3], [4, 0, 2], size=64)
    losses, _ = step(model, data)
    alone = model.architecture.loss((data['inputs'][:2] - 0.5) / 2, data['data_samples'][:2])
    torch.testing.assert_close(losses['student.loss'], alone['loss'], rtol=1e-5, atol=1e-6)


# --- the average


def test_an_average_begins_with_the_start_if_it_is_told_to():
    model = torch.nn.Linear(3, 2).double()
    start = model.weight.detach().clone()
    ours = ExponentialMovingAverage(model, from_start=True, momentum=0.25)
    as_upstream = ExponentialMovingAverage(model, momentum=0.25)
    upstreams = UpstreamAverage(model, momentum=0.25)
    wanted = start
    for i in range(3):
        model.weight.data += 1 + i
        wanted = 0.75 * wanted + 0.25 * model.weight.detach()
        for average in (ours, as_upstream, upstreams):
            average.update_parameters(model)
        torch.testing.assert_close(ours.module.weight, wanted)
        assert torch.equal(as_upstream.module.weight, upstreams.module.weight)
        assert not torch.equal(ours.module.weight, upstreams.module.weight)
    with pytest.raises(ValueError, match=r'ExponentialMovingAverage.from_start=.yes. '):
        ExponentialMovingAverage(model, from_start='yes')


# --- whole trainings


class Stopped(Exception):
    """What stands for a kill."""


@HOOKS.register_module(force=True)
class StopAfter(Hook):
    """Ends a training after an iteration, once its checkpoint is written."""

    priority = 'LOWEST'

    def __init__(self, iteration):
        self.iteration = iteration

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter + 1 == self.iteration:
            raise Stopped

    def after_train_epoch(self, runner):
        if runner.iter == self.iteration:
            raise Stopped


AVERAGE = dict(
    type='EMAHook', ema_type='kd_plugins.ExponentialMovingAverage', from_start=True, momentum=0.2
)


def training(work_dir, by_epoch, kind='fullflex', **options):
    cfg = config(work_dir, 4, model=two_views(kind))
    loader = cfg.train_dataloader
    loader.dataset = dict(type='TwoViews')
    loader.collate_fn.type = 'pseudo_collate'
    loader.sampler = dict(
        type='kd_plugins.MultiSourceSampler', batch_size=4, source_ratio=[1, 3],
        infinite=not by_epoch,
    )  # fmt: skip
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    cfg.custom_hooks.append(AVERAGE)
    cfg.optim_wrapper.optimizer.lr = 0.01
    cfg.default_hooks.checkpoint = dict(
        type='kd_plugins.SafeCheckpointHook', by_epoch=by_epoch, interval=1 if by_epoch else 6
    )
    if not by_epoch:
        cfg.train_cfg = dict(by_epoch=False, max_iters=24)
        cfg.param_scheduler.by_epoch = False
    cfg.merge_from_dict(options)
    return cfg


@pytest.mark.parametrize('by_epoch', [True, False])
def test_a_resumed_training_ends_in_the_same_weights(tmp_path, by_epoch):
    whole = train(training(tmp_path / 'whole', by_epoch))
    broken = training(tmp_path / 'broken', by_epoch)
    # Epochs have six iterations: the labelled pictures once.
    broken.custom_hooks.append(dict(type='StopAfter', iteration=12))
    with pytest.raises(Stopped):
        train(broken)
    last = (tmp_path / 'broken/last_checkpoint').read_text()
    saved = torch.load(last, weights_only=False)['state_dict']
    latest = 'distiller.connectors.pseudo_labels.latest'
    assert (saved[latest] >= 0).any()
    resumed = train(training(tmp_path / 'broken', by_epoch, resume=True))
    assert list(whole) == list(resumed) and latest in whole
    assert [key for key in whole if not torch.equal(whole[key], resumed[key])] == []
    averages = [
        torch.load((tmp_path / name / 'last_checkpoint').read_text(), weights_only=False)[
            'ema_state_dict'
        ]
        for name in ('whole', 'broken')
    ]
    assert all(torch.equal(averages[0][key], averages[1][key]) for key in averages[0])


@pytest.mark.parametrize('loaded', [False, True])
def test_an_average_begins_with_what_the_runner_initialises_and_loads(tmp_path, loaded):
    cfg = training(tmp_path, False, 'fixmatch')
    if loaded:
        weights = built().float().state_dict()
        del weights['head.fc.weight']
        torch.save(dict(state_dict=weights, meta={}), tmp_path / 'start.pth')
        cfg.load_from = str(tmp_path / 'start.pth')
        cfg.model.load_from_except = ['head.fc.weight']
    # So that the end is the start, and so is every average of both.
    cfg.optim_wrapper.optimizer.lr = 0.0
    runner = Runner.from_cfg(cfg)
    before = {name: p.detach().clone() for name, p in runner.model.named_parameters()}
    runner.train()
    average = next(hook.ema_model for hook in runner.hooks if isinstance(hook, EMAHook))
    averaged = dict(average.module.named_parameters())
    for name, p in runner.model.named_parameters():
        torch.testing.assert_close(averaged[name], p)
    assert not torch.equal(before['head.fc.weight'], averaged['head.fc.weight'])


def test_the_log_has_k_the_mask_rate_and_the_agreement(tmp_path):
    cfg = training(tmp_path, False, 'fullmatch')
    cfg.train_cfg.max_iters = 4
    cfg.default_hooks.update(
        distillation_log=dict(type='kd_plugins.DistillationLogHook'),
        logger=dict(type='LoggerHook', interval=2),
    )
    runner = Runner.from_cfg(cfg)
    runner.train()
    scalars = runner.message_hub.log_scalars
    for name, low, high in (('k', 2, 5), ('mask_rate', 0, 100), ('agreement', 0, 100)):
        assert low <= scalars[f'train/{name}'].current() <= high


# --- bad input


def test_students_that_cannot_be_graded_on_a_part_are_refused():
    sigmoid = resnet()
    sigmoid['head'].update(type='MultiLabelLinearClsHead')
    arc = resnet()
    arc['head'].update(type='ArcFaceClsHead')
    for student, name in ((sigmoid, 'MultiLabelLinearClsHead'), (arc, 'ArcFaceClsHead')):
        with pytest.raises(
            ValueError, match=rf'student_recorders.* with a {name}, .*LinearClsHead'
        ):
            built(student=student)
    parts = distiller_of('fixmatch', 0.3, 6)
    parts.student_recorders.views.source = 'head.cls'
    with pytest.raises(ValueError, match=r"views.source='head.cls' is not in the student"):
        built(distiller=parts)
    parts.student_recorders.views.update(source='head.fc', view='soft')
    with pytest.raises(ValueError, match=r"ViewLogits.view='soft' "):
        built(distiller=parts)


def test_batches_without_both_views_are_refused():
    model = built()
    whole = batch([0, 3], [4, 0, 2])
    for sample in whole['data_samples']:
        sample.pop('strong_view', None)
    with pytest.raises(ValueError, match=r'no weak and strong views: give .*StrongView'):
        step(model, whole)
    with pytest.raises(ValueError, match=r'strong views .* and no labelled picture: put'):
        step(model, batch([], [4, 0, 2]))
    other = batch([0, 3], [4, 0, 2])
    for sample in other['data_samples'][2:]:
        sample.set_field(sample.strong_view[:, :6], 'strong_view')
    with pytest.raises(ValueError, match=r'\(3, 3, 8, 8\), \(3, 3, 6, 8\), and are seen as one'):
        step(model, other)


@pytest.mark.parametrize('key', ['batch_augments', 'train_cfg'])
def test_mixed_pictures_are_refused_when_the_model_is_built(key):
    mixup = dict(augments=dict(type='Mixup', alpha=1.0))
    preprocessor = dict(type='kd_plugins.ClsDataPreprocessor', num_classes=5)
    student = resnet()
    dict(batch_augments=preprocessor, train_cfg=student)[key][key] = mixup
    says = r'batch_augments \(or train_cfg.augments of the student\) would mix .*recorders.views'
    with pytest.raises(ValueError, match=says):
        built(student=student, data_preprocessor=preprocessor)


def test_datasets_that_do_not_fit_are_refused_before_training(tmp_path):
    cfg = training(tmp_path, False)
    cfg.train_dataloader.dataset = dict(type='Pictures')
    cfg.train_dataloader.sampler = dict(type='InfiniteSampler')
    says = r'student_recorders.views reads two views .* is a Pictures: give .*WithUnlabelled'
    with pytest.raises(ValueError, match=says):
        train(cfg)
