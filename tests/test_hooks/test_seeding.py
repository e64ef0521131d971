import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import STUDENT, algorithm_cfg
from helpers.tiny_training import Vectors, config, train
from mmengine.registry import DATASETS
from mmengine.runner import EpochBasedTrainLoop
from torch.utils.data import DataLoader, Dataset

from kd_plugins.hooks import SeedByProgressHook, seed_worker


def draws():
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def after(seed=0, epoch=0, iter=0, max_epochs=3, loop=None):
    runner = SimpleNamespace(
        seed=seed, epoch=epoch, iter=iter, max_epochs=max_epochs, train_loop=loop,
        train_dataloader=SimpleNamespace(dataset=[]),
    )  # fmt: skip
    hook = SeedByProgressHook()
    hook.before_train_epoch(runner)
    hook.before_train_iter(runner, 0)
    return draws()


def test_numbers_depend_on_seed_and_epoch_alone():
    first = after(epoch=1, iter=7)
    draws()
    assert after(epoch=1, iter=9) == first
    others = [after(epoch=2), after(seed=1, epoch=1), after(epoch=0)]
    assert all(a != b for other in others for a, b in zip(first, other, strict=True))


def test_loops_without_epochs_are_seeded_by_iteration():
    first = after(iter=5, max_epochs=1)
    draws()
    assert after(iter=5, max_epochs=1) == first
    assert after(iter=6, max_epochs=1) != first


def test_a_training_of_one_epoch_has_an_epoch():
    loop = object.__new__(EpochBasedTrainLoop)
    first = after(iter=0, max_epochs=1, loop=loop)
    assert after(iter=6, max_epochs=1, loop=loop) == first == after(iter=6)


def test_the_only_epoch_is_the_first_of_several(tmp_path):
    def epochs(number, name):
        model = algorithm_cfg(architecture=dict(STUDENT, dropout=0.5))
        cfg = config(tmp_path / name, number, model=model, param_scheduler=None)
        cfg.default_hooks.checkpoint.max_keep_ckpts = -1
        return cfg

    only = train(epochs(1, 'one'))
    train(epochs(2, 'two'))
    first = torch.load(tmp_path / 'two/epoch_1.pth', weights_only=False)['state_dict']
    assert all(torch.equal(only[key], first[key]) for key in only)


@DATASETS.register_module(force=True)
class AugmentedVectors(Vectors):
    def __getitem__(self, index):
        data = super().__getitem__(index)
        noise = random.random() + np.random.rand() + torch.rand(())
        return dict(data, inputs=data['inputs'] + noise)


@pytest.mark.parametrize('sampler', ['InfiniteSampler', 'DefaultSampler'])
def test_a_resumed_loop_of_iterations_ends_in_the_same_weights(tmp_path, sampler, monkeypatch):
    # mmengine waits two seconds wherever the pictures begin again.
    monkeypatch.setattr('time.sleep', lambda seconds: None)

    def iterations(number, name, **options):
        cfg = config(tmp_path / name, model=algorithm_cfg(architecture=dict(STUDENT, dropout=0.5)))
        cfg.train_cfg = dict(by_epoch=False, max_iters=number, val_interval=3)
        cfg.train_dataloader.update(
            dataset=dict(type='AugmentedVectors'),
            sampler=dict(type=sampler, shuffle=True),
        )
        cfg.param_scheduler = []
        cfg.default_hooks.checkpoint = dict(
            type='kd_plugins.SafeCheckpointHook', by_epoch=False, interval=2
        )
        cfg.merge_from_dict(options)
        return cfg

    whole = train(iterations(6, 'whole'))
    train(iterations(4, 'parts'))
    resumed = train(iterations(6, 'parts', resume=True))
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)
    other = train(iterations(6, 'other', **{'randomness.seed': 1}))
    assert any(not torch.equal(whole[key], other[key]) for key in whole)


def test_ranks_draw_different_numbers(monkeypatch):
    first = after(epoch=1)
    monkeypatch.setattr('kd_plugins.hooks.seeding.get_rank', lambda: 1)
    assert all(a != b for a, b in zip(first, after(epoch=1), strict=True))


class Draws(Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        return torch.tensor([random.random(), float(np.random.rand())])


def epoch_of_draws(seed):
    torch.manual_seed(seed)
    loader = DataLoader(Draws(), num_workers=2, worker_init_fn=seed_worker)
    return torch.cat(list(loader))


def test_workers_draw_anew_in_every_epoch_and_each_its_own():
    first = epoch_of_draws(0)
    assert torch.equal(epoch_of_draws(0), first)
    assert not torch.equal(epoch_of_draws(1), first)
    assert len(set(first.flatten().tolist())) == first.numel()
