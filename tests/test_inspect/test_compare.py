import runpy
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
from helpers import ROOT
from helpers.oracles import tckd_nckd
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import LOOPS, MODELS, init_default_scope
from mmengine.runner import EpochBasedTrainLoop

from kd_plugins.inspect.compare import Choice, compare, load
from kd_plugins.inspect.compare.classifiers import (
    Answers,
    ask,
    correlation_difference,
    term_values,
)
from kd_plugins.inspect.compare.drawing import displayed
from kd_plugins.inspect.compare.loading import batch_of, random_batch, validation_batches

CONFIG = ROOT / 'configs/dkd/dkd_digits.py'


def config(**changes):
    cfg = Config.fromfile(CONFIG)
    cfg.model.update(teacher_ckpt=None, allow_random_teacher=True)
    for key, value in changes.items():
        cfg[key] = value
    return cfg


@pytest.fixture(scope='module')
def student(tmp_path_factory):
    """A student whose batch norms and classifier are not as initialised."""
    torch.manual_seed(1)
    init_default_scope('mmpretrain')
    network = MODELS.build(config().model.architecture)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_var.uniform_(0.5, 2)
    torch.nn.init.normal_(network.head.fc.weight)
    path = tmp_path_factory.mktemp('student') / 'student.pth'
    torch.save(dict(state_dict=network.state_dict()), path)
    return str(path)


def test_asks_every_checkpoint_of_a_teacher(student, tmp_path):
    init_default_scope('mmpretrain')
    paths, networks = [], []
    for i in range(2):
        torch.manual_seed(i)
        networks.append(MODELS.build(config().model.teacher).eval())
        paths.append(str(tmp_path / f'{i}.pth'))
        torch.save(networks[-1].state_dict(), paths[-1])
    cfg = Config.fromfile(ROOT / 'configs/eekd/eekd_digits.py')
    cfg.model.teacher_ckpt = paths
    algorithm = load(cfg, student).model
    (batch,) = validation_batches(cfg, 20)
    answers = ask(algorithm, [batch])
    with torch.no_grad():
        inputs = algorithm.teacher.convert(algorithm.data_preprocessor(batch, False)['inputs'])
        expected = torch.stack([one(inputs).softmax(1) for one in networks]).mean(dim=0)
        features = [one.extract_feat(inputs)[-1] for one in networks]
    torch.testing.assert_close(answers.preds_T.softmax(1), expected)
    torch.testing.assert_close(answers.features_T, torch.cat(features, dim=1))


def test_asks_both_networks_about_the_same_pictures(student):
    algorithm = load(config(), student).model
    batches = list(validation_batches(config(), 300))
    # A batch of 256 and a part of one, drawn from all classes.
    for key in ('inputs', 'data_samples'):
        assert [len(batch[key]) for batch in batches] == [256, 44]
    answers = ask(algorithm, batches)
    assert len(answers.labels) == 300 and set(answers.labels.tolist()) == set(range(10))
    data = algorithm.data_preprocessor(batches[1], False)
    with torch.no_grad():
        for network, preds, features in (
            (algorithm.student, answers.preds_S, answers.features_S),
            (algorithm.teacher.network, answers.preds_T, answers.features_T),
        ):
            expected = network(data['inputs'], mode='tensor')
            assert torch.equal(preds[256:], expected)
            assert torch.allclose(network.head.fc(features[256:]), expected, atol=1e-5)
    assert not torch.equal(answers.preds_S, answers.preds_T)
    # mmrazor's recorder's hook is left.
    assert len(algorithm.student.head.fc._forward_hooks) == 1


def test_the_teacher_is_asked_on_the_input_with_which_it_teaches(student):
    cfg = config()
    own = dict(type='ClsDataPreprocessor', mean=[50.0], std=[20.0])
    cfg.model.teacher.data_preprocessor = own
    algorithm = load(cfg, student).model
    batch = random_batch(cfg, 4)
    raw = torch.stack([image.float() for image in batch['inputs']])
    mean, std = (torch.tensor(own[key])[: raw.shape[1], None, None] for key in ('mean', 'std'))
    with torch.no_grad():
        expected = algorithm.teacher.network((raw - mean) / std, mode='tensor')
    assert torch.allclose(ask(algorithm, [batch]).preds_T, expected, atol=1e-3)


@LOOPS.register_module(name='LoopOfRounds', force=True)
class LoopOfRounds(EpochBasedTrainLoop):
    """An epoch-based loop that calls its epochs otherwise."""

    def __init__(self, runner, dataloader, rounds, **kwargs):
        super().__init__(runner, dataloader, max_epochs=rounds, **kwargs)


@pytest.mark.parametrize(
    ('train_cfg', 'epochs', 'iterations'),
    [
        (dict(by_epoch=True, max_epochs=4), 4, 8),
        (dict(type='EpochBasedTrainLoop', max_epochs=4), 4, 8),
        (dict(type='LoopOfRounds', rounds=4), 4, 8),
        (dict(by_epoch=False, max_iters=14), 1, 14),
        (dict(type='IterBasedTrainLoop', max_iters=14), 1, 14),
    ],
)
def test_terms_are_valued_for_each_picture_alone_at_the_end_of_the_training(
    student, train_cfg, epochs, iterations
):
    # Half of the 200 pictures, so that an epoch has two iterations.
    cfg = config(train_cfg=train_cfg)
    cfg.train_dataloader.batch_size = 100
    # A warm-up that ends with the last iteration.
    cfg.model.distiller.distill_losses.loss_kd.warmup = dict(length=iterations, by_epoch=False)
    runner = load(cfg, student)
    batch = {key: column[:3] for key, column in random_batch(cfg, 3).items()}
    answers = ask(runner.model, [batch])
    values = term_values(runner, batch)
    assert list(values) == ['loss_kd']
    for i, value in enumerate(values['loss_kd']):
        rows = answers.preds_S[i].tolist(), answers.preds_T[i].tolist()
        tckd, nckd = tckd_nckd(*rows, int(answers.labels[i]), 4.0)
        # beta 2, and no warm-up any more.
        assert value == pytest.approx(tckd + 2 * nckd, rel=1e-3)
    seen = runner.model.distiller.distill_losses.loss_kd.progress
    assert (seen.iter, seen.max_iters) == (iterations - 1, iterations)
    assert (seen.epoch, seen.max_epochs) == (epochs - 1, epochs)


def test_correlations_are_those_of_numpy():
    generator = torch.Generator().manual_seed(0)
    preds_S, preds_T = torch.randn(2, 40, 5, generator=generator)
    preds_T[:, 3] = 1.5
    answers = Answers(preds_S, preds_T, preds_S, preds_T, torch.zeros(40))
    found = correlation_difference(answers)
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
    init_default_scope('mmpretrain')
    batch = batch_of(cfg, paths)
    assert [tuple(x.shape) for x in batch['inputs']] == [(3, 32, 32)] * 2
    assert torch.equal(batch['inputs'][0], torch.tensor(image[9:41, 14:46]).movedim(-1, 0))
    assert 'gt_label' not in batch['data_samples'][0]


def test_a_file_is_what_the_same_picture_is_in_a_data_set_of_arrays(tmp_path):
    """mmpretrain's CIFAR is RGB, and the digits are grey; OpenCV reads and writes BGR."""
    init_default_scope('mmpretrain')
    draw = np.random.default_rng(0)
    for name, shape in (('kd/kd_resnet56_resnet20_1xb64_cifar100', (32, 32, 3)),
                        ('kd/kd_digits', (8, 8, 1))):  # fmt: skip
        cfg = Config.fromfile(ROOT / f'configs/{name}.py')
        picture = draw.integers(0, 255, shape, dtype=np.uint8)
        path = str(tmp_path / 'picture.png')
        cv2.imwrite(path, picture[..., ::-1])
        expected = Compose(cfg.val_dataloader.dataset.pipeline)(dict(img=picture, gt_label=0))
        assert torch.equal(batch_of(cfg, [path])['inputs'][0], expected['inputs'])


def test_pictures_of_the_validation_set_are_named_by_their_numbers(student):
    runner = load(config(), student)
    batch = batch_of(runner.cfg, ['3', 250])
    for i, number in enumerate((3, 250)):
        item = runner.val_dataloader.dataset[number]
        assert torch.equal(batch['inputs'][i], item['inputs'])
        assert batch['data_samples'][i].gt_label == item['data_samples'].gt_label
    with pytest.raises(ValueError, match='--images 719 is neither a file nor .* from 0 to 718'):
        batch_of(runner.cfg, [719])


def test_pictures_are_shown_in_their_colours():
    blue = torch.zeros(3, 2, 2, dtype=torch.uint8)
    blue[0] = 200  # as OpenCV reads it
    assert displayed(blue, bgr=True)[0, 0].tolist() == [0, 0, 200]
    assert displayed(blue, bgr=False)[0, 0].tolist() == [200, 0, 0]
    assert displayed(torch.tensor([[[-1.0, 3.0]]]), bgr=True).tolist() == [[[0] * 3, [255] * 3]]


def test_other_configs_and_checkpoints_are_refused(student):
    with pytest.raises(ValueError, match='trains a ImageClassifier: give the config of a dist'):
        load(Config.fromfile(ROOT / 'configs/vanilla/digits_student.py'), student)
    with pytest.raises(FileNotFoundError, match=r"checkpoint='gone\.pth' is not a file"):
        load(config(), 'gone.pth')


def test_a_distillation_without_a_teacher_is_one_sentence(student):
    cfg = config()
    cfg.model.update(teacher=None, allow_random_teacher=False)
    cfg.model.distiller = dict(cfg.model.distiller, teacher_recorders={}, distill_losses={},
                               loss_forward_mappings={})  # fmt: skip
    with pytest.raises(ValueError, match='has model.teacher=None, so there is no teacher to comp'):
        load(cfg, student)


def coloured(path):
    image = cv2.imread(str(path)).astype(int)
    return image.shape[1], ((image.max(axis=2) - image.min(axis=2)) > 40).sum()


@pytest.mark.parametrize('view, width', [('answers', 1350), ('correlation', 900), ('tsne', 1500)])
def test_every_view_draws_a_picture(tmp_path, student, view, width):
    choice = Choice(samples=3 if view == 'answers' else 20)
    figure, said = compare(config(), student, view, choice)
    figure.savefig(tmp_path / 'v.png', dpi=150)
    seen = coloured(tmp_path / 'v.png')
    assert seen[0] == width and seen[1] > 500
    if view == 'correlation':
        (found,) = (float(line.split()[-1]) for line in said)
        answers = ask(load(config(), student).model, validation_batches(config(), 20))
        matrices = [np.nan_to_num(np.corrcoef(p.numpy().T))
                    for p in (answers.preds_T, answers.preds_S)]  # fmt: skip
        apart = np.abs(matrices[0] - matrices[1])
        assert found == pytest.approx((apart - np.diag(np.diag(apart))).mean(), abs=1e-3)


RANDOM_TEACHER = ['--cfg-options', 'model.teacher_ckpt=None', 'model.allow_random_teacher=True']


def test_from_the_command_line(tmp_path, student):
    out = tmp_path / 'new' / 'v.png'
    command = [ROOT / 'tools/compare.py', CONFIG, student, '--out', out, *RANDOM_TEACHER]
    reply = subprocess.run(
        [sys.executable, *map(str, command)], capture_output=True, text=True, check=True
    )
    assert reply.stdout.endswith(f'wrote {out}\n') and coloured(out)[1] > 500


def tool(monkeypatch, name, *arguments):
    monkeypatch.setattr(sys, 'argv', [name, *map(str, arguments)])
    runpy.run_path(str(ROOT / 'tools' / name), run_name='__main__')


def test_by_its_former_name(tmp_path, student, monkeypatch, capsys):
    out = tmp_path / 'v.png'
    line = (CONFIG, student, '--samples', 2, '--out', out, *RANDOM_TEACHER)
    tool(monkeypatch, 'inspect_pair.py', *line)
    assert f'wrote {out}' in capsys.readouterr().out and coloured(out)[1] > 500


@pytest.mark.parametrize(
    'arguments, says',
    [
        (('gone.pth', *RANDOM_TEACHER), "checkpoint='gone.pth' is not a file"),
        (('x.pth', '--view', 'tsne', '--images', 'a.png'), 'give --samples, not --images'),
        (('x.pth', '--samples', 0), '--samples 0 is no number of pictures'),
        (('x.pth', '--out', 'x.html'), "--out 'x.html' is no kind of picture that can be written"),
    ],
)
def test_what_cannot_be_compared_is_one_sentence(arguments, says, monkeypatch, capsys):
    with pytest.raises(SystemExit) as caught:
        tool(monkeypatch, 'compare.py', CONFIG, *arguments)
    said = str(caught.value) + capsys.readouterr().err
    assert says in said.splitlines()[-1]
