"""The recorder of feature maps of several levels."""

import pytest
import torch
from helpers.networks import build, resnet, swin, vit
from torch import nn

from kd_plugins.networks import forbid_inplace
from kd_plugins.recorders import FeaturesRecorder


class Twice(nn.Module):
    """Calls one module twice, and another one not at all."""

    def __init__(self):
        super().__init__()
        self.relu, self.idle = nn.ReLU(), nn.ReLU()
        self.pair = nn.Identity()

    def forward(self, x):
        first = self.relu(x)
        second = self.relu(first - 2)
        return self.pair((first, second))


def record(network, sources, inputs):
    recorder = FeaturesRecorder(sources)
    recorder.initialize(network)
    with recorder:
        network(inputs)
    return recorder


def test_records_outputs_inputs_and_several_maps_in_order():
    x = torch.tensor([[-1.0, 1.0, 3.0]])
    sources = ['pair', dict(input_of='relu'), 'relu']
    (levels,) = record(Twice(), sources, x).data_buffer
    first = x.relu()
    # The last call counts.
    expected = [first, (first - 2).relu(), first - 2, (first - 2).relu()]
    assert len(levels) == 4
    assert all(torch.equal(a, b) for a, b in zip(levels, expected, strict=True))


def test_reads_a_classifier_before_its_last_activations():
    network = build(resnet()).eval()
    # In place, the activation would overwrite what it was given.
    forbid_inplace(network)
    last = len(network.backbone.layer1) - 1
    sources = [dict(input_of=f'backbone.layer1.{last}.relu'), 'backbone.layer1',
               dict(input_of='head.fc')]  # fmt: skip
    recorder = record(network, sources, torch.randn(2, 3, 32, 32))
    before, after, pooled = recorder.data_buffer[0]
    assert (before < 0).any() and torch.equal(before.relu(), after) and pooled.dim() == 2
    assert recorder.spec is None


def test_modules_that_were_not_called_are_named():
    recorder = record(Twice(), ['relu', 'idle'], torch.ones(1, 3))
    assert recorder.data_buffer == [] and recorder.source == 'idle'


def test_records_nothing_outside():
    network = Twice()
    recorder = record(network, ['relu'], torch.ones(1, 3))
    recorder.reset_data_buffer()
    network(torch.ones(1, 3))
    assert recorder.data_buffer == [] and not recorder._seen


@pytest.mark.parametrize(
    'sources',
    [
        'neck',
        [],
        [3],
        [dict(outputs_of='neck')],
        [dict(output_of='neck', items=[])],
        [dict(output_of='neck', calls=[-1])],
        [dict(output_of='neck', extra_tokens=-1)],
    ],
)
def test_what_is_no_list_of_modules_is_refused(sources):
    with pytest.raises(ValueError, match=r'Features\.sources'):
        FeaturesRecorder(sources)


def test_a_module_that_is_not_there_is_named_with_the_side():
    with pytest.raises(ValueError, match=r"key\.sources: 'neck' is not in the teacher \(Twice\)"):
        FeaturesRecorder().check_source(Twice(), 'key', 'teacher')


class Levels(nn.Module):
    """A head that is called level by level, a neck, and tokens with two class tokens."""

    def __init__(self):
        super().__init__()
        self.neck, self.head, self.tokens = nn.Identity(), nn.Identity(), nn.Identity()

    def forward(self, x):
        maps = self.neck((x, x + 1, x + 2))
        for level in maps:
            self.head(level)
        return self.tokens(torch.arange(2 * 6 * 3.0).view(2, 6, 3))


def test_some_items_and_calls_are_recorded_in_the_order_that_is_asked_for():
    x = torch.ones(1, 2, 4, 4)
    sources = [dict(output_of='neck', items=[2, 0]), dict(output_of='head', calls=[1, 2]), 'head']
    recorder = record(Levels(), sources, x)
    (levels,) = recorder.data_buffer
    assert [int(level.mean()) for level in levels] == [3, 1, 2, 3, 3]
    assert recorder.level_names == ['neck[2]', 'neck[0]', 'head[1]', 'head[2]', 'head']


def test_tokens_become_a_map_of_their_square_without_the_first_ones():
    ((patches,),) = record(
        Levels(), [dict(output_of='tokens', extra_tokens=2)], torch.ones(1, 2, 4, 4)
    ).data_buffer
    assert patches.shape == (2, 3, 2, 2)
    for n in range(2):
        for row in range(2):
            for column in range(2):
                token = 2 + 2 * row + column
                expected = [18 * n + 3 * token + c for c in range(3)]
                assert patches[n, :, row, column].tolist() == expected


@pytest.mark.parametrize('size', [(96, 24), (24, 96), (48, 48)])
def test_tokens_of_a_picture_that_is_no_square_are_refused(size):
    """Of 24 x 6 patches there are as many as of 12 x 12."""
    network = build(vit(patch_size=4, out_type='raw'))
    pictures = torch.randn(2, 3, *size)
    sources = [dict(output_of='backbone', extra_tokens=1)]
    if size[0] == size[1]:
        ((found,),) = record(network, sources, pictures).data_buffer
        assert found.shape == (2, 16, 12, 12)
    else:
        says = rf"'backbone' gives tokens of pictures of {size[0]} x {size[1]} pixels"
        with pytest.raises(ValueError, match=says):
            record(network, sources, pictures)


@pytest.mark.parametrize(
    ('source', 'says'),
    [
        (dict(output_of='neck', items=[3]), r"'neck' gives 3 maps, and items=\[3\]"),
        (dict(output_of='head', calls=[3]), r"'head' was called 3 times, and calls=\[3\]"),
        (dict(output_of='tokens', extra_tokens=1), r'extra_tokens=1 fills no square'),
        (dict(output_of='head', extra_tokens=0), r'extra_tokens=0 fills no square'),
    ],
)
def test_what_a_module_does_not_give_is_refused_in_the_step(source, says):
    with pytest.raises(ValueError, match=says):
        record(Levels(), [source], torch.ones(1, 2, 4, 4))


@pytest.mark.parametrize('size', [(64, 64), (64, 96)])
def test_tokens_that_know_their_height_and_width_are_a_map(size):
    """The stages of mmpretrain's Swin give tokens (N, L, C) and (H, W)."""
    network = build(swin()).eval()
    name = 'backbone.stages.1'
    given = []
    network.get_submodule(name).register_forward_hook(lambda m, args, out: given.append(out))
    ((found,),) = record(network, [name], torch.randn(2, 3, *size)).data_buffer
    ((tokens, (height, width)),) = given
    assert (
        found.shape == (2, tokens.shape[2], height, width) and height * size[1] == width * size[0]
    )
    for row in range(height):
        for column in range(width):
            assert torch.equal(found[:, :, row, column], tokens[:, row * width + column])
