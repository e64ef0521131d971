"""The figure of a teacher is that of the input with which it teaches."""

import copy

import pytest
import torch
from helpers import ROOT
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner

from kd_plugins.teachers import measure_teacher, measuring, teacher_of


def runner_of(tmp_path, config='kd/kd_digits.py', **model):
    cfg = Config.fromfile(ROOT / 'configs' / config)
    cfg.work_dir = str(tmp_path)
    cfg.model.update(dict(teacher_ckpt=None, allow_random_teacher=True) | model)
    cfg.model.teacher.data_preprocessor = dict(mean=[40.0], std=[20.0])
    cfg.default_hooks.update(checkpoint=dict(type='CheckpointHook'))
    return Runner.from_cfg(cfg)


def accuracy(network, runner, prepare):
    """Top-1 of a network over the test set, in percent."""
    right = seen = 0
    network.eval()
    for batch in runner.test_dataloader:
        with torch.no_grad():
            logits = network(prepare(batch), mode='tensor')
        labels = torch.tensor([int(sample.gt_label) for sample in batch['data_samples']])
        right += int((logits.argmax(dim=1) == labels).sum())
        seen += len(labels)
    return 100 * right / seen


def pixels(batch):
    inputs = batch['inputs']
    return torch.stack(list(inputs)).float()


def test_it_is_measured_as_it_teaches_and_both_figures_are_said_where_they_differ(
    tmp_path, monkeypatch
):
    runner = runner_of(tmp_path, teacher_input_size=4)
    network = runner.model.teacher.network
    said = []
    monkeypatch.setattr(runner.logger, 'warning', said.append)
    metrics = measure_teacher(runner)

    def own(batch):
        return (pixels(batch) - 40) / 20

    def taught(batch):
        return torch.nn.functional.interpolate(own(batch), (4, 4), mode='bilinear', antialias=True)

    expected = accuracy(network, runner, taught), accuracy(network, runner, own)
    assert metrics['accuracy/top1'] == pytest.approx(expected[0], abs=0.2)
    assert metrics['own/accuracy/top1'] == pytest.approx(expected[1], abs=0.2)
    assert expected[0] != expected[1]
    assert len(said) == 1 and 'as it teaches accuracy/top1' in said[0]


def test_one_figure_where_both_inputs_are_the_same(tmp_path):
    runner = runner_of(tmp_path)
    network = runner.model.teacher.network
    metrics = measure_teacher(runner)
    assert list(metrics) == ['accuracy/top1']
    expected = accuracy(network, runner, lambda batch: (pixels(batch) - 40) / 20)
    assert metrics['accuracy/top1'] == pytest.approx(expected, abs=0.2)


def test_what_is_no_teacher_is_not_measured():
    with pytest.raises(ValueError, match='no teacher to measure: its model is a Linear'):
        teacher_of(torch.nn.Linear(1, 1))


def test_a_copy_of_the_batch_is_compared(tmp_path):
    runner = runner_of(tmp_path, teacher_input_size=4)
    taught = teacher_of(runner.model)
    batch = next(iter(runner.test_dataloader))
    before = copy.deepcopy(batch)
    assert taught.own_input_differs(batch)
    for one, other in zip(batch['inputs'], before['inputs'], strict=True):
        assert torch.equal(one, other)


def both(runner):
    algorithm = runner.model
    names = list(measure_teacher(runner))
    assert runner.model is algorithm
    return names == ['accuracy/top1', 'own/accuracy/top1']


def test_a_later_batch_may_be_the_one_that_differs(tmp_path, monkeypatch):
    """Sizes of pictures decide how much a preprocessor pads."""
    runner = runner_of(tmp_path)
    network, seen = runner.model.teacher.network, []

    def other(data, training=False, forward=network.data_preprocessor.forward):
        seen.append(data)
        data = forward(data, training)
        return dict(data, inputs=data['inputs'] + (len(seen) == 2))

    monkeypatch.setattr(network.data_preprocessor, 'forward', other)
    assert len(runner.test_dataloader) > 2
    assert both(runner)


def test_every_process_tests_again_where_one_saw_a_difference(tmp_path, monkeypatch):
    """Otherwise one would wait for the others forever."""
    runner = runner_of(tmp_path)
    assert not both(runner)
    monkeypatch.setattr(measuring, 'all_gather_object', lambda differed: [differed, True])
    assert both(runner)


def test_of_several_checkpoints_the_joint_answer_is_measured_and_each_alone(tmp_path):
    paths, networks = [], []
    init_default_scope('mmpretrain')
    cfg = Config.fromfile(ROOT / 'configs/eekd/eekd_digits.py')
    for i in range(2):
        torch.manual_seed(i)
        networks.append(MODELS.build(cfg.model.teacher))
        # Answers that differ from picture to picture: those of features less their mean.
        fc = torch.nn.init.normal_(networks[-1].head.fc.weight, std=4)
        with torch.no_grad():
            features = networks[-1].eval().extract_feat(torch.randn(64, 1, 8, 8))[-1]
            networks[-1].head.fc.bias.copy_(-fc @ features.mean(dim=0))
        paths.append(str(tmp_path / f'epoch_{i}.pth'))
        torch.save(networks[-1].state_dict(), paths[-1])
    runner = runner_of(tmp_path, config='eekd/eekd_digits.py', teacher_ckpt=paths)
    metrics = measure_teacher(runner)

    def prepare(batch):
        return (pixels(batch) - 40) / 20

    def both_at_once(inputs, mode):
        return torch.stack([one.eval()(inputs).softmax(1) for one in networks]).mean(dim=0)

    both_at_once.eval = lambda: None
    expected = [accuracy(each, runner, prepare) for each in (both_at_once, *networks)]
    names = ['accuracy/top1', '0/accuracy/top1', '1/accuracy/top1']
    assert list(metrics) == names and len({*expected}) == 3
    assert [metrics[name] for name in names] == pytest.approx(expected, abs=0.2)
