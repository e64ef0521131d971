from pathlib import Path

import torch
from helpers.processes import run_on_two_ranks
from helpers.view_data import every_view
from mmengine.registry import DATASETS
from views import VIEWS, dataset_cfg


def test_ranks_show_the_views_of_one_process(tmp_path):
    script, out = Path(__file__).with_name('views.py'), tmp_path / 'seen'
    run_on_two_ranks(script, out)
    ranks = [torch.load(f'{out}.{rank}') for rank in range(2)]
    wanted = every_view(DATASETS.build(dataset_cfg()))
    assert len({each[2] for each in wanted.values()}) == 10 * VIEWS
    for epoch in range(4):
        seen = [each for epochs, _ in ranks for each in epochs[epoch]]
        assert sorted(index for index, _, _ in seen) == list(range(10))
        assert {view for _, view, _ in seen} == {epoch % VIEWS}
        assert all(what == wanted[index, view] for index, view, what in seen)
    # Of what has no end, rank 0 has the first sample, rank 1 the second, and so on.
    both = [each for pair in zip(*(endless for _, endless in ranks), strict=True) for each in pair]
    for pass_ in range(4):
        seen = both[10 * pass_ : 10 * pass_ + 10]
        assert sorted((i, view) for i, view, _ in seen) == [(i, pass_ % VIEWS) for i in range(10)]
        assert all(what == wanted[index, view] for index, view, what in seen)
