"""Weights that are proposed, and the teacher beside the student alone."""

import copy
import importlib.util
import io
import json
import re
import sys

import pytest
import torch
from helpers import ROOT, STUDENT, TEACHER, algorithm_cfg, distiller
from helpers.processes import run_script
from helpers.vector_training import FortyVectors
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.registry import METRICS, MODELS
from mmengine.runner import set_random_seed
from rich.console import Console

from kd_plugins.experiments.metrics import HEADLINES
from kd_plugins.inspect.check import check
from kd_plugins.inspect.check.findings import _against_alone
from kd_plugins.inspect.check.report import Calibration, Report
from kd_plugins.inspect.check.show import show


@METRICS.register_module(force=True)
class Hits(BaseMetric):
    """Accuracy under the name that mmpretrain's has."""

    def process(self, data_batch, data_samples):
        hits = [int(s.argmax()) == int(y) for s, y in zip(data_samples, data_batch['data_samples'])]  # noqa: B905
        self.results.extend(hits)

    def compute_metrics(self, results):
        return {'accuracy/top1': 100 * sum(results) / len(results)}


def loader(batch_size=8):
    return dict(
        batch_size=batch_size,
        dataset=dict(type='FortyVectors'),
        sampler=dict(type='DefaultSampler', shuffle=False),
        collate_fn=dict(type='default_collate'),
    )


def config(loss=None, lr=0.0, epochs=4, model=None):
    loss = loss or dict(type='kd_plugins.KDLoss', tau=2.0, loss_weight=0.9)
    return Config(
        dict(
            model=model or algorithm_cfg(distiller=distiller(loss)),
            train_dataloader=loader(),
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=lr)),
            train_cfg=dict(by_epoch=True, max_epochs=epochs),
            val_dataloader=loader(10),
            val_evaluator=dict(type='Hits'),
            val_cfg=dict(),
            randomness=dict(seed=0),
        )
    )


def calibrated(cfg, wanted=1.0, iterations=12):
    report = check(cfg, 2, 0, debug=True, calibration=Calibration(wanted, iterations))
    return report, report.calibration


def test_the_proposed_weight_gives_the_wanted_ratio():
    # With a rate of 0 every epoch has the same gradients, whatever the weight.
    report, found = calibrated(config(), wanted=0.25)
    assert found.iterations == 12 and len(found.ratios['loss_kd']) == 12
    assert found.ratios['loss_kd'][:5] == pytest.approx(found.ratios['loss_kd'][5:10], rel=1e-5)
    # The first batch's, by the other way that the check differentiates.
    first = report.terms[0].gradient / report.task_gradient
    assert found.ratios['loss_kd'][0] == pytest.approx(first, rel=1e-5)
    cfg = config()
    scope = {}
    exec(found.line, scope)
    cfg.merge_from_dict(dict(model=scope['model']))
    weight = cfg.model.distiller.distill_losses.loss_kd.loss_weight
    assert weight == found.proposed['loss_kd'] != 0.9
    _, again = calibrated(cfg, wanted=0.25)
    # Two digits of the weight.
    assert sorted(again.ratios['loss_kd'])[6] == pytest.approx(0.25, rel=0.06)
    assert report.cost.seconds_per_iteration > 0


def test_gradients_are_those_of_a_loop_by_hand():
    cfg = config()
    _, found = calibrated(cfg, iterations=3)
    data = FortyVectors()
    # The check builds the model under the seed of the config.
    set_random_seed(0)
    model = MODELS.build(cfg.model)
    model.init_weights()
    student, teacher = model.architecture, model.teacher.network
    for batch in range(3):
        x, y = (part[8 * batch : 8 * batch + 8] for part in (data.inputs, data.labels))
        logits = student(x)
        task = torch.nn.functional.cross_entropy(logits, y)
        with torch.no_grad():
            target = (teacher(x) / 2).softmax(1)
        kd = 0.9 * 4 * (target * (target.log() - (logits / 2).log_softmax(1))).sum(1).mean()
        norms = [
            torch.cat([g.flatten() for g in torch.autograd.grad(
                loss, list(student.parameters()), retain_graph=True)]).norm()
            for loss in (kd, task)
        ]  # fmt: skip
        assert found.ratios['loss_kd'][batch] == pytest.approx(float(norms[0] / norms[1]), rel=1e-4)


def test_reentrant_checkpointing_changes_nothing():
    """It differentiates by backward() only, which must leave nothing in the first step."""
    cfg = config(lr=0.1)
    _, plain = calibrated(cfg, iterations=3)
    cfg.activation_checkpointing = ['fc']
    report, kept = calibrated(cfg, iterations=3)
    assert kept.ratios['loss_kd'] == pytest.approx(plain.ratios['loss_kd'], rel=1e-5)
    first = report.terms[0].gradient / report.task_gradient
    assert kept.ratios['loss_kd'][0] == pytest.approx(first, rel=1e-5)


def test_a_warm_up_counts_as_over():
    dkd = dict(type='kd_plugins.DKDLoss', tau=2.0, alpha=1.0, beta=2.0)
    _, plain = calibrated(config(dkd))
    _, warming = calibrated(config(dict(dkd, warmup=3)))
    assert warming.ratios['loss_kd'] == pytest.approx(plain.ratios['loss_kd'], rel=1e-4)
    assert warming.proposed == plain.proposed


def test_several_terms_get_a_weight_each_and_bad_ones_a_reason():
    cfg = config()
    terms, mappings = cfg.model.distiller.distill_losses, cfg.model.distiller.loss_forward_mappings
    terms.loss_twice = dict(type='kd_plugins.KDLoss', tau=2.0, loss_weight=1.8)
    terms.loss_off = dict(type='kd_plugins.KDLoss', tau=2.0, loss_weight=0.0)
    terms.loss_inside = dict(
        type='kd_plugins.WithTemperature', tau=2.0,
        loss=dict(type='mmrazor.KLDivergence', loss_weight=3.0),
    )  # fmt: skip
    for name in ('loss_twice', 'loss_off', 'loss_inside'):
        mappings[name] = copy.deepcopy(mappings.loss_kd)
    mappings.loss_inside.pop('gt_labels')
    report, found = calibrated(cfg, iterations=5)
    ratios = {name: sorted(values)[2] for name, values in found.ratios.items()}
    assert ratios['loss_twice'] == pytest.approx(2 * ratios['loss_kd'], rel=1e-4)
    assert found.proposed['loss_twice'] == pytest.approx(found.proposed['loss_kd'], rel=0.01)
    assert found.proposed['loss_inside'] == pytest.approx(3.0 / ratios['loss_inside'], rel=0.05)
    assert 'loss_inside=dict(loss=dict(loss_weight=' in found.line
    assert 'loss_off' not in found.proposed
    notes = [finding.what for finding in report.findings if 'no weight is proposed' in finding.what]
    assert len(notes) == 1 and 'loss_off: its weight is 0' in notes[0]


def test_a_training_that_is_shorter_is_measured_as_far_as_it_goes():
    report, found = calibrated(config(epochs=1), iterations=50)
    assert found.iterations == 5 == len(found.ratios['loss_kd'])
    assert found.line and report.cost is None
    json.dumps(report.to_dict())


def test_without_a_distillation_there_is_nothing_to_calibrate():
    report, found = calibrated(config(model=dict(STUDENT)))
    assert found.ratios == {} and found.line == ''
    assert report.cost is not None


def test_without_a_loss_of_its_own_there_is_nothing_to_compare_with():
    cfg = config()
    cfg.model.calculate_student_loss = False
    cfg.model.distiller.student_recorders.pop('labels')
    cfg.model.distiller.loss_forward_mappings.loss_kd.pop('gt_labels')
    report, found = calibrated(cfg)
    assert found.ratios == {} and found.line == ''
    assert any('no weights are proposed' in finding.what for finding in report.findings)


def test_bfloat16_changes_little():
    _, plain = calibrated(config(), iterations=5)
    _, half = calibrated(
        Config(dict(config().to_dict(), optim_wrapper=dict(
            type='kd_plugins.DOTOptimWrapper', delta=0.05, dtype='bfloat16',
            optimizer=dict(type='SGD', lr=0.0, momentum=0.9),
        ))), iterations=5,
    )  # fmt: skip
    assert half.ratios['loss_kd'] == pytest.approx(plain.ratios['loss_kd'], rel=0.1)


def trained(kind, path, steps):
    """Save a network that has learnt the forty vectors for so many steps."""
    torch.manual_seed(1)
    network = MODELS.build(kind)
    data = FortyVectors()
    optimizer = torch.optim.Adam(network.parameters(), 0.05)
    for _ in range(steps):
        loss = network(data.inputs, data.labels, mode='loss')['loss']
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.save(dict(state_dict=network.state_dict()), path)
    with torch.no_grad():
        hits = (network(data.inputs).argmax(1) == data.labels).float().mean()
    return str(path), 100 * float(hits)


@pytest.mark.parametrize('teacher_steps, alone_steps, level', [(150, 5, None), (5, 150, 'warning')])
def test_the_teacher_is_compared_with_the_student_alone(
    tmp_path, teacher_steps, alone_steps, level
):
    teacher, skill = trained(dict(TEACHER), tmp_path / 't.pth', teacher_steps)
    alone, other = trained(dict(STUDENT), tmp_path / 's.pth', alone_steps)
    cfg = config()
    cfg.model.update(teacher_ckpt=teacher, allow_random_teacher=False)
    report = check(cfg, 2, 4, debug=True, alone=alone)
    assert report.teacher_metrics['accuracy/top1'] == pytest.approx(skill)
    assert report.alone_metrics['accuracy/top1'] == pytest.approx(other)
    said = [f.level for f in report.findings if 'the student alone: top-1' in f.what]
    assert said == ([level] if level else [])
    text = io.StringIO()
    show(report, Console(file=text, width=140))
    assert re.search(r'trained alone', text.getvalue())


def test_equal_ones_are_hardly_better():
    def levels(taught, alone, samples=1000):
        report = Report('x', teacher_metrics={'accuracy/top1': taught}, teacher_samples=samples,
                        alone_metrics={'accuracy/top1': alone})  # fmt: skip
        _against_alone(report, HEADLINES[0])
        return [finding.level for finding in report.findings]

    assert levels(60.0, 60.0) == ['warning'] and levels(60.5, 60.0) == ['note']
    assert levels(70.0, 60.0) == [] and levels(70.0, 60.0, samples=50) == ['note']


@pytest.mark.parametrize('alone, said', [('absent.pth', "--alone='absent.pth' is not a file"),
                                         ('t.pth', 'does not fit the student alone')])  # fmt: skip
def test_a_checkpoint_of_another_network_is_refused(tmp_path, alone, said, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trained(dict(TEACHER), tmp_path / 't.pth', 1)
    cfg = config()
    cfg.model.update(teacher_ckpt='t.pth', allow_random_teacher=False)
    report = check(cfg, 2, 4, alone=alone)
    assert not report.ok and any(said in finding.what for finding in report.findings)


TINY = ['model.teacher_ckpt=None', 'model.allow_random_teacher=True']


def command(*arguments):
    return run_script(ROOT / 'tools/check.py', ROOT / 'configs/kd/kd_digits.py', *arguments)


def test_from_the_command_line(tmp_path):
    reply = command('--calibrate', '2', '--iterations', '3', '--teacher-batches', '0',
                    '--cfg-options', *TINY)  # fmt: skip
    printed = ' '.join(reply.stdout.split())
    assert reply.returncode == 0, reply.stderr[-2000:]
    assert 'over the first 3 iterations' in printed and 'ratio of 2 each' in printed
    assert 'a start and no optimum' in printed
    assert 'model = dict(distiller=dict(distill_losses=dict(loss_kd=dict(loss_weight=' in printed


@pytest.mark.parametrize('wrong, said', [
    (['--calibrate', '0'], 'is no ratio'), (['--pictures', 'page.xyz'], 'ends in .png'),
    (['--iterations', '0'], 'at least 1'),
    (['--alone', 'x.pth', '--teacher-batches', '0'], 'needs --teacher-batches'),
])  # fmt: skip
def test_wrong_arguments_are_refused(wrong, said, monkeypatch, capsys):
    spec = importlib.util.spec_from_file_location('check_tool', ROOT / 'tools/check.py')
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    monkeypatch.setattr(sys, 'argv', ['check.py', str(ROOT / 'configs/kd/kd_digits.py'), *wrong])
    with pytest.raises(SystemExit):
        tool.parse_args()
    assert said in capsys.readouterr().err
