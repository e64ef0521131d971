"""Gradients of distillation steps on this rank's half of a batch, after DDP.

Runs on two ranks; rank 0 writes what its parameters would be updated with.
Everything is in float64 and without batch statistics.
"""

import sys
import tempfile
from copy import deepcopy
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from helpers import batch, build, distiller, eekd_cfg, reviewing, save_checkpoints
from helpers.strategies import declared
from helpers.tiny_pictures import Pictures, half_labelled, patches, stages, wired, zipf
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import OptimWrapper
from mmengine.registry import MODELS

from kd_plugins.structures import Progress

#: KD and DKD at once.
TERMS = dict(loss_kd=dict(type='kd_plugins.KDLoss', tau=2.0),
             loss_dkd=dict(type='kd_plugins.DKDLoss', tau=3.0, beta=2.0))  # fmt: skip
#: DIST's part over classes runs over the pictures of each process, so it is left out.
NEWER = dict(
    loss_dist=dict(type='kd_plugins.DISTLoss', tau=4.0, gamma=0.0),
    loss_wttm=dict(type='kd_plugins.WTTMLoss'),
    loss_lskd=dict(
        type='kd_plugins.KDLoss',
        tau=dict(type='kd_plugins.LSKDTemperature', tau=dict(type='kd_plugins.GlobalTemperature')),
    ),
)


def of_vectors(terms=TERMS):
    """An algorithm and its batch."""
    cfg = distiller()
    mapping = cfg['loss_forward_mappings']['loss_kd']
    cfg.update(distill_losses=terms, loss_forward_mappings=dict.fromkeys(terms, mapping))
    model = build(distiller=cfg)
    model.set_progress(Progress(iter=4, max_iters=10, epoch=4, max_epochs=10))
    return model, *batch(size=8)


def of_patches():
    """CSKD, with a target between the teacher's dense and its global answers."""
    model = MODELS.build(patches(data_preprocessor=dict(type='BaseDataPreprocessor')))
    model.set_progress(Progress(iter=4, max_iters=10, epoch=4, max_epochs=10))
    model.init_weights()
    samples = [Pictures(8)[i] for i in range(8)]
    pictures = torch.stack([sample['inputs'] for sample in samples])
    return model, pictures, [sample['data_samples'] for sample in samples]


def of_declared(method):
    """What a test file declares, with what its terms and connectors learn."""
    cfg = method.model()
    if method.data == 'Pictures':
        cfg.update(data_preprocessor=dict(type='BaseDataPreprocessor'))
    model = MODELS.build(cfg).train()
    model.set_progress(Progress(iter=4, max_iters=10, epoch=4, max_epochs=10))
    model.init_weights()
    if method.data == 'Vectors':
        return model, *batch(size=8)
    samples = [Pictures(8)[i] for i in range(8)]
    pictures = torch.stack([sample['inputs'] for sample in samples])
    return model, pictures, [sample['data_samples'] for sample in samples]


def of_maps():
    """CWD, and MGD without a mask, of which every process draws its own.

    PKD's deviations and SL2's weights are those of each process's pictures, as published.
    """
    cfg = stages(CWD=dict(tau=2.0), MGD=dict(loss_weight=1e-3, mask_ratio=0.0))
    model = MODELS.build(cfg).train()
    model.init_weights()
    samples = [Pictures(8)[i] for i in range(8)]
    pictures = torch.stack([sample['inputs'] for sample in samples])
    return model, pictures, [sample['data_samples'] for sample in samples]


def of_wired_maps():
    """MGD as it is wired by itself, between maps of other channels."""
    model = MODELS.build(wired()).train()
    model.init_weights()
    samples = [Pictures(8)[i] for i in range(8)]
    pictures = torch.stack([sample['inputs'] for sample in samples])
    return model, pictures, [sample['data_samples'] for sample in samples]


def of_votes():
    """Zipf's label smoothing."""
    # In training its batch statistics are fixed.
    model = MODELS.build(zipf(data_preprocessor=dict(type='BaseDataPreprocessor'))).train()
    model.init_weights()
    samples = [Pictures(8)[i] for i in range(8)]
    pictures = torch.stack([sample['inputs'] for sample in samples])
    return model, pictures, [sample['data_samples'] for sample in samples]


def of_checkpoints():
    """EEKD, whose maps learn."""
    with tempfile.TemporaryDirectory() as folder:
        model = build(allow_random_teacher=False, **eekd_cfg(save_checkpoints(Path(folder), 3)))
    return model, *batch(size=8)


def of_levels():
    """ReviewKD, with what its connector learns."""
    return build(distiller=reviewing()), *batch(size=8)


def of_both_parts():
    """KD and DKD on labelled pictures beside unlabelled ones, half of each on every rank."""
    losses = deepcopy(TERMS)
    losses['loss_dkd']['missing_label'] = 'teacher'
    model = MODELS.build(half_labelled(losses)).train()
    model.init_weights()
    samples = [Pictures(8)[i] for i in range(8)]
    for i in (1, 2, 4, 7):
        del samples[i]['data_samples'].gt_label
    pictures = torch.stack([sample['inputs'] for sample in samples])
    return model, pictures, [sample['data_samples'] for sample in samples]


CASES = {
    'KD, DKD': of_vectors,
    'DIST, WTTM, LSKD + CTKD': lambda: of_vectors(NEWER),
    'ReviewKD': of_levels,
    'CWD, MGD': of_maps,
    'AutoDistiller': of_wired_maps,
    'CSKD': of_patches,
    **{
        name: partial(of_declared, method)
        for name, method in declared().items()
        if method.ranks and not method.dot and method.data in ('Vectors', 'Pictures')
    },
    'Zipf': of_votes,
    'EEKD': of_checkpoints,
    'with unlabelled': of_both_parts,
}


def case(name):
    """The same network and batch on every rank and in the test."""
    torch.manual_seed(0)
    model, inputs, labels = CASES[name]()
    return model.double(), inputs, labels


def step(model, inputs, labels):
    """One SGD step of rate 1; return the weights of the student, and of what terms learn."""
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=1.0))
    model.train_step(dict(inputs=inputs.double(), data_samples=labels), wrapper)
    trained = getattr(model, 'module', model)
    return {name: p.detach().clone() for name, p in trained.named_parameters()}


if __name__ == '__main__':
    dist.init_process_group('gloo')
    rank, size = dist.get_rank(), dist.get_world_size()
    result = {}
    for name in CASES:
        network, inputs, labels = case(name)
        model = MMDistributedDataParallel(network, device_ids=None)
        half = slice(rank * len(inputs) // size, (rank + 1) * len(inputs) // size)
        result[name] = step(model, inputs[half], labels[half])
    everyone = [None] * size
    dist.all_gather_object(everyone, result)
    for other in everyone:
        for name, weights in result.items():
            assert all(torch.equal(other[name][key], weights[key]) for key in weights)
    if rank == 0:
        torch.save(result, sys.argv[1])
    # Without it gloo on torch 2.1 hangs now and then where one rank leaves first.
    dist.barrier()
    dist.destroy_process_group()
