"""What keeps something from one sample to the next is refused, by name."""

import itertools
import random

import numpy as np
import pytest
import torch
from helpers.tiny_pictures import Pictures
from helpers.view_data import content, repeatable, stock
from mmengine.dataset import Compose
from mmengine.registry import DATASETS, HOOKS, TRANSFORMS, init_default_scope

from kd_plugins.views import (
    RepeatableViews,
    SampleView,
    check_one_pipeline,
    check_stateless,
    find_state,
)

PACK = dict(type='PackInputs')


@TRANSFORMS.register_module(force=True)
class OwnGenerator:
    def __init__(self, kind, where='self'):
        made = dict(
            python=lambda: random.Random(0),
            numpy=lambda: np.random.default_rng(0),
            legacy=lambda: np.random.RandomState(0),
            torch=lambda: torch.Generator(),
            global_torch=lambda: torch.default_generator,
            global_numpy=lambda: np.random.mtrand._rand,
        )[kind]()
        if where == 'self':
            self.chance = made
        else:
            # As albumentations keeps it.
            self.augment = Holder(made)

    def __call__(self, results):
        return results


class Holder:
    def __init__(self, chance):
        self.chance = chance

    def __call__(self, picture):
        return picture


@TRANSFORMS.register_module(force=True)
class Counts:
    """Keeps a number where nobody sees it."""

    def __init__(self):
        number = itertools.count()
        self.count = lambda: next(number)

    def __call__(self, results):
        results['img'] = results['img'] + np.uint8(self.count())
        return results


def photos(*transforms):
    return dict(type='Photos', pipeline=[*transforms, PACK])


def test_rtmdets_cached_mosaic_is_refused_by_name(tmp_path):
    init_default_scope('mmdet')
    cfg = stock('mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py', tmp_path)
    with pytest.raises(
        ValueError,
        match=r'RepeatableViews\.dataset\.pipeline\[2\]=CachedMosaic keeps pictures of earlier '
        r'samples.*give a Mosaic in the pipeline of a MultiImageMixDataset',
    ) as error:
        repeatable(cfg)
    assert len(str(error.value).splitlines()) == 1
    without = [each for each in cfg.pipeline if each.type != 'CachedMosaic']
    with pytest.raises(ValueError, match=r'pipeline\[7\]=CachedMixUp .* give a MixUp'):
        repeatable(dict(cfg, pipeline=without))
    # What remains is RTMDet's second stage, and its first as MultiImageMixDataset has it.
    plain = [each for each in without if each.type != 'CachedMixUp']
    mosaic = dict(
        type='MultiImageMixDataset', dataset=dict(cfg, pipeline=cfg.pipeline[:2]),
        pipeline=[dict(type='Mosaic', img_scale=(640, 640)), *plain[2:]],
    )  # fmt: skip
    for each in (dict(cfg, pipeline=plain), mosaic):
        dataset = repeatable(dict(each))
        first = [content(dataset[SampleView(i, 1)]) for i in (0, 3, 5)]
        assert [content(dataset[SampleView(i, 1)]) for i in (5, 3, 0)] == first[::-1]


def test_a_cache_that_is_switched_off_is_none():
    class Mosaic(Holder):
        results_cache = None

    held = Mosaic(None)
    vars(held).update(results_cache=[], use_cached=False)
    assert find_state(held, 'x') is None
    held.use_cached = True
    assert find_state(held, 'x').startswith('x=Mosaic keeps pictures')


@pytest.mark.parametrize('where', ['self', 'inside'])
@pytest.mark.parametrize('kind', ['python', 'numpy', 'legacy', 'torch'])
def test_a_generator_of_its_own_is_refused(kind, where):
    init_default_scope('mmpretrain')
    own = dict(type='OwnGenerator', kind=kind, where=where)
    path = r'pipeline\[0\]' + ('' if where == 'self' else r'\.augment')
    with pytest.raises(ValueError, match=rf'{path}=\w+ draws from a random generator of its own'):
        repeatable(photos(own))


@pytest.mark.parametrize('kind', ['global_torch', 'global_numpy'])
def test_the_generators_that_are_seeded_are_taken(kind):
    init_default_scope('mmpretrain')
    repeatable(photos(dict(type='OwnGenerator', kind=kind)))


def test_it_is_found_however_deep(tmp_path):
    init_default_scope('mmpretrain')
    own = dict(type='OwnGenerator', kind='numpy')
    deep = dict(type='RandomChoice', transforms=[[dict(type='RandomApply', transforms=[own])]])
    joined = dict(type='ConcatDataset', datasets=[photos(), photos(deep)])
    with pytest.raises(
        ValueError,
        match=r'dataset\.dataset\.datasets\[1\]\.pipeline\[0\]\.transforms\[0\]\[0\]'
        r'\.transforms\[0\]=OwnGenerator',
    ):
        check_stateless(DATASETS.build(dict(type='RepeatDataset', dataset=joined, times=2)))
    built = Compose([own])
    assert find_state(built, 'p').startswith('p[0]=OwnGenerator')
    # albumentations' Compose has one itself.
    empty = Compose([])
    empty.random_generator = np.random.default_rng(0)
    assert find_state(empty, 'p').startswith('p=Compose draws')


@pytest.mark.parametrize('workers', [0, 1])
def test_what_keeps_state_unseen_is_found_by_making_a_sample_twice(workers):
    init_default_scope('mmpretrain')
    dataset = repeatable(photos(dict(type='Counts')), views=1)
    made = torch.utils.data.DataLoader(dataset, 2, num_workers=workers, collate_fn=list)
    with pytest.raises(
        ValueError, match=r'dataset=Photos makes another picture of sample 0 when view 0'
    ):
        next(iter(made))


def test_only_the_first_samples_of_a_process_are_made_twice():
    class Counted(Pictures):
        made = 0

        def __getitem__(self, index):
            self.made += 1
            return super().__getitem__(index)

    dataset = RepeatableViews(Counted(), views=1)
    for index in range(10):
        dataset[index]
    assert dataset.made == 12


@pytest.mark.parametrize(
    'hook',
    [
        dict(type='mmdet.PipelineSwitchHook', switch_epoch=2, switch_pipeline=[]),
        dict(type='mmdet.YOLOXModeSwitchHook'),
        dict(type='mmpretrain.SwitchRecipeHook', schedule=[dict(action_epoch=2)]),
    ],
)
def test_hooks_that_exchange_the_pipeline_are_refused_beside_what_is_kept(hook):
    made = HOOKS.build(hook)
    name = hook['type'].split('.')[1]
    with pytest.raises(ValueError, match=f'{name} exchanges .* model.teacher_cache needs') as error:
        check_one_pipeline([HOOKS.build(dict(type='EMAHook')), made], 'model.teacher_cache')
    assert len(str(error.value).splitlines()) == 1
    check_one_pipeline([HOOKS.build(dict(type='EMAHook'))], 'model.teacher_cache')
    own = type('OwnHook', (type(made),), {})
    made.__class__ = own
    with pytest.raises(ValueError, match='OwnHook exchanges .* model.teacher_cache needs'):
        check_one_pipeline([made], 'model.teacher_cache')
