"""Every pair of upstream's own preprocessors: the teacher gets what its own would give it."""

import itertools
import json
from pathlib import Path

import mmdet
import mmpretrain
import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from mmengine.structures import InstanceData
from mmpretrain.structures import DataSample

from kd_plugins.teachers.input import TeacherInput, declares_input

#: Beside what stands in upstream's ``_base_``: raw pixels, and pixels over 255.
MORE = {
    'mmdet': ['yolox/yolox_s_8xb8-300e_coco.py', 'rtmdet/rtmdet_s_8xb32-300e_coco.py',
              'yolo/yolov3_d53_8xb8-ms-608-273e_coco.py', 'detr/detr_r50_8xb2-150e_coco.py'],
    'mmpretrain': ['deit/deit-tiny_4xb256_in1k.py', 'clip/vit-base-p16_pt-64xb64_in1k-448px.py'],
}  # fmt: skip
#: Preprocessors of several views of a picture, which no distillation of ours trains on.
VIEWS = ('SelfSupDataPreprocessor', 'TwoNormDataPreprocessor', 'MultiModalDataPreprocessor')


def stock(package):
    """The settings of upstream's preprocessors, each once."""
    root = Path(package.__file__).parent / '.mim/configs'
    paths = [*(root / '_base_').rglob('*.py'), *(root / p for p in MORE[package.__name__])]
    found = {}
    for path in sorted(paths):
        cfg = Config.fromfile(path)
        for each in (
            cfg.get('data_preprocessor'),
            (cfg.get('model') or {}).get('data_preprocessor'),
        ):
            if each and each.get('type') not in VIEWS:
                # Batch augments are random, and the student's alone; masks have no part in it.
                plain = {k: v for k, v in each.items() if k not in ('batch_augments', 'pad_mask')}
                plain.pop('num_classes', None)
                found[json.dumps(plain, sort_keys=True)] = plain
    return list(found.values())


def batch(package):
    generator = torch.Generator().manual_seed(0)
    pictures = [
        torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=generator)
        for size in ((20, 33), (31, 18))
    ]
    if package is mmpretrain:
        return dict(inputs=pictures, data_samples=[DataSample() for _ in pictures])
    objects = InstanceData(bboxes=torch.zeros(0, 4))
    samples = [
        DetDataSample(metainfo=dict(img_shape=(7, 7)), gt_instances=objects) for _ in pictures
    ]
    return dict(inputs=pictures, data_samples=samples)


@pytest.mark.parametrize('package', [mmdet, mmpretrain], ids=lambda p: p.__name__)
def test_every_pair(package):
    default = 'DetDataPreprocessor' if package is mmdet else 'ClsDataPreprocessor'
    with DefaultScope.overwrite_default_scope(package.__name__):
        settings = [dict(dict(type=default), **cfg) for cfg in stock(package)]
        assert len(settings) >= 6
        for one, other in itertools.product(settings, repeat=2):
            student, teacher = MODELS.build(one), MODELS.build(other)
            assert declares_input(teacher)
            convert = TeacherInput(student, teacher)
            got = convert(student(batch(package), False)['inputs'])
            expected = teacher(batch(package), False)['inputs']
            # Where their divisors differ, so do the sizes; the features must match the student's.
            height, width = (
                min(a, b) for a, b in zip(got.shape[2:], expected.shape[2:], strict=True)
            )
            got, expected = (x[:, :, :height, :width] for x in (got, expected))
            scale = float(expected.abs().max())
            assert (got - expected).abs().max() <= 1e-5 * scale, (one, other)
