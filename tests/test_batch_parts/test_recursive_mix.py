"""RecursiveMix: the part that mixes, and the history that it keeps."""

import copy
from collections import Counter

import numpy as np
import pytest
import torch
from helpers import ROOT, algorithm_cfg
from helpers.networks import resnet
from helpers.published_networks import classifier, published_key, weight
from helpers.tiny_pictures import Pictures, boxes, recursive_mix
from helpers.tiny_training import config, train
from mmengine.config import Config
from mmengine.optim import OptimWrapper
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner
from mmpretrain.structures import DataSample

from kd_plugins.batch_parts import BatchPart, RecursiveMix, random_box
from kd_plugins.registry import TASK_UTILS
from kd_plugins.structures import Progress


def at(iter, epoch=0, seed=5):
    return Progress(iter=iter, max_iters=100, epoch=epoch, max_epochs=10, seed=seed)


def build(**changes):
    return MODELS.build(
        recursive_mix(data_preprocessor=dict(type='BaseDataPreprocessor'), **changes)
    )


def pictures(number, seed=0, size=(32, 32)):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(number, 3, *size, generator=generator)


def samples(*labels):
    return [DataSample().set_gt_label(label) for label in labels]


def part(**settings):
    """A part that mixes pictures of 5 classes without any network."""
    made = RecursiveMix(**settings)
    made.num_classes = 5
    return made


def step(made, inputs, labels, progress, preds=None):
    """What the part makes of a batch; then it remembers."""
    made.set_progress(progress)
    inputs, mixed = made.change(inputs, samples(*labels))
    record = made.record
    made.remember(lambda name: torch.zeros(len(inputs), 5) if preds is None else preds)
    return inputs, torch.stack([sample.gt_score for sample in mixed]), record


# Seven steps of PyramidNet('cifar10', 20, 24, 10, True) of models_cifar/pyramidnet.py,
# implus/RecursiveMix-pytorch at ed381bf28304796efd46a4d44b357ae8d4d10061, with the weights
# of helpers.published_networks in float64, as its main.py does them: recursive_mix of
# utils.py with our draws, alpha 0.5, omega 0.1, gradients that begin at 0, Nesterov of
# rate 0.02. Epoch, box, cross-entropy and weighted consistency; then sums of magnitudes.
BOXES = [None, (0, 0, 8, 12), (16, 2, 32, 20), (0, 0, 3, 3), None, (0, 12, 9, 28), (0, 19, 6, 29)]
PUBLISHED = {
    'own': (
        [(2.9742362925548855, 0.0), (2.20476020824741, 0.02278972792459867),
         (2.0599656104226383, 0.07016783552610535), (1.6603399755914563, 0.002239901991860198),
         (2.8534453826772905, 0.0), (2.499130632876281, 0.03680958656194804),
         (3.2920881379899183, 0.014906551909510247)],
        {'backbone.conv1.weight': 99.8005850860882,
         'backbone.layer3.1.conv2.weight': 932.5042818430595,
         'backbone.bn_final.running_mean': 42.358547198241354,
         'head.fc.weight': 154.6691983095946,
         'distiller.distill_losses.loss_rm.classifier.weight': 157.8323491711046,
         'distiller.distill_losses.loss_rm.classifier.bias': 2.0707455164434108},
    ),
    'shared': (
        [(2.9742362925548855, 0.0), (2.20476020824741, 0.02057776467460127),
         (2.060059320397764, 0.06398296344649534), (1.6623143543867227, 0.0020519086982383537),
         (2.8519921835310376, 0.0), (2.4939080910507085, 0.027035080439473842),
         (3.290044273016138, 0.011504357185383944)],
        {'backbone.conv1.weight': 99.79243962433615,
         'backbone.layer3.1.conv2.weight': 932.5181539534404,
         'backbone.bn_final.running_mean': 42.358547198241354,
         'head.fc.weight': 154.6670566815305},
    ),
}  # fmt: skip


@pytest.mark.parametrize('kind', PUBLISHED)
def test_a_small_training_is_the_published_one(kind):
    init_default_scope('mmpretrain')
    distiller = Config.fromfile(ROOT / 'configs/_base_/distill/recursive_mix.py').distiller
    loss = dict(type='kd_plugins.RecursiveMixLoss', loss_weight=0.1)
    if kind == 'own':
        loss.update(channels=160, num_classes=10)
    else:
        for key in ('weight', 'bias'):
            distiller.student_recorders[key] = dict(type='Parameter', source=f'head.fc.{key}')
            distiller.loss_forward_mappings.loss_rm[f'{key}_S'] = dict(
                recorder=key, from_student=True
            )
    model = MODELS.build(
        dict(
            type='kd_plugins.SingleTeacherDistill',
            architecture=dict(classifier('pyramid20_24', 10), _scope_='mmpretrain'),
            teacher=None,
            batch_parts=[dict(type='kd_plugins.RecursiveMix', alpha=0.5)],
            distiller=dict(distiller, distill_losses=dict(loss_rm=loss)),
            data_preprocessor=dict(type='BaseDataPreprocessor'),
        )
    )
    model.double().train()
    for key, value in model.state_dict().items():
        name = key.replace('distiller.distill_losses.loss_rm.classifier', 'fc_roi')
        value.copy_(weight(published_key(name, 'pyramid20_24'), value.shape))
    sgd = torch.optim.SGD(
        model.parameters(), lr=0.02, momentum=0.9, weight_decay=1e-4, nesterov=True
    )
    wrapper, draw = OptimWrapper(sgd), np.random.RandomState(7)
    steps, ended = PUBLISHED[kind]
    sizes = [(0, 4), (0, 4), (0, 4), (0, 3), (1, 4), (1, 4), (1, 3)]
    for iter, ((epoch, size), (ce, rm)) in enumerate(zip(sizes, steps, strict=True)):
        inputs = torch.from_numpy(draw.standard_normal((size, 3, 32, 32)))
        labels = torch.from_numpy(draw.randint(10, size=size))
        model.set_progress(at(iter, epoch))
        log = model.train_step(dict(inputs=inputs, data_samples=samples(*labels)), wrapper)
        assert log['student.loss'].item() == pytest.approx(ce, rel=1e-9)
        assert log['distill.loss_rm'].item() == pytest.approx(rm, rel=1e-9)
        record = model.batch_parts[0].record
        assert (None if record.preds is None else record.box) == BOXES[iter]
    state = model.state_dict()
    assert any('distiller' in key for key in state) == (kind == 'own')
    for key, total in ended.items():
        assert state[key].abs().sum().item() == pytest.approx(total, rel=1e-9)


def test_pictures_and_labels_are_mixed_as_loops_mix_them():
    made = part(alpha=0.9)
    before, labels = pictures(3, 1, (10, 6)), (0, 1, 2)
    step(made, before, labels, at(0))
    scores = torch.eye(5)[list(labels)]
    for iter in range(1, 12):
        inputs, labels = pictures(3, iter + 1, (10, 6)), (iter % 5, 3, 4)
        kept = inputs.clone()
        got, got_scores, record = step(made, inputs, labels, at(iter))
        x1, y1, x2, y2 = record.box
        wanted = kept.clone()
        for y in range(y1, y2):
            for x in range(x1, x2):
                row, column = (y - y1) * 10 // (y2 - y1), (x - x1) * 6 // (x2 - x1)
                wanted[:, :, y, x] = before[:, :, row, column]
        share = (x2 - x1) * (y2 - y1) / 60
        scores = (1 - share) * torch.eye(5)[list(labels)] + share * scores
        assert torch.equal(got, wanted) and torch.equal(inputs, kept)
        torch.testing.assert_close(got_scores, scores)
        assert record.share == pytest.approx(share) and record.size == (10, 6)
        before = got
    assert (scores > 0).sum(1).max() > 3


def test_boxes_follow_the_published_law():
    drawn = [random_box(np.random.default_rng((1, i)), 40, 60, 0.5) for i in range(4000)]
    for x1, y1, x2, y2 in drawn:
        assert 0 <= x1 <= x2 <= 60 and 0 <= y1 <= y2 <= 40
    # Every centre is as likely: a box that reaches no edge has its centre inside.
    inside = [(x1, y1, x2, y2) for x1, y1, x2, y2 in drawn if x1 and y1 and x2 < 60 and y2 < 40]
    for x1, y1, x2, y2 in inside:
        # Half the sides are whole numbers of pixels, and the sides have one ratio.
        assert (x2 - x1) % 2 == (y2 - y1) % 2 == 0
        assert abs((x2 - x1) / 60 - (y2 - y1) / 40) < 2 / 40
    # The share of a box that nothing cuts off is uniform in [0, alpha]: below the half of it
    # are those whose ratio is below sqrt(alpha / 2).
    rng = np.random.default_rng(0)
    ratios = np.sqrt(rng.uniform(0, 0.5, 4000))
    widths = [random_box(np.random.default_rng((2, i)), 10**6, 10**6, 0.5) for i in range(4000)]
    whole = [x2 - x1 for x1, y1, x2, y2 in widths if x1 and y1 and x2 < 10**6 and y2 < 10**6]
    # Large boxes reach an edge more often: (1 - r)^2 of those of ratio r do not.
    kept = ratios[rng.uniform(size=4000) < (1 - ratios) ** 2]
    assert np.mean(whole) / 10**6 == pytest.approx(kept.mean(), abs=0.02)
    assert len(whole) == pytest.approx(len(kept), rel=0.1)


def test_a_box_is_of_the_seed_and_the_iteration_alone():
    def box(seed, iter):
        made = part()
        np.random.seed(iter * 7 + seed)
        torch.manual_seed(iter)
        return step(made, pictures(2), (0, 1), at(iter, seed=seed))[2].box

    numpy_state, torch_state = np.random.get_state(), torch.get_rng_state()
    boxes = {(seed, iter): box(seed, iter) for seed in range(3) for iter in range(5)}
    assert boxes == {key: box(*key) for key in boxes}
    assert max(Counter(boxes.values()).values()) < 4
    # Nor does it move the generators of others.
    np.random.set_state(numpy_state)
    torch.set_rng_state(torch_state)
    step(part(), pictures(2), (0, 1), at(3))
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert (np.random.get_state()[1] == numpy_state[1]).all()


def plain(made, number, progress):
    """Whether a step of so many pictures is plain."""
    inputs, label = pictures(number, progress.iter), progress.iter % 5
    got, scores, record = step(made, inputs, [label] * number, progress)
    unmixed = torch.equal(got, inputs)
    assert unmixed == (record.preds is None)
    assert unmixed == bool((scores == torch.eye(5)[label]).all())
    return unmixed


def test_what_is_remembered_ends_with_its_epoch_and_with_its_size():
    # Every iteration here draws a box that is not empty.
    made = part(alpha=0.9)
    assert plain(made, 4, at(0))
    assert not plain(made, 4, at(1))
    assert not plain(made, 3, at(2))
    # Three pictures cannot be pasted into four.
    assert plain(made, 4, at(3)) and not plain(made, 4, at(4))
    assert plain(made, 4, at(5, epoch=1)) and not plain(made, 4, at(6, epoch=1))
    # A loop without epochs reports one: nothing is forgotten, unless it is asked for.
    made = part(alpha=0.9, reset_interval=3)
    assert [plain(made, 2, at(iter)) for iter in range(9)] == [iter % 3 == 0 for iter in range(9)]
    assert [plain(part(alpha=0.9), 2, at(0)) for _ in range(2)] == [True, True]


def test_an_empty_box_leaves_the_step_plain():
    made = part(alpha=1e-9)
    assert all(plain(made, 3, at(iter)) for iter in range(4))


def test_labels_that_are_scores_already_are_mixed_on():
    made, soft = part(alpha=0.9), torch.tensor([0.5, 0.25, 0.25, 0, 0])
    step(made, pictures(1), [2], at(0))
    made.set_progress(at(1))
    (mixed,) = made.change(pictures(1, 1), [DataSample().set_gt_score(soft)])[1]
    share = made.record.share
    torch.testing.assert_close(mixed.gt_score, (1 - share) * soft + share * torch.eye(5)[2])


def run(model, steps=3, wrapper=None, epoch_of=lambda i: 0):
    """Train steps; return the weights of the student at the end."""
    wrapper = wrapper or OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.05))
    data = Pictures(12)
    for i in range(steps):
        model.set_progress(at(i, epoch_of(i)))
        chosen = [data[(4 * i + j) % 12] for j in range(4)]
        inputs = torch.stack([sample['inputs'] for sample in chosen])
        labels = [sample['data_samples'] for sample in chosen]
        model.train_step(dict(inputs=inputs, data_samples=labels), wrapper)
    return {k: v.clone() for k, v in model.student.state_dict().items()}


def same(a, b):
    return all(torch.equal(a[key], b[key]) for key in a)


def seeded(**changes):
    torch.manual_seed(0)
    model = build(**changes).train()
    model.init_weights()
    return model


def test_weight_0_is_the_mixing_alone():
    alone = seeded()
    alone.distiller.loss_forward_mappings = {}
    alone = run(alone)
    assert same(run(seeded(loss=dict(loss_weight=0.0))), alone)
    assert not same(run(seeded()), alone)


def test_the_student_learns_what_it_would_of_batches_that_are_mixed_by_hand():
    model = seeded(loss=dict(loss_weight=0.0))
    stock = copy.deepcopy(model.student)
    run_steps, old, data = [], None, Pictures(12)
    for i in range(3):
        chosen = [data[(4 * i + j) % 12] for j in range(4)]
        inputs = torch.stack([sample['inputs'] for sample in chosen])
        scores = torch.eye(5)[[int(sample['data_samples'].gt_label) for sample in chosen]]
        if old is not None:
            rng = np.random.default_rng((220306844, 5, i))
            x1, y1, x2, y2 = random_box(rng, 32, 32, 0.5)
            share = (x2 - x1) * (y2 - y1) / 1024
            small = torch.nn.functional.interpolate(old[0], (y2 - y1, x2 - x1), mode='nearest')
            inputs = inputs.clone()
            inputs[:, :, y1:y2, x1:x2] = small
            scores = (1 - share) * scores + share * old[1]
        old = inputs, scores
        run_steps.append(old)
    weights = run(model)
    wrapper = OptimWrapper(torch.optim.SGD(stock.parameters(), lr=0.05))
    for inputs, scores in run_steps:
        labels = [DataSample().set_gt_score(score) for score in scores]
        stock.train_step(dict(inputs=inputs, data_samples=labels), wrapper)
    assert same(weights, stock.state_dict())


def test_the_teacher_sees_the_mixed_pictures():
    model = MODELS.build(
        recursive_mix(data_preprocessor=dict(type='BaseDataPreprocessor'))
        | dict(teacher=dict(resnet(), _scope_='mmpretrain'))
    ).train()
    seen = {}
    for name, network in (('S', model.student), ('T', model.teacher.network)):
        network.backbone.register_forward_pre_hook(
            lambda module, args, name=name: seen.update({name: args[0].clone()})
        )
    run(model, 2)
    assert torch.equal(seen['S'], seen['T'])
    chosen = torch.stack([Pictures(12)[i]['inputs'] for i in range(4, 8)])
    assert (seen['T'] != chosen).any(dim=1).float().mean() == pytest.approx(
        model.batch_parts[0].record.share
    )


def test_copies_and_predictions_know_nothing_of_it():
    model = seeded()
    run(model, 2)
    made = model.batch_parts[0]
    assert made._history is not None
    clone = copy.deepcopy(model)
    assert clone.batch_parts[0]._history is None and clone.batch_parts[0] is not made
    assert made._history is not None
    recorder = clone.distiller.student_recorders.get_recorder('pasted')
    assert recorder.part is clone.batch_parts[0]
    before, record = made._history, made.record
    model.eval()
    model.val_step(dict(inputs=pictures(3), data_samples=samples(0, 1, 2)))
    assert made._history is before and made.record is record
    assert set(model.state_dict()) - set(model.student.state_dict()) == {
        f'distiller.distill_losses.loss_rm.classifier.{key}' for key in ('weight', 'bias')
    }


def test_stopping_the_distillation_stops_the_mixing():
    model = seeded()
    model.distillation_stopped = True
    stock = copy.deepcopy(model.student)
    weights = run(model)
    assert model.batch_parts[0]._history is None
    wrapper, data = OptimWrapper(torch.optim.SGD(stock.parameters(), lr=0.05)), Pictures(12)
    for i in range(3):
        chosen = [data[4 * i + j] for j in range(4)]
        inputs = torch.stack([sample['inputs'] for sample in chosen])
        labels = [sample['data_samples'] for sample in chosen]
        stock.train_step(dict(inputs=inputs, data_samples=labels), wrapper)
    assert same(weights, stock.state_dict())


def training(work_dir, **options):
    cfg = config(work_dir, 3, model=recursive_mix(part=options.pop('part', None)))
    cfg.train_dataloader.dataset.type = cfg.val_dataloader.dataset.type = 'Pictures'
    cfg.train_dataloader.collate_fn.type = cfg.val_dataloader.collate_fn.type = 'pseudo_collate'
    cfg.merge_from_dict(options)
    return cfg


@pytest.mark.parametrize('seed', [0, 3])
def test_a_resumed_training_ends_in_the_same_weights(tmp_path, seed):
    options = {'randomness.seed': seed, 'default_hooks.checkpoint.max_keep_ckpts': -1}
    whole = train(training(tmp_path / 'a', **options))
    for epoch in (1, 2):
        folder = tmp_path / f'from {epoch}'
        folder.mkdir()
        (folder / f'epoch_{epoch}.pth').write_bytes(
            (tmp_path / f'a/epoch_{epoch}.pth').read_bytes()
        )
        (folder / 'last_checkpoint').write_text(str(folder / f'epoch_{epoch}.pth'))
        again = train(training(folder, resume=True, **options))
        assert same(whole, again)


def test_a_loop_without_epochs_resumes_where_it_forgets(tmp_path):
    options = {
        'train_cfg': dict(_delete_=True, by_epoch=False, max_iters=10, val_interval=20),
        'train_dataloader.sampler.type': 'InfiniteSampler',
        'default_hooks.checkpoint.by_epoch': False,
        'default_hooks.checkpoint.interval': 2,
        'default_hooks.checkpoint.save_best': None,
        'default_hooks.checkpoint.max_keep_ckpts': -1,
        'param_scheduler': None,
        'val_cfg': None, 'val_dataloader': None, 'val_evaluator': None,
    }  # fmt: skip

    def weights(folder, iters, resume=False, **part):
        cfg = training(tmp_path / folder, part=part, **copy.deepcopy(options))
        cfg.train_cfg = dict(by_epoch=False, max_iters=iters)
        cfg.train_dataloader.sampler.shuffle = False
        cfg.resume = resume
        return train(cfg)

    for name, part, exact in (('all', dict(), False), ('four', dict(reset_interval=4), True)):
        whole = weights(f'{name} whole', 10, **part)
        weights(name, 8, **part)
        assert same(whole, weights(name, 10, resume=True, **part)) == exact


def test_accumulation_mixes_every_forward_pass(tmp_path):
    shares = []

    class Listening(RecursiveMix):
        def remember(self, recorded):
            # Now and then a box is empty.
            shares.append(self.record.preds is not None or not self.record.share)
            super().remember(recorded)

    TASK_UTILS.register_module(name='RecursiveMix', module=Listening, force=True)
    try:
        cfg = training(tmp_path, **{'optim_wrapper.accumulative_counts': 3})
        cfg.model.distiller.student_recorders.pasted.source = 'Listening'
        train(cfg)
    finally:
        TASK_UTILS.register_module(name='RecursiveMix', module=RecursiveMix, force=True)
    assert shares == [False, True, True] * 3


def test_seeds_of_ranks_are_one_seed(tmp_path):
    cfg = training(tmp_path, **{'randomness.seed': 11})
    runner = Runner.from_cfg(cfg)
    runner.train()
    assert runner.model.batch_parts[0].progress.seed == 11


BAD = {
    'alpha': (dict(part=dict(alpha=0)), r'RecursiveMix\.alpha=0 is wrong: give a number above 0'),
    'large alpha': (dict(part=dict(alpha=1.5)), r'RecursiveMix\.alpha=1\.5 is wrong'),
    'interval': (dict(part=dict(reset_interval=0)), r'RecursiveMix\.reset_interval=0 is wrong'),
    'logits': (dict(part=dict(logits='fc')), r"RecursiveMix\.logits='fc' is none of the student's"),
    'accuracy': (
        dict(student=resnet() | dict(head=dict(resnet()['head'], cal_acc=True))),
        r'architecture\.head\.cal_acc=True .* give cal_acc=False',
    ),
    'several labels': (
        dict(student=resnet() | dict(head=dict(
            type='MultiLabelLinearClsHead', num_classes=5, in_channels=64))),
        r'pictures of one class, and those of the student \(MultiLabelLinearClsHead\) may have',
    ),
    'labels that are whole': (
        dict(student=resnet() | dict(head=dict(resnet()['head'], loss=dict(
            type='LabelSmoothLoss', label_smooth_val=0.1, mode='multi_label')))),
        r"head\.loss\.mode='multi_label' takes every class .* give mode='original'",
    ),
    'mixup': (
        dict(student=resnet() | dict(train_cfg=dict(augments=dict(type='Mixup', alpha=0.5)))),
        r'beside batch augments would mix every batch twice: leave out model\.archi',
    ),
}  # fmt: skip


@pytest.mark.parametrize('case', BAD)
def test_what_it_cannot_work_with_is_named(case):
    changes, says = BAD[case]
    init_default_scope('mmpretrain')
    preprocessor = dict(num_classes=5) if case == 'mixup' else None
    with pytest.raises(ValueError, match=says):
        MODELS.build(recursive_mix(**changes, data_preprocessor=preprocessor))


@pytest.mark.parametrize(
    'loss, says',
    [
        (
            dict(type='kd_plugins.CTCLoss', samples=9, channels=64),
            r'loss_more: CTCLoss takes labels of one class, and R',
        ),
        (dict(type='kd_plugins.ZipfLoss'), r'loss_more: ZipfLoss takes labels of one class, and R'),
        (dict(type='kd_plugins.DKDLoss'), r'loss_more: DKDLoss takes labels of at most 2 classes'),
    ],
)
def test_terms_that_need_labels_of_few_classes_are_refused_beside_it(loss, says):
    cfg = recursive_mix()
    recorders = (
        dict(type='ModuleInputs', source='head.loss_module'),
        dict(type='kd_plugins.DenseLogits'),
    )
    cfg['distiller'].student_recorders.update(labels=recorders[0], dense=recorders[1])
    cfg['distiller'].distill_losses.loss_more = loss
    if 'CTC' in loss['type']:
        names = dict(features_S='logits', data_samples='labels')
    else:
        names = dict(preds_S='logits', preds_T='logits', dense_S='dense', gt_labels='labels')
        names.pop('dense_S' if 'DKD' in loss['type'] else 'preds_T')
    mapping = {key: dict(recorder=name, from_student=True) for key, name in names.items()}
    cfg['distiller'].loss_forward_mappings.loss_more = mapping
    with pytest.raises(ValueError, match=says):
        MODELS.build(cfg)


def test_other_students_and_parts_are_named():
    for cfg, says in (
        (boxes(), r'the student, a GFL, is no classifier with a head\.loss_module'),
        (algorithm_cfg(), r'the student, a TinyClassifier, is no classifier'),
    ):
        with pytest.raises(ValueError, match=says):
            MODELS.build(dict(cfg, batch_parts=[dict(type='kd_plugins.RecursiveMix')]))
    mix = dict(type='kd_plugins.RecursiveMix')
    for wrong in (mix, ['RecursiveMix'], 'RecursiveMix'):
        with pytest.raises(ValueError, match=r'model\.batch_parts=.* is wrong: give a list of par'):
            MODELS.build(recursive_mix() | dict(batch_parts=wrong))
    with pytest.raises(ValueError, match=r'has two of RecursiveMix: keep one'):
        MODELS.build(recursive_mix() | dict(batch_parts=[mix, mix]))
    with pytest.raises(ValueError, match=r"pasted\.source='RecursiveMix' is not one of .*\[\]"):
        MODELS.build(recursive_mix() | dict(batch_parts=[]))
    other = dict(type='kd_plugins.DenseLogitsRecorder')
    with pytest.raises(ValueError, match=r'has a DenseLogitsRecorder, which changes no batch'):
        MODELS.build(recursive_mix() | dict(batch_parts=[other]))


def test_batches_it_cannot_mix_are_named():
    with pytest.raises(RuntimeError, match=r'call model\.set_progress before every step'):
        part().change(pictures(2), samples(0, 1))
    made = part()
    made.set_progress(at(0))
    with pytest.raises(ValueError, match=r'needs a batch of pictures, .* but gets \(2, 6\)'):
        made.change(torch.zeros(2, 6), samples(0, 1))
    with pytest.raises(ValueError, match=r'2 pictures have 3 labels of 5 classes'):
        made.change(pictures(2), samples(torch.tensor([0, 1]), 1))
    given = [*samples(0), DataSample(metainfo=dict(img_path='x/1.png'))]
    with pytest.raises(ValueError, match=r"the picture 'x/1.png' has none: give .*batch_parts\."):
        made.change(pictures(2), given)
    made.change(pictures(2), samples(0, 1))
    with pytest.raises(ValueError, match=r"logits='logits' holds \(2, 7\) for labels of \(2, 5\)"):
        made.remember(lambda name: torch.zeros(2, 7))


def test_a_part_of_ones_own_sees_the_batch_before_both_networks():
    @TASK_UTILS.register_module(force=True)
    class Darker(BatchPart):
        def change(self, inputs, data_samples):
            self.record = inputs.shape[0]
            return inputs / 2, data_samples

        def remember(self, recorded):
            self.said = recorded('logits')

    cfg = recursive_mix(data_preprocessor=dict(type='BaseDataPreprocessor'))
    cfg['batch_parts'].append(dict(type='Darker'))
    cfg['distiller'].student_recorders.number = dict(type='kd_plugins.BatchPart', source='Darker')
    model = MODELS.build(cfg)
    seen = []
    model.student.backbone.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    model.set_progress(at(0))
    inputs = pictures(2)
    model.loss(inputs, samples(0, 1))
    assert torch.equal(seen[0], inputs / 2)
    assert model.batch_parts[1].record == 2 and model.batch_parts[1].said.shape == (2, 5)
