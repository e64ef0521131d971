import argparse
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
from helpers import ROOT
from helpers.oracles import tckd_nckd
from mmengine.config import Config

from kd_plugins.inspect import classifiers

CONFIG = ROOT / 'configs/dkd/dkd_digits.py'


def config(**changes):
    cfg = Config.fromfile(CONFIG)
    cfg.model.update(teacher_ckpt=None, allow_random_teacher=True, **changes)
    return cfg


@pytest.fixture(scope='module')
def student(tmp_path_factory):
    """A student whose batch norms and classifier are not as initialised."""
    torch.manual_seed(1)
    cfg = config()
    network = classifiers.MODELS.build(
        dict(cfg.model, data_preprocessor=cfg.data_preprocessor, _scope_='mmpretrain')
    ).architecture
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_var.uniform_(0.5, 2)
    torch.nn.init.normal_(network.head.fc.weight)
    path = tmp_path_factory.mktemp('student') / 'student.pth'
    torch.save(dict(state_dict=network.state_dict()), path)
    return str(path)


def test_asks_both_networks_about_the_same_pictures(student):
    torch.manual_seed(2)
    algorithm = classifiers.load_pair(config(), student)
    batches = list(classifiers.validation_batches(config(), 300))
    # Two batches of 256, drawn from all classes.
    assert [len(batch['data_samples']) for batch in batches] == [256, 256]
    answers = classifiers.ask(algorithm, batches)
    assert len(answers.labels) == 512 and set(answers.labels.tolist()) == set(range(10))
    data = algorithm.data_preprocessor(batches[1], False)
    with torch.no_grad():
        for network, preds, features in (
            (algorithm.architecture, answers.preds_S, answers.features_S),
            (algorithm.teacher.network, answers.preds_T, answers.features_T),
        ):
            expected = network(data['inputs'], mode='tensor')
            assert torch.equal(preds[256:], expected)
            assert torch.allclose(network.head.fc(features[256:]), expected, atol=1e-5)
    assert not torch.equal(answers.preds_S, answers.preds_T)
    # mmrazor's recorder's hook is left.
    assert len(algorithm.architecture.head.fc._forward_hooks) == 1


def test_terms_are_valued_for_each_picture_alone_at_the_end_of_the_training(student):
    cfg = config()
    algorithm = classifiers.load_pair(cfg, student)
    (batch,) = classifiers.validation_batches(cfg, 1)
    batch = {key: column[:3] for key, column in batch.items()}
    answers = classifiers.ask(algorithm, [batch])
    values = classifiers.term_values(algorithm, cfg, batch)
    assert list(values) == ['loss_kd']
    for i, value in enumerate(values['loss_kd']):
        rows = answers.preds_S[i].tolist(), answers.preds_T[i].tolist()
        tckd, nckd = tckd_nckd(*rows, int(answers.labels[i]), 4.0)
        # beta 2, and no warm-up any more.
        assert value == pytest.approx(tckd + 2 * nckd, rel=1e-3)


def test_correlations_are_those_of_numpy():
    generator = torch.Generator().manual_seed(0)
    preds_S, preds_T = torch.randn(2, 40, 5, generator=generator)
    preds_T[:, 3] = 1.5
    answers = classifiers.Answers(preds_S, preds_T, preds_S, preds_T, torch.zeros(40))
    found = classifiers.correlation_difference(answers)
    for i in range(5):
        for j in range(5):
            s = np.corrcoef(preds_S[:, i], preds_S[:, j])[0, 1]
            t = 0 if 3 in (i, j) else np.corrcoef(preds_T[:, i], preds_T[:, j])[0, 1]
            expected = 0 if i == j else t - s
            assert found[i, j].item() == pytest.approx(expected, abs=1e-5)


def test_pictures_of_the_user_go_through_the_pipeline_of_the_validation(tmp_path):
    image = np.random.default_rng(0).integers(0, 255, (50, 60, 3), dtype=np.uint8)
    paths = [str(tmp_path / f'{i}.png') for i in range(2)]
    for i, path in enumerate(paths):
        cv2.imwrite(path, np.roll(image, 9 * i, 0))
    pipeline = [dict(type='LoadImageFromFile'), dict(type='CenterCrop', crop_size=32)]
    cfg = Config(
        dict(val_dataloader=dict(dataset=dict(pipeline=[*pipeline, dict(type='PackInputs')])))
    )
    classifiers.init_default_scope('mmpretrain')
    batch = classifiers.picture_batch(cfg, paths)
    assert [tuple(x.shape) for x in batch['inputs']] == [(3, 32, 32)] * 2
    assert torch.equal(batch['inputs'][0], torch.tensor(image[9:41, 14:46]).movedim(-1, 0))
    assert 'gt_label' not in batch['data_samples'][0]


def test_other_configs_and_checkpoints_are_refused(student):
    with pytest.raises(ValueError, match='trains a ImageClassifier: give the config of a dist'):
        classifiers.load_pair(Config.fromfile(ROOT / 'configs/vanilla/digits_student.py'), student)
    with pytest.raises(FileNotFoundError, match=r"checkpoint='gone\.pth' is not a file"):
        classifiers.load_pair(config(), 'gone.pth')


def coloured(path):
    image = cv2.imread(str(path)).astype(int)
    return image.shape[1], ((image.max(axis=2) - image.min(axis=2)) > 40).sum()


def test_every_view_draws_a_picture(tmp_path, student, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / 'tools'))
    import inspect_pair

    algorithm = classifiers.load_pair(config(), student)
    for view, width in (('answers', 1350), ('correlation', 900), ('tsne', 1500)):
        args = argparse.Namespace(images=None, samples=3 if view == 'answers' else 20)
        inspect_pair.VIEWS[view](algorithm, config(), args).savefig(tmp_path / 'v.png', dpi=150)
        seen = coloured(tmp_path / 'v.png')
        assert seen[0] == width and seen[1] > 500


def test_from_the_command_line(tmp_path, student):
    line = [sys.executable, str(ROOT / 'tools/inspect_pair.py'), str(CONFIG)]
    options = ['--cfg-options', 'model.teacher_ckpt=None', 'model.allow_random_teacher=True']
    for checkpoint, said in ((student, 'wrote'), ('gone.pth', "checkpoint='gone.pth' is not a")):
        command = [*line, checkpoint, '--out', str(tmp_path / 'new' / 'v.png'), *options]
        reply = subprocess.run(command, capture_output=True, text=True)
        assert said in reply.stdout + reply.stderr
        assert reply.returncode == (0 if said == 'wrote' else 1)
    assert coloured(tmp_path / 'new' / 'v.png')[1] > 500
