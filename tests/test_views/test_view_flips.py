"""Of the views 2 m and 2 m + 1 one is flipped; which, is drawn."""

import numpy as np
import pytest
import torch
from helpers.view_data import repeatable, stock
from mmcv.transforms import RandomFlip
from mmengine.registry import TRANSFORMS, init_default_scope
from scipy import stats

from kd_plugins.views import SampleView
from kd_plugins.views.flips import PairedFlips

FLIP = dict(type='RandomFlip', prob=0.5, direction='horizontal')
PACK = dict(type='PackInputs')


def photos(*transforms, size=12):
    init_default_scope('mmpretrain')
    return dict(type='Photos', size=size, pipeline=[*transforms, PACK])


def test_two_views_of_mmdets_1x_pipeline_are_all_that_there_are(tmp_path):
    init_default_scope('mmdet')
    path = 'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py'
    dataset = repeatable(stock(path, tmp_path), views=4)
    for index in range(len(dataset)):
        samples = [dataset[SampleView(index, view)] for view in range(4)]
        for first, second in (samples[:2], samples[2:]):
            assert torch.equal(first['inputs'], second['inputs'].flip(2))
            flips = [each['data_samples'].flip for each in (first, second)]
            assert sorted(flips) == [False, True]
            # The boxes go along.
            width = first['inputs'].shape[2]
            boxes = [each['data_samples'].gt_instances.bboxes.tensor for each in (first, second)]
            torch.testing.assert_close(boxes[0][:, [0, 2]], width - boxes[1][:, [2, 0]])


def test_a_view_has_the_law_that_it_had():
    dataset = repeatable(photos(FLIP, size=400), views=6)
    flipped = np.array(
        [
            [dataset[SampleView(i, v)]['data_samples'].flip for v in range(6)]
            for i in range(400)
        ]
    )  # fmt: skip
    for view in range(6):
        assert stats.binomtest(int(flipped[:, view].sum()), 400).pvalue > 0.01
    assert (flipped[:, ::2] != flipped[:, 1::2]).all()
    # Pairs know nothing of each other.
    pairs = flipped[:, ::2]
    for a, b in ((0, 1), (1, 2), (0, 2)):
        assert stats.binomtest(int((pairs[:, a] == pairs[:, b]).sum()), 400).pvalue > 0.01
    other = repeatable(photos(FLIP, size=400), views=1, seed=1)
    same = sum(other[i]['data_samples'].flip == flipped[i, 0] for i in range(400))
    assert stats.binomtest(same, 400).pvalue > 0.01


@pytest.mark.parametrize(
    'transforms',
    [
        [dict(FLIP, prob=0.3)],
        [dict(FLIP, prob=[0.25, 0.25], direction=['horizontal', 'vertical'])],
        [FLIP, dict(FLIP, direction='vertical')],
        [dict(type='RandomApply', transforms=[FLIP], prob=0.5)],
    ],
)
def test_other_flips_are_drawn(transforms):
    dataset = repeatable(photos(*transforms), views=2)
    seen = [
        [dataset[SampleView(i, v)]['data_samples'].get('flip') for v in range(2)] for i in range(12)
    ]
    assert any(a == b for a, b in seen)


def test_flips_of_joined_sets_are_told_and_put_back():
    joined = dict(type='ConcatDataset', datasets=[photos(FLIP), photos(FLIP)])
    dataset = repeatable(dict(type='RepeatDataset', dataset=joined, times=2), views=2)
    for index in (0, 13, 40):
        first, second = (dataset[SampleView(index, v)]['inputs'] for v in range(2))
        assert torch.equal(first, second.flip(2))
    flips = [each.pipeline.transforms[0] for each in dataset.dataset.dataset.datasets]
    assert [flip.prob for flip in flips] == [0.5, 0.5]
    with pytest.raises(KeyError), PairedFlips(dataset.dataset, 0) as told:
        told.tell(told.of(0, 0))
        assert flips[0].prob == flips[1].prob in (0.0, 1.0)
        raise KeyError
    assert [flip.prob for flip in flips] == [0.5, 0.5]


def test_pictures_of_a_mosaic_are_flipped_each_as_it_draws(tmp_path):
    init_default_scope('mmdet')
    yolox = stock('mmdet::yolox/yolox_tiny_8xb8-300e_coco.py', tmp_path)
    flips = []

    from mmdet.datasets.transforms import RandomFlip as FlipBoxes

    @TRANSFORMS.register_module(force=True)
    class Watched(FlipBoxes):
        def transform(self, results):
            flips.append((self.prob, super().transform(results)['flip']))
            return results

    yolox.dataset.pipeline.append(dict(type='Watched', prob=0.5))
    yolox.pipeline = [yolox.pipeline[0], dict(type='mmdet.PackDetInputs')]
    dataset = repeatable(yolox, views=2)
    for index in range(4):
        dataset[index]
    assert {prob for prob, _ in flips} == {0.5} and {flip for _, flip in flips} == {False, True}


def test_a_partner_of_a_mixture_is_flipped_as_it_draws():
    flips = []

    @TRANSFORMS.register_module(force=True)
    class Seen(RandomFlip):
        def transform(self, results):
            flips.append(self.prob)
            return super().transform(results)

    mix = dict(augments=dict(type='Mixup', alpha=1.0))
    dataset = repeatable(photos(dict(FLIP, type='Seen')), views=2, mix=mix)
    for index in range(5):
        dataset[index]
    assert set(flips[::2]) <= {0.0, 1.0} and set(flips[1::2]) == {0.5}
