"""Time of loading data with repeatable views, over loading it without.

    python benchmarks/views.py

A worker of a loader makes samples of both kinds in turn, in changing order, so that whatever else
the machine does falls on all alike: the stock pipeline of a config, on made-up JPEGs of
the usual size. ImageNet's 500 x 375 pixels become 224 x 224, COCO's 640 x 480 become
1067 x 800; CIFAR's 32 x 32 lie in memory, and nothing has to be read. Samples come in
batches of the config's size. What is told is the time of the processor.
"""

from __future__ import annotations

import argparse
import copy
import json
import logging
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.dataset import BaseDataset
from mmengine.hub import get_config
from mmengine.registry import DATASETS, DefaultScope
from torch.utils.data import DataLoader, Dataset

import kd_plugins  # noqa: F401  (makes mmrazor importable)
from kd_plugins.views import RepeatableViews, SampleView

CONFIGS = dict(
    imagenet='mmpretrain::resnet/resnet50_8xb32_in1k.py',
    deit='mmpretrain::deit/deit-small_4xb256_in1k.py',
    coco='mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py',
    yolox='mmdet::yolox/yolox_s_8xb8-300e_coco.py',
    cifar='mmpretrain::resnet/resnet18_8xb16_cifar10.py',
)
SIZES = dict(imagenet=(375, 500), deit=(375, 500), coco=(480, 640), yolox=(480, 640))
WARM_UP = 2
logging.disable(logging.INFO)


class InMemory(BaseDataset):
    """Pictures of CIFAR's size."""

    def load_data_list(self) -> list[dict[str, Any]]:
        """Return noise with labels."""
        pictures = np.random.default_rng(0).integers(0, 256, (512, 32, 32, 3), dtype=np.uint8)
        return [dict(img=picture, gt_label=i % 10) for i, picture in enumerate(pictures)]


def write_pictures(folder: Path, size: tuple[int, int], number: int = 32) -> None:
    """Write JPEGs that take as long to decode as photographs, and boxes in them."""
    chance, images, boxes = np.random.default_rng(0), [], []
    (folder / 'a').mkdir(parents=True)
    for i in range(number):
        coarse = chance.integers(0, 256, (size[0] // 8, size[1] // 8, 3), dtype=np.uint8)
        picture = cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC)
        noise = chance.normal(0, 8, picture.shape)
        picture = np.clip(picture + noise, 0, 255).astype(np.uint8)
        cv2.imwrite(str(folder / 'a' / f'{i}.jpg'), picture)
        images.append(dict(id=i, file_name=f'{i}.jpg', height=size[0], width=size[1]))
        for j in range(7):
            x, y, w, h = 40 * j, 30 * j, 100, 120
            boxes.append(
                dict(
                    id=len(boxes) + 1, image_id=i, category_id=1, iscrowd=0, area=w * h,
                    bbox=[x, y, w, h],
                )
            )  # fmt: skip
    categories = [dict(id=1, name='thing')]
    content = dict(images=images, annotations=boxes, categories=categories)
    (folder / 'boxes.json').write_text(json.dumps(content))


def dataset_of(name: str, folder: Path) -> Any:
    """Return the config's dataset with its own pipeline, on these pictures."""
    cfg = get_config(CONFIGS[name]).train_dataloader.dataset
    if name == 'cifar':
        return InMemory(pipeline=cfg.pipeline)
    write_pictures(folder, SIZES[name])
    if name in ('imagenet', 'deit'):
        kind = 'mmpretrain.CustomDataset'
        return DATASETS.build(dict(type=kind, data_root=str(folder), pipeline=cfg.pipeline))
    inner = cfg.dataset if 'dataset' in cfg else cfg
    inner.update(
        data_root=f'{folder}/', ann_file='boxes.json', data_prefix=dict(img='a/'),
        metainfo=dict(classes=('thing',)), backend_args=None,
    )  # fmt: skip
    return DATASETS.build(cfg)


class Timed(Dataset):
    """Of every batch the processor's seconds a sample, without views and with.

    It is asked in a worker of a loader, as data sets of trainings are.

    Args:
        plain: The data set.
        views: The same in views.
        batch_size: How many samples.
        batches: How many batches.
    """

    def __init__(self, plain: Any, views: RepeatableViews, batch_size: int, batches: int) -> None:
        self.plain, self.views = plain, views
        self.batch_size, self.batches = batch_size, batches

    def __len__(self) -> int:
        return self.batches

    def __getitem__(self, turn: int) -> list[float]:
        torch.set_num_threads(1)
        cv2.setNumThreads(0)  # as mmengine sets it in workers
        first = turn * self.batch_size
        indices = [(first + j) % len(self.plain) for j in range(self.batch_size)]
        seconds = [0.0, 0.0]
        for with_views in (False, True) if turn % 2 else (True, False):
            start = time.process_time()
            if with_views:
                batch = self.views.__getitems__([SampleView(index, turn) for index in indices])
            else:
                batch = [self.plain[index] for index in indices]
            seconds[with_views] = (time.process_time() - start) / len(indices)
            # Giving memory back is no part of it, of either.
            del batch
        return seconds


def main() -> None:
    """Print the medians and their ratios."""
    parser = argparse.ArgumentParser(description=(__doc__ or '').splitlines()[0])
    parser.add_argument('--configs', nargs='+', default=list(CONFIGS), choices=list(CONFIGS))
    parser.add_argument('--batches', type=int, default=200, help='timed batches of each kind')
    parser.add_argument('--batch-size', type=int, help="by default the config's")
    parser.add_argument('--mix', action='store_true', help='with Mixup and CutMix, for classifiers')
    args = parser.parse_args()
    augments = [dict(type='Mixup', alpha=0.8), dict(type='CutMix', alpha=1.0)]
    for name in args.configs:
        scope = CONFIGS[name].split('::')[0]
        with (
            tempfile.TemporaryDirectory() as folder,
            DefaultScope.overwrite_default_scope(scope),
        ):
            size = args.batch_size or get_config(CONFIGS[name]).train_dataloader.batch_size
            plain = dataset_of(name, Path(folder) / 'data')
            mix = dict(augments=augments, num_classes=10) if args.mix else None
            # Never one view twice, so that what is drawn is as large on average.
            number = args.batches + WARM_UP
            views = RepeatableViews(copy.copy(plain), views=number, mix=mix)
            turns = DataLoader(Timed(plain, views, size, number), num_workers=1, batch_size=None)
            times = [seconds for i, seconds in enumerate(turns) if i >= WARM_UP]
        # Neighbours in time share the machine's load.
        ratio = statistics.median(with_views / without for without, with_views in times)
        plain_ms, views_ms = (1e3 * statistics.median(each) for each in zip(*times, strict=True))
        print(
            f'{name:10}{plain_ms:9.3f} ms{views_ms:9.3f} ms a sample of {size}   '
            f'{ratio:.4f} of without'
        )


if __name__ == '__main__':
    main()
