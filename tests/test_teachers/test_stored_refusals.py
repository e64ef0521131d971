"""What a stored teacher refuses: other data, another teacher, what no store can keep."""

import copy
import errno
import fcntl
import json
import os
import shutil

import pytest
import torch
from helpers.stored import Noisy, batch, logits_cfg, noisy, pair, save_teacher, start, train
from mmengine.registry import MODELS
from mmpretrain.structures import DataSample

from kd_plugins.files import records as files

FLOAT32 = dict(dtype='float32')


def changed(what, cfg, path):
    """Change a config; return the training set."""
    if what == 'checkpoint':
        cfg['teacher_ckpt'] = save_teacher(path / 'other.pth', seed=9)
    elif what == 'teacher':
        cfg['teacher']['backbone']['depth'] = 20
    elif what == 'preprocessor':
        cfg['data_preprocessor'].update(mean=[1.0] * 3, std=[2.0] * 3)
    elif what == 'padding':
        cfg['data_preprocessor'].update(pad_value=7)
    elif what == 'dtype':
        cfg['teacher_cache']['dtype'] = 'float16'
    elif what == 'precision':
        cfg['teacher_dtype'] = 'bfloat16'
    elif what == 'size':
        cfg['teacher_input_size'] = 48
    elif what == 'class_map':
        cfg['teacher_class_map'] = [1, 0, 2, 3, 4]
    elif what == 'inplace':
        cfg['teacher_module_inplace'] = True
    elif what == 'views':
        cfg['teacher_cache']['views'] = 3
        return noisy(3)
    elif what == 'pipeline':
        return noisy(noise=0.25)
    elif what == 'samples':
        return noisy(first=1)
    elif what == 'number':
        return noisy(size=13)
    elif what == 'seed':
        return noisy(seed=4)
    return noisy()


@pytest.mark.parametrize(
    'what, said',
    {
        'checkpoint': 'checkpoint.file 0 was ',
        'teacher': 'teacher.backbone.depth was 14 and is 20',
        'preprocessor': 'input.mean was .* and is ',
        'padding': 'input.pad_value was 0 and is 7',
        'dtype': "dtype was 'float32' and is 'float16'",
        'precision': "teacher_dtype was missing and is 'bfloat16'",
        'size': 'input.size was missing and is 48',
        'class_map': r'class_map was missing and is \[1, 0',
        'inplace': 'teacher_module_inplace was missing and is True',
        'views': 'views was 2 and is 3',
        'pipeline': 'data.pipeline.dataset.noise was missing and is 0.25',
        'samples': r'data.pipeline.dataset.first was missing and is 1|data.sample_list was',
        'number': 'data.pipeline.dataset.size was missing and is 13',
        'seed': 'data.pipeline.seed was 0 and is 4',
    }.items(),
)
def test_a_store_of_something_else_stops_with_what_changed(
    tmp_path, filled, checkpoint, what, said
):
    cfg = pair(filled, checkpoint, cache=FLOAT32)
    data = changed(what, cfg, tmp_path)
    with pytest.raises(ValueError, match=f'was filled for another distillation .{said}'):
        start(cfg, data)


def test_other_samples_of_the_same_config_stop(filled, checkpoint, monkeypatch):
    """As where an annotation file has changed."""
    monkeypatch.setattr(Noisy, 'get_data_info', lambda self, index: dict(number=index // 2))
    with pytest.raises(ValueError, match=r'another distillation .data.sample_list was '):
        start(pair(filled, checkpoint, cache=FLOAT32), noisy())


def test_a_store_of_an_earlier_format_stops_with_what_to_do(tmp_path, filled, checkpoint):
    folder = shutil.copytree(filled, tmp_path / 'earlier')
    header = folder / 'header.json'
    content = json.loads(header.read_text())
    now = content['format']
    header.write_text(json.dumps(dict(content, format=now - 1)))
    said = rf'its format is {now - 1}, and this one has {now}\): delete it'
    with pytest.raises(ValueError, match=said) as e:
        MODELS.build(pair(folder, checkpoint, cache=FLOAT32))
    assert len(str(e.value).splitlines()) == 1


def test_another_version_of_what_computes_stops(filled, checkpoint, monkeypatch):
    monkeypatch.setattr(torch, '__version__', '9.9.1')
    with pytest.raises(ValueError, match=r"versions.torch was '.*' and is '9.9' now"):
        start(pair(filled, checkpoint, cache=FLOAT32), noisy())


def test_a_store_that_another_job_writes_stops(tmp_path, checkpoint, monkeypatch):
    first = start(pair(tmp_path, checkpoint), noisy())
    monkeypatch.setattr(files, 'PATIENCE', 0.0)
    with pytest.raises(ValueError, match=r'is being written by another job \(process \d+ on'):
        start(pair(tmp_path, checkpoint), noisy())
    train(first, noisy())
    # Complete, it is written by nobody.
    assert start(pair(tmp_path, checkpoint), noisy()).teacher.complete


def test_a_full_disk_stops_and_what_was_written_is_there(tmp_path, checkpoint, monkeypatch):
    data = noisy()
    model = start(pair(tmp_path, checkpoint), data)
    with monkeypatch.context() as patch:
        patch.setattr(files, 'free_bytes', lambda folder: 100)
        with pytest.raises(ValueError, match=r'has 0.1 kB free, and .* are still to be stored'):
            train(model, data, epochs=1)
    model.teacher.release()
    monkeypatch.setattr(files, 'BLOCK_BYTES', 60)
    model = start(pair(tmp_path, checkpoint), data)
    train(model, data, epochs=1)

    def full(handle):
        raise OSError(errno.ENOSPC, 'No space left on device')

    with monkeypatch.context() as patch:
        patch.setattr(os, 'fsync', full)
        with pytest.raises(OSError, match=r'No space left on device.*the records before are whole'):
            train(model, data)
    model.teacher.release()
    on = start(pair(tmp_path, checkpoint), data)
    train(on, data)
    assert start(pair(tmp_path, checkpoint), data).teacher.complete


def test_a_folder_that_cannot_be_read_or_written_is_named(tmp_path, checkpoint, monkeypatch):
    (tmp_path / 'file').write_text('')
    with pytest.raises(ValueError, match=r"file/header.json' cannot be read \(Not a directory\)"):
        start(pair(tmp_path / 'file', checkpoint))
    said = r"model\.teacher_cache\.dir='.*' cannot be written \(%s\): give a folder"
    with pytest.raises(ValueError, match=said % 'Not a directory'):
        # A file comes to lie there after the teacher was built.
        model = MODELS.build(pair(tmp_path / 'new' / 'store', checkpoint))
        (tmp_path / 'new').write_text('')
        monkeypatch.setattr(files, 'read_header', lambda folder: None)
        model.teacher.begin(noisy())

    def unlocked(*_):
        raise OSError(errno.ENOLCK, 'No locks available')

    with monkeypatch.context() as patch:
        patch.setattr(fcntl, 'flock', unlocked)
        with pytest.raises(ValueError, match=said % 'No locks available'):
            start(pair(tmp_path / 'store', checkpoint))

    def refuses(*_):
        raise OSError(errno.EROFS, 'Read-only file system')

    for name in ('Lock', 'write_header'):
        with monkeypatch.context() as patch:
            patch.setattr(files, name, refuses)
            with pytest.raises(ValueError, match=said % 'Read-only file system'):
                start(pair(tmp_path / 'store', checkpoint))


def test_a_broken_record_stops(tmp_path, checkpoint):
    data = noisy()
    train(start(pair(tmp_path, checkpoint), data), data)
    (path,) = tmp_path.glob('*.records')
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    model = start(pair(tmp_path, checkpoint), data)
    with pytest.raises(ValueError, match=r'is broken: .*checksum.*delete this file'):
        train(model, data)
    path.unlink()
    train(start(pair(tmp_path, checkpoint), data), data)
    assert start(pair(tmp_path, checkpoint), data).teacher.complete


@pytest.mark.parametrize(
    'cache, said',
    [
        (dict(views=0), r'model.teacher_cache.views=0 is wrong: give a whole number'),
        (dict(dir=''), r"model.teacher_cache.dir='' is wrong: give a folder"),
        (dict(dtype='int8'), r"model.teacher_cache.dtype='int8' is wrong: give 'float16' or"),
        (dict(max_mb=0), r'model.teacher_cache.max_mb=0 is wrong'),
        (dict(top_k=0, taus=[1]), r'model.teacher_cache.top_k=0 is wrong'),
        (dict(top_k=3), r'model.teacher_cache.taus=\(\) is wrong'),
        (dict(taus=[1.0]), r'taus=\[1.0\] belongs to top_k'),
        (dict(view=3), r'model.teacher_cache.view=3 is wrong: give one of dir, views'),
        (dict(write=1), r'model.teacher_cache.write=1 is wrong'),
    ],
)
def test_settings_that_are_wrong_stop(tmp_path, checkpoint, cache, said):
    cfg = pair(tmp_path, checkpoint)
    cfg['teacher_cache'].update(cache)
    with pytest.raises(ValueError, match=said):
        MODELS.build(cfg)


def test_a_term_whose_records_are_not_stored_stops(filled, checkpoint):
    cfg = pair(filled, checkpoint, cache=FLOAT32)
    cfg['distiller']['teacher_recorders']['dense'] = dict(type='kd_plugins.DenseLogits')
    with pytest.raises(ValueError, match=r'lacks DenseLogits\(\), which .* it has ModuleOutputs'):
        MODELS.build(cfg)


def test_what_no_store_can_keep_is_refused(tmp_path, checkpoint):
    def refused(said, **changes):
        cfg = pair(tmp_path, checkpoint, **changes)
        with pytest.raises(ValueError, match=said):
            MODELS.build(cfg)

    recorders = logits_cfg()['teacher_recorders']
    extra = dict(recorders, weight=dict(type='mmrazor.Parameter', source='head.fc.weight'))
    refused(
        r"teacher_recorders.weight of type 'Parameter'",
        distiller=logits_cfg(teacher_recorders=extra),
    )
    rois = dict(rois=dict(type='kd_plugins.RoIHead', question='rois'))
    refused(
        r'46 MB in float16 \(5.4 TB for COCO\): take a live teacher, with model.teacher_dtype',
        distiller=logits_cfg(teacher_recorders=rois),
    )
    mixup = dict(
        type='mmpretrain.ClsDataPreprocessor',
        num_classes=5,
        batch_augments=dict(augments=dict(type='Mixup', alpha=0.8)),
    )
    refused(
        r"batch_augments=\['Mixup'\] draw for a whole batch, and model.teacher_cache needs",
        data_preprocessor=mixup,
    )
    refused(
        r"cannot stand beside model.batch_parts=\['RecursiveMix'\]",
        batch_parts=[dict(type='kd_plugins.RecursiveMix')],
    )
    refused(r'teacher without weights', teacher_ckpt=None, allow_random_teacher=True)
    refused(r"model.teacher='snapshot'", teacher='snapshot', teacher_ckpt=None)
    refused(r'has no teacher_recorders', distiller=logits_cfg(teacher_recorders={}))
    refused(
        r'distill_deliveries',
        distiller=logits_cfg(
            distill_deliveries=dict(
                drop=dict(type='mmrazor.FunctionOutputs', max_keep_data=1, func_path='torch.rand')
            )
        ),
    )


def test_a_record_that_is_too_large_for_its_limit_or_type_is_refused(tmp_path, checkpoint):
    data = noisy()
    cfg = pair(tmp_path / 'a', checkpoint, cache=dict(max_mb=1e-5))
    with pytest.raises(ValueError, match=r'max_mb=1e-05 is less than a record takes, 0.014 kB a'):
        train(start(cfg, data), data)
    model = start(pair(tmp_path / 'b', checkpoint), data)
    with torch.no_grad():
        model.teacher.live.network.head.fc.bias[2] = 1e5
    with pytest.raises(ValueError, match=r"not finite in float16 .*1e\+05.*dtype='float32'"):
        train(model, data)
    # Not one of these keeps more than two of its bits.
    head = model.teacher.live.network.head.fc
    with torch.no_grad():
        head.weight *= 1e-8
        head.bias.fill_(1e-7)
    with pytest.raises(ValueError, match=r"too small in float16 .*e-07\): set its dtype='float32'"):
        train(model, data)
    with torch.no_grad():
        # A map may be empty of anything.
        head.weight.zero_()
        head.bias.zero_()
    train(model, data)
    model = start(pair(tmp_path / 'c', checkpoint), data)
    with torch.no_grad():
        model.teacher.live.network.head.fc.bias[2] = torch.nan
    with pytest.raises(ValueError, match=r'is not finite \(its largest number is nan\): leave out'):
        train(model, data)


def test_a_store_of_nothing_is_nobodys(tmp_path, checkpoint):
    """What a refusal says to change can be changed, though it has left a header."""
    data = noisy()
    model = start(pair(tmp_path, checkpoint), data)
    with torch.no_grad():
        model.teacher.live.network.head.fc.bias[2] = 1e5
    with pytest.raises(ValueError, match="set its dtype='float32'"):
        train(model, data)
    model.teacher.release()
    assert json.loads((tmp_path / 'header.json').read_text())['dtype'] == 'float16'
    looking = start(pair(tmp_path, checkpoint, cache=dict(FLOAT32, write=False)), data)
    train(looking, data)
    on = start(pair(tmp_path, checkpoint, cache=FLOAT32), data)
    train(on, data)
    on.teacher.end()
    assert json.loads((tmp_path / 'header.json').read_text())['dtype'] == 'float32'
    with pytest.raises(ValueError, match="dtype was 'float32' and is 'float16' now"):
        start(pair(tmp_path, checkpoint), data)
    # Who is about to write its first records has the folder.
    first = start(pair(tmp_path / 'other', checkpoint), data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, 'PATIENCE', 0.0)
        with pytest.raises(ValueError, match='is being written by another job'):
            start(pair(tmp_path / 'other', checkpoint, cache=FLOAT32), data)
    train(first, data)


def test_a_training_set_without_views_is_refused(tmp_path, checkpoint):
    cfg = pair(tmp_path, checkpoint)
    with pytest.raises(ValueError, match=r'a Noisy, draws its pictures anew .*RepeatableViews'):
        start(cfg, noisy().dataset)
    with pytest.raises(ValueError, match=r'views=2, and the training set has 3'):
        start(cfg, noisy(3))
    torch.manual_seed(0)
    model = MODELS.build(cfg)
    given = batch(noisy(), range(4))
    with pytest.raises(RuntimeError, match='opened when a training begins'):
        model.loss(**copy.deepcopy(given))
    model.teacher.begin(noisy())
    bare = [DataSample().set_gt_label(int(each.gt_label)) for each in given['data_samples']]
    with pytest.raises(ValueError, match=r'samples that say their view, and these do not'):
        model.loss(given['inputs'], bare)


class PipelineSwitchHook:
    """Of mmdet's name."""


def test_a_hook_that_exchanges_the_augmentation_is_refused(tmp_path, checkpoint):
    model = MODELS.build(pair(tmp_path, checkpoint))
    with pytest.raises(
        ValueError, match=r'PipelineSwitchHook exchanges .* model.teacher_cache needs pictures'
    ):
        model.teacher.begin(noisy(), [PipelineSwitchHook()])


def sized(dataset, indices, heights):
    """A batch of pictures of these heights, as a loader of mmpretrain gives it."""
    samples = [dataset[i] for i in indices]
    for sample, height in zip(samples, heights, strict=True):
        sample['inputs'] = sample['inputs'][:, :height]
        sample['data_samples'].set_metainfo(dict(view_size=(height, 32)))
    return {key: [each[key] for each in samples] for key in ('inputs', 'data_samples')}


@pytest.mark.parametrize('divisor', [1, 32])
def test_pictures_that_their_batch_pads_are_refused(tmp_path, checkpoint, divisor):
    """mmpretrain's preprocessor says nothing of it, and logits know how much it was."""
    data = noisy(views=1)
    assert data[0]['data_samples'].view_size == (32, 32)
    cfg = pair(tmp_path, checkpoint, views=1)
    cfg['data_preprocessor'].update(pad_size_divisor=divisor)
    model = start(cfg, data)
    recorders = model.distiller.teacher_recorders

    def record(indices, heights):
        given = model.data_preprocessor(sized(data, indices, heights), True)
        model.teacher.record(recorders, **given)

    said = r"source='head.fc'\) is of the whole input, and a picture of 20 x 32 pixels is padded"
    if divisor == 1:
        with pytest.raises(ValueError, match=said + ' to the 24 x 32 of its batch'):
            record([0, 1], [20, 24])
    else:
        record([0, 1], [20, 24])  # each is padded to 32 x 32, in any batch
    # Alone with its like, it is the same in every batch.
    record([2, 3], [20, 20])
    record([4], [24])
    if divisor == 1:
        with pytest.raises(ValueError, match=said):
            record([4, 3], [24, 20])
    else:
        record([4, 3], [24, 20])
