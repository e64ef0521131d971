"""A store refuses what a teacher does not say of every picture by itself."""

import pytest
import torch
from helpers.stored import batch, noisy, pair, start, train
from mmengine.registry import MODELS
from mmpretrain.structures import DataSample
from test_stored_heads import several, sized

from kd_plugins.networks import resolve_network
from kd_plugins.teachers.network import _resized

#: What a module may give of a batch: its logits of C classes become something else.
GIVES = dict(
    layers=lambda z: torch.stack([z, z / 2, z / 3]),  # (layers, N, C), as of DETR's decoder
    classes_first=lambda z: z.T,  # (C, N), as (L, N, C) of a transformer
    in_a_tuple=lambda z: (z, [z.T]),
    layers_of_one=lambda z: z[None],
    whole_batch=lambda z: z - z.mean(dim=0),  # as batch norm in training mode
    shuffled=lambda z: z.roll(1, dims=0),
    drawn=lambda z: z * torch.empty_like(z).bernoulli_(0.5),  # as dropout that is left on
)


def asked(folder, checkpoint, gives, numbers, **changes):
    """Ask about batches of so many pictures a teacher whose last layer gives something else."""
    data = noisy(views=1)
    model = start(pair(folder, checkpoint, views=1, **changes), data)
    fc = model.teacher.live.network.head.fc
    fc.register_forward_hook(lambda module, args, output: gives(output), prepend=True)
    begin = 0
    for number in numbers:
        given = model.data_preprocessor(batch(data, range(begin, begin + number)), True)
        model.teacher.record(model.distiller.teacher_recorders, **given)
        begin += number
    return model


@pytest.mark.parametrize(
    'kind, number, said',
    [
        ('layers', 3, 'is of 3 samples in a batch of 1, and its first dimension has to be'),
        ('classes_first', 5, 'is of 5 samples in a batch of 1, and its first'),
        ('in_a_tuple', 5, 'is of 5 samples in a batch of 1, and its first'),
        ('layers_of_one', 1, 'is of 1 samples in a batch of 2, and its first'),
        ('whole_batch', 4, 'of a picture is another one without the other pictures of its batch'),
        ('shuffled', 4, 'of a picture is another one without the other pictures of its batch'),
        ('drawn', 4, 'of a picture is another one without the other pictures of its batch'),
        # Every other number of pictures was refused before.
        ('layers', 4, 'is of 3 samples in a batch of 4, and its first'),
    ],
)
def test_what_is_not_of_one_picture_each_is_refused_and_not_written(
    tmp_path, checkpoint, kind, number, said
):
    with pytest.raises(ValueError, match=rf"record ModuleOutputs\(source='head.fc'\) {said}") as e:
        asked(tmp_path, checkpoint, GIVES[kind], [number])
    assert 'leave out the term that reads it, or the store' in str(e.value)
    assert len(str(e.value).splitlines()) == 1
    assert not [*tmp_path.glob('*.records')]


def test_a_batch_of_one_says_nothing_of_others_and_so_the_next_one_is_asked(tmp_path, checkpoint):
    with pytest.raises(ValueError, match='is another one without the other pictures'):
        asked(tmp_path, checkpoint, GIVES['whole_batch'], [1, 1, 4])


@pytest.mark.parametrize(
    'other', [lambda z: z[:, None], lambda z: (z,), lambda z: z.argmax(dim=1), lambda z: (z, [z])]
)
def test_a_record_that_changes_its_form_is_refused(tmp_path, checkpoint, other):
    """It would be read as what the first batch gave."""
    with pytest.raises(ValueError, match=r"source='head.fc'\) has another form .* in this batch"):
        asked(tmp_path, checkpoint, lambda z: z if len(z) != 3 else other(z), [4, 3])


def test_a_training_that_goes_on_with_another_form_is_refused(tmp_path, checkpoint):
    asked(tmp_path, checkpoint, lambda z: z, [4]).teacher.release()
    with pytest.raises(ValueError, match='holds records of several forms: delete it'):
        asked(tmp_path, checkpoint, lambda z: (z, [z]), [5])


@pytest.mark.parametrize('number', [1, 5])
@pytest.mark.parametrize('dtype', [None, 'bfloat16'])
def test_a_picture_alone_is_asked_once_and_nothing_is_drawn_of_it(
    tmp_path, checkpoint, number, dtype
):
    """In half precision as well the same picture is the same but for rounding."""
    seen = []

    def gives(z):
        seen.append(len(z))
        if len(seen) == 1:
            torch.manual_seed(7)
        torch.rand(3)
        return z, [z, z[:, None]]

    asked(tmp_path, checkpoint, gives, [number, number, 1, 1], teacher_dtype=dtype)
    drawn = torch.rand(1)
    assert seen == ([1, 2, 1, 1, 1] if number == 1 else [5, 1, 5, 1, 1])
    torch.manual_seed(7)
    for _ in range(4):
        torch.rand(3)
    assert torch.equal(drawn, torch.rand(1))


def test_a_complete_store_asks_about_no_picture_alone(filled, checkpoint):
    data = noisy()
    model = start(pair(filled, checkpoint, cache=dict(dtype='float32')), data)
    model.teacher.build = lambda: pytest.fail('a teacher was built')
    train(model, data)


@pytest.mark.parametrize('number', [6, 5])
def test_the_decoder_of_a_stock_detr_is_refused_at_every_batch_size(tmp_path, number):
    """It gives (layers, N, queries, channels), and has six layers."""
    record = dict(recorder='said', data_idx=0)
    detr = dict(cfg_path='mmdet::detr/detr_r18_8xb2-500e_coco.py', encoder=dict(num_layers=1))
    built = MODELS.build(resolve_network(detr, 'model.teacher')[0])
    model = MODELS.build(
        dict(
            type='kd_plugins.SingleTeacherDistill',
            architecture=detr,
            teacher=built,
            teacher_cache=dict(dir=str(tmp_path), views=1, max_mb=10),
            distiller=dict(
                student_recorders=dict(said=dict(type='mmrazor.ModuleOutputs', source='neck')),
                teacher_recorders=dict(said=dict(type='mmrazor.ModuleOutputs', source='decoder')),
                distill_losses=dict(loss_mse=dict(type='kd_plugins.MSELoss')),
                loss_forward_mappings=dict(
                    loss_mse=dict(
                        preds_S=dict(record, from_student=True),
                        preds_T=dict(record, from_student=False),
                    )
                ),
            ),
        )
    )
    data = sized([(64, 64)] * number)
    model.teacher.begin(data)
    given = model.data_preprocessor(several(data, range(number)), True)
    said = f'is of 6 samples in a batch of {1 if number == 6 else 5},'
    with pytest.raises(ValueError, match=rf"record ModuleOutputs\(source='decoder'\) {said}"):
        model.teacher.record(model.distiller.teacher_recorders, **given)


def test_a_sample_that_is_shown_twice_says_its_size_once_and_then_its_own():
    sample = DataSample(metainfo=dict(img_shape=(32, 32), scale_factor=(2.0, 2.0)))
    with _resized([sample, sample], (2, 3, 32, 32), (2, 3, 64, 48)):
        assert (sample.img_shape, sample.scale_factor) == ((64, 48), (3.0, 4.0))
    assert (sample.img_shape, sample.scale_factor) == ((32, 32), (2.0, 2.0))
