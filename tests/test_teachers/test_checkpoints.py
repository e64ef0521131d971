"""Several checkpoints of one architecture as one teacher."""

import copy

import pytest
import torch
from helpers import TEACHER, batch, build, distiller, eekd_cfg, save_checkpoints, save_teacher
from helpers.detection import detector
from mmengine.registry import MODELS
from torch import nn

from kd_plugins.hooks import teacher_look
from kd_plugins.teachers import CheckpointTeacher, joint_logits


@pytest.fixture(scope='module')
def paths(tmp_path_factory):
    return save_checkpoints(tmp_path_factory.mktemp('teachers'), 3)


def loaded(path):
    network = MODELS.build(TEACHER).eval()
    network.load_state_dict(torch.load(path, weights_only=False)['state_dict'])
    return network


def of(paths, **changes):
    return build(**dict(eekd_cfg(paths), allow_random_teacher=False, **changes))


def test_every_file_teaches_with_its_own_weights(paths):
    model = of(paths)
    assert isinstance(model.teacher, CheckpointTeacher) and len(model.teacher.members) == 3
    inputs, labels = batch()
    got = model(inputs, labels, mode='loss')['distill.loss_kd']
    networks = [loaded(path) for path in paths]
    with torch.no_grad():
        features_T = torch.stack([network.body(inputs) for network in networks], dim=1)
        preds_T = torch.stack([network(inputs) for network in networks], dim=1)
    expected = model.distiller.distill_losses.loss_kd(
        model.student(inputs), preds_T, model.student.body(inputs), features_T
    )
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=0)
    assert not torch.equal(preds_T[:, 0], preds_T[:, 1])
    assert [member.weights for member in model.teacher.members] == paths
    # Nothing of them is the student's.
    names = set(model.state_dict())
    assert names == {'body.0.weight', 'body.0.bias', 'fc.weight', 'fc.bias'} | {
        f'distiller.distill_losses.loss_kd.embed_{side}.weight' for side in 'ST'
    }
    assert copy.deepcopy(model).teacher is model.teacher
    assert not model.teacher.network.training and not any(
        p.requires_grad for p in model.teacher.network.parameters()
    )


def test_one_forward_each_and_one_input_for_all(paths):
    model, seen = of(paths), []
    for network in model.teacher.network.networks:
        network.body.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    converted = []
    forward = model.teacher.input.forward
    model.teacher.input.forward = lambda *args: (converted.append(1), forward(*args))[1]
    model(*batch(), mode='loss')
    assert len(seen) == 3 and len(converted) == 1
    assert all(inputs is seen[0] for inputs in seen)


def test_a_network_of_the_tree_is_named_by_its_number(paths):
    cfg = distiller(teacher_recorders=dict(logits=dict(type='ModuleOutputs', source='1.fc')))
    model = build(teacher_ckpt=paths, allow_random_teacher=False, distiller=cfg)
    inputs, labels = batch()
    alone = build(teacher_ckpt=paths[1], allow_random_teacher=False)
    alone.student.load_state_dict(model.student.state_dict())
    got, expected = (m(inputs, labels, mode='loss')['distill.loss_kd'] for m in (model, alone))
    assert torch.equal(got, expected)
    cfg = distiller()
    with pytest.raises(
        ValueError, match=r"source='fc' is not in the teacher.*did you mean '\d.fc'"
    ):
        build(teacher_ckpt=paths, allow_random_teacher=False, distiller=cfg)


def test_the_joint_answer_is_the_mean_of_the_probabilities(paths):
    teacher = of(paths).teacher
    inputs = batch()[0]
    with torch.no_grad():
        expected = torch.stack([loaded(path)(inputs).softmax(1) for path in paths]).mean(0)
    for answer in (teacher.look(inputs), teacher.predict(inputs)):
        torch.testing.assert_close(answer.softmax(1), expected)
    # What watches it hears every network.
    heard = []
    stop = teacher.watch(after=lambda outputs, samples: heard.append(outputs))
    teacher.look(inputs)
    stop()
    for output, path in zip(heard[0], paths, strict=True):
        torch.testing.assert_close(output, loaded(path)(inputs))


def test_joint_logits_of_one_are_its_own_up_to_a_constant():
    logits = torch.randn(4, 5, dtype=torch.float64)
    difference = joint_logits([logits]) - logits
    torch.testing.assert_close(difference, difference[:, :1].expand(-1, 5))


@pytest.mark.parametrize('given', [[], ['a.pth', 'a.pth'], ['a.pth', None], [1], {'a': 1}])
def test_what_is_no_list_of_files_is_refused(given):
    with pytest.raises(ValueError, match=r'model\.teacher_ckpt=.*list of different files'):
        build(teacher_ckpt=given)


def test_a_later_checkpoint_before_an_earlier_one_is_refused(paths):
    """A shell sorts epoch_100.pth before epoch_20.pth, and terms go by the places."""
    with pytest.raises(ValueError, match=r'epoch_3\.pth.* before .*epoch_2\.pth.*earliest first'):
        of([paths[0], paths[2], paths[1]])
    with pytest.raises(ValueError, match=r"'a/epoch_100\.pth' before 'a/epoch_20\.pth'"):
        of(['a/epoch_100.pth', 'a/epoch_20.pth'])
    with pytest.raises(FileNotFoundError):  # of other trainings
        of(['a/epoch_100.pth', 'b/epoch_20.pth'])


def test_the_classes_are_those_of_every_file_that_names_any(paths, tmp_path):
    files = [paths[0]]
    for i, classes in enumerate((('a', 'b', 'c', 'd'), ('b', 'a', 'c', 'd'))):
        files.append(str(tmp_path / f'{i}.pth'))
        weights = torch.load(paths[i + 1], weights_only=False)
        torch.save(dict(weights, meta=dict(dataset_meta=dict(classes=classes))), files[-1])
    assert of(files[:2]).teacher.classes == ('a', 'b', 'c', 'd')
    with pytest.raises(ValueError, match=r"1\.pth' names other classes.*than '.*0\.pth'"):
        of(files)


def test_every_file_has_to_fit(paths, tmp_path):
    save_teacher(tmp_path / 'wide.pth', width=32)
    with pytest.raises(ValueError, match=r"model\.teacher_ckpt='.*wide\.pth' does not fit"):
        of([*paths, str(tmp_path / 'wide.pth')])
    with pytest.raises(FileNotFoundError, match=r"model\.teacher_ckpt='absent\.pth'"):
        of([*paths, 'absent.pth'])


def test_detectors_have_no_joint_answer(tmp_path):
    network = MODELS.build(detector())
    files = [str(tmp_path / f'{i}.pth') for i in range(2)]
    for file in files:
        torch.save(network.state_dict(), file)
    with pytest.raises(ValueError, match='names 2 files.*only where a picture has one class'):
        build(teacher=detector(), teacher_ckpt=files, allow_random_teacher=False)


def test_a_built_network_is_copied_for_every_file(paths):
    shared = MODELS.build(TEACHER)
    before = copy.deepcopy(shared.state_dict())
    model = of(paths, teacher=shared)
    assert all(torch.equal(before[key], value) for key, value in shared.state_dict().items())
    assert shared not in model.teacher.network.networks
    inputs = batch()[0]
    torch.testing.assert_close(model.teacher.look(inputs), of(paths).teacher.look(inputs))


def test_precision_layout_and_copies_are_those_of_any_teacher(paths):
    model = of(paths, teacher_dtype='bfloat16', teacher_compile=dict(backend='eager'))
    kinds = []
    for network in model.teacher.network.networks:
        network.fc.register_forward_hook(lambda m, a, out: kinds.append(out.dtype))
    model.teacher.predict(batch()[0])
    assert kinds == [torch.bfloat16] * 3
    copy.deepcopy(model).half()
    assert {p.dtype for p in model.teacher.network.parameters()} == {torch.float32}
    model.double()
    assert {p.dtype for p in model.teacher.network.parameters()} == {torch.float64}


def test_a_file_that_says_nothing_is_named(paths, tmp_path):
    dumb = save_teacher(tmp_path / 'dumb.pth')
    nn.init.zeros_(dumb.fc.weight)
    torch.save(dumb.state_dict(), tmp_path / 'dumb.pth')
    teacher, said = of([*paths, str(tmp_path / 'dumb.pth')]).teacher, []
    logger = type('Logger', (), dict(warning=lambda self, text: said.append(text)))()
    teacher_look.warn_once(teacher, logger)
    teacher.look(batch(size=8)[0])
    assert len(said) == 1 and 'dumb.pth: the teacher gives all 8 pictures' in said[0]
