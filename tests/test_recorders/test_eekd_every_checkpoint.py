"""What a module says in every checkpoint, for EEKD."""

import pytest
import torch
from helpers import TEACHER, TinyClassifier, batch
from mmengine.registry import MODELS
from torch import nn

from kd_plugins.recorders import EveryCheckpointRecorder
from kd_plugins.teachers import CheckpointTree


def tree(number=3):
    torch.manual_seed(0)
    networks = [MODELS.build(TEACHER) for _ in range(number)]
    return CheckpointTree(networks, [str(i) for i in range(number)])


def read(network, inputs, **arguments):
    recorder = EveryCheckpointRecorder(**arguments)
    recorder.initialize(network)
    network(inputs)  # not recorded
    with recorder:
        network(inputs)
    assert len(recorder.data_buffer) == 1
    return recorder, recorder.get_record_data()


def test_records_stand_in_the_order_of_the_checkpoints():
    network, inputs = tree(), batch()[0]
    recorder, logits = read(network, inputs, source='fc')
    _, features = read(network, inputs, source='fc', of='inputs')
    assert logits.shape == (5, 3, 4) and features.shape == (5, 3, 16)
    assert recorder.num_classes == 4
    for i, one in enumerate(network.networks):
        assert torch.equal(logits[:, i], one(inputs))
        assert torch.equal(features[:, i], one.body(inputs))


def test_one_network_is_one_checkpoint():
    network, inputs = MODELS.build(TEACHER), batch()[0]
    assert torch.equal(read(network, inputs, source='fc')[1], network(inputs)[:, None])


def test_of_several_tensors_the_last():
    class Tuple(TinyClassifier):
        def __init__(self):
            super().__init__()
            self.pick = nn.Identity()

        def forward(self, inputs, data_samples=None, mode='tensor'):
            return self.pick((inputs, 2 * inputs))[1]

    inputs = batch()[0]
    assert torch.equal(read(Tuple(), inputs, source='pick')[1], 2 * inputs[:, None])


def test_a_module_that_is_called_several_times_is_refused():
    network = tree(2)
    for one in network.networks:
        one.forward = lambda inputs, *args, one=one, **kwargs: one.body(inputs) + one.body(inputs)
    with pytest.raises(ValueError, match="source='body' is called several times"):
        read(network, batch()[0], source='body')


def test_what_is_no_tensor_is_refused():
    network = tree()
    network.networks[0].body.register_forward_hook(lambda *args: dict(a=1))
    network.networks[0].fc = nn.Identity()
    with pytest.raises(ValueError, match="source='body' has outputs of type dict"):
        read(network, batch()[0], source='body')


def test_bad_settings_are_refused_by_name():
    with pytest.raises(ValueError, match=r"EveryCheckpoint\.of='both'"):
        EveryCheckpointRecorder('fc', of='both')
    with pytest.raises(
        ValueError, match=r"k\.source='head' is not in the teacher \(TinyClassifier"
    ):
        EveryCheckpointRecorder('head').check_source(tree(), 'k', 'teacher')
