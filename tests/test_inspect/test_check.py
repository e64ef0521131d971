"""Preflights of tiny trainings on vectors, and of the digits from the command line."""

import copy
import json
import subprocess
import sys

import pytest
import torch
from helpers import ROOT, STUDENT, TEACHER, algorithm_cfg, distiller
from helpers.vector_training import FortyVectors, kd  # noqa: F401  (registers the data)
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.registry import METRICS, MODELS
from mmengine.runner import set_random_seed

from kd_plugins.inspect.check import preflight
from kd_plugins.inspect.check.describe import describe_value, multiply_adds
from kd_plugins.inspect.check.findings import examine
from kd_plugins.inspect.check.report import Network, Report


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
    report = preflight(cfg)
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
    json.dumps(report.to_dict())


def test_values_and_gradients_are_those_of_the_first_batch(ckpt):
    cfg = config(model=model(teacher_ckpt=ckpt, distiller=distiller(dict(
        type='kd_plugins.KDLoss', tau=2.0, loss_weight=3.0))))  # fmt: skip
    report = preflight(cfg, iterations=1)
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
    logits = student.teacher(data.inputs[:8])
    assert reads['preds_T'][1] == (
        f'(8, 4) float32, {logits.min().item():.4g} to {logits.max().item():.4g}'
    )
    assert reads['gt_labels'][1].startswith('(8) int64, ')


def test_what_a_term_learns_of_its_own_is_no_part_of_the_students_gradient(ckpt):
    tau = dict(type='kd_plugins.GlobalTemperature')
    learned = distiller(dict(type='kd_plugins.KDLoss', tau=tau))
    cfg = config(model=model(teacher_ckpt=ckpt, distiller=learned), train_cfg=dict(
        by_epoch=True, max_epochs=20))  # fmt: skip
    (term,) = preflight(cfg, iterations=1, teacher_batches=0).terms
    fixed = 1 + 20 * torch.tensor(1.0).sigmoid().item()
    same = distiller(dict(type='kd_plugins.KDLoss', tau=fixed))
    cfg = config(model=model(teacher_ckpt=ckpt, distiller=same))
    (expected,) = preflight(cfg, iterations=1, teacher_batches=0).terms
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
        preflight(config(model=model(teacher_ckpt=ckpt)), iterations=1, teacher_batches=1)
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
    report = preflight(config(model=model(teacher_ckpt=rolled)))
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


def test_a_teacher_that_tells_nothing_apart_is_an_error(tmp_path):
    teacher = MODELS.build(TEACHER)
    torch.nn.init.zeros_(teacher.fc.weight)
    report = preflight(config(model=model(teacher_ckpt=save(teacher, tmp_path / 't.pth'))))
    assert any(
        'the same values from teacher.fc for every sample' in w for w in found(report, 'error')
    )


def test_a_teacher_that_is_not_finite_is_an_error(tmp_path):
    teacher = MODELS.build(TEACHER)
    teacher.fc.bias.data[1] = float('nan')
    report = preflight(config(model=model(teacher_ckpt=save(teacher, tmp_path / 't.pth'))))
    errors = found(report, 'error')
    assert 'loss_kd reads values from teacher.fc that are not finite.' in errors
    assert 'distill.loss_kd is nan on the first batch.' in errors


def test_a_term_that_reads_the_teacher_only_is_an_error(ckpt):
    cfg = distiller()
    cfg['teacher_recorders']['again'] = dict(type='ModuleOutputs', source='fc')
    cfg['loss_forward_mappings']['loss_kd']['preds_S'] = dict(recorder='again', from_student=False)
    report = preflight(config(model=model(teacher_ckpt=ckpt, distiller=cfg)))
    assert any('loss_kd has no gradient' in what for what in found(report, 'error'))


@pytest.mark.parametrize('weight, weak', [(1e-5, 'term'), (1e6, 'task')])
def test_a_part_that_drowns_the_other_is_a_warning(ckpt, weight, weak):
    cfg = distiller(dict(type='kd_plugins.KDLoss', tau=2.0, loss_weight=weight))
    report = preflight(config(model=model(teacher_ckpt=ckpt, distiller=cfg)))
    (what,) = found(report, 'warning')
    assert report.ok and f'the {weak} hardly takes part' in what


def test_a_learning_rate_for_other_batches_is_a_warning(ckpt):
    cfg = config(model=model(teacher_ckpt=ckpt), auto_scale_lr=dict(base_batch_size=32))
    (finding,) = preflight(cfg).findings
    assert finding.level == 'warning'
    assert 'meant for batches of 32' in finding.what and 'has batches of 8' in finding.what
    assert finding.change == 'train on 4 GPUs, pass --auto-scale-lr, or set it to 0.025.'
    cfg.optim_wrapper.accumulative_counts = 4
    assert preflight(cfg).findings == []


def test_what_upstream_would_load_in_part_is_told(ckpt, tmp_path):
    student = MODELS.build(STUDENT)
    kept = {k: v for k, v in student.state_dict().items() if not k.startswith('fc')}
    torch.save(dict(state_dict=kept), tmp_path / 'part.pth')
    cfg = config(model=model(teacher_ckpt=ckpt), load_from=str(tmp_path / 'part.pth'))
    report = preflight(cfg)
    (what,) = found(report, 'warning')
    assert report.ok and 'holds 2 of the 4 tensors' in what and 'fc.weight' in what
    torch.save(dict(state_dict={'other': torch.ones(1)}), tmp_path / 'other.pth')
    cfg.load_from = str(tmp_path / 'other.pth')
    assert 'holds 0 of the 4 tensors' in found(preflight(cfg), 'error')[0]


def test_parameters_without_a_gradient_are_told(ckpt):
    changed = dict(type='WithSpare', width=4)

    @MODELS.register_module(name='WithSpare', force=True)
    class WithSpare(MODELS.get('TinyClassifier')):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.spare = torch.nn.Linear(2, 2)

    report = preflight(config(model=model(teacher_ckpt=ckpt, architecture=changed)))
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
    report = preflight(config(model=swapped), teacher_batches=0)
    assert report.ok and 'smaller than the student (48 and 180' in found(report, 'note')[0]


def test_what_cannot_be_built_is_one_sentence():
    report = preflight(config(model=model(teacher_ckpt='gone.pth')))
    (what,) = found(report, 'error')
    assert what.startswith(
        "the config cannot be built: model.teacher_ckpt='gone.pth' is not a file"
    )
    with pytest.raises(FileNotFoundError):
        preflight(config(model=model(teacher_ckpt='gone.pth')), debug=True)


def test_what_stops_the_first_step_is_reported(ckpt):
    hooks = [dict(type='kd_plugins.CurriculumTemperatureHook', length=2)]
    report = preflight(config(model=model(teacher_ckpt=ckpt), custom_hooks=hooks))
    (what,) = found(report, 'error')
    assert what.startswith('the training stops in its first iterations: ')
    assert 'no learned temperature' in what


def test_trainings_without_validation_or_teacher_are_told(ckpt):
    silent = config(model=model(teacher_ckpt=ckpt))
    for key in ('val_dataloader', 'val_evaluator', 'val_cfg'):
        silent.pop(key)
    assert 'there is no validation' in found(preflight(silent), 'warning')[0]
    alone = preflight(config(model=dict(STUDENT)))
    assert alone.ok and alone.teacher is None and 'no distillation' in found(alone, 'note')[0]


def test_epochs_shorter_than_the_iterations_asked_for(ckpt):
    cfg = config(model=model(teacher_ckpt=ckpt), train_dataloader=loader(20))
    assert preflight(cfg, iterations=10).cost.seconds_per_iteration > 0


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


def command(*arguments, cwd):
    line = [sys.executable, str(ROOT / 'tools/check.py'), *map(str, arguments)]
    return subprocess.run(line, cwd=cwd, capture_output=True, text=True)


def test_from_the_command_line(tmp_path):
    options = ['--cfg-options', 'model.teacher_ckpt=None', 'model.allow_random_teacher=True']
    path = ROOT / 'configs/dkd/dkd_digits.py'
    reply = command(path, '--teacher-batches', 0, *options, cwd=tmp_path)
    assert reply.returncode == 0, reply.stderr
    assert 'ready to train' in reply.stdout and 'not ready' not in reply.stdout
    assert 'DKDLoss' in reply.stdout and 'student.head.fc' in reply.stdout
    reply = command(path, '--json', *options, cwd=tmp_path)
    said = json.loads(reply.stdout)
    assert reply.returncode == 1 and not said['ok']
    assert 'the teacher guesses' in said['findings'][0]['what']
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('by_epoch', [True, False])
def test_a_warm_up_longer_than_the_training_is_found(by_epoch):
    length, has = (5, '4 epochs') if by_epoch else (21, '20 iterations')
    term = dict(type='kd_plugins.DKDLoss', warmup=dict(length=length, by_epoch=by_epoch))
    report = preflight(config(model=model(distiller=distiller(term))), iterations=1)
    assert any(
        f'is longer than the training, which has {has}' in what and 'DKDLoss.warmup=' in what
        for what in found(report, 'error')
    )
    term['warmup']['length'] -= 1
    report = preflight(config(model=model(distiller=distiller(term))), iterations=1)
    assert not any('longer than the training' in what for what in found(report, 'error'))
