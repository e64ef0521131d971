import numpy as np
import pytest
from sklearn.datasets import load_digits

from kd_plugins.registry import DATASETS


def digits(**kwargs):
    return DATASETS.build(dict(type='kd_plugins.Digits', pipeline=[], **kwargs))


def labels(dataset):
    return np.array([dataset[i]['gt_label'] for i in range(len(dataset))])


def images(dataset):
    return np.stack([dataset[i]['img'] for i in range(len(dataset))])


def test_both_splits_are_all_scans_once():
    train, test = digits(split='train'), digits(split='test')
    assert len(train) + len(test) == 1797
    ours = np.concatenate([images(train), images(test)]).reshape(1797, 64)
    theirs = np.round(load_digits().data * 255 / 16).astype(np.uint8)
    assert sorted(map(bytes, ours)) == sorted(map(bytes, theirs))


def test_the_split_is_stratified():
    counts = np.bincount(load_digits().target)
    test = np.bincount(labels(digits(split='test', test_fraction=0.25)))
    assert (abs(test - counts * 0.25) <= 0.5).all()


def test_images_and_labels_belong_together():
    known = {
        bytes(np.round(image * 255 / 16).astype(np.uint8)): label
        for image, label in zip(load_digits().images, load_digits().target, strict=True)
    }
    test = digits(split='test')
    assert test[0]['img'].shape == (8, 8, 1) and test[0]['img'].dtype == np.uint8
    assert all(known[bytes(sample['img'])] == sample['gt_label'] for sample in test)


def test_the_split_depends_on_its_seed_alone():
    np.random.seed(1)
    first = images(digits(split='test'))
    np.random.seed(2)
    assert (images(digits(split='test')) == first).all()
    assert not np.array_equal(images(digits(split='test', split_seed=1)), first)


def test_scarce_labels_are_a_part_of_the_whole_training_split():
    few = digits(split='train', train_per_class=3)
    assert np.bincount(labels(few)).tolist() == [3] * 10
    everything = set(map(bytes, images(digits(split='train'))))
    assert set(map(bytes, images(few))) <= everything


@pytest.mark.parametrize(
    ('kwargs', 'says'),
    [
        (dict(split='val'), r"Digits\.split='val' is unknown"),
        (dict(split='train', train_per_class=0), r'Digits\.train_per_class=0 is out of range'),
        (dict(split='train', train_per_class=999), r'Digits\.train_per_class=999.*107 scans'),
    ],
)
def test_bad_settings_are_named(kwargs, says):
    with pytest.raises(ValueError, match=says):
        digits(**kwargs)
