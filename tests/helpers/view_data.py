"""Data and stock pipelines for tests of views that come again."""

import random

import cv2
import numpy as np
import torch
from mmengine.dataset import BaseDataset
from mmengine.hub import get_config
from mmengine.registry import DATASETS, DefaultScope

from helpers.few_scenes import few_scenes
from kd_plugins.views import SampleView


@DATASETS.register_module(force=True)
class Photos(BaseDataset):
    """Pictures of 32 x 32 in memory, in two classes."""

    METAINFO = dict(classes=('a', 'b', 'c'))

    def __init__(self, size=12, shape=(32, 32, 3), **kwargs):
        self.size, self.shape = size, shape
        # Serialising collects the garbage of the whole process.
        super().__init__(**dict(dict(serialize_data=False), **kwargs))

    def load_data_list(self):
        random = np.random.default_rng(3)
        return [
            dict(img=random.integers(0, 256, self.shape, dtype=np.uint8), gt_label=i % 3)
            for i in range(self.size)
        ]

    def get_cat_ids(self, index):
        return [self.get_data_info(index)['gt_label']]


def folder_of_photos(root, number=6):
    """Write JPEGs of several sizes in two folders, as ImageNet lies."""
    random = np.random.default_rng(5)
    for i in range(number):
        path = root / f'n{i % 2}' / f'{i}.jpg'
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = random.integers(0, 256, (6, 6, 3), dtype=np.uint8)
        size = (240 + 16 * i, 300 - 12 * i)
        cv2.imwrite(str(path), cv2.resize(coarse, size, interpolation=cv2.INTER_CUBIC))
    return root


def train_data(path):
    """Return the train_dataloader of an upstream config."""
    with DefaultScope.overwrite_default_scope(path.split('::')[0]):
        return get_config(path).train_dataloader


def stock(path, folder):
    """Return the dataset of an upstream config, its pipeline as it is, on a few pictures."""
    cfg = train_data(path).dataset
    innermost = cfg
    while 'pipeline' not in innermost or 'dataset' in innermost:
        innermost = innermost.dataset
    kind = innermost.type
    if kind == 'CIFAR10':
        cfg = dict(type='Photos', pipeline=innermost.pipeline)
    elif kind == 'ImageNet':
        root = folder_of_photos(folder / 'photos')
        cfg = dict(
            type='mmpretrain.CustomDataset', data_root=str(root), pipeline=innermost.pipeline
        )
    else:
        options = few_scenes(folder, train=6, val=1)
        root = options['train_dataloader.dataset.data_root']
        innermost.update(
            data_root=root, ann_file='annotations/train.json', data_prefix=dict(img='train/'),
            metainfo=dict(classes=tuple('0123456789')), backend_args=None,
        )  # fmt: skip
    return cfg


def repeatable(dataset, views=2, **changes):
    """Build a dataset of repeatable views."""
    return DATASETS.build(
        dict(type='kd_plugins.RepeatableViews', dataset=dataset, views=views, **changes)
    )


def content(sample):
    """Return what a network gets of a sample, as something to compare."""
    said, picture = sample['data_samples'], sample['inputs']
    labels = []
    for name in ('gt_label', 'gt_score'):
        if name in said:
            labels += said.get(name).tolist()
    if 'gt_instances' in said:
        boxes = said.gt_instances.bboxes
        labels += [getattr(boxes, 'tensor', boxes).tolist(), said.gt_instances.labels.tolist()]
    return tuple(picture.shape), str(picture.dtype), picture.numpy().tobytes(), str(labels)


def every_view(dataset, order=None):
    """Return the content of all views of all samples, asked for one by one in some order."""
    keys = [(i, v) for i in range(len(dataset)) for v in range(dataset.views)]
    random.Random(order).shuffle(keys)
    return {key: content(dataset[SampleView(*key)]) for key in keys}


def of_batches(batches):
    """Return the content of batches of a loader by sample and view."""
    found = {}
    for batch in batches:
        pictures = batch['inputs']
        for picture, said in zip(pictures, batch['data_samples'], strict=True):
            key = said.sample_index, said.view
            mine = content(dict(inputs=picture, data_samples=said))
            assert found.setdefault(key, mine) == mine
    return found


def disturb(seed):
    """Put the three generators somewhere else."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
