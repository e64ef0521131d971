"""Checks of tiny trainings on vectors, and of the digits from the command line."""

import copy
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import ROOT, STUDENT, TEACHER, algorithm_cfg, distiller, eekd_cfg, reviewing
from helpers.few_scenes import few_scenes
from helpers.processes import run_script
from helpers.vector_training import FortyVectors, kd  # noqa: F401  (registers the data)
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.registry import DATASETS, LOOPS, METRICS, MODELS, init_default_scope
from mmengine.runner import EpochBasedTrainLoop, set_random_seed
from rich.console import Console

from kd_plugins.experiments.memory import PeakMemory
from kd_plugins.inspect.check import check, probe
from kd_plugins.inspect.check.describe import describe_value, multiply_adds
from kd_plugins.inspect.check.findings import examine
from kd_plugins.inspect.check.report import Network, Report
from kd_plugins.inspect.check.show import show


@METRICS.register_module(force=True)
class Top1(BaseMetric):
    """Accuracy under the name that mmpretrain's has."""

    def process(self, data_batch, data_samples):
        hits = [int(s.argmax()) == int(y) for s, y in zip(data_samples, data_batch['data_samples'])]  # noqa: B905
        self.results.extend(hits)

    def compute_metrics(self, results):
        return {'accuracy/top1': 100 * sum(results) / len(results)}


def loader(batch_size):
    return dict(
        batch_size=batch_size,
        dataset=dict(type='FortyVectors'),
        sampler=dict(type='DefaultSampler', shuffle=False),
        collate_fn=dict(type='default_collate'),
    )


def config(**changes):
    cfg = dict(
        model=algorithm_cfg(distiller=distiller(dict(type='kd_plugins.KDLoss', tau=2.0))),
        train_dataloader=loader(8),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1, weight_decay=1e-3)),
        train_cfg=dict(by_epoch=True, max_epochs=4),
        val_dataloader=loader(10),
        val_evaluator=dict(type='Top1'),
        val_cfg=dict(),
        randomness=dict(seed=0),
    )
    cfg.update(changes)
    return Config(cfg)


def model(**changes):
    return algorithm_cfg(**changes)


def found(report, level):
    return [finding.what for finding in report.findings if finding.level == level]


def knowing_teacher(**changes):
    """A teacher that has learnt the forty vectors by heart."""
    teacher = MODELS.build(dict(TEACHER, **changes))
    data = FortyVectors()
    optimizer = torch.optim.Adam(teacher.parameters(), 0.05)
    for _ in range(150):
        loss = teacher(data.inputs, data.labels, mode='loss')['loss']
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return teacher


def save(teacher, path):
    torch.save(dict(state_dict=teacher.state_dict()), path)
    return str(path)


@pytest.fixture(scope='module')
def ckpt(tmp_path_factory):
    torch.manual_seed(0)
    return save(knowing_teacher(), tmp_path_factory.mktemp('teacher') / 'teacher.pth')


def test_a_sound_training_has_no_findings_and_leaves_nothing_behind(ckpt, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cfg = config(model=model(teacher_ckpt=ckpt, allow_random_teacher=False))
    before = copy.deepcopy(cfg.to_dict())
    report = check(cfg)
    assert report.ok and report.findings == []
    assert cfg.to_dict() == before
    assert list(tmp_path.iterdir()) == []
    assert report.teacher_samples == 40
    assert report.teacher_metrics == {'accuracy/top1': 100.0}
    assert report.teacher.weights == f'4 tensors of {ckpt}'
    assert report.teacher.parameters == 6 * 16 + 16 + 16 * 4 + 4
    assert report.student.multiply_adds == 6 * 4 + 4 * 4
    assert report.data.iterations_per_epoch == 5 and report.data.epochs == 4
    assert [(g.parameters, g.lr, g.weight_decay) for g in report.groups] == [(48, 0.1, 1e-3)]
    assert report.cost.seconds_in_all == pytest.approx(20 * report.cost.seconds_per_iteration)
    assert 0 < report.cost.teacher_share < 1
    threads = torch.get_num_threads()
    said = f'cost on CPU, {threads} thread{"" if threads == 1 else "s"}: '
    assert torch.cuda.is_available() or said in shown(report)
    json.dumps(report.to_dict())


def test_of_several_checkpoints_each_is_measured_and_one_that_guesses_is_named(ckpt, tmp_path):
    blind = MODELS.build(TEACHER)
    torch.nn.init.zeros_(blind.fc.weight)
    torch.nn.init.constant_(blind.fc.bias, 0.0)
    bad = save(blind, tmp_path / 'blind.pth')
    parts = eekd_cfg([bad, ckpt])
    report = check(config(model=model(allow_random_teacher=False, **parts)))
    assert report.teacher.type == '2 x TinyClassifier'
    assert report.teacher.parameters == 2 * (6 * 16 + 16 + 16 * 4 + 4)
    assert report.teacher.multiply_adds == 2 * (6 * 16 + 16 * 4)
    assert report.teacher.weights == f'8 tensors of {bad}, {ckpt}'
    assert report.teacher_metrics == {'accuracy/top1': 100.0}
    assert [name for name, _ in report.teacher_members] == [bad, ckpt]
    assert report.teacher_members[1][1] == {'accuracy/top1': 100.0}
    guessing = [what for what in found(report, 'error') if 'guesses' in what]
    assert len(guessing) == 1 and guessing[0].startswith(f'{bad} guesses: accuracy/top1 is')
    json.dumps(report.to_dict())
    assert f'accuracy/top1 100: {ckpt}'[-30:] in ''.join(shown(report).split('\n'))


def test_values_and_gradients_are_those_of_the_first_batch(ckpt):
    cfg = config(model=model(teacher_ckpt=ckpt, distiller=distiller(dict(
        type='kd_plugins.KDLoss', tau=2.0, loss_weight=3.0))))  # fmt: skip
    report = check(cfg, iterations=1)
    (term,) = report.terms
    # The Runner seeds, then builds; the same here, and the first eight vectors.
    set_random_seed(0)
    student = MODELS.build(cfg.model)
    data = FortyVectors()
    losses = student(data.inputs[:8], data.labels[:8], mode='loss')
    parameters = list(student.architecture.parameters())
    for name, value, gradient in (
        ('student.loss', report.losses['student.loss'], report.task_gradient),
        ('distill.loss_kd', term.value, term.gradient),
    ):
        grads = torch.autograd.grad(losses[name], parameters, retain_graph=True)
        assert value == pytest.approx(losses[name].item(), rel=1e-5)
        norm = sum(float((g.double() ** 2).sum()) for g in grads) ** 0.5
        assert gradient == pytest.approx(norm, rel=1e-5)
    assert (term.type, term.weight) == ('KDLoss', 3.0)
    reads = {read.argument: (read.source, read.what) for read in term.reads}
    assert reads['preds_T'][0] == 'teacher.fc' and reads['preds_S'][0] == 'student.fc'
    logits = student.teacher.network(data.inputs[:8])
    assert reads['preds_T'][1] == (
        f'(8, 4) float32, {logits.min().item():.4g} to {logits.max().item():.4g}'
    )
    assert reads['gt_labels'][1].startswith('(8) int64, ')


def test_what_a_term_learns_of_its_own_is_no_part_of_the_students_gradient(ckpt):
    tau = dict(type='kd_plugins.GlobalTemperature')
    learned = distiller(dict(type='kd_plugins.KDLoss', tau=tau))
    cfg = config(model=model(teacher_ckpt=ckpt, distiller=learned), train_cfg=dict(
        by_epoch=True, max_epochs=20))  # fmt: skip
    (term,) = check(cfg, iterations=1, teacher_batches=0).terms
    fixed = 1 + 20 * torch.tensor(1.0).sigmoid().item()
    same = distiller(dict(type='kd_plugins.KDLoss', tau=fixed))
    cfg = config(model=model(teacher_ckpt=ckpt, distiller=same))
    (expected,) = check(cfg, iterations=1, teacher_batches=0).terms
    assert term.value == pytest.approx(expected.value, rel=1e-5)
    assert term.gradient == pytest.approx(expected.gradient, rel=1e-5)


def test_the_teacher_is_measured_on_samples_drawn_at_random(ckpt):
    # The first ten of the set, in its order, would be the first ten.
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        process = Top1.process
        patch.setattr(
            Top1, 'process', lambda self, batch, s: seen.append(batch) or process(self, batch, s)
        )
        check(config(model=model(teacher_ckpt=ckpt)), iterations=1, teacher_batches=1)
    (batch,) = seen
    data = FortyVectors()
    places = [(data.inputs == row).all(1).nonzero().item() for row in batch['inputs']]
    assert len(set(places)) == 10 and places != list(range(10))


def test_a_teacher_of_the_classes_in_another_order_is_an_error(ckpt, tmp_path):
    teacher = MODELS.build(TEACHER)
    teacher.load_state_dict(torch.load(ckpt)['state_dict'])
    for parameter in teacher.fc.parameters():
        parameter.data = parameter.data.roll(1, 0)
    rolled = save(teacher, tmp_path / 'rolled.pth')
    report = check(config(model=model(teacher_ckpt=rolled)))
    assert not report.ok
    assert found(report, 'error') == [
        'the teacher guesses: accuracy/top1 is 0 on 40 samples of the validation set.'
    ]


@pytest.mark.parametrize('accuracy, guesses', [(10.2, True), (11.5, True), (14.5, False)])
def test_guessing_is_told_from_knowing_by_three_deviations(accuracy, guesses):
    # Of 1,000 samples of 10 classes, guessing gets 10 % right, give or take 0.95 %.
    report = Report('x', student=network(10), teacher=network(10), teacher_samples=1000)
    report.teacher_metrics = {'accuracy/top1': accuracy}
    examine(report)
    assert report.ok is not guesses


def test_no_object_in_the_pictures_tells_nothing_of_a_detector():
    report = Report('x', student=network(10), teacher=network(10), teacher_samples=8)
    report.teacher_metrics = {'coco/bbox_mAP': -1.0, 'coco/bbox_mAP_50': -1.0}
    examine(report)
    assert report.ok and found(report, 'note') == [
        'coco/bbox_mAP tells nothing of the teacher: none of the 8 pictures that were drawn has an '
        'object.'
    ]


@pytest.fixture
def scenes(tmp_path):
    """The config of BCKD on four scenes for validation, and the file of their boxes."""
    cfg = Config.fromfile(ROOT / 'configs/bckd/bckd_scenes.py')
    cfg.merge_from_dict(few_scenes(tmp_path))
    cfg.model.update(teacher_ckpt=None, allow_random_teacher=True)
    return cfg, cfg.val_evaluator.ann_file


def without_boxes(path):
    path = Path(path)
    path.write_text(json.dumps(dict(json.loads(path.read_text()), annotations=[])))


def test_a_term_on_several_levels_says_what_it_reads():
    model = algorithm_cfg(distiller=reviewing())
    (term,) = check(config(model=model), iterations=1, teacher_batches=0).terms
    reads = [(read.argument, read.source) for read in term.reads]
    assert reads == [('preds_S', 'student.body.1, fc'), ('preds_T', 'teacher.body.1, fc')]
    # Behind the connector, and the teacher's own.
    for read, shape in zip(term.reads, ('(8, 16, 1, 1)', '(8, 16)'), strict=True):
        assert read.what.startswith(f'2 of: {shape} float32')


def test_scenes_without_an_object_do_not_fail_a_check(scenes):
    cfg, path = scenes
    without_boxes(path)
    report = check(cfg, iterations=1, debug=True)
    assert report.teacher_metrics['coco/bbox_mAP'] == -1
    assert report.ok and any('none of the 4 pictures' in note for note in found(report, 'note'))


@pytest.mark.parametrize('objects', [True, False])
def test_a_detector_that_finds_nothing_is_measured_all_the_same(scenes, objects):
    cfg, path = scenes
    # mmdet's evaluator gives no metric at all then.
    cfg.model.teacher.test_cfg = dict(score_thr=2.0)
    if not objects:
        without_boxes(path)
    report = check(cfg, iterations=1, debug=True)
    assert report.teacher_metrics == {'coco/bbox_mAP': 0.0 if objects else -1.0}
    assert report.ok is not objects
    if objects:
        assert found(report, 'error') == [
            'the teacher guesses: coco/bbox_mAP is 0 on 4 samples of the validation set.'
        ]


def digits(cfg, split):
    """All pictures and labels of a split of the digits."""
    dataset = DATASETS.build(cfg[f'{split}_dataloader'].dataset)
    items = [dataset[i] for i in range(len(dataset))]
    pictures = torch.stack([item['inputs'].float() for item in items])
    return pictures, torch.tensor([int(item['data_samples'].gt_label) for item in items])


@pytest.fixture(scope='module')
def digits_teacher(tmp_path_factory):
    """A teacher of digits that wants another normalisation than the student."""
    cfg = Config.fromfile(ROOT / 'configs/kd/kd_digits.py')
    cfg.model.teacher.data_preprocessor = dict(mean=[40.0], std=[20.0])
    init_default_scope('mmpretrain')
    set_random_seed(0)
    teacher = MODELS.build(cfg.model.teacher)
    pictures, labels = digits(cfg, 'train')
    optimizer = torch.optim.Adam(teacher.parameters(), 0.01)
    for rows in torch.arange(len(labels)).split(50) * 8:
        logits = teacher((pictures[rows] - 40) / 20, mode='tensor')
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(logits, labels[rows]).backward()
        optimizer.step()
    path = tmp_path_factory.mktemp('digits') / 'teacher.pth'
    cfg.model.teacher_ckpt = save(teacher, path)
    return cfg, teacher.eval()


def shown(report):
    console = Console(width=200, record=True, file=io.StringIO())
    show(report, console)
    return ' '.join(console.export_text().split())


def top1(teacher, pictures, labels):
    with torch.no_grad():
        answers = teacher(pictures, mode='tensor').argmax(1)
    return 100 * (answers == labels).float().mean().item()


def test_the_teacher_is_measured_on_what_it_teaches_with_and_on_its_own(digits_teacher):
    cfg, teacher = copy.deepcopy(digits_teacher[0]), digits_teacher[1]
    cfg.model.teacher_input_size = 4
    report = check(cfg, iterations=1, teacher_batches=10, debug=True)
    pictures, labels = digits(cfg, 'val')
    own = (pictures - 40) / 20
    taught = torch.nn.functional.interpolate(own, (4, 4), mode='bilinear', antialias=True)
    expected = [top1(teacher, seen, labels) for seen in (taught, own)]
    assert report.teacher_samples == 719 and expected[1] > expected[0] + 10
    assert report.teacher_metrics['accuracy/top1'] == pytest.approx(expected[0], abs=0.2)
    assert report.teacher_own_metrics['accuracy/top1'] == pytest.approx(expected[1], abs=0.2)
    (what,) = (w for w in found(report, 'warning') if 'its own preprocessing' in w)
    for value in (report.teacher_metrics, report.teacher_own_metrics):
        assert f'{value["accuracy/top1"]:.4g}' in what
        assert f'accuracy/top1 {value["accuracy/top1"]:.4g}' in shown(report)


def test_an_own_normalisation_alone_is_measured_once(digits_teacher):
    cfg, teacher = digits_teacher
    report = check(cfg, iterations=1, debug=True)
    pictures, labels = digits(cfg, 'val')
    expected = top1(teacher, (pictures - 40) / 20, labels)
    assert report.teacher_metrics['accuracy/top1'] == pytest.approx(expected, abs=0.2)
    # It is not that of the student's input.
    assert expected > top1(teacher, (pictures - 77.85) / 95.89, labels) + 5
    assert report.teacher_own_metrics == {}
    assert not any('own preprocessing' in finding.what for finding in report.findings)


@pytest.mark.parametrize(
    'taught, own, level',
    [
        (90.0, 90.5, 'note'), (90.0, 95.0, 'warning'), (95.0, 90.0, 'note'),
        # Of 100 samples 80 are right, give or take 4.
        (77.0, 80.0, 'note'), (75.0, 80.0, 'warning'),
    ],
)  # fmt: skip
def test_a_teacher_that_is_clearly_worse_as_it_teaches_is_a_warning(taught, own, level):
    samples = 100 if own == 80 else 10000
    report = Report('x', student=network(10), teacher=network(10), teacher_samples=samples)
    report.teacher_metrics = {'accuracy/top1': taught}
    report.teacher_own_metrics = {'accuracy/top1': own}
    examine(report)
    (finding,) = report.findings
    assert finding.level == level and f'top-1 {taught:g} on the input' in finding.what


def test_a_teacher_that_tells_nothing_apart_is_an_error(tmp_path):
    teacher = MODELS.build(TEACHER)
    torch.nn.init.zeros_(teacher.fc.weight)
    report = check(config(model=model(teacher_ckpt=save(teacher, tmp_path / 't.pth'))))
    assert any(
        'the same values from teacher.fc for every sample' in w for w in found(report, 'error')
    )


def test_a_teacher_that_is_not_finite_is_an_error(tmp_path):
    teacher = MODELS.build(TEACHER)
    teacher.fc.bias.data[1] = float('nan')
    report = check(config(model=model(teacher_ckpt=save(teacher, tmp_path / 't.pth'))))
    errors = found(report, 'error')
    assert 'loss_kd reads values from teacher.fc that are not finite.' in errors
    assert 'distill.loss_kd is nan on the first batch.' in errors


def test_a_term_that_reads_the_teacher_only_is_an_error(ckpt):
    cfg = distiller()
    cfg['teacher_recorders']['again'] = dict(type='ModuleOutputs', source='fc')
    cfg['loss_forward_mappings']['loss_kd']['preds_S'] = dict(recorder='again', from_student=False)
    report = check(config(model=model(teacher_ckpt=ckpt, distiller=cfg)))
    assert any('loss_kd has no gradient' in what for what in found(report, 'error'))


@pytest.mark.parametrize('weight, weak', [(1e-5, 'term'), (1e6, 'task')])
def test_a_part_that_drowns_the_other_is_a_warning(ckpt, weight, weak):
    cfg = distiller(dict(type='kd_plugins.KDLoss', tau=2.0, loss_weight=weight))
    report = check(config(model=model(teacher_ckpt=ckpt, distiller=cfg)))
    (what,) = found(report, 'warning')
    assert report.ok and f'the {weak} hardly takes part' in what


def test_a_learning_rate_for_other_batches_is_a_warning(ckpt):
    cfg = config(model=model(teacher_ckpt=ckpt), auto_scale_lr=dict(base_batch_size=32))
    (finding,) = check(cfg).findings
    assert finding.level == 'warning'
    assert 'meant for batches of 32' in finding.what and 'has batches of 8' in finding.what
    assert finding.change == 'train on 4 GPUs, pass --auto-scale-lr, or set it to 0.025.'
    cfg.optim_wrapper.accumulative_counts = 4
    assert check(cfg).findings == []


def test_what_is_loaded_in_part_is_told(ckpt, tmp_path):
    student = MODELS.build(STUDENT)
    kept = {k: v for k, v in student.state_dict().items() if not k.startswith('fc')}
    torch.save(dict(state_dict=kept), tmp_path / 'part.pth')
    torch.save(dict(state_dict={'other': torch.ones(1)}), tmp_path / 'other.pth')
    part, other = (dict(load_from=str(tmp_path / name)) for name in ('part.pth', 'other.pth'))
    # A distillation refuses it, unless it is asked not to.
    (what,) = found(check(config(model=model(teacher_ckpt=ckpt), **part)), 'error')
    assert "another model's" in what and 'fc.weight' in what
    allowed = model(teacher_ckpt=ckpt, load_from_except=['fc.*'])
    for cfg in (config(model=allowed, **part), config(model=dict(STUDENT), **part)):
        report = check(cfg)
        what = next(w for w in found(report, 'warning') if 'load_from' in w)
        assert report.ok and 'holds 2 of the 4 tensors' in what and 'fc.weight' in what
    # Of a student alone upstream loads nothing, and says so only in its log.
    errors = found(check(config(model=dict(STUDENT), **other)), 'error')
    assert 'holds 0 of the 4 tensors' in errors[0]


def test_parameters_without_a_gradient_are_told(ckpt):
    changed = dict(type='WithSpare', width=4)

    @MODELS.register_module(name='WithSpare', force=True)
    class WithSpare(MODELS.get('TinyClassifier')):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.spare = torch.nn.Linear(2, 2)

    report = check(config(model=model(teacher_ckpt=ckpt, architecture=changed)))
    (what,) = found(report, 'warning')
    assert what.startswith('2 trainable parameters get no gradient')


def network(classes):
    return Network('x', 'y', 'z', 10, 10, None, [1], classes, None, None, False)


def test_differing_classes_are_an_error():
    report = Report('x', student=network(4), teacher=network(7))
    examine(report)
    assert found(report, 'error') == [
        'the numbers of classes differ: the student has 4, the teacher has 7.'
    ]


def test_swapped_networks_are_noted(ckpt):
    swapped = model(architecture=dict(TEACHER), teacher=dict(STUDENT), allow_random_teacher=True)
    report = check(config(model=swapped), teacher_batches=0)
    assert report.ok and 'smaller than the student (48 and 180' in found(report, 'note')[0]


def test_what_cannot_be_built_is_one_sentence():
    report = check(config(model=model(teacher_ckpt='gone.pth')))
    (what,) = found(report, 'error')
    assert what.startswith(
        "the config cannot be built: model.teacher_ckpt='gone.pth' is not a file"
    )
    with pytest.raises(FileNotFoundError):
        check(config(model=model(teacher_ckpt='gone.pth')), debug=True)


def test_what_stops_the_first_step_is_reported(ckpt):
    hooks = [dict(type='kd_plugins.CurriculumTemperatureHook', length=2)]
    report = check(config(model=model(teacher_ckpt=ckpt), custom_hooks=hooks))
    (what,) = found(report, 'error')
    assert what.startswith('the training stops in its first iterations: ')
    assert 'no learned temperature' in what


def test_trainings_without_validation_or_teacher_are_told(ckpt):
    silent = config(model=model(teacher_ckpt=ckpt))
    for key in ('val_dataloader', 'val_evaluator', 'val_cfg'):
        silent.pop(key)
    assert 'there is no validation' in found(check(silent), 'warning')[0]
    alone = check(config(model=dict(STUDENT)))
    assert alone.ok and alone.teacher is None and 'no distillation' in found(alone, 'note')[0]


@MODELS.register_module(force=True)
class SmallLogits(torch.nn.Module):
    def forward(self, preds_S):
        return preds_S.square().mean()


def test_a_distillation_without_a_teacher_is_checked_as_well():
    cfg = distiller(
        teacher_recorders=dict(),
        distill_losses=dict(loss_small=dict(type='SmallLogits')),
        loss_forward_mappings=dict(
            loss_small=dict(preds_S=dict(recorder='logits', from_student=True))
        ),
    )
    report = check(
        config(model=model(teacher=None, allow_random_teacher=False, distiller=cfg)), debug=True
    )
    assert report.ok and report.teacher is None and report.teacher_samples == 0
    assert found(report, 'note') == [
        'the distillation has no teacher (model.teacher=None): there is none to check.'
    ]
    assert [term.name for term in report.terms] == ['loss_small'] and report.terms[0].gradient > 0
    assert report.cost.teacher_share == 0 and 'ready to train' in shown(report)


@LOOPS.register_module(name='LoopOfTurns', force=True)
class LoopOfTurns(EpochBasedTrainLoop):
    """An epoch-based loop that calls its epochs otherwise."""

    def __init__(self, runner, dataloader, turns, **kwargs):
        super().__init__(runner, dataloader, max_epochs=turns, **kwargs)


@pytest.mark.parametrize(
    ('train_cfg', 'epochs'),
    [
        (dict(by_epoch=True, max_epochs=4), 4),
        (dict(type='EpochBasedTrainLoop', max_epochs=4), 4),
        (dict(type='LoopOfTurns', turns=4), 4),
        (dict(by_epoch=False, max_iters=12), 2.4),
        (dict(type='IterBasedTrainLoop', max_iters=12), 2.4),
    ],
)
def test_the_length_of_a_training_is_that_of_its_loop(ckpt, train_cfg, epochs):
    cfg = config(model=model(teacher_ckpt=ckpt), train_cfg=train_cfg)
    report = check(cfg, iterations=1, teacher_batches=0, debug=True)
    assert report.data.epochs == epochs
    whole = 5 * epochs * report.cost.seconds_per_iteration
    assert report.cost.seconds_in_all == pytest.approx(whole)


def test_memory_is_that_of_the_training_alone(ckpt, monkeypatch):
    cfg = config(model=model(teacher_ckpt=ckpt))
    usual = check(cfg, teacher_batches=0, debug=True).cost
    look = probe.take_gradients

    def wasteful(*args):
        torch.ones(2**27).sum()  # 512 MiB
        return look(*args)

    monkeypatch.setattr(probe, 'take_gradients', wasteful)
    cost = check(cfg, teacher_batches=0, debug=True).cost
    assert cost.memory_of == usual.memory_of == 'of the process while it trained'
    assert abs(cost.peak_memory_mib - usual.peak_memory_mib) < 128
    # What an iteration takes is there.
    step = torch.optim.SGD.step

    def hungry(*args, **kwargs):
        torch.ones(2**27).sum()
        return step(*args, **kwargs)

    monkeypatch.setattr(torch.optim.SGD, 'step', hungry)
    more = check(cfg, teacher_batches=0, debug=True).cost
    assert 400 < more.peak_memory_mib - cost.peak_memory_mib < 640


def test_memory_of_a_gpu_is_that_since_its_start(monkeypatch):
    done = []
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'reset_peak_memory_stats', lambda: done.append('reset'))
    monkeypatch.setattr(torch.cuda, 'max_memory_allocated', lambda: 3 * 2**20)
    memory = PeakMemory()
    memory.start()
    assert done == ['reset'] and memory.read() == (3, 'of tensors on the GPU')


def test_a_system_that_cannot_tell_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr('kd_plugins.experiments.memory._CLEAR', tmp_path / 'no' / 'clear_refs')
    memory = PeakMemory()
    memory.start()
    mib, of = memory.read()
    assert mib > 100 and of == 'of the process, with what check needs itself'


def test_epochs_shorter_than_the_iterations_asked_for(ckpt):
    cfg = config(model=model(teacher_ckpt=ckpt), train_dataloader=loader(20))
    assert check(cfg, iterations=10).cost.seconds_per_iteration > 0


def test_values_are_described():
    assert describe_value(torch.tensor([[1.5, -2.0]])) == '(1, 2) float32, -2 to 1.5'
    assert describe_value(torch.zeros(0, 3)) == '(0, 3) float32, empty'
    assert describe_value([torch.zeros(2, dtype=torch.half)] * 3) == '3 of: (2) float16, 0 to 0'
    assert describe_value('text') == 'str'


def test_networks_that_cannot_be_traced_have_no_count():
    class Refuses(torch.nn.Module):
        def forward(self, x):
            raise RuntimeError('no')

    assert multiply_adds(Refuses(), torch.zeros(1, 2)) is None


def test_from_the_command_line(tmp_path):
    options = ['--cfg-options', 'model.teacher_ckpt=None', 'model.allow_random_teacher=True']
    line = [ROOT / 'tools/check.py', ROOT / 'configs/dkd/dkd_digits.py', *options]
    reply = run_script(*line, '--teacher-batches', 0, cwd=tmp_path)
    assert reply.returncode == 0, reply.stderr
    assert 'ready to train' in reply.stdout and 'not ready' not in reply.stdout
    assert 'DKDLoss' in reply.stdout and 'student.head.fc' in reply.stdout
    # In a new interpreter, to which upstream's packages print while they are imported.
    line = [sys.executable, *map(str, line), '--json']
    reply = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True)
    said = json.loads(reply.stdout)
    assert reply.returncode == 1 and not said['ok']
    assert 'the teacher guesses' in said['findings'][0]['what']
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('by_epoch', [True, False])
def test_a_warm_up_longer_than_the_training_is_found(by_epoch):
    length, has = (5, '4 epochs') if by_epoch else (21, '20 iterations')
    term = dict(type='kd_plugins.DKDLoss', warmup=dict(length=length, by_epoch=by_epoch))
    report = check(config(model=model(distiller=distiller(term))), iterations=1)
    assert any(
        f'is longer than the training, which has {has}' in what and 'DKDLoss.warmup=' in what
        for what in found(report, 'error')
    )
    term['warmup']['length'] -= 1
    report = check(config(model=model(distiller=distiller(term))), iterations=1)
    assert not any('longer than the training' in what for what in found(report, 'error'))


@pytest.mark.parametrize(
    ('batch', 'counts', 'base', 'enable', 'what', 'change'),
    [
        # Upstream multiplies by 8 / 32 and forgets the four batches of a step.
        (8, 4, 32, True, 'scaled the learning rate to 0.025 for batches of 8, and a step sees 32',
         'set auto_scale_lr.enable=False and the learning rate to 0.1.'),
        (8, 2, 32, False, 'meant for batches of 32 .*, and one process has batches of 16',
         'train on 2 GPUs, set it to 0.05: --auto-scale-lr would .* make it 0.025.'),
        (8, 1, 32, False, 'meant for batches of 32 .*, and one process has batches of 8',
         'train on 4 GPUs, pass --auto-scale-lr, or set it to 0.025.'),
        (8, 4, 32, False, None, None),
        (8, 1, 32, True, None, None),
    ],
)  # fmt: skip
@pytest.mark.parametrize('parts', [False, True])
def test_the_rate_of_a_batch_is_what_upstream_will_make_it(
    batch, counts, base, enable, what, change, parts
):
    cfg = config(
        train_dataloader=loader(batch),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1), accumulative_counts=counts),
        auto_scale_lr=dict(base_batch_size=base, enable=enable),
    )
    if parts:
        # The first group has another rate, as the backbones of DETR and layer-wise decay do.
        cfg.optim_wrapper.paramwise_cfg = dict(custom_keys={'body': dict(lr_mult=0.1)})
    told = [f for f in check(cfg, teacher_batches=0).findings if 'learning rate' in f.what]
    if what is None:
        assert not told
    else:
        (finding,) = told
        assert re.search(what, finding.what) and re.fullmatch(change, finding.change)
