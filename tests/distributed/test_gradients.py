import subprocess
import sys
from pathlib import Path

import pytest
import torch
from gradients import CASES, case, step


@pytest.fixture(scope='module')
def ranks(tmp_path_factory):
    script = Path(__file__).with_name('gradients.py')
    out = tmp_path_factory.mktemp('gradients') / 'weights.pth'
    reply = subprocess.run(
        [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2',
         str(script), str(out)],
        capture_output=True, text=True,
    )  # fmt: skip
    assert reply.returncode == 0, reply.stderr[-3000:]
    return torch.load(out)


@pytest.mark.parametrize('name', CASES)
def test_two_ranks_give_the_gradients_of_one_process_on_the_joined_batch(ranks, name):
    model, inputs, labels = case(name)
    start = {key: p.detach().clone() for key, p in model.named_parameters()}
    one = step(model, inputs, labels)
    for key in one:
        assert not torch.equal(one[key], start[key])
        torch.testing.assert_close(ranks[name][key], one[key], rtol=1e-12, atol=1e-14)
