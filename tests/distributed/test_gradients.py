import subprocess
import sys
from pathlib import Path

import torch
from gradients import algorithm, step
from helpers import batch


def test_two_ranks_give_the_gradients_of_one_process_on_the_joined_batch(tmp_path):
    script = Path(__file__).with_name('gradients.py')
    reply = subprocess.run(
        [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2',
         str(script), str(tmp_path / 'weights.pth')],
        capture_output=True, text=True,
    )  # fmt: skip
    assert reply.returncode == 0, reply.stderr[-3000:]
    two = torch.load(tmp_path / 'weights.pth')
    one = step(algorithm(), *batch(size=8))
    start = {name: p.detach() for name, p in algorithm().student.named_parameters()}
    for name in one:
        assert not torch.equal(one[name], start[name])
        torch.testing.assert_close(two[name], one[name], rtol=1e-12, atol=1e-14)
