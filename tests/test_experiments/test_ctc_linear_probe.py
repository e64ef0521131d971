"""CTC's transfer evaluation: a linear probe on another folder of pictures."""

import json
import runpy
import sys

import cv2
import numpy as np
import pytest
import torch
from helpers import ROOT
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from kd_plugins.experiments.linear_probe import _loader, features, fit, linear_probe

CIFAR = ROOT / 'configs/vanilla/resnet20_1xb64_cifar100.py'


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Two classes of pictures, blue and red ones, of 40 pixels."""
    root = tmp_path_factory.mktemp('pictures')
    draw = np.random.default_rng(0)
    for part, number in (('train', 20), ('valid', 8)):
        for name, channel in (('blue', 0), ('red', 2)):
            (root / part / name).mkdir(parents=True)
            for i in range(number):
                picture = draw.integers(0, 90, (40, 40, 3)).astype(np.uint8)
                picture[..., channel] += 120
                cv2.imwrite(str(root / part / name / f'{i}.png'), picture)
    return root


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    init_default_scope('mmpretrain')
    torch.manual_seed(0)
    network = MODELS.build(Config.fromfile(CIFAR).model)
    network.init_weights()
    path = tmp_path_factory.mktemp('student') / 'student.pth'
    torch.save(network.state_dict(), path)
    return str(path)


def test_features_of_files_are_those_of_the_same_arrays(folder, checkpoint, monkeypatch):
    """CIFAR's arrays are RGB, and files are read as BGR."""
    from kd_plugins.experiments import linear_probe as module

    seen = []

    def spy(network, loader, tell):
        seen.append(features(network, loader))
        return seen[-1]

    monkeypatch.setattr(module, 'features', spy)
    linear_probe(Config.fromfile(CIFAR), checkpoint, str(folder), size=32, epochs=1)
    cfg = Config.fromfile(CIFAR)
    network = MODELS.build(dict(cfg.model, data_preprocessor=dict(cfg.data_preprocessor)))
    network.load_state_dict(torch.load(checkpoint))
    network.eval()
    files = sorted((folder / 'valid' / 'blue').iterdir())
    arrays = [cv2.resize(cv2.imread(str(f)), (32, 32))[..., ::-1].copy() for f in files]
    inputs = [torch.from_numpy(array).permute(2, 0, 1) for array in arrays]
    with torch.no_grad():
        data = network.data_preprocessor(dict(inputs=inputs))
        expected = network.extract_feat(data['inputs'])[-1]
    found, labels = seen[1]
    torch.testing.assert_close(found[labels == 0], expected, rtol=1e-4, atol=1e-4)
    assert len(seen[0][0]) == 40 and labels.bincount().tolist() == [8, 8]


@pytest.mark.parametrize('where', ['model', 'algorithm', 'architecture'])
def test_a_preprocessor_counts_wherever_the_training_finds_it(
    folder, checkpoint, monkeypatch, where
):
    """The Runner puts the top level's only where the model has none."""
    from kd_plugins.experiments import linear_probe as module

    seen = []

    def spy(network, loader, tell):
        seen.append(features(network, loader))
        return seen[-1]

    monkeypatch.setattr(module, 'features', spy)
    plain, cfg = Config.fromfile(CIFAR), Config.fromfile(CIFAR)
    own, other = dict(cfg.data_preprocessor), dict(mean=[0.0], std=[1.0], num_classes=100)
    if where == 'model':
        cfg.model.data_preprocessor, cfg.data_preprocessor = own, other
    else:
        algorithm = dict(type='kd_plugins.SingleTeacherDistill', teacher=None, distiller=dict())
        cfg.model = dict(algorithm, architecture=cfg.model)
        if where == 'algorithm':
            cfg.model.data_preprocessor, cfg.data_preprocessor = own, other
        else:
            cfg.model.architecture.data_preprocessor = own
            cfg._cfg_dict.pop('data_preprocessor')
    for each in (plain, cfg):
        linear_probe(each, checkpoint, str(folder), size=32, epochs=1)
    assert torch.equal(seen[0][0], seen[2][0]) and torch.equal(seen[1][0], seen[3][0])


def test_a_size_stands_in_place_of_the_validations_own(folder):
    """Which enlarges pictures of ImageNet to 256 pixels and cuts out 224."""
    cfg = Config.fromfile(ROOT / 'configs/zipf/zipf_resnet50_4xb64_in1k.py')
    cfg.val_dataloader.num_workers = 0
    init_default_scope('mmpretrain')
    for size, expected in ((None, 224), (48, 48)):
        batch = next(iter(_loader(cfg, folder / 'valid', size, 2, 3)))
        assert batch['inputs'][0].shape == (3, expected, expected)


def test_it_tells_apart_what_the_features_do_and_nothing_else(folder, checkpoint, tmp_path):
    found = linear_probe(Config.fromfile(CIFAR), checkpoint, str(folder), size=32, batch_size=8)
    assert (found.classes, found.train, found.test) == (2, 40, 16)
    assert found.last == 100
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(400, 5, generator=generator)
    y = (x[:, 0] > 0).long()
    noise = torch.randint(0, 2, (400,), generator=generator)
    settings = dict(classes=2, epochs=20, lr=0.1, weight_decay=0.0, batch_size=50, seed=0)
    assert fit(x[:200], y[:200], x[200:], y[200:], **settings)[0] > 95
    assert fit(x[:200], noise[:200], x[200:], noise[200:], **settings)[0] < 65


def test_the_command_says_and_writes_what_was_found(
    folder, checkpoint, tmp_path, monkeypatch, capsys
):
    line = ['linear_probe.py', str(CIFAR), checkpoint, '--data', str(folder), '--size', '32']
    line += ['--epochs', '2', '--out', str(tmp_path / 'found.json')]
    monkeypatch.setattr(sys, 'argv', line)
    runpy.run_path(str(ROOT / 'tools/linear_probe.py'), run_name='__main__')
    assert 'on 16 pictures of 2 classes (40 to learn from)' in capsys.readouterr().out
    assert json.loads((tmp_path / 'found.json').read_text())['classes'] == 2


def test_folders_that_do_not_fit_are_refused(folder, checkpoint, tmp_path):
    cfg = Config.fromfile(CIFAR)
    with pytest.raises(FileNotFoundError, match='has not the folders train and one of val'):
        linear_probe(cfg, checkpoint, str(tmp_path))
    with pytest.raises(ValueError, match=r'--lr=0 is wrong'):
        linear_probe(cfg, checkpoint, str(folder), lr=0)
    with pytest.raises(ValueError, match=r'--size=0 is wrong'):
        linear_probe(cfg, checkpoint, str(folder), size=0)
    for part, names in (('train', ('a', 'b')), ('val', ('a', 'c'))):
        for name in names:
            (tmp_path / part / name).mkdir(parents=True)
            cv2.imwrite(str(tmp_path / part / name / '0.png'), np.zeros((32, 32, 3), np.uint8))
    with pytest.raises(ValueError, match=r"train has the classes \['a', 'b'\] and val has"):
        linear_probe(cfg, checkpoint, str(tmp_path))
