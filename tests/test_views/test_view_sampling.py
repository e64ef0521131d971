"""The sampler says which view is asked for: of each kind, on each rank, ahead and resumed."""

import itertools
import time
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.tiny_pictures import Pictures
from helpers.view_data import Photos  # noqa: F401  (registers it)
from mmengine.dataset import DefaultSampler, InfiniteSampler
from mmengine.hooks import DistSamplerSeedHook, Hook
from mmengine.registry import DATA_SAMPLERS, HOOKS, init_default_scope
from mmengine.runner import FlexibleRunner, Runner
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    RandomSampler,
    Sampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from kd_plugins.views import RepeatableViews, SampleView, number_views


def of_rank(kind, rank, ranks, size=7, **changes):
    """A sampler of one of several ranks; the first indices are only computed when asked for."""
    data = Pictures(size)
    sampler = kind(data, seed=3, **changes)
    sampler.rank, sampler.world_size = rank, ranks
    if hasattr(sampler, 'total_size'):
        repeats = getattr(sampler, 'num_repeats', 1)
        sampler.num_samples = -(-size * repeats // ranks)
        sampler.total_size = sampler.num_samples * ranks
        sampler.num_selected_samples = -(-size // ranks)
    loader = DataLoader(RepeatableViews(data, views=1000), sampler=sampler, collate_fn=list)
    return number_views(loader).sampler


def asked(sampler, number=None):
    return [(int(i), i.view) for i in itertools.islice(sampler, number)]


@pytest.mark.parametrize('ranks', [1, 2, 3, 9])
def test_a_sampler_that_is_told_the_epoch(ranks):
    for epoch in (0, 1, 4):
        together = []
        for rank in range(ranks):
            sampler = of_rank(DefaultSampler, rank, ranks)
            sampler.set_epoch(epoch)
            own = asked(sampler)
            plain = DefaultSampler(Pictures(7), seed=3)
            vars(plain).update({k: v for k, v in vars(sampler).items() if k != 'view_numbering'})
            assert [i for i, _ in own] == list(plain)
            together += own
        first = dict(reversed(together))
        assert first.keys() == set(range(7)) and set(first.values()) <= {epoch, epoch + 1}
        if ranks == 1:
            assert set(together) == {(i, epoch) for i in range(7)}


@pytest.mark.parametrize('ranks', [1, 2, 3, 8])
def test_a_sampler_without_end_counts_over_all_ranks(ranks):
    lists = [asked(of_rank(InfiniteSampler, r, ranks), 70) for r in range(ranks)]
    merged = [each for step in zip(*lists, strict=True) for each in step]
    for pass_ in range(len(merged) // 7):
        own = merged[7 * pass_ : 7 * pass_ + 7]
        assert sorted(own) == [(i, pass_) for i in range(7)]


def test_a_sampler_without_end_goes_on_beside_another_iterator():
    sampler = of_rank(InfiniteSampler, 0, 1)
    first, second = iter(sampler), iter(sampler)
    both = asked(first, 5) + asked(second, 16)
    assert both == asked(of_rank(InfiniteSampler, 0, 1), 21)


class Skips(InfiniteSampler):
    """As in the maintained continuation of mmengine."""

    def skip(self, num_samples):
        self.indices = itertools.islice(self._indices_of_rank(), num_samples, None)


@pytest.mark.parametrize('ranks', [1, 3])
def test_a_sampler_that_skips_what_was_drawn_counts_it(ranks):
    for rank in range(ranks):
        whole = asked(of_rank(Skips, rank, ranks), 40)
        for number in (0, 5, 24):
            sampler = of_rank(Skips, rank, ranks)
            sampler.skip(number)
            assert asked(sampler, 40 - number) == whole[number:]
    assert hasattr(of_rank(DefaultSampler, 0, 1), 'skip') == hasattr(DefaultSampler, 'skip')


@pytest.mark.parametrize('ranks', [1, 2, 3])
def test_repeated_augmentation_shows_each_repeat_another_view_on_every_number_of_ranks(ranks):
    from mmpretrain.datasets import RepeatAugSampler

    for epoch in (0, 2):
        samplers = [of_rank(RepeatAugSampler, r, ranks, size=12) for r in range(ranks)]
        for sampler in samplers:
            sampler.set_epoch(epoch)
        counts = Counter(each for sampler in samplers for each in asked(sampler))
        # A third of the samples three times, in three views.
        assert len(counts) == 12 and set(counts.values()) == {1}
        assert {view for _, view in counts} == {3 * epoch, 3 * epoch + 1, 3 * epoch + 2}
        assert len({i for i, _ in counts}) == 4


def test_every_pass_of_a_sampler_that_knows_no_epoch_is_one():
    for sampler in (SequentialSampler(range(5)), RandomSampler(range(5))):
        data = RepeatableViews(Pictures(5), views=3)
        loader = number_views(DataLoader(data, sampler=sampler, collate_fn=list))
        for epoch in range(4):
            assert sorted(asked(loader.sampler)) == [(i, epoch % 3) for i in range(5)]


def test_a_resumed_training_tells_a_sampler_that_knows_no_epoch_how_many_passes_there_were():
    data = RepeatableViews(Pictures(5), views=4)
    loader = number_views(DataLoader(data, batch_size=2, collate_fn=list))
    runner = SimpleNamespace(train_loop=SimpleNamespace(dataloader=loader), epoch=2)
    DistSamplerSeedHook().before_train_epoch(runner)
    for epoch in (2, 3, 4):
        assert asked(loader.sampler) == [(i, epoch % 4) for i in range(5)]


def test_a_sample_that_comes_again_within_an_epoch_gets_the_next_view():
    data = RepeatableViews(Pictures(3), views=1000)
    sampler = WeightedRandomSampler([1.0, 5.0, 0.1], 400)
    number_views(DataLoader(data, sampler=sampler, collate_fn=list))
    for epoch in range(2):
        seen = Counter()
        for index, view in asked(sampler):
            assert view == epoch + seen[index]
            seen[index] += 1
        assert max(seen.values()) > 256


def test_sources_of_several_sizes_go_on_to_their_next_views():
    from mmdet.datasets.samplers import MultiSourceSampler
    from mmengine.dataset import ConcatDataset

    init_default_scope('mmpretrain')
    photos = [dict(type='Photos', size=n, pipeline=[dict(type='PackInputs')]) for n in (2, 6)]
    data = RepeatableViews(ConcatDataset(photos), views=1000)
    sampler = MultiSourceSampler(data, batch_size=2, source_ratio=[1, 1], seed=0)
    number_views(DataLoader(data, sampler=sampler, collate_fn=list, batch_size=2))
    drawn = asked(sampler, 24)
    small = [each for each in drawn if each[0] < 2]
    large = [each for each in drawn if each[0] >= 2]
    assert len(small) == len(large) == 12 and len(set(small)) >= 8 and len(set(large)) == 12


def test_the_sampler_stays_what_it_was():
    sampler = DefaultSampler(Pictures(5), seed=0)
    data = RepeatableViews(Pictures(5), views=2)
    batches = BatchSampler(sampler, 2, False)
    loader = number_views(DataLoader(data, batch_sampler=batches, collate_fn=list))
    assert loader.batch_sampler.sampler is sampler and isinstance(sampler, DefaultSampler)
    assert type(sampler).__name__ == 'DefaultSampler' and len(sampler) == 5
    numbering = sampler.view_numbering
    number_views(loader)
    assert sampler.view_numbering is numbering
    assert [i.view for batch in loader.batch_sampler for i in batch] == [0] * 5


@DATA_SAMPLERS.register_module(force=True)
class Frames(Sampler):
    def __init__(self, dataset, seed=None):
        self.dataset = dataset

    def __iter__(self):
        yield 0, 1

    def __len__(self):
        return 1


def test_what_cannot_be_numbered_is_refused():
    data = RepeatableViews(Pictures(5), views=2)
    loader = DataLoader(data, batch_sampler=[[0, 1], [2, 3]], collate_fn=list)
    with pytest.raises(ValueError, match=r'batch_sampler=list draws from a NoneType'):
        number_views(loader)
    loader = number_views(DataLoader(data, sampler=Frames(data), collate_fn=list))
    with pytest.raises(ValueError, match=r'sampler is a Frames, which draws \(0, 1\)'):
        next(iter(loader))
    with pytest.raises(ValueError, match='views=0 is wrong'):
        number_views(loader, views=0)


@HOOKS.register_module(force=True)
class Keeps(Hook):
    """Keeps what every iteration saw."""

    seen: list

    def before_run(self, runner):
        type(self).seen = []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        said = data_batch['data_samples']
        self.seen.append([(s.sample_index, s.view, s.view_hash) for s in said])


CROPS = [dict(type='RandomCrop', crop_size=16, padding=4), dict(type='PackInputs')]


def trained(folder, sampler, train_cfg, size=12, **changes):
    """Train a tiny classifier of photographs; return what the iterations saw."""
    from helpers.networks import resnet

    loader = dict(
        batch_size=4,
        num_workers=2,
        persistent_workers=True,
        dataset=dict(
            type='kd_plugins.RepeatableViews', views=3,
            dataset=dict(type='Photos', size=size, pipeline=CROPS),
        ),
        sampler=dict(type=sampler, shuffle=True),
    )  # fmt: skip
    cfg = dict(
        default_scope='mmpretrain',
        model=dict(resnet(), data_preprocessor=dict(type='ClsDataPreprocessor')),
        work_dir=str(folder),
        experiment_name=f'views_{time.time_ns()}',
        train_dataloader=dict(loader, **changes.pop('loader', {})),
        train_cfg=train_cfg,
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.01)),
        default_hooks=dict(
            checkpoint=dict(type='CheckpointHook', interval=5, by_epoch=False),
            **changes.pop('hooks', {}),
        ),
        custom_hooks=[dict(type='Keeps')],
        randomness=dict(seed=0),
        log_level='ERROR',
        **changes,
    )
    Runner.from_cfg(cfg).train()
    return Keeps.seen


def test_epochs_of_a_runner_with_workers_that_stay(tmp_path):
    seen = trained(tmp_path, 'DefaultSampler', dict(by_epoch=True, max_epochs=5))
    for epoch in range(5):
        own = [each for batch in seen[3 * epoch : 3 * epoch + 3] for each in batch]
        assert sorted(i for i, _, _ in own) == list(range(12))
        assert {view for _, view, _ in own} == {epoch % 3}
    # The fourth epoch shows the pictures of the first.
    assert {each for batch in seen[:3] for each in batch} == {
        each for batch in seen[9:12] for each in batch
    }


@pytest.mark.parametrize('sampler', ['InfiniteSampler', 'DefaultSampler'])
def test_a_loop_without_epochs_counts_passes_and_resumes_in_the_middle_of_one(
    tmp_path, sampler, monkeypatch
):
    monkeypatch.setattr('mmengine.runner.loops.time.sleep', lambda seconds: None)
    # Passes of two and a half batches end in the middle of one.
    loader = dict(drop_last=False)
    size = 10 if sampler == 'InfiniteSampler' else 12
    whole = trained(
        tmp_path / 'a', sampler, dict(by_epoch=False, max_iters=13), size, loader=loader
    )
    drawn = [each for batch in whole for each in batch]
    for pass_ in range(4):
        own = drawn[size * pass_ : size * (pass_ + 1)]
        assert sorted(i for i, _, _ in own) == list(range(size))
        assert {view for _, view, _ in own} == {pass_ % 3}
    resumed = trained(
        tmp_path / 'b', sampler, dict(by_epoch=False, max_iters=13), size,
        loader=dict(loader, num_workers=1), resume=True,
        load_from=str(tmp_path / 'a/iter_5.pth'),
    )  # fmt: skip
    assert resumed == whole[5:]


def test_an_epoch_that_nobody_tells_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r'sampler_seed is no DistSamplerSeedHook') as error:
        trained(
            tmp_path, 'DefaultSampler', dict(by_epoch=True, max_epochs=2),
            hooks=dict(sampler_seed=None),
        )  # fmt: skip
    assert len(str(error.value).splitlines()) == 1


def test_a_part_of_the_data_an_epoch(tmp_path):
    seen = trained(
        tmp_path, 'DefaultSampler', dict(by_epoch=True, max_epochs=2),
        loader=dict(num_batch_per_epoch=2),
    )  # fmt: skip
    assert [{view for _, view, _ in batch} for batch in seen] == [{0}, {0}, {1}, {1}]


@pytest.mark.parametrize('kind', [Runner, FlexibleRunner])
def test_each_of_mmengines_runners_numbers_views_of_what_it_builds(kind):
    init_default_scope('mmpretrain')
    photos = dict(type='Photos', pipeline=[dict(type='PackInputs')])
    for dataset in (photos, dict(type='kd_plugins.RepeatableViews', dataset=photos, views=2)):
        loader = kind.build_dataloader(
            dict(dataset=dataset, batch_size=4, num_workers=0, sampler=dict(type='DefaultSampler'))
        )
        loader.sampler.set_epoch(1)
        views = [getattr(i, 'view', None) for i in loader.sampler]
        assert views == [1 if dataset is not photos else None] * 12
        # One that is there already is numbered, too.
        assert kind.build_dataloader(loader) is loader


def test_views_of_a_sampler_are_whole_numbers_for_everybody_else():
    view = SampleView(3, 2)
    assert [10, 11, 12, 13][view] == 13 and view == 3 and view + 1 == 4
    assert torch.arange(5)[view] == 3 and repr(view) == 'SampleView(3, 2)'


@pytest.mark.parametrize('numbers', [np.arange(5), torch.arange(5)])
def test_whole_numbers_of_numpy_and_torch_are_numbered(numbers):
    data = RepeatableViews(Pictures(5), views=3)
    loader = DataLoader(data, sampler=SubsetRandomSampler(numbers), collate_fn=list)
    for epoch in range(4):
        assert sorted(asked(number_views(loader).sampler)) == [(i, epoch % 3) for i in range(5)]
