import math
import random

import pytest

from kd_plugins.experiments.metrics import (
    headline,
    is_guessing,
    may_give_headline,
    right_by_luck,
)


def test_the_headline_is_the_one_of_the_task():
    top1 = headline(['accuracy/top5', 'accuracy/top1', 'loss'])
    assert (top1.name, top1.label, top1.metafile) == ('accuracy/top1', 'top-1', 'Top 1 Accuracy')
    ap = headline(['coco/bbox_mAP_50', 'coco/bbox_mAP_s', 'coco/bbox_mAP'])
    assert (ap.name, ap.label, ap.metafile) == ('coco/bbox_mAP', 'COCO AP', 'box AP')
    assert headline(['coco/AR@100', 'level']) is None and headline([]) is None
    # An evaluator may have a prefix of its own; the usual one comes first.
    assert headline(['night/bbox_mAP']).name == 'night/bbox_mAP'
    assert headline(['night/bbox_mAP', 'coco/bbox_mAP']).name == 'coco/bbox_mAP'


BOXES = dict(type='CocoMetric', ann_file='val.json', metric='bbox')


@pytest.mark.parametrize(
    'evaluator, may',
    [
        (dict(type='Accuracy'), True),
        (dict(type='Accuracy', topk=(1, 5)), True),
        (dict(type='mmpretrain.Accuracy', topk=5), False),
        (dict(type='SingleLabelMetric'), False),
        (BOXES, True),
        (dict(type='mmdet.CocoMetric', metric=['proposal', 'bbox']), True),
        (dict(type='CocoMetric', metric='segm'), False),
        ([dict(type='VOCMetric'), BOXES], True),
        ([dict(type='VOCMetric'), dict(type='DumpDetResults')], False),
        (dict(type='Evaluator', metrics=[dict(type='VOCMetric')]), False),
        # What is not upstream's may call its figure bbox_mAP.
        (dict(type='MyMetric'), True),
        (object(), True),
    ],
)
def test_an_evaluators_config_tells_whether_it_may_give_one(evaluator, may):
    assert may_give_headline(evaluator) is may


def test_values_are_percent_and_none_where_there_is_nothing_to_find():
    top1, ap = headline(['accuracy/top1']), headline(['coco/bbox_mAP'])
    assert top1.value({'accuracy/top1': 71.5}) == 71.5
    assert ap.value({'coco/bbox_mAP': 0.375}) == 37.5
    assert ap.value({'coco/bbox_mAP': 0.0}) == 0
    for metrics in ({}, {'coco/bbox_mAP': -1.0}, {'coco/bbox_mAP': math.nan}):
        assert ap.value(metrics) is None


@pytest.mark.parametrize('samples, classes', [(64, 10), (500, 4), (1000, 100), (32, 2)])
def test_luck_is_what_guessing_hardly_ever_beats(samples, classes):
    draw = random.Random(samples)
    tries = 2000
    limit = right_by_luck(samples, classes)
    shares = [
        sum(draw.randrange(classes) == 0 for _ in range(samples)) / samples for _ in range(tries)
    ]
    # Beyond three deviations lies about a thousandth, more where the mean is small.
    assert sum(share > limit for share in shares) < 0.01 * tries
    # And it is no more than that: two deviations are beaten now and then.
    nearer = 1 / classes + (limit - 1 / classes) * 2 / 3
    assert sum(share > nearer for share in shares) > 0.01 * tries


def test_who_guesses():
    def guesses(top1, samples=1000, classes=10):
        return is_guessing({'accuracy/top1': top1}, samples, classes)

    assert guesses(10) and guesses(0) and guesses(12.8) and not guesses(12.9)
    # Four samples of two classes can all be right by luck.
    assert not guesses(50, 4, 2) and not guesses(0, 0, 10) and not guesses(0, 10, 0)
    assert is_guessing({'coco/bbox_mAP': 0.004}, 10, 80)
    assert not is_guessing({'coco/bbox_mAP': 0.006}, 10, 80)
    # No object in these pictures says nothing about the detector.
    assert not is_guessing({'coco/bbox_mAP': -1.0}, 10, 80)
    assert not is_guessing({'level': 0.0}, 10, 80)


@pytest.mark.parametrize('samples, classes', [(0, 10), (5, 1)])
def test_nothing_to_guess_is_refused(samples, classes):
    with pytest.raises(ValueError, match=f'samples={samples} and classes={classes}'):
        right_by_luck(samples, classes)
