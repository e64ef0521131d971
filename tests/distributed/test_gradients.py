from pathlib import Path

import pytest
import torch
from gradients import CASES, case, step
from helpers.processes import run_on_two_ranks


@pytest.fixture(scope='module')
def ranks(tmp_path_factory):
    script = Path(__file__).with_name('gradients.py')
    out = tmp_path_factory.mktemp('gradients') / 'weights.pth'
    run_on_two_ranks(script, out)
    return torch.load(out)


@pytest.mark.parametrize('name', CASES)
def test_two_ranks_give_the_gradients_of_one_process_on_the_joined_batch(ranks, name):
    model, inputs, labels = case(name)
    start = {key: p.detach().clone() for key, p in model.named_parameters()}
    one = step(model, inputs, labels)
    for key in one:
        assert not torch.equal(one[key], start[key])
        torch.testing.assert_close(ranks[name][key], one[key], rtol=1e-12, atol=1e-14)
