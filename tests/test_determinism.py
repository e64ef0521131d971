"""Two runs with one seed, for every method that has a config on the digits or the scenes."""

import ast
from collections.abc import Mapping

import pytest
import torch
from helpers import ON_DIGITS, ON_SCENES, ROOT
from helpers.detection import term
from helpers.few_scenes import few_scenes
from helpers.short import fewer
from helpers.tiny_training import train
from mmengine.config import Config
from test_training import load

CONFIGS = [str(path.relative_to(ROOT)) for path in ON_DIGITS]
KD = 'configs/kd/kd_digits.py'
BCKD = 'configs/bckd/bckd_scenes.py'
SCENES = [path for path in ON_SCENES if path != ROOT / BCKD]


@pytest.fixture
def deterministic():
    yield dict(seed=3, deterministic=True)
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.deterministic = False


def ends(cfg_of, randomness, seed):
    """The weights after a training with a seed."""
    cfg = cfg_of()
    if 'curriculum_temperature' in cfg.default_hooks:
        cfg.default_hooks.curriculum_temperature.length = 2
    cfg.default_hooks.checkpoint = None  # each formats the whole config
    cfg.randomness = dict(randomness, seed=seed)
    return train(cfg)


def assert_repeats(cfg_of, randomness):
    """Train twice from other random states; return the weights."""
    torch.manual_seed(1)
    first = ends(cfg_of, randomness, 3)
    torch.manual_seed(2)
    second = ends(cfg_of, randomness, 3)
    assert torch.are_deterministic_algorithms_enabled()
    assert first.keys() == second.keys()
    assert [key for key in first if not torch.equal(first[key], second[key])] == []
    return first


def on_digits(path, tmp_path):
    cfg = load(path, tmp_path, epochs=2)
    fewer(cfg, 32)
    cfg.val_dataloader.dataset.indices = 32
    losses = (cfg.model.get('distiller') or {}).get('distill_losses') or {}
    if 'loss_ctc' in losses:
        losses.loss_ctc.samples = 32
    return cfg


@pytest.mark.parametrize('path', CONFIGS)
def test_two_runs_with_one_seed_end_in_the_same_weights(tmp_path, deterministic, path):
    first = assert_repeats(lambda: on_digits(path, tmp_path), deterministic)
    if path == CONFIGS[0]:
        other = ends(lambda: on_digits(path, tmp_path), deterministic, 4)
        weights = [key for key in first if key.endswith('weight') and first[key].dim() == 2]
        assert weights
        assert not any(torch.equal(first[key], other[key]) for key in weights)


def on_features():
    """A distiller with the losses on features, and those around other losses."""
    features = dict(type='ModuleInputs', source='head.fc')
    both = {
        name: {
            f'preds_{side}': dict(recorder=name, from_student=side == 'S', data_idx=index)
            for side in 'ST'
        }
        for name, index in dict(features=0, maps=None).items()
    }
    channels = dict(channels_S=16, channels_T=64)
    weights = dict(
        weight_T=dict(recorder='weight', from_student=False),
        bias_T=dict(recorder='bias', from_student=False),
    )
    tau = dict(type='kd_plugins.GlobalTemperature')
    learned = dict(
        type='kd_plugins.WithTemperature', loss=dict(type='mmrazor.KLDivergence'), tau=tau
    )
    logits = Config.fromfile(ROOT / KD).model.distiller.loss_forward_mappings.loss_kd
    return dict(
        student_recorders=dict(
            features=features, maps=dict(type='ModuleOutputs', source='backbone.layer2')
        ),
        teacher_recorders=dict(
            features=features,
            maps=dict(type='ModuleOutputs', source='backbone.layer3'),
            weight=dict(type='Parameter', source='head.fc.weight'),
            bias=dict(type='Parameter', source='head.fc.bias'),
        ),
        distill_losses=dict(
            loss_pkt=dict(type='kd_plugins.PKTLoss', loss_weight=100.0),
            loss_sp=dict(type='kd_plugins.SPLoss', loss_weight=100.0),
            loss_srrl=dict(type='kd_plugins.SRRLLoss', **channels),
            loss_vid=dict(type='kd_plugins.VIDLoss', **channels),
            loss_gram=dict(type='kd_plugins.GramLoss', resize='coarser'),
            loss_kl=dict(type='kd_plugins.Weighted', loss=learned, loss_weight=0.5),
        ),
        loss_forward_mappings=dict(
            loss_pkt=both['features'],
            loss_sp=both['maps'],
            loss_srrl=dict(both['features'], **weights),
            loss_vid=both['maps'],
            loss_gram=both['maps'],
            loss_kl={key: logits[key] for key in ('preds_S', 'preds_T')},
        ),
    )


def test_feature_losses_and_what_they_learn_repeat(tmp_path, deterministic):
    def cfg():
        cfg = on_digits(KD, tmp_path)
        cfg.merge_from_dict({'model.distiller': on_features()})
        cfg.default_hooks.curriculum_temperature = dict(type='kd_plugins.CurriculumTemperatureHook')
        return cfg

    first = assert_repeats(cfg, deterministic)
    assert any(key.startswith('distiller.') for key in first)


def on_scenes(tmp_path, path=BCKD):
    """A config on the scenes, BCKD's with mmdet's LD beside, two epochs of two steps."""
    cfg = Config.fromfile(ROOT / path)
    cfg.model.update(teacher_ckpt=None, allow_random_teacher=True)
    cfg.work_dir = str(tmp_path)
    cfg.merge_from_dict(few_scenes(tmp_path.parent))
    cfg.merge_from_dict(
        {
            'model.distiller': term('loss_ld', type='kd_plugins.LDLoss') if path == BCKD else {},
            'train_cfg.max_epochs': 2,
            'train_cfg.val_interval': 1,
            'log_level': 'ERROR',
        }
    )
    return cfg


def test_a_detectors_runs_with_one_seed_end_in_the_same_weights(tmp_path, deterministic):
    first = assert_repeats(lambda: on_scenes(tmp_path), deterministic)
    other = ends(lambda: on_scenes(tmp_path), deterministic, 4)
    moved = [key for key in first if key.endswith('conv.weight')]
    assert moved and not any(torch.equal(first[key], other[key]) for key in moved)


@pytest.mark.parametrize('path', SCENES, ids=lambda path: path.stem)
def test_other_terms_of_detectors_repeat(tmp_path, deterministic, path):
    assert assert_repeats(lambda: on_scenes(tmp_path, path), deterministic)


def types(value):
    """Every ``type`` in a config."""
    if isinstance(value, Mapping):
        yield value.get('type')
        value = value.values()
    if not isinstance(value, str):
        for inner in value if hasattr(value, '__iter__') else ():
            yield from types(inner)


def test_no_loss_is_left_out(tmp_path):
    here = [Config.fromfile(ROOT / path).model.to_dict() for path in CONFIGS]
    scenes = [on_scenes(tmp_path, path).model.to_dict() for path in (BCKD, *SCENES)]
    used = {*types(here), *types(on_features()), *types(scenes)}
    registered = {
        f'kd_plugins.{node.name}'
        for path in (ROOT / 'kd_plugins/losses').glob('*.py')
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.ClassDef) and node.decorator_list
    }
    # Arithmetic alone; RoILoss calls DKDLoss on rows that mmdet draws.
    pure = {
        'kd_plugins.SigmoidKDLoss',
        'kd_plugins.RoILoss',
        'kd_plugins.CrossKDCenternessLoss',
    }
    assert len(registered) > 10 and registered - used == pure
