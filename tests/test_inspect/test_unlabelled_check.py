"""What a check says of a teacher's answers to pictures without labels."""

import io
import itertools
import math

import cv2
import numpy as np
import pytest
import torch
from helpers import algorithm_cfg, distiller
from helpers.networks import resnet
from mmengine.config import Config
from mmengine.registry import MODELS
from mmengine.structures import BaseDataElement, InstanceData
from mmpretrain.structures import DataSample
from rich.console import Console

from kd_plugins.inspect.check import check, probe
from kd_plugins.inspect.check.findings import examine
from kd_plugins.inspect.check.report import FoundBoxes, Network, Report, Sureness
from kd_plugins.inspect.check.show import show
from kd_plugins.inspect.check.unlabelled import found_boxes, sureness


def test_sureness_is_what_the_probabilities_say():
    p = [[0.7, 0.2, 0.1], [0.0, 1.0, 0.0], [0.5, 0.25, 0.25], [1.0, 0.0, 0.0]]
    found = sureness([DataSample().set_pred_score(torch.tensor(row)) for row in p])
    entropies = [-sum(x * math.log(x) for x in row if x) for row in p]
    assert found.samples == 4 and found.one_class == 0.75
    assert found.confidence == pytest.approx((0.7 + 1 + 0.5 + 1) / 4, rel=1e-6)
    assert found.entropy == pytest.approx(sum(entropies) / 4, rel=1e-6)
    assert sureness([]) is None and sureness([torch.zeros(3)]) is None


def warnings_of(confidence, known, one_class=0.2, samples=64, classes=10):
    network = Network('A', 'b', 'c', 10, 10, None, [1, 3, 8, 8], classes, None, None, False)
    report = Report('c', distils=True, student=network, teacher=network)
    report.unlabelled = Sureness(samples, confidence, 1.0, one_class)
    report.labelled = Sureness(256, known, 1.0, 0.1)
    examine(report)
    return [f.what for f in report.findings if f.level == 'warning']


def test_pictures_that_the_teacher_does_not_know_or_knows_by_heart_are_told():
    assert warnings_of(0.8, 0.9) == [] and warnings_of(0.95, 0.9) == []
    (said,) = warnings_of(0.15, 0.9)
    assert said == (
        'the teacher hardly knows the unlabelled pictures: its largest probability is 0.15 on '
        'average of 64 of them, and 0.9 on the validation set.'
    )
    assert warnings_of(0.15, 0.9, samples=8) == []
    # What is chance of ten classes is far above it of a thousand.
    assert warnings_of(0.3, 0.9, classes=1000) == []
    (said,) = warnings_of(0.995, 0.9)
    assert said.startswith('the teacher is far too sure of the unlabelled pictures: ')
    (said,) = warnings_of(0.8, 0.9, one_class=1.0)
    assert said == 'the teacher gives one class to 100 % of 64 unlabelled pictures.'


def test_boxes_are_counted_from_the_score_on():
    scores = [[0.9, 0.4, 0.39], [], [0.1], [0.5] * 4]
    samples = [
        BaseDataElement(pred_instances=InstanceData(scores=torch.tensor(row).double()))
        for row in scores
    ]
    assert found_boxes(samples, 0.4) == FoundBoxes(4, 0.4, 6 / 4, 4, 0.5)
    assert found_boxes([], 0.4) is None and found_boxes([DataSample()], 0.4) is None


def warnings_of_boxes(mean, known, samples=64):
    report = Report('c', distils=True)
    report.unlabelled_boxes = FoundBoxes(samples, 0.4, mean, 90, 0.25)
    report.labelled_boxes = FoundBoxes(256, 0.4, known, 9, 0.1)
    examine(report)
    out = io.StringIO()
    show(report, Console(file=out, width=300))
    assert f'{mean:.3g} (at most 90; none in 25 %) in {samples} unlabelled' in out.getvalue()
    return [f.what for f in report.findings if f.level == 'warning']


def test_pictures_in_which_a_detector_finds_nothing_or_hundreds_are_told():
    assert warnings_of_boxes(4, 5) == [] and warnings_of_boxes(1.1, 5) == []
    (said,) = warnings_of_boxes(0.5, 5)
    assert said == (
        'the teacher finds little in the unlabelled pictures: it is sure of 0.5 boxes a picture on '
        'average of 64 of them (model.pseudo_boxes.score=0.4; none in 25 %), and of 5 on the '
        'validation set.'
    )
    assert warnings_of_boxes(0, 0) and not warnings_of_boxes(0.5, 5, samples=8)
    (said,) = warnings_of_boxes(80, 5)
    assert said.startswith('the teacher finds too much in the unlabelled pictures: ')
    # Crowds are crowds.
    assert warnings_of_boxes(80, 60) == []


@pytest.fixture
def config(tmp_path):
    """A training on 20 unlabelled pictures, the validation on noise in two classes."""
    generator = np.random.default_rng(0)

    def write(name, picture):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), picture.astype(np.uint8))

    for i in range(20):
        write(f'val/{"ab"[i % 2]}/{i}.png', generator.integers(0, 255, (32, 32, 3)))
        write(f'unlabelled/{i}.png', np.full((32, 32, 3), 7))
    logits = dict(type='ModuleOutputs', source='head.fc')
    parts = distiller(student_recorders=dict(logits=logits), teacher_recorders=dict(logits=logits))
    parts['loss_forward_mappings']['loss_kd'].pop('gt_labels')
    teacher = dict(resnet(classes=2), _scope_='mmpretrain')
    torch.manual_seed(0)
    built = MODELS.build(teacher)
    built.head.fc.weight.data.mul_(30)
    torch.save(dict(state_dict=built.state_dict()), tmp_path / 'teacher.pth')
    model = algorithm_cfg(
        architecture=dict(resnet(classes=2), _scope_='mmpretrain'),
        teacher=teacher,
        teacher_ckpt=str(tmp_path / 'teacher.pth'),
        allow_random_teacher=False,
        calculate_student_loss=False,
        distiller=parts,
        data_preprocessor=dict(type='kd_plugins.ClsDataPreprocessor', mean=[127.0], std=[60.0]),
    )

    def loader(**dataset):
        dataset.update(
            type='CustomDataset',
            data_root=str(tmp_path),
            pipeline=[dict(type='LoadImageFromFile'), dict(type='PackInputs')],
        )
        return dict(
            batch_size=10,
            num_workers=0,
            dataset=dataset,
            sampler=dict(type='DefaultSampler', shuffle=True),
            collate_fn=dict(type='default_collate'),
        )

    return Config(
        dict(
            default_scope='mmpretrain',
            model=model,
            train_dataloader=loader(data_prefix='unlabelled', with_label=False),
            val_dataloader=loader(data_prefix='val'),
            val_evaluator=dict(type='Accuracy'),
            val_cfg=dict(),
            train_cfg=dict(by_epoch=True, max_epochs=2),
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
            randomness=dict(seed=0),
        )
    )


def test_a_check_asks_the_teacher_about_them(config):
    report = check(config, iterations=1, debug=True)
    assert (report.unlabelled.samples, report.labelled.samples) == (20, 20)
    # By hand: every grey picture gets the same answer.
    teacher = MODELS.build(config.model.teacher)
    state = torch.load(config.model.teacher_ckpt)['state_dict']
    teacher.load_state_dict(state)
    grey = torch.full((1, 3, 32, 32), (7 - 127) / 60)
    p = teacher.eval()(grey).softmax(1)[0]
    assert report.unlabelled.confidence == pytest.approx(p.max().item(), rel=1e-4)
    assert report.unlabelled.one_class == 1
    assert any('gives one class to 100 % of 20' in f.what for f in report.findings)
    out = io.StringIO()
    show(report, Console(file=out, width=300))
    assert "the teacher's largest probability, on average: " in out.getvalue()
    assert 'on 20 unlabelled pictures, ' in out.getvalue()
    assert report.to_dict()['unlabelled']['samples'] == 20
    # Labels that nobody sees make no difference, and of a training with labels nobody asks.
    config.train_dataloader.dataset.update(data_prefix='val', with_label=True)
    assert check(config, iterations=1, debug=True).unlabelled.samples == 20
    config.model.calculate_student_loss = True
    assert check(config, iterations=1, debug=True).unlabelled is None


def test_a_wrapped_validation_set_is_no_matter(config):
    plain = config.val_dataloader.dataset
    config.val_dataloader.dataset = dict(type='ConcatDataset', datasets=[plain, plain])
    config.val_dataloader.dataset.pop('pipeline', None)
    report = check(config, iterations=1, debug=True)
    assert (report.unlabelled.samples, report.labelled.samples) == (20, 40)


def test_pictures_of_any_size_are_shown_as_they_train(config):
    cv2.imwrite(f'{config.train_dataloader.dataset.data_root}/unlabelled/0.png', np.ones((40, 50)))
    config.train_dataloader.dataset.pipeline.insert(1, dict(type='Resize', scale=(32, 32)))
    assert check(config, iterations=1, debug=True).unlabelled.samples == 20


def test_a_step_with_both_kinds_counts_both_looks_of_the_teacher(config, monkeypatch):
    loader, labelled = config.train_dataloader, dict(config.val_dataloader.dataset)
    unlabelled = dict(loader.dataset)
    loader.dataset = dict(
        type='kd_plugins.WithUnlabelled', labelled=labelled, unlabelled=unlabelled
    )
    loader.batch_size = 4
    sampler = dict(type='kd_plugins.MultiSourceSampler', batch_size=4, source_ratio=[1, 1])
    loader.sampler = sampler
    config.model.calculate_student_loss = True
    ticks = itertools.count()
    monkeypatch.setattr(probe, 'now', lambda: float(next(ticks)))
    report = check(config, iterations=3, debug=True)
    # Each look takes one tick of the five that an iteration takes.
    assert report.cost.teacher_share == pytest.approx(2 / 5)
    assert [read.argument for read in report.terms[0].reads] == ['preds_S', 'preds_T']


def test_a_check_finds_them_in_views(config):
    loader = config.train_dataloader
    labelled = dict(loader.dataset, data_prefix='val', with_label=True)
    both = dict(type='kd_plugins.WithUnlabelled', labelled=labelled, unlabelled=loader.dataset)
    loader.dataset = dict(type='kd_plugins.RepeatableViews', views=2, dataset=both)
    loader.sampler = dict(type='kd_plugins.MultiSourceSampler', batch_size=10, source_ratio=[1, 1])
    report = check(config, iterations=1, debug=True)
    # The grey ones, and none of the noise beside them.
    assert (report.unlabelled.samples, report.unlabelled.one_class) == (20, 1)
