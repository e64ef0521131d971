import subprocess
import sys
from pathlib import Path

import torch
from recursive_mix import network, train


def test_two_ranks_paste_the_same_box_and_train_as_one_process(tmp_path):
    script, out = Path(__file__).with_name('recursive_mix.py'), tmp_path / 'weights.pth'
    reply = subprocess.run(
        [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2',
         str(script), str(out)],
        capture_output=True, text=True,
    )  # fmt: skip
    assert reply.returncode == 0, reply.stderr[-3000:]
    (first, first_boxes), (second, second_boxes) = torch.load(out)
    start = network().state_dict()
    one, boxes = train(network(), lambda n: slice(None), seed=11)
    assert first_boxes == second_boxes == boxes
    assert [plain for _, plain in boxes] == [True, False, False, True, False]
    for key, value in one.items():
        assert torch.equal(first[key], second[key])
        # Batch statistics are fixed.
        trained = key.endswith(('weight', 'bias'))
        assert torch.equal(value, start[key]) != trained
        torch.testing.assert_close(first[key], value, rtol=1e-10, atol=1e-12)
