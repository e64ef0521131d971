"""Foundation teachers beside mmdet's stock augmentations: what they see of mosaics."""

import numpy as np
import pytest
import torch
from helpers.detection import detector
from helpers.few_scenes import few_scenes
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.logging import MessageHub
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from test_foundation import algorithm, from_timm

SIZE = 64
#: Stock configs: mosaic and mixup over a wrapped dataset and pictures of a changing size, cached
#: ones with a crop, and pictures of several sizes, which are padded.
PATHS = dict(
    yolox='yolox/yolox_tiny_8xb8-300e_coco.py',
    rtmdet='rtmdet/rtmdet_tiny_8xb32-300e_coco.py',
    several='retinanet/retinanet_r50_fpn_ms-640-800-3x_coco.py',
)


def small(value):
    """A pipeline for pictures a tenth as large."""
    if isinstance(value, dict):
        sizes = ('scale', 'img_scale', 'size', 'crop_size', 'border')
        return {k: tenth(v) if k in sizes else small(v) for k, v in value.items()}
    return type(value)(map(small, value)) if type(value) in (list, tuple) else value


def tenth(value):
    if isinstance(value, (list, tuple)):
        return type(value)(map(tenth, value))
    return value // 10 if isinstance(value, int) and not isinstance(value, bool) else value


@pytest.fixture(scope='module')
def scenes(tmp_path_factory):
    return few_scenes(tmp_path_factory.mktemp('data'))['train_dataloader.dataset.data_root']


def batches(cfg, root, number):
    """What a stock loader gives, of small pictures."""
    loader = cfg.train_dataloader
    loader.update(batch_size=3, num_workers=0, persistent_workers=False, pin_memory=False)
    whole = Config(dict(loader=small(loader.to_dict()))).loader
    inner = whole.dataset.get('dataset', whole.dataset)
    inner = inner.get('dataset', inner)
    inner.update(
        data_root=root, ann_file='annotations/train.json', data_prefix=dict(img='train/'),
        metainfo=dict(classes=tuple('0123456789')),
    )  # fmt: skip
    torch.manual_seed(0)
    np.random.seed(0)
    built = Runner.build_dataloader(whole, seed=0)
    if hasattr(built.dataset, 'full_init'):
        built.dataset.full_init()
    found = []
    while len(found) < number:
        found += [*built][: number - len(found)]
    return found


def weights(before, after):
    """The rows by which a side is resized: a triangle over the pixels, as wide as these shrink."""
    scale = before / after
    width = max(scale, 1.0)
    rows = torch.zeros(after, before, dtype=torch.float64)
    for i in range(after):
        for j in range(before):
            far = abs((j + 0.5) - (i + 0.5) * scale) / width
            rows[i, j] = max(0.0, 1 - far)
    return rows / rows.sum(dim=1, keepdim=True)


def resized(picture, size):
    return weights(picture.shape[1], size[0]) @ picture @ weights(picture.shape[2], size[1]).T


def own_view(raw, canvas, resized_to, mean, std):
    """What the teacher has to see of a raw BGR picture that is padded to a canvas."""
    own = (raw.double().flip(0) / 255 - mean) / std
    whole = torch.zeros(3, *canvas, dtype=torch.float64)
    whole[:, : own.shape[1], : own.shape[2]] = own
    if canvas != resized_to:
        # mmdet's change of size interpolates between two pixels, also where it shrinks.
        each = torch.nn.functional.interpolate(whole[None], resized_to, mode='bilinear')
        whole = each[0]
    return resized(whole, (SIZE, SIZE))


@pytest.mark.parametrize('case', PATHS)
def test_the_teacher_sees_the_students_pictures(case, scenes, tmp_path):
    init_default_scope('mmdet')
    cfg = get_config(f'mmdet::{PATHS[case]}')
    preprocessor = cfg.model.data_preprocessor
    for augment in preprocessor.get('batch_augments') or ():
        augment.update(interval=1, random_size_range=(64, 128), size_divisor=32)
    network, teacher, path = from_timm('clip', tmp_path)
    student = dict(detector(), data_preprocessor=preprocessor)
    model = algorithm(teacher, path, student=student, teacher_input_size=SIZE)
    seen = []
    backbone = model.teacher.network.backbone
    backbone.model.patch_embed.register_forward_pre_hook(lambda m, args: seen.append(args[0]))
    mean, std = (
        torch.tensor(network.pretrained_cfg[key], dtype=torch.float64).view(3, 1, 1)
        for key in ('mean', 'std')
    )
    canvases, sizes = set(), set()
    for i, batch in enumerate(batches(cfg, scenes, 4)):
        MessageHub.get_current_instance().update_info('iter', i)  # BatchSyncRandomResize asks
        raw = [picture.clone() for picture in batch['inputs']]
        sizes |= {tuple(picture.shape[1:]) for picture in raw}
        data = model.data_preprocessor(batch, True)
        divisor = preprocessor.get('pad_size_divisor', 1)
        canvas = tuple(-(-max(p.shape[i] for p in raw) // divisor) * divisor for i in (1, 2))
        after = tuple(data['inputs'].shape[2:])
        canvases.add((canvas, after))
        seen.clear()
        model(**data, mode='loss')
        (found,) = seen
        expected = torch.stack([own_view(each, canvas, after, mean, std) for each in raw])
        torch.testing.assert_close(found, expected.float(), rtol=1e-4, atol=1e-4)
    if case == 'yolox':
        # In one of the batches all pictures were of another size than the pipeline made them.
        assert any(canvas != after for canvas, after in canvases) and len(sizes) == 1
    assert case != 'several' or len(sizes) > 1
