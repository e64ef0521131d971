"""DKD on RoIs on two ranks, one of which has less to learn from, or nothing."""

from pathlib import Path

import pytest
import torch
from helpers.processes import run_on_two_ranks
from two_stage import CASES, STEPS, begin, model, optimizer, weights


@pytest.fixture(scope='module')
def ranks(tmp_path_factory):
    script = Path(__file__).with_name('two_stage.py')
    out = tmp_path_factory.mktemp('two_stage') / 'ranks.pth'
    run_on_two_ranks(script, out)
    return torch.load(out)


def by_hand(case):
    """The same steps in one process: the mean of both halves' gradients."""
    network = model(case)
    sgd = optimizer(network)
    for step in range(STEPS):
        for rank in range(2):
            data = network.data_preprocessor(begin(network, case, step, rank), True)
            total, _ = network.parse_losses(network(**data, mode='loss'))
            (total / 2).backward()
        sgd.step()
        sgd.zero_grad(set_to_none=False)
    return weights(network)


@pytest.mark.parametrize('case', CASES)
def test_two_ranks_take_the_mean_of_both_gradients(ranks, case):
    (first, losses), (second, others) = (rank[case] for rank in ranks)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert min(losses) > 0
    assert others == [0.0] * STEPS if case == 'no RoI on one rank' else min(others) > 0
    start = weights(model(case))
    for name in (
        'roi_head.bbox_head.fc_cls.weight',
        'distiller.distill_losses.loss_dkd.loss.tau.theta',
    ):
        assert not torch.equal(first[name], start[name])
    for name, value in by_hand(case).items():
        torch.testing.assert_close(first[name], value, rtol=0, atol=1e-6, msg=name)
