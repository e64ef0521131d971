"""A view is a function of seed, sample and number, whoever asks for it and when."""

import copy
import pickle
import random

import numpy as np
import pytest
import torch
from helpers.view_data import (
    content,
    disturb,
    every_view,
    of_batches,
    repeatable,
    stock,
    train_data,
)
from mmengine.registry import DATASETS, MODELS, TRANSFORMS, init_default_scope
from mmengine.runner import Runner

from kd_plugins.views import RepeatableViews, SampleView, number_views, picture_hash

STOCK = [
    'mmpretrain::resnet/resnet18_8xb16_cifar10.py',
    'mmpretrain::resnet/resnet50_8xb32_in1k.py',
    'mmpretrain::deit/deit-small_4xb256_in1k.py',
    'mmpretrain::mobilenet_v3/mobilenet-v3-small_8xb128_in1k.py',
    'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py',
    'mmdet::gfl/gfl_r50_fpn_ms-2x_coco.py',
    'mmdet::detr/detr_r50_8xb2-150e_coco.py',
    'mmdet::ssd/ssd300_coco.py',
    'mmdet::yolox/yolox_tiny_8xb8-300e_coco.py',
]
CROPS = [
    dict(type='RandomCrop', crop_size=24, padding=4),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='PackInputs'),
]
PHOTOS = dict(type='Photos', pipeline=CROPS)


def loader(dataset, **changes):
    """A loader as a Runner builds it."""
    cfg = dict(
        dataset=dataset, batch_size=3, num_workers=0,
        sampler=dict(type='DefaultSampler', shuffle=True), **changes,
    )  # fmt: skip
    return Runner.build_dataloader(cfg, seed=0)


def over_epochs(made, epochs):
    for epoch in epochs:
        made.sampler.set_epoch(epoch)
        yield from made


@pytest.mark.parametrize('path', STOCK)
def test_stock_pipelines_make_the_same_view_in_any_worker_batch_and_order(path, tmp_path):
    init_default_scope(path.split('::')[0])
    cfg = dict(type='kd_plugins.RepeatableViews', dataset=stock(path, tmp_path), views=2, seed=7)
    dataset = DATASETS.build(copy.deepcopy(cfg))
    dataset.full_init()
    wanted = every_view(dataset, order=0)
    disturb(5)
    assert every_view(dataset, order=1) == wanted
    made = dict(train_data(path), num_workers=2, batch_size=2, persistent_workers=True)
    made = Runner.build_dataloader(dict(made, dataset=cfg), seed=3)
    found = {}
    for epoch in (3, 0):
        made.batch_sampler.sampler.set_epoch(epoch)
        found.update(of_batches(made))
    assert found.keys() == wanted.keys()
    assert found == wanted
    # The two views differ, or nothing has been tested.
    assert any(wanted[i, 0] != wanted[i, 1] for i in range(len(dataset)))
    other = every_view(repeatable(cfg['dataset'], seed=8))
    assert any(other[key] != wanted[key] for key in wanted)


@pytest.mark.parametrize('workers', [0, 2])
@pytest.mark.parametrize('batch_size', [1, 5])
def test_epoch_e_shows_view_e_modulo_v(workers, batch_size):
    init_default_scope('mmpretrain')
    cfg = dict(type='kd_plugins.RepeatableViews', dataset=PHOTOS, views=3)
    made = Runner.build_dataloader(
        dict(
            dataset=cfg, batch_size=batch_size, num_workers=workers,
            persistent_workers=bool(workers), sampler=dict(type='DefaultSampler', shuffle=True),
        ),
        seed=0,
    )  # fmt: skip
    for epoch in range(5):
        made.sampler.set_epoch(epoch)
        told = [said for batch in made for said in batch['data_samples']]
        assert {said.view for said in told} == {epoch % 3}
        assert sorted(said.sample_index for said in told) == list(range(12))


def test_the_views_are_those_of_a_plain_pipeline_with_these_seeds():
    init_default_scope('mmpretrain')
    # Without RandomFlip, which is told and not drawn.
    plain = dict(type='Photos', pipeline=[CROPS[0], CROPS[2]])
    dataset = repeatable(plain, views=200)
    corners = {content(dataset[SampleView(4, v)])[2] for v in range(200)}
    # 17 x 17 places of a crop of 24 in 40.
    drawn = DATASETS.build(plain)
    possible = {content(drawn[4])[2] for _ in range(4000)}
    assert corners <= possible and len(corners) > 120


def states():
    return random.getstate(), np.random.get_state(), torch.get_rng_state()


def same(a, b):
    numpys = all(np.array_equal(x, y) for x, y in zip(a[1], b[1], strict=True))
    return a[0] == b[0] and numpys and torch.equal(a[2], b[2])


def test_the_generators_around_it_are_put_back():
    init_default_scope('mmpretrain')
    dataset = repeatable(PHOTOS)
    disturb(1)
    np.random.randn(3)  # leaves a second normal number waiting
    before = states()
    dataset[3]
    dataset.__getitems__([SampleView(1, 0), SampleView(2, 1)])
    assert same(before, states())
    with pytest.raises(IndexError):
        dataset[10**6]
    assert same(before, states())
    random.random()
    assert not same(before, states())


def draw_three(batch):
    views = [sample['inputs'].sum() for sample in batch]
    return views, [random.random(), np.random.rand(), float(torch.rand(()))]


def test_what_a_worker_draws_to_collate_is_new_in_every_batch():
    init_default_scope('mmpretrain')
    made = torch.utils.data.DataLoader(
        repeatable(PHOTOS, views=1), 3, num_workers=1, persistent_workers=True,
        collate_fn=draw_three,
    )  # fmt: skip
    # The same pictures twice.
    views, drawn = zip(*(batch for _ in range(2) for batch in made), strict=True)
    assert [*views[:4]] == [*views[4:]]
    for numbers in zip(*drawn, strict=True):
        assert len({*numbers}) == 8


@TRANSFORMS.register_module(force=True)
class DrawsThree:
    """The picture is one number of each generator."""

    def __call__(self, results):
        drawn = [random.random(), np.random.rand(), float(torch.rand((), dtype=torch.float64))]
        return dict(results, img=np.array(drawn).reshape(1, 1, 3))


def test_each_generator_draws_other_numbers_for_each_seed_sample_and_view():
    init_default_scope('mmpretrain')
    cfg = dict(PHOTOS, pipeline=[dict(type='DrawsThree'), CROPS[2]])
    drawn = [
        dataset[SampleView(i, v)]['inputs'].flatten().tolist()
        for seed in range(3)
        for dataset in [repeatable(cfg, views=5, seed=seed)]
        for i in range(12)
        for v in range(5)
    ]
    for numbers in zip(*drawn, strict=True):
        assert len(set(numbers)) == 3 * 12 * 5
        # Of neighbours one says nothing of the other.
        assert abs(np.corrcoef(numbers[:-1], numbers[1:])[0, 1]) < 0.25
        assert abs(np.mean(numbers) - 0.5) < 0.1
    disturb(3)
    again = repeatable(cfg, views=5, seed=2)[SampleView(11, 4)]['inputs'].flatten().tolist()
    assert again == drawn[-1]


def test_torchvisions_transforms_repeat():
    init_default_scope('mmpretrain')
    pipeline = [
        dict(type='NumpyToPIL', to_rgb=True),
        dict(type='torchvision/RandomResizedCrop', size=16),
        dict(type='torchvision/ColorJitter', brightness=0.4, hue=0.2),
        dict(type='PILToNumpy'),
        dict(type='PackInputs'),
    ]
    dataset = repeatable(dict(PHOTOS, pipeline=pipeline), views=3)
    wanted = every_view(dataset, 0)
    disturb(8)
    assert every_view(dataset, 1) == wanted and len(set(wanted.values())) == len(wanted)


def test_nothing_is_drawn_from_the_accelerators_generators(monkeypatch):
    init_default_scope('mmpretrain')
    seeded = []
    monkeypatch.setattr(torch.cuda, 'manual_seed_all', seeded.append)
    repeatable(PHOTOS)[0]
    assert seeded == []


@TRANSFORMS.register_module(force=True)
class Fragile:
    """Returns None of every third sample, and now and then of others."""

    def __call__(self, results):
        if results['sample_idx'] % 3 == 0 or np.random.rand() < 0.3:
            return None
        return results


def test_what_replaces_a_sample_that_comes_back_none_repeats():
    init_default_scope('mmpretrain')
    cfg = dict(PHOTOS, pipeline=[dict(type='Fragile'), *CROPS], max_refetch=1000)
    dataset = repeatable(cfg, views=3)
    wanted = every_view(dataset, 0)
    assert every_view(dataset, 1) == wanted and len(wanted) == 36
    made = loader(dict(type='kd_plugins.RepeatableViews', dataset=cfg, views=3))
    assert of_batches(over_epochs(made, range(3))) == wanted
    # It keeps the index that was asked for.
    sample = dataset[SampleView(3, 1)]['data_samples']
    assert sample.sample_index == 3 and sample.sample_idx % 3 != 0


MIX = [dict(type='mmdet.Mosaic', img_scale=(16, 16)), dict(type='PackInputs')]
WRAPPED = dict(
    repeat=(dict(type='RepeatDataset', dataset=PHOTOS, times=2), 24),
    balanced=(dict(type='ClassBalancedDataset', dataset=PHOTOS, oversample_thr=0.9), 24),
    joined=(dict(type='ConcatDataset', datasets=[PHOTOS, dict(PHOTOS, size=3)]), 15),
    folds=(dict(type='KFoldDataset', dataset=PHOTOS, num_splits=4, seed=1), 9),
    nested=(
        dict(
            type='RepeatDataset', times=2,
            dataset=dict(type='ConcatDataset', datasets=[PHOTOS, dict(PHOTOS, size=3)]),
        ),
        30,
    ),
)  # fmt: skip


@pytest.mark.parametrize('name', WRAPPED)
def test_wrapped_datasets(name):
    init_default_scope('mmpretrain')
    cfg, size = WRAPPED[name]
    dataset = repeatable(cfg, views=2)
    wanted = every_view(dataset, 0)
    assert len(dataset) == size and len(wanted) == 2 * size
    assert every_view(dataset, 1) == wanted
    made = loader(dict(type='kd_plugins.RepeatableViews', dataset=cfg, views=2))
    assert of_batches(over_epochs(made, range(2))) == wanted
    if name in ('repeat', 'nested'):
        # The copies of a sample are augmented each in its own way.
        assert any(wanted[i, 0] != wanted[i + size // 2, 0] for i in range(size // 2))


def test_samples_say_which_view_they_are_through_collating_and_preprocessing(tmp_path):
    for package, kind, path, collate in (
        ('mmpretrain', 'ClsDataPreprocessor', STOCK[0], 'default_collate'),
        ('mmpretrain', 'ClsDataPreprocessor', STOCK[0], 'pseudo_collate'),
        ('mmdet', 'DetDataPreprocessor', STOCK[4], 'pseudo_collate'),
    ):
        init_default_scope(package)
        cfg = dict(type='kd_plugins.RepeatableViews', dataset=stock(path, tmp_path), views=2)
        made = loader(cfg, collate_fn=dict(type=collate))
        preprocessor = MODELS.build(dict(type=f'{package}.{kind}'))
        for batch in over_epochs(made, [1]):
            pictures = [picture.clone() for picture in batch['inputs']]
            out = preprocessor(copy.deepcopy(batch), training=True)
            for picture, said in zip(pictures, out['data_samples'], strict=True):
                meta = said.metainfo
                assert type(meta['sample_index']) is int and meta['view'] == 1
                assert meta['view_hash'] == picture_hash(picture)
                again = made.dataset[SampleView(meta['sample_index'], 1)]
                assert torch.equal(again['inputs'], picture)


def test_an_object_that_a_dataset_keeps_is_not_written_twice():
    from helpers.tiny_pictures import Pictures

    class Kept(Pictures):
        def __init__(self):
            super().__init__()
            self.samples = [super(Kept, self).__getitem__(i) for i in range(4)]

        def __getitem__(self, index):
            return self.samples[index]

    dataset = RepeatableViews(Kept(), views=2)
    first, second = dataset.__getitems__([SampleView(1, 0), SampleView(1, 1)])
    assert [first['data_samples'].view, second['data_samples'].view] == [0, 1]
    assert 'view' in first['data_samples'].metainfo_keys()


def test_it_travels_to_other_processes_and_is_copied():
    init_default_scope('mmpretrain')
    dataset = repeatable(PHOTOS)
    wanted = content(dataset[SampleView(5, 1)])
    for other in (pickle.loads(pickle.dumps(dataset)), copy.deepcopy(dataset)):
        assert content(other[SampleView(5, 1)]) == wanted
    index = pickle.loads(pickle.dumps(SampleView(5, 1)))
    assert (index, index.view, type(index)) == (5, 1, SampleView)


def test_an_index_without_a_view_is_the_first_view_and_loaders_must_say_which():
    init_default_scope('mmpretrain')
    dataset = repeatable(PHOTOS)
    assert content(dataset[5]) == content(dataset[SampleView(5, 0)])
    bare = torch.utils.data.DataLoader(dataset, 4, collate_fn=list)
    with pytest.raises(ValueError, match=r'views=2, and the loader does not say .*number_views'):
        next(iter(bare))
    for epoch in range(3):
        number_views(bare)
        assert {s['data_samples'].view for batch in bare for s in batch} == {epoch % 2}
    only = torch.utils.data.DataLoader(repeatable(PHOTOS, views=1), 4, collate_fn=list)
    assert sum(len(batch) for batch in only) == 12


def test_a_sample_counted_from_the_end_is_the_same_sample():
    init_default_scope('mmpretrain')
    dataset = repeatable(PHOTOS, views=3)
    for i in range(1, 13):
        assert content(dataset[-i]) == content(dataset[12 - i])
        assert content(dataset[SampleView(-i, 2)]) == content(dataset[SampleView(12 - i, 2)])
        assert dataset[-i]['data_samples'].sample_index == 12 - i
    for index in (-13, 12):
        with pytest.raises(IndexError):
            dataset[index]


def test_hooks_and_samplers_find_the_wrapped_dataset():
    init_default_scope('mmpretrain')
    dataset = repeatable(PHOTOS)
    assert dataset.metainfo['classes'] == ('a', 'b', 'c')
    assert (
        dataset.get_cat_ids(4) == [1] and dataset.get_data_info(SampleView(4, 1))['gt_label'] == 1
    )
    joined = repeatable(WRAPPED['joined'][0])
    assert joined.cumulative_sizes == [12, 15] and not hasattr(joined, 'pipeline')
    assert not hasattr(dataset, 'nothing_of_this_name')
    # As mmdet's PipelineSwitchHook does it.
    from mmengine.dataset import Compose

    before = content(dataset[2])
    dataset.pipeline = Compose([dict(type='CenterCrop', crop_size=8), dict(type='PackInputs')])
    assert len(dataset.dataset.pipeline.transforms) == 2
    assert content(dataset[2])[0] == (3, 8, 8) != before[0]


def test_yolox_can_switch_its_mosaic_off(tmp_path):
    init_default_scope('mmdet')
    dataset = repeatable(stock(STOCK[8], tmp_path))
    before = every_view(dataset)
    dataset.update_skip_type_keys(['Mosaic', 'RandomAffine', 'MixUp'])
    after = every_view(dataset)
    assert every_view(dataset, 1) == after != before


@pytest.mark.parametrize(
    'changes, message',
    [
        (dict(views=0), r'RepeatableViews\.views=0 is wrong'),
        (dict(views=2.0), r'RepeatableViews\.views=2\.0 is wrong'),
        (dict(seed=-1), r'RepeatableViews\.seed=-1 is wrong'),
        (dict(seed=2**63), r'RepeatableViews\.seed=9223372036854775808 is wrong: .*below'),
        (dict(mix=dict(alpha=1.0)), r'RepeatableViews\.mix=.*augments=\['),
    ],
)
def test_wrong_settings_are_refused_in_one_sentence(changes, message):
    init_default_scope('mmpretrain')
    with pytest.raises(ValueError, match=message) as error:
        RepeatableViews(**dict(dict(dataset=copy.deepcopy(PHOTOS), views=2), **changes))
    assert len(str(error.value).splitlines()) == 1


def test_it_must_be_outermost():
    init_default_scope('mmpretrain')
    inner = dict(type='kd_plugins.RepeatableViews', dataset=PHOTOS, views=2)
    for outer in (
        dict(type='RepeatDataset', dataset=inner, times=2),
        dict(type='ConcatDataset', datasets=[PHOTOS, inner]),
    ):
        with pytest.raises(
            ValueError, match=f'dataset={outer["type"]} wraps a RepeatableViews'
        ) as e:
            loader(copy.deepcopy(outer))
        assert len(str(e.value).splitlines()) == 1
        with pytest.raises(
            ValueError, match=r'RepeatableViews\.dataset has a RepeatableViews in it'
        ):
            RepeatableViews(copy.deepcopy(outer), views=2)


def test_samples_that_cannot_say_which_view_they_are_are_refused():
    class Bare(list):
        pass

    for sample, message in (
        (3, 'gives int without inputs'),
        (dict(inputs=torch.zeros(3), data_samples=2), 'data_samples of type int'),
        (dict(inputs='a', data_samples=2), 'a picture of type str has no hash'),
    ):
        with pytest.raises((ValueError, TypeError), match=message):
            RepeatableViews(Bare([sample]), views=1)[0]
    with pytest.raises(ValueError, match='view=2 is wrong'):
        RepeatableViews(Bare([3]), views=2)[SampleView(0, 2)]


def test_several_pictures_of_a_sample_are_each_told(tmp_path):
    init_default_scope('mmpretrain')
    two = dict(type='MultiView', transforms=[[CROPS[0]]], num_views=[2])
    dataset = repeatable(dict(PHOTOS, pipeline=[two, dict(type='PackInputs')]), views=2)
    sample = dataset[SampleView(1, 1)]
    assert len(sample['inputs']) == 2 and not torch.equal(*sample['inputs'])
    assert sample['data_samples'].view_hash == picture_hash(sample['inputs'])
    assert dataset[SampleView(1, 1)]['data_samples'].view_hash == picture_hash(sample['inputs'])
