from pathlib import Path

import torch
from helpers.processes import run_on_two_ranks


def test_learned_temperatures_stay_the_same_bits_on_every_rank(tmp_path):
    script = Path(__file__).with_name('temperatures.py')
    run_on_two_ranks(script, tmp_path / 'ranks.pth')
    first, second = torch.load(tmp_path / 'ranks.pth')
    assert first['path'].shape[0] == 61
    assert torch.equal(first['path'], second['path'])
    # Each rank's own data would have sent them elsewhere,
    assert not torch.equal(first['alone'], second['alone'])
    # and every step moved the global temperature and the network of the other.
    steps = first['path'].diff(dim=0)
    assert torch.isfinite(steps).all()
    assert (steps[:, 0] != 0).all() and (steps[:, 1:] != 0).any(dim=1).all()
