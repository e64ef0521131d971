from pathlib import Path

import torch
from ctc import UNEVEN, algorithm, negatives, train
from helpers.processes import run_on_two_ranks


def test_two_ranks_have_the_memories_of_one_process_on_the_joined_batch(tmp_path):
    script = Path(__file__).with_name('ctc.py')
    run_on_two_ranks(script, tmp_path / 'ranks.pth')
    first_rank, second_rank = torch.load(tmp_path / 'ranks.pth')
    (first, drawn, uneven, bias), (second, others, uneven_2, bias_2) = first_rank, second_rank
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)
    alone = train(algorithm(), lambda rows: rows, negatives)
    term = 'distiller.distill_losses.loss_ctc.'
    for key in first:
        torch.testing.assert_close(first[key], alone[key], rtol=1e-9, atol=1e-12, msg=key)
    assert int(first[term + 'state.stage']) == 2
    assert torch.isfinite(first[term + 'state.log_normaliser']).all()
    # Negatives of their own.
    assert not torch.equal(drawn, others)
    # Memories of a step of two samples here and one there.
    for name in ('memory_1', 'memory_2'):
        key = f'{term}state.{name}'
        assert torch.equal(uneven[key], uneven_2[key])
        changed = (uneven[key] != first[key]).any(dim=1)
        assert changed.nonzero().flatten().tolist() == UNEVEN
    assert not bias.any() and not bias_2.any()
