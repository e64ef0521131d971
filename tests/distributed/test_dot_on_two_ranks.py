from pathlib import Path

import pytest
import torch
from dot import KINDS, STEPS, part, wrapper
from helpers.processes import run_on_two_ranks
from helpers.two_losses import data, network, weights
from mmengine.model import MMDistributedDataParallel


@pytest.fixture(scope='module')
def ranks(tmp_path_factory):
    script = Path(__file__).with_name('dot.py')
    out = tmp_path_factory.mktemp('dot') / 'ranks.pth'
    run_on_two_ranks(script, out)
    return torch.load(out)


def alone(kind, left_out=()):
    """One process on the joined batches."""
    settings = {k: v for k, v in KINDS.get(kind, {}).items() if k != 'find_unused_parameters'}
    model = network(reentrant=settings.pop('reentrant', None))
    dot = wrapper(model, **settings)
    for step in range(STEPS):
        if step not in left_out:
            model.train_step(data(step), dot)
    return weights(model)


@pytest.mark.parametrize('kind', KINDS)
def test_twenty_steps_end_as_one_process_on_the_joined_batch(ranks, kind):
    first, second = (rank['weights'][kind] for rank in ranks)
    expected = alone(kind)
    start = weights(network())
    for name, value in expected.items():
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name], value, rtol=0, atol=1e-6, msg=name)
        assert torch.equal(start[name], value) is (name == 'frozen')


def test_a_gradient_that_is_infinite_on_one_rank_skips_the_step_on_both(ranks):
    first, second = (rank['weights']['infinite'] for rank in ranks)
    for name, value in alone('plain', left_out=[5]).items():
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name], value, rtol=0, atol=1e-6, msg=name)


def test_the_data_reached_a_parameter_on_no_rank_one_rank_and_both(ranks):
    counts = sum(rank['reached'].int() for rank in ranks)
    assert {int(n) for n in counts} == {0, 1, 2}
    # A rank by itself would have gone elsewhere.
    model = network()
    dot = wrapper(model)
    for step in range(STEPS):
        model.train_step(part(step, 0, 2), dot)
    together = ranks[0]['weights']['plain']
    assert max((weights(model)[k] - together[k]).abs().max() for k in together) > 1e-2


@pytest.fixture
def one_rank(tmp_path):
    torch.distributed.init_process_group(
        'gloo', init_method=f'file://{tmp_path}/store', rank=0, world_size=1
    )
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize(
    ('settings', 'says'),
    [
        (dict(), r'model_wrapper_cfg\.broadcast_buffers=True \(the default of'),
        (dict(broadcast_buffers=False, static_graph=True), r'static_graph=True makes'),
    ],
)
def test_what_ddp_would_do_besides_is_refused(one_rank, settings, says):
    ddp = MMDistributedDataParallel(network(), device_ids=None, **settings)
    with pytest.raises(ValueError, match=says):
        wrapper(ddp)


def test_one_process_of_ddp_is_none(one_rank):
    model = network()
    ddp = MMDistributedDataParallel(model, device_ids=None, broadcast_buffers=False)
    dot = wrapper(ddp)
    for step in range(STEPS):
        ddp.train_step(data(step), dot)
    expected = alone('plain')
    for name, value in weights(model).items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-12)
