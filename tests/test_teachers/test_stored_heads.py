"""What detection heads say is found again by level, row and column in any batch."""

import copy
import math
from types import SimpleNamespace
from unittest.mock import ANY

import pytest
import torch
from helpers.detection import HEADS, detector, distillation, images, term
from mmdet.datasets import AspectRatioBatchSampler
from mmengine.dataset import DefaultSampler, pseudo_collate
from mmengine.registry import DATASETS, MODELS
from torch.utils.data import DataLoader, Dataset

from kd_plugins.structures import HeadOutputs
from kd_plugins.teachers.encoding import NotStorableError, Sizes, arrays_of, decode, encode
from kd_plugins.teachers.filling import fill
from kd_plugins.views import RepeatableViews

SIZES = [(64, 64), (64, 96), (128, 64), (96, 128)]


@DATASETS.register_module(force=True)
class Sized(Dataset):
    """Pictures of several sizes with two boxes each."""

    def __init__(self, sizes):
        self.batch = images(3, sizes=[tuple(size) for size in sizes])

    def __len__(self):
        return len(self.batch['inputs'])

    def get_data_info(self, index):
        height, width = self.batch['inputs'][index].shape[-2:]
        return dict(number=index, height=height, width=width)

    def __getitem__(self, index):
        return {key: copy.deepcopy(values[index]) for key, values in self.batch.items()}


def sized(sizes=SIZES):
    return RepeatableViews(dict(type='Sized', sizes=sizes), views=1)


def several(dataset, indices):
    """A batch of pictures of several sizes, as mmdet's loaders give it."""
    samples = [dataset[i] for i in indices]
    return {key: [each[key] for each in samples] for key in ('inputs', 'data_samples')}


def networks(kind, **changes):
    torch.manual_seed(1)
    built = []
    for width in (8, 16):
        network = MODELS.build(detector(kind, width=width, **changes))
        for parameter in network.parameters():
            parameter.data.add_(0.1 * torch.randn_like(parameter))
        built.append(network)
    return built


def model_of(kind, cache=None, **changes):
    student, teacher = networks(kind, **changes)
    more = term('loss_ld', type='kd_plugins.LDLoss') if kind == 'GFL' else {}
    cfg = distillation(student, teacher, changes=dict(teacher_cache=cache) if cache else None)
    for key, value in more.items():
        cfg['distiller'][key].update(value)
    model = MODELS.build(cfg)
    model.train()
    return model


def step(model, data):
    """Losses and the student's gradient of a batch."""
    model.zero_grad()
    losses = model.loss(**model.data_preprocessor(copy.deepcopy(data), True))
    terms = {name: value for name, value in losses.items() if name.startswith('distill.')}
    sum(terms.values()).backward()
    grads = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    return {name: value.detach() for name, value in terms.items()}, torch.cat(grads)


@pytest.mark.parametrize('kind', HEADS)
def test_the_terms_of_every_head_are_those_of_the_live_teacher(tmp_path, kind):
    data = sized([(64, 96)] * 4)
    given = several(data, range(4))
    losses, gradient = step(model_of(kind), given)
    cache = dict(dir=str(tmp_path), views=1, dtype='float32')
    for state in ('fills', 'reads'):
        model = model_of(kind, cache)
        model.teacher.begin(data)
        assert model.teacher.complete == (state == 'reads')
        found, found_gradient = step(model, given)
        for name, value in losses.items():
            assert torch.equal(found[name], value), name
        assert torch.equal(found_gradient, gradient)
        model.teacher.end()
    half = model_of(kind, dict(cache, dir=str(tmp_path / 'half'), dtype='float16'))
    half.teacher.begin(data)
    found, found_gradient = step(half, given)
    for name, value in losses.items():
        torch.testing.assert_close(found[name], value, rtol=5e-3, atol=1e-4)
    assert 0 < (found_gradient - gradient).norm() <= 5e-3 * gradient.norm()


@pytest.mark.parametrize('kind', ['GFL', 'ATSS', 'RetinaNet'])
def test_pictures_of_several_sizes_in_the_batch_that_was_asked(tmp_path, kind):
    """Anchors in the padding of the batch count for nothing in these heads."""
    data = sized()
    given = several(data, range(4))
    losses, gradient = step(model_of(kind), given)
    model = model_of(kind, dict(dir=str(tmp_path), views=1, dtype='float32'))
    model.teacher.begin(data)
    found, found_gradient = step(model, given)
    for name, value in losses.items():
        torch.testing.assert_close(found[name], value)
    torch.testing.assert_close(found_gradient, gradient)


@pytest.mark.parametrize('kind', HEADS)
def test_every_place_of_a_picture_is_found_in_another_batch(tmp_path, kind):
    data = sized()
    model = model_of(kind, dict(dir=str(tmp_path), views=1, dtype='float32'))
    model.teacher.begin(data)
    recorders = model.distiller.teacher_recorders

    def record(indices):
        given = model.data_preprocessor(several(data, indices), True)
        model.teacher.record(recorders, **given)
        return model.distiller.get_record('head', from_student=False), given

    live, given = record(range(4))  # of 128 x 128 pixels
    own = [sample.pad_shape for sample in given['data_samples']]
    assert own == [(64, 64), (64, 96), (128, 64), (96, 128)]
    for indices in ([0], [1, 0], [2], [3, 1], [3, 2, 0, 1]):
        found, given = record(indices)
        height, width = given['inputs'].shape[-2:]
        assert found.grids == tuple((math.ceil(height / s), math.ceil(width / s))
                                    for s in (8, 16, 32, 64, 128))  # fmt: skip
        anchors = model.distiller.teacher_recorders.get_recorder('head').spec.anchors
        for row, i in enumerate(indices):
            compare(found, live, row, i, own[i], anchors)


def compare(found, live, row, i, own, anchors):
    """Place by place, with loops."""
    at_found = at_live = 0
    for (h, w), (H, W), stride, k in zip(
        found.grids, live.grids, (8, 16, 32, 64, 128), anchors, strict=True
    ):
        rows, columns = math.ceil(own[0] / stride), math.ceil(own[1] / stride)
        for y in range(h):
            for x in range(w):
                here = slice(at_found + k * (y * w + x), at_found + k * (y * w + x + 1))
                logits, boxes = found.cls_logits[row, here], found.boxes[row, here]
                if y < rows and x < columns:
                    there = slice(at_live + k * (y * W + x), at_live + k * (y * W + x + 1))
                    assert torch.equal(logits, live.cls_logits[i, there])
                    assert torch.equal(boxes, live.boxes[i, there])
                    if live.bin_logits is not None:
                        assert torch.equal(found.bin_logits[row, here], live.bin_logits[i, there])
                else:
                    assert (logits == -12).all()
                    assert (boxes == torch.tensor([x, y, x + 1.0, y + 1.0])).all()
        at_found, at_live = at_found + k * h * w, at_live + k * H * W


def test_an_input_of_another_size_has_places_that_are_not_found_again(tmp_path):
    student, teacher = networks('GFL')
    cache = dict(dir=str(tmp_path), views=1)
    cfg = distillation(student, teacher, dict(teacher_cache=cache, teacher_input_size=96))
    model = MODELS.build(cfg)
    data = sized([(64, 64)] * 2)
    model.teacher.begin(data)
    given = model.data_preprocessor(several(data, range(2)), True)
    with pytest.raises(ValueError, match=r'12 x 12 places at stride 8 for a batch of 64 x 64'):
        model.teacher.record(model.distiller.teacher_recorders, **given)


def test_maps_of_pictures_of_several_sizes_have_no_common_shape():
    sizes = Sizes((8, 8), [(8, 8)])
    layout, first = encode(dict(a=[torch.zeros(1, 2, 4, 4)]), torch.float16, sizes)
    _, second = encode(dict(a=[torch.zeros(1, 2, 4, 6)]), torch.float16, sizes)
    assert arrays_of(layout, second[0])[0].shape == (2, 4, 6)
    with pytest.raises(
        NotStorableError, match=r'record a is of several shapes .*\(2, 4, 4\), \(2, 4'
    ):
        decode(layout, [first[0], second[0]], ['a'], (8, 8), torch.device('cpu'))


def test_a_batch_of_other_padding_that_is_asked_again_is_no_other_teacher(tmp_path):
    """GFL's norms see the padding; check shows how much."""
    data = sized()
    model = model_of('GFL', dict(dir=str(tmp_path), views=1, dtype='float32'))
    model.teacher.begin(data)

    def given(indices):
        return model.data_preprocessor(several(data, indices), True)

    model.teacher.record(model.distiller.teacher_recorders, **given([0, 3]))
    (found,) = model.teacher.against_live(**given([0, 1]))
    assert (found.samples, found.padded) == (1, True)
    assert found.difference > 0
    model.teacher.record(model.distiller.teacher_recorders, **given([0, 1]))
    assert len(model.teacher.store._writer.waiting) == 3


def test_boxes_keep_their_bits_in_float16():
    """Far from the corner, half precision would move them by a part of a place."""
    boxes = 100 * torch.rand(1, 4, 4, generator=torch.Generator().manual_seed(0))
    said = HeadOutputs('GFLHead', (4,), boxes[..., :3], lambda: boxes, grids=((2, 2),))
    sizes, strides = Sizes((16, 16), [(16, 16)]), dict(head=[8])
    layout, contents = encode(dict(head=[said]), torch.float16, sizes, strides=strides)
    (found,) = decode(layout, contents, ['head'], (16, 16), torch.device('cpu'))['head']
    assert torch.equal(found.boxes, boxes)
    assert torch.equal(found.cls_logits, boxes[..., :3].half().float())
    assert (found.level_sizes, found.grids, found.bin_logits) == ((4,), ((2, 2),), None)


def of_necks(cache):
    """PKD, which resizes the student's maps where they differ from the teacher's."""
    recorders = dict(neck=dict(type='kd_plugins.Features'))
    mapping = {f'preds_{s}': dict(recorder='neck', from_student=s == 'S') for s in 'ST'}
    cfg = distillation(*networks('GFL'), changes=dict(teacher_cache=cache))
    cfg['distiller'] = dict(
        student_recorders=recorders,
        teacher_recorders=recorders,
        distill_losses=dict(loss_pkd=dict(type='kd_plugins.PKDLoss')),
        loss_forward_mappings=dict(loss_pkd=mapping),
    )
    return MODELS.build(cfg).train()


def test_maps_of_a_neck_are_refused_where_a_batch_pads_pictures(tmp_path):
    data = sized([(64, 64), (64, 64), (128, 128)])
    cache = dict(dir=str(tmp_path), views=1, dtype='float32')
    said = (
        r'Features\(\) is of the whole input, .* 64 x 64 pixels is padded to the 128 x 128 of .* '
        'one size'
    )
    model = of_necks(cache)
    model.teacher.begin(data)
    with pytest.raises(ValueError, match=said):
        step(model, several(data, [2, 0]))
    model = of_necks(cache)
    model.teacher.begin(data)
    step(model, several(data, [0]))
    step(model, several(data, [2]))
    losses, gradient = step(model, several(data, [0, 1]))
    model.teacher.end()
    assert model.teacher.complete
    model = of_necks(cache)
    model.teacher.begin(data)
    found, found_gradient = step(model, several(data, [0, 1]))
    torch.testing.assert_close(found, losses)
    torch.testing.assert_close(found_gradient, gradient)
    with pytest.raises(ValueError, match=said):
        step(model, several(data, [1, 2]))


def test_who_changes_what_was_read_of_one_picture_changes_nothing_that_is_stored():
    sizes, logits = Sizes((8, 8), [(8, 8)]), torch.arange(5.0)[None]
    layout, contents = encode(dict(a=[logits]), torch.float32, sizes)
    for _ in range(2):
        (found,) = decode(layout, contents, ['a'], (8, 8), torch.device('cpu'))['a']
        assert torch.equal(found, logits)
        found.add_(1)


def test_a_store_is_filled_in_the_batches_that_the_loader_makes(tmp_path):
    """Wide and high pictures together would be padded as no training pads them."""
    wide, high = (64, 96), (96, 64)
    data = sized([wide, high, high, wide, wide, high, high])
    sampler = DefaultSampler(data, shuffle=False)
    batches = AspectRatioBatchSampler(sampler, 2, drop_last=True)
    loader = DataLoader(data, batch_sampler=batches, collate_fn=pseudo_collate)
    model = model_of('GFL', dict(dir=str(tmp_path), views=1, dtype='float32'))
    seen, look = [], model.teacher.live.look

    def count(inputs, data_samples):
        seen.append(tuple(inputs.shape[::2]))
        return look(inputs, data_samples)

    model.teacher.live.look = count
    runner = SimpleNamespace(model=model, train_dataloader=loader, hooks=[])
    assert fill(runner) == (7, 0, ANY, 6)
    # A picture alone is the one that is asked for the check.
    assert seen == [(2, 96), (1, 96), (2, 64), (2, 96), (1, 64)]
    assert [*batches] == [[1, 2], [0, 3], [5, 6]]
    live = model_of('GFL')
    for i in range(7):
        given = live.data_preprocessor(several(data, [i]), True)
        live.teacher.record(live.distiller.teacher_recorders, **given)
        model.teacher.record(model.distiller.teacher_recorders, **given)
        said, found = (
            each.distiller.get_record('head', from_student=False) for each in (live, model)
        )
        for field in ('cls_logits', 'bin_logits', 'boxes'):
            torch.testing.assert_close(getattr(found, field), getattr(said, field))
