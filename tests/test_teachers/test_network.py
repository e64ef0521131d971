"""One network as a teacher: where it goes, what it computes in, what it answers."""

import copy

import pytest
import torch
from helpers import STUDENT, TEACHER, algorithm_cfg, batch, build, distiller
from helpers.detection import build as build_detectors
from helpers.detection import images, losses
from mmengine.model import ExponentialMovingAverage
from mmengine.registry import MODELS
from mmrazor.models.task_modules.recorder.base_recorder import BaseRecorder
from torch import nn

from kd_plugins.registry import TASK_UTILS


def loss_of(model, dtype=None):
    inputs, labels = batch()
    return model(inputs.to(dtype or inputs.dtype), labels, mode='loss')['distill.loss_kd']


@pytest.mark.parametrize('change', ['half', 'double', 'bfloat16'])
def test_what_is_done_to_a_copy_is_not_done_to_the_teacher(change):
    model = build()
    expected = loss_of(model)
    getattr(copy.deepcopy(model), change)()
    assert {p.dtype for p in model.teacher.network.parameters()} == {torch.float32}
    assert torch.equal(loss_of(model), expected)


def test_an_average_on_another_device_leaves_the_teacher_where_it_is():
    model = build()
    average = ExponentialMovingAverage(model, device=torch.device('meta'))
    assert average.module.student.fc.weight.device.type == 'meta'
    assert {p.device.type for p in model.teacher.network.parameters()} == {'cpu'}
    loss_of(model)


def test_a_built_teacher_is_nobodys_to_convert():
    shared = MODELS.build(TEACHER)
    one, other = (build(teacher=shared, allow_random_teacher=False) for _ in range(2))
    expected = loss_of(other)
    one.double()
    assert {p.dtype for p in shared.parameters()} == {torch.float32}
    assert torch.equal(loss_of(other), expected)
    # It reads the input of a student in another type in its own.
    torch.testing.assert_close(
        loss_of(one, torch.float64).float(), loss_of(build_like(one)), rtol=1e-5, atol=1e-6
    )


def build_like(model):
    clone = copy.deepcopy(model)
    return clone.float()


def test_a_copy_in_another_type_still_asks_the_teacher():
    model = build()
    expected = loss_of(model)
    clone = copy.deepcopy(model).double()
    torch.testing.assert_close(loss_of(clone, torch.float64).float(), expected)


def test_the_teacher_goes_where_its_input_is():
    model = build()
    model.teacher.look(torch.zeros(2, 6, device='meta'))
    assert {p.device.type for p in model.teacher.network.parameters()} == {'meta'}


def test_no_teacher_is_a_teacher_too():
    """A student that learns from a term of its own, and bit for bit as alone at weight 0."""
    cfg = dict(
        student_recorders=dict(logits=dict(type='ModuleOutputs', source='fc')),
        distill_losses=dict(loss_small=dict(type='SmallLogits')),
        loss_forward_mappings=dict(
            loss_small=dict(preds_S=dict(recorder='logits', from_student=True))
        ),
    )
    model = build(teacher=None, allow_random_teacher=False, distiller=cfg)
    assert not model.teacher and model.teacher.network is None
    inputs, labels = batch()
    got = model(inputs, labels, mode='loss')
    logits = model.student(inputs)
    torch.testing.assert_close(got['distill.loss_small'], logits.square().mean())
    assert torch.equal(got['student.loss'], nn.functional.cross_entropy(logits, labels))
    assert copy.deepcopy(model).half().teacher is model.teacher


@MODELS.register_module(force=True)
class SmallLogits(nn.Module):
    def forward(self, preds_S):
        return preds_S.square().mean()


def test_what_is_of_a_teacher_needs_one():
    with pytest.raises(ValueError, match=r"teacher_recorders=\['logits'\].*model\.teacher=None"):
        build(teacher=None)
    with pytest.raises(ValueError, match=r"model\.teacher_ckpt='t\.pth' is of a teacher"):
        build(teacher=None, teacher_ckpt='t.pth')
    with pytest.raises(ValueError, match=r"model\.teacher_dtype='bfloat16' is of a teacher"):
        build(teacher=None, teacher_dtype='bfloat16')


def test_a_dtype_is_the_teachers_alone():
    torch.manual_seed(0)
    model = build(teacher_dtype='bfloat16')
    inputs, labels = batch()
    kinds = []
    model.teacher.network.fc.register_forward_hook(lambda m, a, out: kinds.append(out.dtype))
    model.student.fc.register_forward_hook(lambda m, a, out: kinds.append(out.dtype))
    losses = model(inputs, labels, mode='loss')
    assert kinds == [torch.bfloat16, torch.float32]
    with torch.autocast('cpu', torch.bfloat16):
        logits_T = model.teacher.network(inputs)
    expected = model.distiller.distill_losses.loss_kd(model.student(inputs), logits_T, labels)
    torch.testing.assert_close(losses['distill.loss_kd'], expected)


@pytest.mark.parametrize('dtype, kind', [(None, torch.bfloat16), ('float32', torch.float32)])
def test_beside_a_student_in_mixed_precision(dtype, kind):
    model = build(teacher_dtype=dtype)
    with torch.autocast('cpu', torch.bfloat16):
        outputs = model.teacher.look(batch()[0])
    assert outputs.dtype is kind


@pytest.mark.parametrize('dtype', ['float16', 'int8', 'float64'])
def test_a_dtype_that_cannot_be_is_refused(dtype):
    with pytest.raises(ValueError, match=rf"model\.teacher_dtype='{dtype}'"):
        build(teacher_dtype=dtype)


def test_a_built_teacher_is_asked_in_eval_mode_whatever_its_owner_does():
    owned = MODELS.build(dict(TEACHER, dropout=0.5))
    model = build(teacher=owned, allow_random_teacher=False)
    inputs = batch()[0]
    expected = model.teacher.look(inputs)
    nn.ModuleList([model, owned]).train()
    assert owned.body[2].training
    assert torch.equal(model.teacher.look(inputs), expected)
    owned.train()
    assert torch.equal(model.teacher.predict(inputs), expected)


@pytest.mark.parametrize('part', [None, 'fc'])
def test_a_teacher_that_is_the_student_in_part_is_refused(part):
    """The student would be frozen there."""
    student, other = MODELS.build(TEACHER), MODELS.build(TEACHER)
    if part:
        setattr(other, part, getattr(student, part))
    says = r"model\.teacher and model\.architecture share '" + (part or 'body')
    with pytest.raises(ValueError, match=says):
        build(architecture=student, teacher=other if part else student, allow_random_teacher=False)


def test_another_preprocessor_would_not_be_the_one_the_teacher_was_told_of():
    model = build()
    with pytest.raises(AttributeError, match="the teacher's input is made of what it gives"):
        model.data_preprocessor = copy.deepcopy(model.data_preprocessor)


def test_nor_would_one_that_another_distillation_gives_the_student():
    student = MODELS.build(dict(STUDENT))
    first = build(architecture=student)
    build(architecture=student, data_preprocessor=dict(type='BaseDataPreprocessor'))
    with pytest.raises(AttributeError, match="the teacher's input is made of what it gives"):
        first.train()


@pytest.mark.parametrize('size', [0, -3, True, 224.0, '224', (4,), (4, 5, 6), (4, 0)])
def test_an_input_size_that_is_none_is_refused(size):
    with pytest.raises(ValueError, match=r'model\.teacher_input_size=.* is wrong: give a number'):
        build(teacher_input_size=size)


def test_boxes_of_a_teacher_of_another_input_size_are_those_of_the_picture():
    changes = dict(teacher_input_size=(128, 192))
    model = build_detectors(changes=changes)
    data = model.data_preprocessor(images())
    before = copy.deepcopy(data['data_samples'])
    network = model.teacher.network
    network.test_cfg.update(score_thr=0.0)
    network.bbox_head.test_cfg = network.test_cfg
    got = model.teacher.predict(**data)
    samples = copy.deepcopy(before)
    for sample in samples:
        sample.set_metainfo(
            dict(img_shape=(128, 192), batch_input_shape=(128, 192), scale_factor=(3.0, 2.0))
        )
    inputs = nn.functional.interpolate(
        model.teacher.input(data['inputs']), (128, 192), mode='bilinear', antialias=True
    )
    with torch.no_grad():
        expected = network(inputs, samples, mode='predict')
    for one, other, old in zip(got, expected, before, strict=True):
        assert len(one.pred_instances) and one.pred_instances.bboxes.max() <= 64
        torch.testing.assert_close(one.pred_instances.bboxes, other.pred_instances.bboxes)
        assert one.metainfo == old.metainfo


def test_channels_last_is_the_teachers_alone():
    plain, changed = (
        build_detectors(changes=dict(teacher_channels_last=last)) for last in (False, True)
    )
    changed.teacher.network.load_state_dict(plain.teacher.network.state_dict())
    seen = []
    changed.teacher.network.backbone.register_forward_pre_hook(lambda m, args: seen.append(args[0]))
    expected, got = losses(plain, images()), losses(changed, images())
    assert seen[0].is_contiguous(memory_format=torch.channels_last)
    convolutions = [m for m in changed.teacher.network.modules() if isinstance(m, nn.Conv2d)]
    assert any(
        c.weight.is_contiguous(memory_format=torch.channels_last) and not c.weight.is_contiguous()
        for c in convolutions
    )
    for name, value in expected.items():
        for one, other in zip(_listed(value), _listed(got[name]), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def _listed(value):
    return value if isinstance(value, (list, tuple)) else [value]


def test_a_compiled_teacher_tells_the_same(monkeypatch):
    torch.manual_seed(0)
    plain = build()
    torch.manual_seed(0)
    compiled = build(teacher_compile=dict(backend='eager'))
    for seed in range(3):
        inputs, labels = batch(seed)
        one, other = (m(inputs, labels, mode='loss') for m in (plain, compiled))
        assert torch.equal(one['distill.loss_kd'], other['distill.loss_kd'])
    assert compiled.teacher.network.fc.weight is not plain.teacher.network.fc.weight
    assert type(compiled.teacher._run).__name__ == 'OptimizedModule'
    heard = []
    stop = compiled.teacher.watch(lambda: heard.append('before'), lambda *a: heard.append('after'))
    loss_of(compiled)
    stop()
    loss_of(compiled)
    assert heard == ['before', 'after']


@pytest.mark.parametrize('settings', [True, {}])
def test_no_arguments_compile_it_too(settings):
    assert type(build(teacher_compile=settings).teacher._run).__name__ == 'OptimizedModule'


def test_a_built_teacher_may_be_where_the_batch_is_already():
    model = build(teacher=MODELS.build(TEACHER).to('meta'), allow_random_teacher=False)
    model.teacher.input.register_buffer('scale', torch.ones(1, 1, 1))
    model.teacher.convert(torch.zeros(2, 6, device='meta'))
    assert model.teacher.input.scale.device.type == 'meta'


@TASK_UTILS.register_module(name='HeadOnStudentFeaturesRecorder', force=True)
class HeadOnStudentFeatures(BaseRecorder):
    """What the teacher's classifier says of the student's features."""

    question = 'features'

    def __init__(self, source='fc', **kwargs):
        super().__init__(source, **kwargs)

    def prepare_from_model(self, model=None):
        pass

    def answer(self, network, record):
        return network.fc(record)


def test_the_teacher_answers_what_was_recorded_from_the_student():
    cfg = distiller(
        student_recorders=dict(
            features=dict(type='ModuleOutputs', source='body'),
            labels=dict(type='ModuleInputs', source='loss_module'),
        ),
        teacher_recorders=dict(
            logits=dict(type='ModuleOutputs', source='fc'),
            cross=dict(type='kd_plugins.HeadOnStudentFeatures'),
        ),
        loss_forward_mappings=dict(
            loss_kd=dict(
                preds_S=dict(recorder='cross', from_student=False),
                preds_T=dict(recorder='logits', from_student=False),
            )
        ),
    )
    model = build(distiller=cfg, architecture=dict(STUDENT, width=16))
    inputs, labels = batch()
    for _ in range(2):  # records do not pile up
        model.zero_grad()
        loss = model(inputs, labels, mode='loss')['distill.loss_kd']
        loss.backward()
        got = model.student.body[0].weight.grad.clone()
        teacher = model.teacher.network
        features = model.student.body(inputs)
        expected = model.distiller.distill_losses.loss_kd(
            nn.functional.linear(features, teacher.fc.weight, teacher.fc.bias), teacher(inputs)
        )
        assert torch.equal(loss, expected)
        torch.testing.assert_close(
            got, torch.autograd.grad(expected, model.student.body[0].weight)[0]
        )
    assert model.student.fc.weight.grad is None
    assert all(p.grad is None for p in model.teacher.network.parameters())


def test_a_config_of_an_algorithm_says_all_of_it():
    model = MODELS.build(
        algorithm_cfg(teacher_dtype='float32', teacher_channels_last=True, teacher_compile=False)
    )
    assert model.teacher.dtype is torch.float32 and model.teacher.layout is torch.channels_last
