"""Pictures that cannot be read, on the way from the file."""

import io

import numpy as np
import pytest
import torch
from helpers import ROOT
from mmcv.transforms import LoadImageFromFile as Upstream
from mmengine.config import Config
from mmengine.registry import DATASETS, MODELS, init_default_scope
from PIL import Image

from kd_plugins.registry import TRANSFORMS


def picture(kind, size=64, **options):
    pixels = np.random.default_rng(0).integers(0, 255, (size, size, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind, **options)
    return stream.getvalue()


def with_thumbnail():
    thumbnail = picture('JPEG', 16)
    segment = b'Exif\0\0' + thumbnail
    app1 = b'\xff\xe1' + (len(segment) + 2).to_bytes(2, 'big') + segment
    return picture('JPEG')[:2] + app1 + picture('JPEG')[2:]


PICTURES = {
    'baseline.jpg': picture('JPEG'),
    'progressive.jpg': picture('JPEG', progressive=True),
    'thumbnail.jpg': with_thumbnail(),
    'motion.jpg': picture('JPEG') + b'mp4\xff\xda more',
    'plain.png': picture('PNG'),
    'trailing.png': picture('PNG') + b'\0' * 100,
    'old.bmp': picture('BMP'),
}


def load(path, **options):
    transform = TRANSFORMS.build(dict(type='kd_plugins.LoadImageFromFile', **options))
    return transform(dict(img_path=str(path)))


@pytest.mark.parametrize('name', PICTURES)
def test_whole_pictures_are_read_as_upstream_reads_them(tmp_path, name):
    (tmp_path / name).write_bytes(PICTURES[name])
    for options in ({}, {'to_float32': True}, {'color_type': 'grayscale'}):
        ours = load(tmp_path / name, **options)
        theirs = Upstream(**options)(dict(img_path=str(tmp_path / name)))
        assert ours.keys() == theirs.keys() and ours['img_shape'] == theirs['img_shape']
        assert ours['img'].dtype == theirs['img'].dtype
        assert np.array_equal(ours['img'], theirs['img'])


@pytest.mark.parametrize('name', ['baseline.jpg', 'progressive.jpg', 'thumbnail.jpg', 'plain.png'])
def test_broken_off_pictures_are_named_wherever_they_end(tmp_path, name):
    whole = PICTURES[name]
    path = tmp_path / name
    for end in [0, 1, 2, 10, *range(50, len(whole) - 2, 97), len(whole) - 2]:
        path.write_bytes(whole[:end])
        with pytest.raises(ValueError, match=rf"the picture '.*{name}' cannot be read \(") as error:
            load(path)
        assert '\n' not in str(error.value)
        assert load(path, ignore_empty=True) is None


def test_missing_files_and_other_files_are_named(tmp_path):
    (tmp_path / 'notes.jpg').write_text('hello')
    for name, why in (('notes.jpg', 'not a picture'), ('gone.jpg', 'No such file')):
        with pytest.raises(ValueError, match=rf"{name}' cannot be read \(.*{why}"):
            load(tmp_path / name)


def test_a_dataset_in_a_config_of_ours_names_it(tmp_path):
    init_default_scope('mmpretrain')
    cfg = Config.fromfile(ROOT / 'configs/_base_/datasets/cifar10-small.py')
    dataset = cfg.train_dataloader.dataset
    dataset.update(data_prefix=str(tmp_path), _scope_='mmpretrain')
    for label in ('a', 'b'):
        (tmp_path / label).mkdir()
        (tmp_path / label / '1.png').write_bytes(picture('PNG', 32))
    built = DATASETS.build(dataset)
    assert built[0]['inputs'].shape == (3, 32, 32)
    (tmp_path / 'b' / '1.png').write_bytes(picture('PNG', 32)[:500])
    with pytest.raises(ValueError, match=r'b/1\.png. cannot be read \(it breaks off\)'):
        built[1]


@pytest.mark.parametrize('ours', [False, True])
def test_mmpretrains_inference_takes_a_taught_students_config(tmp_path, ours):
    from mmpretrain.apis import ImageClassificationInferencer

    cfg = Config.fromfile(ROOT / 'configs/dkd/dkd_resnet20_resnet8_1xb64_cifar10-small.py')
    init_default_scope('mmpretrain')
    cfg.model.update(teacher_ckpt=None, allow_random_teacher=True)
    taught = MODELS.build(dict(cfg.model, data_preprocessor=cfg.data_preprocessor)).eval()
    classes = tuple('abcdefghij')
    meta = dict(dataset_meta=dict(classes=classes))
    torch.save(dict(state_dict=taught.state_dict(), meta=meta), tmp_path / 'last.pth')
    picture = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(picture).save(tmp_path / 'picture.png')

    student = Config.fromfile(ROOT / 'configs/vanilla/resnet8_1xb64_cifar10-small.py')
    if ours:
        student.test_dataloader = student.val_dataloader
    loader = student.test_dataloader.dataset.pipeline[0].type
    assert loader == ('kd_plugins.LoadImageFromFile' if ours else 'LoadImageFromFile')
    infer = ImageClassificationInferencer(student, str(tmp_path / 'last.pth'), 'cpu')
    (reply,) = infer(str(tmp_path / 'picture.png'))
    assert reply['pred_class'] == classes[reply['pred_label']]
    bgr = torch.from_numpy(picture[..., ::-1].copy()).permute(2, 0, 1)
    batch = taught.data_preprocessor(dict(inputs=[bgr], data_samples=None))
    with torch.no_grad():
        expected = taught.architecture(batch['inputs']).softmax(dim=1)[0].numpy()
    assert reply['pred_scores'] == pytest.approx(expected, abs=1e-6)
    assert expected.std() > 1e-3


OWN = ['cifar10-small', 'digit_scenes', 'tiny_imagenet_bs256', 'tiny_imagenet_32px_bs128']


@pytest.mark.parametrize('name', OWN)
def test_our_datasets_name_them_and_upstreams_inferencers_find_their_loader(name):
    cfg = Config.fromfile(ROOT / f'configs/_base_/datasets/{name}.py')
    train, val, test = (
        cfg[f'{split}_dataloader'].dataset.pipeline for split in ('train', 'val', 'test')
    )
    assert train[0].type == val[0].type == 'kd_plugins.LoadImageFromFile'
    assert test[0].type == 'LoadImageFromFile' and test[1:] == val[1:]


def test_every_dataset_of_ours_that_reads_pictures_is_tested():
    reading = {
        path.stem
        for path in (ROOT / 'configs/_base_/datasets').glob('*.py')
        if 'kd_plugins.LoadImageFromFile' in path.read_text()
    }
    # The validation of drawn pictures has those of CIFAR, in memory; what FixMatch learns of
    # has two parts, and tests of its own.
    assert reading == {*OWN, 'cifar100_generated_bs128', 'fixmatch_cifar10-small'}
