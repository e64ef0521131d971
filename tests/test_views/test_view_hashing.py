"""Hashes of pictures, pipelines and samples: what changes them, what does not."""

import copy
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from helpers import ROOT
from helpers.view_data import repeatable, stock
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS, init_default_scope

from kd_plugins.views import picture_hash, pipeline_hash, pipeline_text, samples_hash

CIFAR = 'mmpretrain::resnet/resnet18_8xb16_cifar10.py'
IMAGENET = 'mmpretrain::resnet/resnet50_8xb32_in1k.py'
COCO = 'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py'


def picture(*shape, dtype=torch.uint8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, shape, generator=generator).to(dtype)


@pytest.mark.parametrize('shape', [(3, 8, 8), (3, 64, 64), (3, 61, 83)])
@pytest.mark.parametrize('dtype', [torch.uint8, torch.float32, torch.float16])
def test_one_other_pixel_is_another_hash(shape, dtype):
    x = picture(*shape, dtype=dtype)
    wanted = picture_hash(x)
    assert 0 <= wanted < 2**64 and picture_hash(x.clone()) == wanted
    flat = x.reshape(-1)
    for place in [0, 1, 7, flat.numel() // 2, flat.numel() - 9, flat.numel() - 1]:
        other = flat.clone()
        other[place] = 255 - other[place]
        assert picture_hash(other.view(shape)) != wanted


def test_what_else_is_another_hash():
    x = picture(3, 64, 64)
    wanted = picture_hash(x)
    others = [
        x.flip(2), x.flip(1), x.flip(0), x.roll(1, 2), x.roll(4096 // 64 // 64 or 1, 1),
        x.view(3, 32, 128), x.view(1, 3, 64, 64), x.view(torch.int8), x.float(), x[[1, 0, 2]],
        x.transpose(1, 2), torch.zeros_like(x), x[:, :63], [x], [x, x], 255 - x,
    ]  # fmt: skip
    hashes = [picture_hash(each) for each in others]
    assert wanted not in hashes[:13] and hashes[15] != wanted and hashes[14] != wanted
    # A list of one picture is that picture.
    assert hashes[13] == wanted


def test_any_patch_of_a_large_picture_is_seen():
    x = picture(3, 800, 1067)
    wanted = picture_hash(x)
    assert wanted == naive(x.numpy())
    for top, left, height, width in ((0, 0, 8, 600), (400, 300, 8, 600), (792, 467, 8, 600),
                                     (100, 900, 40, 40), (640, 3, 40, 40)):  # fmt: skip
        other = x.clone()
        other[:, top : top + height, left : left + width] += 1
        assert picture_hash(other) != wanted
    small = picture(3, 224, 224)
    assert picture_hash(small) == naive(small.numpy())
    for top in range(0, 200, 40):
        other = small.clone()
        other[:, top : top + 20, 100:120] += 1
        assert picture_hash(other) != picture_hash(small)
    for y in (x, small):
        for other in (y.flip(2), y.roll(1, 2), y.roll(1, 1), y ^ 1):
            assert picture_hash(other) != picture_hash(y)


@pytest.mark.parametrize('width', [512, 576, 768, 1024, 1152, 1280, 2048, 4096, 1067])
def test_every_column_of_a_large_picture_is_read(width):
    x = picture(3, 400 * 1024 // width, width)
    wanted = picture_hash(x)
    for column in (0, width // 3, width // 2 - 1, width // 2, width // 2 + 9, width - 1):
        other = x.clone()
        other[..., column] ^= 1
        assert picture_hash(other) != wanted


@pytest.mark.parametrize(
    ('shape', 'dtype'),
    [((3, 768, 768), torch.uint8), ((3, 1280, 1280), torch.uint8), ((3, 384, 384), torch.float32)],
)
def test_a_large_picture_is_read_everywhere(shape, dtype):
    """Whatever its width is beside the pieces that strips are taken of: every 48 x 48 pixels."""
    x = picture(*shape, dtype=dtype)
    wanted = picture_hash(x)
    for top in range(0, shape[1] - 47, 48 * shape[1] // 384):
        for left in [*range(0, shape[2] - 47, 48 * shape[2] // 384), shape[2] - 48]:
            other = x.clone()
            other[:, top : top + 48, left : left + 48] += 1
            assert picture_hash(other) != wanted, (top, left)


def test_the_end_of_a_large_picture_is_read():
    for size in (2**16 + 1, 2**18 + 5, 2**21 + 4096, 2**22 + 77):
        x = picture(1, 1, size)
        other = x.clone()
        other[..., -9000:] ^= 1
        assert picture_hash(other) != picture_hash(x) == naive(x.numpy())


def test_rows_of_the_fold_are_not_interchangeable():
    words = torch.arange(4 * 4096, dtype=torch.int64).to(torch.uint8)
    rows = words.view(4, 4096).clone()
    rows[1] = 7
    hashes = {
        picture_hash(rows[list(order)]) for order in ((0, 1, 2, 3), (1, 0, 2, 3), (0, 2, 1, 3))
    }
    assert len(hashes) == 3


def test_what_rows_of_the_fold_win_and_lose_does_not_cancel():
    """Bands, as a scene has them, and their inverse: + - - + in rows of one channel."""
    bands = torch.zeros(3, 128, 128, dtype=torch.uint8)
    bands[:, 32:96] = 255
    assert picture_hash(bands) != picture_hash(255 - bands)
    # The highest bit of a word, in two rows, and in all pairs of them.
    x = torch.zeros(12, 4096, dtype=torch.uint8)
    hashes = {picture_hash(x)}
    for i in range(12):
        for j in range(i):
            other = x.clone()
            other[[i, j], 7] = 128
            hashes.add(picture_hash(other))
    assert len(hashes) == 67


def test_random_pictures_do_not_collide():
    generator = torch.Generator().manual_seed(1)
    x = torch.randint(0, 256, (3, 48, 48), generator=generator).to(torch.uint8)
    hashes = {picture_hash(x)}
    for _ in range(4000):
        x = x.clone()
        place = torch.randint(0, x.numel(), (2,), generator=generator)
        x.view(-1)[place] += torch.randint(1, 256, (2,), generator=generator).to(torch.uint8)
        hashes.add(picture_hash(x))
    assert len(hashes) == 4001


def test_the_hash_of_a_picture_is_the_same_everywhere():
    # A store outlives versions and machines: these numbers must not change.
    ramp = (torch.arange(3 * 60 * 70) % 251).to(torch.uint8).view(3, 60, 70)
    assert picture_hash(ramp) == naive(ramp.numpy())
    assert picture_hash(ramp[:, :5, :5]) == naive(ramp[:, :5, :5].numpy())
    assert (picture_hash(ramp), picture_hash(torch.zeros(3, 2, 2))) == HASHES
    assert picture_hash(ramp.to(memory_format=torch.contiguous_format)[:, ::1]) == HASHES[0]
    assert picture_hash(ramp.permute(1, 2, 0).contiguous().permute(2, 0, 1)) == HASHES[0]
    assert picture_hash(ramp.numpy()) == HASHES[0]
    picture_hash(torch.zeros(3, 0, 4))


HASHES = (1724889207827874725, 4792930702417024734)


def naive(array):
    """The definition in plain integers."""
    from hashlib import blake2b

    content = array.tobytes()
    digest = blake2b(f'{tuple(array.shape)}torch.{array.dtype}'.encode(), digest_size=8)
    is_large = len(content) > 2**16
    # Of every piece of a large picture a strip of 512 bytes, whose place is the golden ratio's.
    piece = 512 + 4096 * (1 + len(content) // 2**21) if is_large else 4096
    rows = len(content) // piece
    golden, mask = 0x9E3779B97F4A7C15, 2**64 - 1
    if rows > 1:
        word = 8 if is_large else 4
        folded = [0] * ((512 if is_large else 4096) // word)
        for row in range(rows):
            within = (row * golden & mask) >> 32
            within = 8 * (within * ((piece - 512) // 8 + 1) >> 32) if is_large else 0
            factor = (row + 1) * golden & mask
            factor = (factor ^ factor >> 32) * golden & mask
            factor = factor ^ factor >> 32 | 1
            for column in range(len(folded)):
                place = piece * row + within + word * column
                folded[column] += factor * int.from_bytes(content[place : place + word], 'little')
        digest.update(b''.join((total & mask).to_bytes(8, 'little') for total in folded))
        content = content[piece * rows :][:4096]
    digest.update(content)
    return int.from_bytes(digest.digest(), 'little')


def photos(**changes):
    init_default_scope('mmpretrain')
    crop = dict(type='RandomCrop', crop_size=24, padding=4)
    dataset = dict(type='Photos', pipeline=[crop, dict(type='PackInputs')])
    return repeatable(dict(dataset, **changes.pop('dataset', {})), **changes)


def test_what_a_view_depends_on_changes_the_pipelines_hash():
    wanted = pipeline_hash(photos())
    assert wanted == pipeline_hash(photos()) and len(wanted) == 32
    pack = dict(type='PackInputs')
    other = [
        photos(seed=1),
        photos(mix=dict(augments=dict(type='Mixup', alpha=0.2))),
        photos(mix=dict(augments=dict(type='Mixup', alpha=0.3))),
        photos(dataset=dict(pipeline=[dict(type='RandomCrop', crop_size=25, padding=4), pack])),
        photos(dataset=dict(pipeline=[dict(type='RandomCrop', crop_size=24), pack])),
        photos(dataset=dict(pipeline=[pack])),
        photos(dataset=dict(size=11)),
        repeatable(dict(type='RepeatDataset', dataset=photos().cfg['dataset'], times=2)),
        repeatable(dict(type='RepeatDataset', dataset=photos().cfg['dataset'], times=3)),
    ]
    hashes = [wanted, *map(pipeline_hash, other)]
    assert len(set(hashes)) == len(hashes)


def test_what_a_view_does_not_depend_on_does_not():
    wanted = pipeline_hash(photos())
    pipeline = [
        dict(type='mmpretrain.RandomCrop', padding=4, crop_size=24), dict(type='PackInputs')
    ]  # fmt: skip
    for same in (
        photos(views=9),
        photos(dataset=dict(data_root='/elsewhere')),
        photos(dataset=dict(lazy_init=True, serialize_data=False)),
        photos(dataset=dict(pipeline=pipeline)),
    ):
        assert pipeline_hash(same) == wanted
    from mmpretrain.datasets.transforms import PackInputs

    classes = [pipeline[0], dict(type=PackInputs)]
    assert pipeline_hash(photos(dataset=dict(pipeline=classes))) == wanted
    assert json.loads(pipeline_text(photos()))['dataset']['type'] == 'Photos'


def test_a_built_dataset_has_no_config():
    with pytest.raises(ValueError, match='RepeatableViews.dataset is a built dataset'):
        pipeline_hash(repeatable(photos().dataset))


def both_hashes(folder):
    """The hashes of stock datasets."""
    found = []
    for path in (CIFAR, IMAGENET, COCO):
        init_default_scope(path.split('::')[0])
        dataset = repeatable(stock(path, folder))
        found += [pipeline_hash(dataset), samples_hash(dataset)]
    return found


def test_hashes_of_stock_datasets_are_the_same_in_another_process(tmp_path):
    wanted = both_hashes(tmp_path)
    assert len(set(wanted)) == 6
    reply = subprocess.run(
        [sys.executable, '-c',
         'import helpers, pathlib, test_view_hashing as t; '
         f'print(*t.both_hashes(pathlib.Path({str(tmp_path)!r})))'],
        capture_output=True, text=True, cwd=ROOT / 'tests/test_views',
        env=dict(PYTHONPATH=f'{ROOT}:{ROOT}/tests', PYTHONHASHSEED='77', PATH=''),
    )  # fmt: skip
    assert reply.stdout.splitlines()[-1:] == [' '.join(wanted)], reply.stderr[-2000:]


def test_data_may_be_moved(tmp_path):
    for package, path in (('mmpretrain', IMAGENET), ('mmdet', COCO)):
        init_default_scope(package)
        cfg = stock(path, tmp_path / package)
        first = repeatable(copy.deepcopy(cfg))
        moved = tmp_path / f'moved {package}'
        shutil.move(cfg['data_root'], moved)
        cfg['data_root'] = f'{moved}/'
        second = repeatable(cfg)
        assert samples_hash(first) == samples_hash(second)
        assert pipeline_hash(first) == pipeline_hash(second)


class Listed(BaseDataset):
    """Says what it is told."""

    METAINFO = dict(classes=('a', 'b'))

    def __init__(self, samples):
        self.samples = samples
        super().__init__(serialize_data=False)

    def load_data_list(self):
        return copy.deepcopy(self.samples)


SAMPLES = [
    dict(img_path='/x/a/1.jpg', gt_label=0, instances=[dict(bbox=[0.0, 1.0, 2.0, 3.0])]),
    dict(img_path='/x/a/2.jpg', gt_label=1, instances=[dict(bbox=np.arange(4.0))]),
    dict(img_path='/x/b/3.jpg', gt_label=np.int64(1), score=None, known=True),
]


def test_other_samples_order_or_annotations_are_another_hash():
    def changed(number, **values):
        samples = copy.deepcopy(SAMPLES)
        samples[number].update(values)
        return samples

    variants = [
        SAMPLES, SAMPLES[::-1], SAMPLES[:2], [*SAMPLES, SAMPLES[0]],
        changed(0, img_path='/x/a/9.jpg'), changed(0, img_path='/x/c/1.jpg'),
        changed(1, gt_label=0), changed(2, known=False), changed(2, score=1.0),
        changed(0, instances=[dict(bbox=[0.0, 1.0, 2.0, 4.0])]),
        changed(1, instances=[dict(bbox=np.arange(4.0) + 1)]),
        changed(1, instances=[dict(bbox=np.arange(4.0).reshape(2, 2))]),
        changed(1, instances=[]),
    ]  # fmt: skip
    hashes = [samples_hash(Listed(each)) for each in variants]
    assert len(set(hashes)) == len(hashes)
    same = [
        changed(0, img_path='/y/z/a/1.jpg'), changed(0, img_path='C:\\data\\a\\1.jpg'),
        changed(2, gt_label=1), [dict(reversed(each.items())) for each in SAMPLES],
    ]  # fmt: skip
    assert {samples_hash(Listed(each)) for each in same} == {hashes[0]}


def test_a_dataset_that_says_nothing_of_its_samples_counts_by_their_number():
    from helpers.tiny_pictures import Pictures

    assert samples_hash(Pictures(4)) == samples_hash(Pictures(4)) != samples_hash(Pictures(5))


def test_wrappers_count():
    init_default_scope('mmpretrain')
    cfg = dict(type='Photos', pipeline=[dict(type='PackInputs')])
    folds = [
        samples_hash(DATASETS.build(dict(type='KFoldDataset', dataset=cfg, fold=f, num_splits=3)))
        for f in range(3)
    ]
    assert len(set(folds)) == 3
