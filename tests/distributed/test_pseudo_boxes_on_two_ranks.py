import subprocess
import sys
from pathlib import Path

import pytest
import torch
from pseudo_boxes import CASES, model, train


@pytest.fixture(scope='module')
def ranks(tmp_path_factory):
    script = Path(__file__).with_name('pseudo_boxes.py')
    out = tmp_path_factory.mktemp('pseudo_boxes') / 'ranks.pth'
    reply = subprocess.run(
        [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2',
         str(script), str(out)],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert reply.returncode == 0, reply.stderr[-3000:]
    return torch.load(out)


@pytest.mark.parametrize('case', CASES)
def test_ranks_stay_together_whatever_the_teacher_finds(ranks, case):
    first, second = (rank[case] for rank in ranks)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert all(torch.isfinite(value).all() for value in first.values())


@pytest.mark.parametrize('case', CASES)
def test_two_ranks_train_as_one_process_on_the_joined_batch(ranks, case):
    # Also where the teacher is sure of pictures of one rank only.
    one = train(model(), CASES[case])
    nothing = ranks[0]['everywhere']
    for name, value in one.items():
        torch.testing.assert_close(ranks[0][case][name], value, rtol=0, atol=1e-6)
    differs = max((value - nothing[name]).abs().max() for name, value in one.items()) > 1e-5
    assert differs == (case != 'everywhere')
