"""A stored teacher gives a training what the live one gives it, or says why it cannot."""

import copy
import json
from types import SimpleNamespace

import pytest
import torch
from helpers.networks import resnet
from helpers.stored import Noisy, batch, logits_cfg, noisy, pair, save_teacher, start, train
from mmengine.dataset import pseudo_collate
from mmengine.registry import MODELS
from torch.utils.data import DataLoader

from kd_plugins.files import records as files
from kd_plugins.teachers import filling, storable, store
from kd_plugins.teachers.encoding import decode, encode
from kd_plugins.teachers.filling import fill
from kd_plugins.teachers.identity import difference, teacher_identity
from kd_plugins.teachers.parts import Sizes
from kd_plugins.teachers.stored import StoredTeacher

FLOAT32 = dict(dtype='float32')


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
    # The first picture of the first batch once more, alone.
    assert looked == [4, 1, 4]
    assert torch.equal(mixed[1], first[1]) and torch.equal(mixed[3], first[3])
    assert model.teacher.store.missing - len(model.teacher.store._writer.waiting) == 24 - 6
    again = record([6, 0, 5])
    assert looked == [4, 1, 4]
    assert torch.equal(again, torch.stack([mixed[2], first[0], mixed[0]]))
    record([0], view=1)
    assert looked == [4, 1, 4, 1]
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


def test_records_are_known_by_their_names_in_whatever_order_they_are_asked(tmp_path, checkpoint):
    data = noisy()

    def model_of(*names):
        cfg = pair(tmp_path, checkpoint, cache=FLOAT32)
        recorders = dict(
            cfg['distiller']['teacher_recorders'],
            inputs=dict(type='mmrazor.ModuleInputs', source='head.fc'),
            dense=dict(type='kd_plugins.DenseLogits'),
        )
        cfg['distiller']['teacher_recorders'] = {name: recorders[name] for name in names}
        return start(cfg, data)

    def given(model, view):
        # Of view 1 the second half is not there yet.
        return model.data_preprocessor(batch(data, range(4, 8), view), True)

    filling = model_of('logits', 'dense', 'inputs')
    train(filling, data, epochs=1)
    filling.teacher.record(
        filling.distiller.teacher_recorders,
        **filling.data_preprocessor(batch(data, range(6), 1), True),
    )
    filling.teacher.release()
    for names in (('inputs', 'dense', 'logits'), ('dense', 'logits', 'inputs'), ('logits',)):
        model = model_of(*names)
        for view in (0, 1):
            found = model.teacher.against_live(**given(model, view))
            assert len(found) == len(names)
            assert all(each.difference <= 1e-5 < each.largest for each in found)
        train(model, data)
        model.teacher.end()
        assert model.teacher.complete


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


@pytest.mark.parametrize('own', [True, False])
def test_a_folder_of_hugging_face_belongs_to_the_store(own, tmp_path):
    """Its weights, where no others are given, its network, and how its input was normalised."""
    files = ('config.json', 'model.safetensors', 'preprocessor_config.json')
    folder, weights = tmp_path / 'dino', tmp_path / 'other.pth'
    folder.mkdir()
    for path in (*(folder / name for name in files), weights):
        path.write_text('one')
    backbone = dict(type='kd_plugins.HuggingFaceFeatures', folder=str(folder))
    teacher = dict(type='mmpretrain.ImageClassifier', backbone=backbone)
    preprocessor = MODELS.build(dict(type='mmpretrain.ClsDataPreprocessor'))

    def said():
        return teacher_identity(teacher, None if own else str(weights), preprocessor)

    before, where = said(), 'checkpoint.file 0' if own else 'checkpoint.folder'
    for name in files:
        (folder / name).write_text('two')
        assert difference(before, said()).startswith(f'{where} was ')
        (folder / name).write_text('one')
    (folder / 'README.md').write_text('more')
    assert difference(before, said()) is None
    if not own:
        weights.write_text('two')
        assert difference(before, said()).startswith('checkpoint.file 0 was ')
        weights.write_text('one')
    # What is not on this machine is the same.
    for name in files:
        (folder / name).unlink()
    assert difference(before, said()) is None


@pytest.mark.parametrize('kind', ['kd_plugins.TimmFeatures', 'mmpretrain.TIMMBackbone'])
def test_the_version_of_timm_belongs_to_the_store_of_its_networks(kind, tmp_path, monkeypatch):
    (tmp_path / 'a.pth').write_text('one')
    preprocessor = MODELS.build(dict(type='mmpretrain.ClsDataPreprocessor'))

    def said(kind, version):
        monkeypatch.setattr('kd_plugins.teachers.identity.version', lambda name: version)
        teacher = dict(type='mmpretrain.ImageClassifier', backbone=dict(type=kind))
        return teacher_identity(teacher, str(tmp_path / 'a.pth'), preprocessor)

    found = difference(said(kind, '1.0.3'), said(kind, '1.1.3'))
    assert found == "versions.timm was '1.0' and is '1.1' now"
    assert difference(said('ResNet', '1.0.3'), said('ResNet', '1.1.3')) is None


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


def test_masks_come_back_as_masks_and_numbers_as_numbers():
    """Integers in the place of a mask would choose other places, without an error."""
    x = torch.randn(3, 4)
    mask = x > 0
    record = (x, [mask, mask.long(), mask.int()], x.double())
    sizes = Sizes((8, 8), [(8, 8)] * 3)
    layout, contents = encode({'a': [record]}, torch.float32, sizes)
    layout = json.loads(json.dumps(layout))
    (found,) = decode(layout, contents, ['a'], (8, 8), x.device)['a']
    assert torch.equal(found[0][found[1][0]], x[mask])
    assert [each.dtype for each in found[1]] == [torch.bool, torch.int64, torch.int32]
    assert all(torch.equal(*pair) for pair in zip(found[1], record[1], strict=True))
    assert torch.equal(found[2], x)
    with pytest.raises(ValueError, match='the record a is complex numbers'):
        encode({'a': [torch.fft.fft(x)]}, torch.float32, sizes)


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
