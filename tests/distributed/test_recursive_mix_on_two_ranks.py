from pathlib import Path

import torch
from helpers.processes import run_on_two_ranks
from recursive_mix import network, train


def test_two_ranks_paste_the_same_box_and_train_as_one_process(tmp_path):
    script, out = Path(__file__).with_name('recursive_mix.py'), tmp_path / 'weights.pth'
    run_on_two_ranks(script, out)
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
