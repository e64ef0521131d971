from pathlib import Path

import pytest
import torch
from detector import CASES, model, train
from helpers.processes import run_on_two_ranks

KINDS = ['GFL', 'FCOS', 'CrossKD']


@pytest.fixture(scope='module')
def ranks(tmp_path_factory):
    script = Path(__file__).with_name('detector.py')
    out = tmp_path_factory.mktemp('detector') / 'ranks.pth'
    run_on_two_ranks(script, out, *KINDS)
    return torch.load(out)


@pytest.mark.parametrize('case', CASES)
@pytest.mark.parametrize('kind', KINDS)
def test_ranks_with_empty_pictures_stay_together(ranks, kind, case):
    first, second = (rank[kind, case] for rank in ranks)
    start = {name: p.detach() for name, p in model(kind).student.named_parameters()}
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert all(torch.isfinite(value).all() for value in first.values())
    assert sum(not torch.equal(first[name], start[name]) for name in first) > len(first) / 2


@pytest.mark.parametrize('kind', KINDS)
def test_two_ranks_train_as_one_process_on_the_joined_batch(ranks, kind):
    # One empty picture each: the same levels hold positives on both.
    one = train(model(kind), CASES['one_each'])
    start = {name: p.detach() for name, p in model(kind).student.named_parameters()}
    for name, value in one.items():
        torch.testing.assert_close(ranks[0][kind, 'one_each'][name], value, rtol=0, atol=1e-6)
    assert max((value - start[name]).abs().max() for name, value in one.items()) > 1e-3
