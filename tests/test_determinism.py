"""Two runs with one seed, for every method that has a config on the digits."""

import pytest
import torch
from helpers import ROOT
from test_training import load
from tiny_training import train

CONFIGS = sorted(
    str(path.relative_to(ROOT))
    for path in (ROOT / 'configs').glob('*/*_digits.py')
)  # fmt: skip


@pytest.fixture
def deterministic():
    yield dict(seed=3, deterministic=True)
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.deterministic = False


@pytest.mark.parametrize('path', CONFIGS)
def test_two_runs_with_one_seed_end_in_the_same_weights(tmp_path, deterministic, path):
    def run(name, seed):
        cfg = load(path, tmp_path / name, epochs=2)
        if 'curriculum_temperature' in cfg.default_hooks:
            cfg.default_hooks.curriculum_temperature.length = 2
        cfg.default_hooks.checkpoint = None  # each formats the whole config
        cfg.train_dataloader.dataset.indices = 32
        cfg.val_dataloader.dataset.indices = 32
        cfg.randomness = dict(deterministic, seed=seed)
        return train(cfg)

    torch.manual_seed(1)
    first = run('first', 3)
    torch.manual_seed(2)
    second = run('second', 3)
    assert torch.are_deterministic_algorithms_enabled()
    assert first.keys() == second.keys()
    assert [key for key in first if not torch.equal(first[key], second[key])] == []
    if path == CONFIGS[0]:
        other = run('other', 4)
        weights = [key for key in first if key.endswith('weight') and first[key].dim() == 2]
        assert weights
        assert not any(torch.equal(first[key], other[key]) for key in weights)
