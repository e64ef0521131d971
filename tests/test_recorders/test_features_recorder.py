"""The recorder of feature maps of several levels."""

import pytest
import torch
from helpers.networks import build, resnet
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
