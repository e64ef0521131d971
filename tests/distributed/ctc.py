"""Both stages of CTC on this rank's share of the samples, under DDP.

Runs on two ranks; every rank's memories, maps and student come back.
"""

import sys
from pathlib import Path

import torch
import torch.distributed as dist

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from helpers.numbered import NumberedVectors, ctc_model, numbered_collate
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import OptimWrapper
from mmengine.registry import MODELS

#: The samples of every step of all ranks together; one of them comes twice.
STEPS = [[0, 5, 7, 11], [3, 1, 8, 3], [2, 4, 6, 9], [10, 0, 5, 7]]
UNEVEN = [3, 8, 11]


def algorithm(rank=0):
    torch.manual_seed(0)
    cfg = ctc_model()
    cfg['architecture']['dropout'] = 0.0
    model = MODELS.build(cfg).double()
    for tensor in model.distiller.distill_losses.loss_ctc.state.tensors.values():
        tensor += rank  # until they are told
    return model


def train(model, share, draw=None, steps=STEPS):
    """Two steps of stage one, and others of stage two; return everything that was learnt."""
    network = getattr(model, 'module', model)
    term, data = network.distiller.distill_losses.loss_ctc, NumberedVectors()
    term.set_classes(data.get_gt_labels(), 4, batch_size=2)
    if draw is not None:
        term.draw = draw
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.5))

    def batch(rows):
        given = numbered_collate([data[row] for row in rows])
        return dict(given, inputs=given['inputs'].double())

    for number, rows in enumerate(steps):
        if number == 2:
            term.begin_stage_two()
            network.teacher.take(network.architecture)
            for whole in ([0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]):
                given = batch(share(whole))
                features = network.teacher.network.body(given['inputs'])
                term.refresh(given['data_samples'], features)
        model.train_step(batch(share(rows)), wrapper)
    return {key: value.clone() for key, value in network.state_dict().items()}


def negatives(rows):
    """The same of a sample, whichever rank draws them."""
    return torch.stack([(rows + step) % 12 for step in (1, 4, 7, 2, 11)], dim=1)


if __name__ == '__main__':
    torch.set_num_threads(1)
    dist.init_process_group('gloo')
    rank, size = dist.get_rank(), dist.get_world_size()
    model = MMDistributedDataParallel(algorithm(rank), device_ids=None)
    result = train(model, lambda rows: rows[2 * rank : 2 * rank + 2], negatives)
    term = model.module.distiller.distill_losses.loss_ctc
    del term.draw
    drawn = term.draw(torch.arange(4))
    # The last batch of an epoch may be smaller on one rank.
    uneven = MMDistributedDataParallel(algorithm(rank), device_ids=None)
    last = [*STEPS, UNEVEN]
    uneven = train(uneven, lambda rows: rows[2 * rank : 2 * rank + 2], negatives, last)
    # Running averages are each rank's own, and the snapshot is that of the first.
    apart = algorithm()
    apart.architecture.fc.bias.data += rank
    apart.teacher.take(apart.architecture)
    bias = apart.teacher.network.fc.bias - algorithm().architecture.fc.bias
    everyone = [None] * size
    dist.all_gather_object(everyone, (result, drawn, uneven, bias))
    if rank == 0:
        torch.save(everyone, sys.argv[1])
    # Without it gloo on torch 2.1 hangs now and then where one rank leaves first.
    dist.barrier()
    dist.destroy_process_group()
