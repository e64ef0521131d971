"""A stored teacher gives a training what the live one gives it, or says why it cannot."""

import copy
import errno
import json
import os
from types import SimpleNamespace

import pytest
import torch
from helpers.networks import resnet
from helpers.stored import Noisy, batch, logits_cfg, noisy, pair, save_teacher, start, train
from mmengine.dataset import pseudo_collate
from mmengine.registry import MODELS
from mmpretrain.structures import DataSample
from torch.utils.data import DataLoader

from kd_plugins.files import records as files
from kd_plugins.teachers import filling, storable, store
from kd_plugins.teachers.filling import fill
from kd_plugins.teachers.identity import difference, teacher_identity
from kd_plugins.teachers.stored import StoredTeacher

FLOAT32 = dict(dtype='float32')


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    return save_teacher(tmp_path_factory.mktemp('teacher') / 'teacher.pth')


@pytest.fixture(scope='module')
def filled(tmp_path_factory, checkpoint):
    """A complete store in float32, of two views of twelve pictures."""
    folder = tmp_path_factory.mktemp('filled') / 'store'
    model = start(pair(folder, checkpoint, cache=FLOAT32), noisy())
    train(model, noisy())
    return folder


def same(first, second):
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def test_a_store_that_is_filled_and_one_that_is_read_train_to_the_live_weights(
    tmp_path, checkpoint
):
    data = noisy()
    live = train(start(pair(tmp_path, checkpoint, cache=False), data), data)
    filling = start(pair(tmp_path, checkpoint, cache=FLOAT32), data)
    same(live, train(filling, data))
    assert filling.teacher.store.missing == 0
    reading = start(pair(tmp_path, checkpoint, cache=FLOAT32), data)
    assert reading.teacher.complete and reading.teacher.live is None
    assert reading.teacher.network is None
    same(live, train(reading, data))
    # Another teacher would have trained other weights.
    other = save_teacher(tmp_path / 'other.pth', seed=8)
    weights = train(start(pair(tmp_path, other, cache=False), data), data)
    assert any(not torch.equal(weights[name], live[name]) for name in live)


def test_a_complete_store_needs_neither_the_checkpoint_nor_a_network(
    filled, checkpoint, monkeypatch
):
    from kd_plugins.teachers import building

    def refuse(*args, **kwargs):
        raise AssertionError('the teacher was built')

    monkeypatch.setattr(building, 'build_network', refuse)
    cfg = pair(filled, checkpoint + '.moved', cache=FLOAT32)
    model = start(cfg, noisy())
    train(model, noisy())
    assert copy.deepcopy(model).teacher is model.teacher
    assert not any('teacher' in name for name in model.state_dict())


def test_float16_stays_within_its_bound_in_the_loss_and_its_gradient(tmp_path, filled, checkpoint):
    """Half precision has 11 bits: a logit z moves by at most |z| / 2048."""
    data = noisy()
    train(start(pair(tmp_path / 'half', checkpoint), data), data)
    samples = batch(data, range(12), 1)
    found = {}
    for name, folder, cache in (('half', tmp_path / 'half', {}), ('whole', filled, FLOAT32)):
        for kind in ('KDLoss', 'DKDLoss'):
            term = dict(type=f'kd_plugins.{kind}', tau=2.0)
            cfg = pair(folder, checkpoint, cache=cache, distiller=logits_cfg(term))
            model = start(cfg, data)
            assert model.teacher.complete
            inputs = copy.deepcopy(samples)
            loss = model.loss(**model.data_preprocessor(inputs, True))['distill.loss_kd']
            loss.backward()
            model.teacher.record(
                model.distiller.teacher_recorders,
                **model.data_preprocessor(copy.deepcopy(samples), True),
            )
            logits = model.distiller.get_record('logits', from_student=False)
            gradient = torch.cat(
                [p.grad.flatten() for p in model.parameters() if p.grad is not None]
            )
            found[name, kind] = logits, loss.detach(), gradient
    for kind in ('KDLoss', 'DKDLoss'):
        (half, loss, gradient), (whole, loss_T, gradient_T) = (
            found['half', kind],
            found['whole', kind],
        )
        assert not torch.equal(half, whole)
        assert ((half - whole).abs() <= whole.abs() / 2048 + 2**-24).all()
        assert half.dtype == torch.float32
        torch.testing.assert_close(loss, loss_T, rtol=2e-3, atol=1e-5)
        assert (gradient - gradient_T).norm() <= 2e-3 * gradient_T.norm()


def test_a_batch_of_stored_and_missing_pictures_is_asked_whole_and_stores_the_missing(
    tmp_path, checkpoint
):
    data = noisy()
    model = start(pair(tmp_path, checkpoint, cache=FLOAT32), data)
    looked = []
    look = model.teacher.live.look

    def count(inputs, data_samples=None):
        looked.append(len(inputs))
        return look(inputs, data_samples)

    model.teacher.live.look = count

    def record(indices, view=0):
        given = model.data_preprocessor(batch(data, indices, view), True)
        model.teacher.record(model.distiller.teacher_recorders, **given)
        return model.distiller.get_record('logits', from_student=False)

    first = record([0, 1, 2, 3])
    mixed = record([5, 1, 6, 3])
    assert looked == [4, 4]
    assert torch.equal(mixed[1], first[1]) and torch.equal(mixed[3], first[3])
    assert model.teacher.store.missing - len(model.teacher.store._writer.waiting) == 24 - 6
    again = record([6, 0, 5])
    assert looked == [4, 4]
    assert torch.equal(again, torch.stack([mixed[2], first[0], mixed[0]]))
    record([0], view=1)
    assert looked == [4, 4, 1]
    # A part that was not written is asked again after a kill; what was written is not.
    model.teacher.flush()
    record([7, 8])
    model.teacher.store._writer.waiting.clear()
    model.teacher.store.release()
    on = start(pair(tmp_path, checkpoint, cache=FLOAT32), data)
    assert on.teacher.store.missing == 24 - 7
    on.teacher.live.look = lambda *args: pytest.fail('asked again')
    given = on.data_preprocessor(batch(data, [1, 6], 0), True)
    on.teacher.record(on.distiller.teacher_recorders, **given)
    read = on.distiller.get_record('logits', from_student=False)
    assert torch.equal(read, torch.stack([first[1], mixed[2]]))


def test_a_live_answer_that_is_not_the_stored_one_stops(tmp_path, checkpoint):
    data = noisy()
    model = start(pair(tmp_path, checkpoint), data)
    given = model.data_preprocessor(batch(data, range(4)), True)
    model.teacher.record(model.distiller.teacher_recorders, **given)
    torch.nn.init.normal_(model.teacher.live.network.head.fc.weight)
    given = model.data_preprocessor(batch(data, range(3, 6)), True)
    with pytest.raises(ValueError, match=r'sample 3, view 0 differs by .* not of this teacher'):
        model.teacher.record(model.distiller.teacher_recorders, **given)


def test_another_picture_than_the_recorded_one_stops(filled, checkpoint):
    model = start(pair(filled, checkpoint, cache=FLOAT32), noisy())
    given = model.data_preprocessor(batch(noisy(), range(4)), True)
    given['data_samples'][2].set_metainfo(dict(view_hash=1))
    with pytest.raises(ValueError, match=r'picture of sample 2, view 0 is not the one'):
        model.teacher.record(model.distiller.teacher_recorders, **given)


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


def test_a_store_of_more_serves_a_config_of_less_once_it_is_complete(tmp_path, checkpoint):
    data = noisy()
    more = pair(tmp_path, checkpoint, cache=FLOAT32)
    more['distiller']['teacher_recorders']['dense'] = dict(type='kd_plugins.DenseLogits')
    model = start(more, data)
    train(model, data, epochs=1)
    model.teacher.release()
    # Under whatever name.
    less = pair(tmp_path, checkpoint, cache=FLOAT32)
    distiller = less['distiller']
    distiller['teacher_recorders'] = dict(said=distiller['teacher_recorders']['logits'])
    distiller['loss_forward_mappings']['loss_kd']['preds_T']['recorder'] = 'said'
    with pytest.raises(ValueError, match=r'is not complete, and holds more than .* ask for'):
        MODELS.build(less)
    train(start(more, data), data)
    weights = train(start(less, data), data)
    same(weights, train(start(pair(tmp_path, checkpoint, cache=False), data), data))


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
    with torch.no_grad():
        model.teacher.live.network.head.fc.bias[2] = torch.nan
    with pytest.raises(ValueError, match=r'is not finite \(its largest number is nan\): leave out'):
        train(model, data)


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


def test_filling_looks_again_at_pictures_that_are_stored(tmp_path, checkpoint, monkeypatch):
    """Of a file that was exchanged the list of samples says nothing."""

    def filled(**settings):
        model = start(pair(tmp_path, checkpoint, cache=FLOAT32), noisy())
        model.teacher.release()
        loader = DataLoader(noisy(), 4, collate_fn=pseudo_collate)
        return fill(SimpleNamespace(model=model, train_dataloader=loader, hooks=[]), **settings)

    assert filled()[:2] == (24, 0)
    assert filled() == (0, 24, 0, 12)
    monkeypatch.setattr(filling, 'LOOKED_AT', 6)
    assert filled().looked_at == 6
    assert filled(verify=True).looked_at == 24
    # The last one has changed.
    get = Noisy.__getitem__

    def other(self, index):
        sample = get(self, index)
        sample['inputs'] = sample['inputs'] + (int(index) == 11)
        return sample

    monkeypatch.setattr(Noisy, '__getitem__', other)
    assert filled().looked_at == 6
    with pytest.raises(ValueError, match='sample 11, view 0 is not the one that the teacher has'):
        filled(verify=True)


def test_without_writing_a_store_stays_as_it_is(tmp_path, checkpoint):
    data = noisy()
    folder = tmp_path / 'store'
    cfg = pair(folder, checkpoint, cache=dict(write=False, dtype='float32'))
    weights = train(start(cfg, data), data)
    same(weights, train(start(pair(folder, checkpoint, cache=False), data), data))
    assert not folder.exists()


def test_stored_answers_are_compared_with_live_ones(filled, checkpoint, tmp_path):
    model = start(pair(filled, checkpoint, cache=FLOAT32), noisy())
    given = model.data_preprocessor(batch(noisy(), [3, 0, 7, 9], 1), True)
    (found,) = model.teacher.against_live(**given)
    assert found.record == "ModuleOutputs(source='head.fc')"
    assert (found.samples, model.teacher.live) == (4, None)
    assert found.difference <= 1e-5 < found.largest and abs(found.kl) < 1e-9
    half = start(pair(tmp_path, checkpoint), noisy())
    train(half, noisy(), epochs=1)
    (found,) = half.teacher.against_live(**given)
    assert found.samples == 0
    given = half.data_preprocessor(batch(noisy(), [3, 0, 7, 9], 0), True)
    (found,) = half.teacher.against_live(**given)
    assert found.samples == 4
    assert 0 < found.difference <= found.largest / 2048
    assert 0 < found.kl < 1e-6


def test_the_header_says_what_the_store_is_of(filled, checkpoint):
    header = json.loads((filled / 'header.json').read_text())
    assert header['teacher']['backbone'] == dict(type='CIFARResNet', depth=14)
    assert header['views'] == header['data']['views'] == 2
    assert len(header['checkpoint']['file 0']) == 64
    assert header['records']["ModuleOutputs(source='head.fc')"]['num_classes'] == 5


def test_a_network_that_is_given_built_is_known_by_its_weights(tmp_path, checkpoint):
    def built(seed):
        torch.manual_seed(seed)
        network = MODELS.build(dict(resnet(depth=14), _scope_='mmpretrain'))
        torch.nn.init.normal_(network.head.fc.weight)
        return network

    data = noisy()
    cfg = pair(tmp_path, None, teacher=None)
    cfg.update(teacher=built(1), teacher_ckpt=None)
    train(start(cfg, data), data)
    cfg.update(teacher=built(1))
    assert isinstance(start(cfg, data).teacher, StoredTeacher)
    cfg.update(teacher=built(2))
    with pytest.raises(ValueError, match='checkpoint.its weights was'):
        start(cfg, data)


def test_a_network_that_is_given_built_with_a_checkpoint_is_known_by_that(tmp_path):
    path = save_teacher(tmp_path / 'teacher.pth', seed=5)
    data = noisy()

    def cfg(seed):
        torch.manual_seed(seed)
        network = MODELS.build(dict(resnet(depth=14), _scope_='mmpretrain'))
        return pair(tmp_path / 'store', path, teacher=None) | dict(teacher=network)

    train(start(cfg(1), data), data)
    # What it was initialised to does not matter.
    assert start(cfg(2), data).teacher.complete
    save_teacher(path, seed=6)
    with pytest.raises(ValueError, match=r'another distillation .checkpoint.file 0 was '):
        start(cfg(1), data)


def test_the_pads_of_a_batch_belong_to_the_store():
    def said(**pad):
        pads = [dict(type='mmdet.BatchFixedSizePad', **pad)]
        cfg = dict(type='mmdet.DetDataPreprocessor', batch_augments=pads)
        network = MODELS.build(dict(resnet(depth=14), _scope_='mmpretrain'))
        return teacher_identity(network, 'none.pth', MODELS.build(cfg))

    assert said(size=(64, 64)) == said(size=(64, 64), pad_mask=True)
    for other in (dict(size=(64, 96)), dict(size=(64, 64), img_pad_value=9)):
        assert 'batch_pads' in difference(said(size=(64, 64)), said(**other))


def test_the_constant_of_the_pyramid_is_that_of_faster_rcnn():
    assert storable.PYRAMID == 2 * 256 * (200 * 334 + 100 * 167 + 50 * 84 + 25 * 42 + 13 * 21)


def test_the_largest_logits_serve_kd_at_their_temperatures(tmp_path, checkpoint):
    """Of five classes four and the rest are all that KD asks for."""
    data = noisy()
    cache = dict(dtype='float32', top_k=4, taus=[1.0, 2.0])
    filling = train(start(pair(tmp_path, checkpoint, cache=cache), data), data)
    same(filling, train(start(pair(tmp_path, checkpoint, cache=cache), data), data))

    def step(cache):
        model = start(pair(tmp_path, checkpoint, cache=cache), data)
        given = model.data_preprocessor(batch(data, range(12)), True)
        loss = model.loss(**given)['distill.loss_kd']
        loss.backward()
        return loss.detach(), torch.cat([p.grad.flatten() for p in model.parameters()])

    (live, live_gradient), (loss, gradient) = step(False), step(cache)
    torch.testing.assert_close(loss, live)
    assert (gradient - live_gradient).norm() <= 1e-5 * live_gradient.norm()

    def refused(said, loss):
        distiller = logits_cfg(loss)
        with pytest.raises(ValueError, match=said):
            MODELS.build(pair(tmp_path, checkpoint, cache=cache, distiller=distiller))

    refused(
        'loss_kd .DKDLoss. needs all of preds_T: leave out top_k', dict(type='kd_plugins.DKDLoss')
    )
    refused(
        r'taus=\[1.0, 2.0\] lacks the temperature of .*loss_kd, which is 4.0',
        dict(type='kd_plugins.KDLoss', tau=4.0),
    )
    refused(
        'lacks the temperature of .*loss_kd, which is no fixed number',
        dict(type='kd_plugins.KDLoss', tau=dict(type='kd_plugins.GlobalTemperature')),
    )
    with pytest.raises(ValueError, match=r'top.k was 4 and is 3 now'):
        MODELS.build(pair(tmp_path, checkpoint, cache=dict(cache, top_k=3)))
    few = pair(tmp_path / 'all', checkpoint, cache=dict(cache, top_k=5))
    with pytest.raises(ValueError, match=r'shape \(4, 5\), of which top_k=5 keeps nothing'):
        train(start(few, data), data)


def test_maps_of_several_layers_are_stored_and_read(tmp_path, checkpoint):
    levels = ['backbone.layer1', dict(input_of='backbone.layer3'), 'backbone.layer3']
    distiller = dict(
        student_recorders=dict(levels=dict(type='kd_plugins.Features', sources=levels)),
        teacher_recorders=dict(levels=dict(type='kd_plugins.Features', sources=levels)),
        distill_losses=dict(loss_at=dict(type='mmrazor.ATLoss', loss_weight=10.0)),
        loss_forward_mappings=dict(
            loss_at=dict(
                s_feature=dict(recorder='levels', from_student=True, data_idx=1),
                t_feature=dict(recorder='levels', from_student=False, data_idx=1),
            )
        ),
    )
    data = noisy()
    live = train(start(pair(tmp_path, checkpoint, cache=False, distiller=distiller), data), data)
    cfg = pair(tmp_path, checkpoint, cache=FLOAT32, distiller=distiller)
    same(live, train(start(cfg, data), data))
    reading = start(cfg, data)
    assert reading.teacher.complete
    same(live, train(reading, data))
    # 16 x 32 x 32, 32 x 16 x 16 and 64 x 8 x 8 numbers, and 9 of their shapes.
    assert 'holds' not in reading.teacher.store.told
    size = sum(path.stat().st_size for path in tmp_path.glob('*.records')) / 24
    assert 4 * (16384 + 8192 + 4096 + 9) < size < 4 * (16384 + 8192 + 4096 + 9) + 150


def test_the_teacher_leaves_every_process_when_all_have_written(tmp_path, checkpoint, monkeypatch):
    data = noisy(views=1)
    models, left = [], []
    for rank in range(2):
        monkeypatch.setattr(store, 'get_rank', lambda rank=rank: rank)
        model = start(pair(tmp_path, checkpoint, views=1, cache=FLOAT32), data)
        monkeypatch.setattr(model.teacher.live, 'follow', lambda _, rank=rank: left.append(rank))
        given = model.data_preprocessor(batch(data, range(6 * rank, 6 * rank + 6)), True)
        model.teacher.record(model.distiller.teacher_recorders, **given)
        models.append(model)
    # As epochs begin.
    for model in models:
        model.teacher.flush()
    assert left == [1]
    for _ in range(2):
        models[0].teacher.flush()
        assert left == [1, 0]
    files.Lock(tmp_path, patience=0).release()


def test_who_watches_sees_what_the_network_says_or_nothing(tmp_path, checkpoint):
    data = noisy()
    model = start(pair(tmp_path, checkpoint), data)
    seen = []

    def watch():
        return model.teacher.watch(lambda: seen.append('before'), lambda out, _: seen.append(out))

    def record():
        seen.clear()
        given = model.data_preprocessor(batch(data, range(4)), True)
        model.teacher.record(model.distiller.teacher_recorders, **given)
        return [each if isinstance(each, str) else type(each) for each in seen]

    stop = watch()
    assert record() == ['before', torch.Tensor]
    assert seen[1].shape == (4, 5)
    assert record() == ['before', type(None)]
    stop()
    assert record() == []
    train(model, data)
    model = start(pair(tmp_path, checkpoint), data)
    assert model.teacher.complete
    stop = watch()
    assert record() == ['before', type(None)]
    stop()
    assert record() == []


@pytest.mark.parametrize('dtype', ['float32', 'float16'])
def test_autocast_fills_and_reads_alike(tmp_path, checkpoint, dtype):
    data = noisy()

    def step(cache):
        model = start(pair(tmp_path, checkpoint, cache=cache), data)
        given = model.data_preprocessor(batch(data, range(6)), True)
        with torch.autocast('cpu', torch.bfloat16):
            loss = model.loss(**given)['distill.loss_kd']
        loss.backward()
        model.teacher.end()
        return loss.detach(), torch.cat([p.grad.flatten() for p in model.parameters()])

    live, live_gradient = step(False)
    filling, reading = step(dict(dtype=dtype)), step(dict(dtype=dtype, write=False))
    assert torch.equal(filling[0], reading[0]) and torch.equal(filling[1], reading[1])
    # bfloat16 has fewer bits than both.
    assert torch.equal(filling[0], live) and torch.equal(filling[1], live_gradient)
