import copy
import gc
import weakref

import pytest
import torch
from helpers import STUDENT, TEACHER, algorithm_cfg, batch, build, distiller, save_teacher
from helpers.oracles import kd
from mmengine.hooks import EMAHook  # noqa: F401  (registers it)
from mmengine.model import ExponentialMovingAverage
from mmengine.model.weight_init import PretrainedInit
from mmengine.optim import OptimWrapper
from mmengine.registry import MODELS
from mmengine.runner.checkpoint import get_state_dict, load_state_dict
from torch import nn

from kd_plugins.losses import KDLoss
from kd_plugins.structures import Progress


def test_losses_are_the_students_and_the_terms():
    model = build().eval()
    inputs, labels = batch()
    losses = model(inputs, labels, mode='loss')
    alone = model.student(inputs, labels, mode='loss')['loss']
    rows = zip(model.student(inputs).tolist(), model.teacher.network(inputs).tolist(), strict=True)
    expected = sum(kd(s, t, 2.0) for s, t in rows) / len(inputs)
    assert sorted(losses) == ['distill.loss_kd', 'student.accuracy', 'student.loss']
    assert losses['student.loss'].item() == alone.item()
    assert losses['distill.loss_kd'].item() == pytest.approx(expected, rel=1e-4)


def test_total_is_the_sum_and_both_parts_are_logged():
    model = build()
    losses = model(*batch(), mode='loss')
    total, log = model.parse_losses(losses)
    assert total.item() == (losses['student.loss'] + losses['distill.loss_kd']).item()
    assert log['task_loss'].item() == losses['student.loss'].item()
    assert log['distill_loss'].item() == losses['distill.loss_kd'].item()
    assert not log['task_loss'].requires_grad


def test_unknown_loss_is_an_error():
    with pytest.raises(ValueError, match=r"'loss_extra'.*student\.\*.*distill\.\*"):
        build().parse_losses({'student.loss': torch.ones(()), 'loss_extra': torch.ones(())})


def test_teacher_is_outside_of_the_module_tree():
    model = build()
    mine = {id(p) for p in model.parameters()}
    assert mine == {id(p) for p in model.student.parameters()}
    assert not any(p.requires_grad for p in model.teacher.network.parameters())
    assert 'teacher' not in dict(model.named_modules())


def test_teacher_stays_in_eval_mode_as_a_whole():
    model = build(teacher=dict(TEACHER, dropout=0.5))
    model.train()
    assert not any(m.training for m in model.teacher.network.modules())
    assert model.student.training


def test_teacher_moves_and_casts_along():
    model = build().double()
    assert {p.dtype for p in model.teacher.network.parameters()} == {torch.float64}
    assert model.to('meta').teacher.network.fc.weight.device.type == 'meta'


def test_teacher_runs_its_forward_only_and_builds_no_graph():
    model = build()
    calls = []
    forward = model.teacher.network.forward

    def spy(*args, mode):
        calls.append((mode, torch.is_grad_enabled()))
        return forward(*args, mode=mode)

    model.teacher.network.forward = spy
    model(*batch(), mode='loss')
    assert calls == [('tensor', False)]


def test_gradients_reach_the_student_only():
    model = build()
    total, _ = model.parse_losses(model(*batch(), mode='loss'))
    total.backward()
    assert all(p.grad is not None for p in model.student.parameters())
    assert all(p.grad is None for p in model.teacher.network.parameters())


def test_the_step_is_the_sum_of_both_gradients():
    model = build().double()
    inputs, labels = batch()
    inputs = inputs.double()
    logits = model.student(inputs)
    teacher = model.teacher.network(inputs)
    loss = nn.functional.cross_entropy(logits, labels) + KDLoss(2.0)(logits, teacher)
    expected = torch.autograd.grad(loss, list(model.student.parameters()))
    optimizer = OptimWrapper(torch.optim.SGD(model.parameters(), lr=1.0))
    before = [p.detach().clone() for p in model.student.parameters()]
    model.train_step(dict(inputs=inputs, data_samples=labels), optimizer)
    for old, new, gradient in zip(before, model.student.parameters(), expected, strict=True):
        torch.testing.assert_close(old - new.detach(), gradient, rtol=1e-12, atol=1e-15)


def test_checkpoint_is_the_students():
    model = build()
    student = MODELS.build(STUDENT)
    for state in (model.state_dict(), get_state_dict(model)):
        assert list(state) == list(student.state_dict())
    student.load_state_dict(model.state_dict(), strict=True)
    for key, value in student.state_dict().items():
        assert torch.equal(value, model.student.state_dict()[key])


@pytest.mark.parametrize('prefix', ['', 'architecture.'])
@pytest.mark.parametrize('load', [lambda m, s: m.load_state_dict(s), load_state_dict])
def test_loads_a_students_checkpoint(prefix, load, capfd):
    model = build()
    source = MODELS.build(STUDENT).state_dict()
    assert not torch.equal(source['fc.weight'], model.student.fc.weight)
    load(model, {prefix + key: value for key, value in source.items()})
    assert torch.equal(source['fc.weight'], model.student.fc.weight)
    assert 'do not match' not in ''.join(capfd.readouterr())


def learning_distiller():
    """A distiller with weights of its own."""
    cfg = distiller(
        connectors=dict(join=dict(type='TorchNNConnector', module_name='Linear',
                                  module_args=dict(in_features=4, out_features=4))),
    )  # fmt: skip
    mapping = cfg['loss_forward_mappings']['loss_kd']
    mapping['preds_S'] = dict(mapping['preds_S'], connector='join')
    return cfg


def test_what_terms_learn_is_saved_and_loaded():
    cfg = learning_distiller()
    model, other = build(distiller=cfg), build(distiller=cfg)
    state = model.state_dict()
    learned = [key for key in state if key.startswith('distiller.')]
    assert learned == [
        'distiller.connectors.join.func.weight',
        'distiller.connectors.join.func.bias',
    ]
    assert not torch.equal(state[learned[0]], other.state_dict()[learned[0]])
    other.load_state_dict(state, strict=True)
    assert torch.equal(state[learned[0]], other.state_dict()[learned[0]])


def test_ema_copies_share_the_teacher_and_save_the_student():
    model = build()
    ema = ExponentialMovingAverage(model, momentum=0.5)
    assert ema.module.teacher is model.teacher
    assert ema.module.student is not model.student
    start = model.student.fc.weight.detach().clone()
    ema.update_parameters(model)
    with torch.no_grad():
        model.student.fc.weight.add_(1.0)
    ema.update_parameters(model)
    torch.testing.assert_close(ema.module.student.fc.weight, start + 0.5)
    student = MODELS.build(STUDENT)
    bare = {k[len('module.') :]: v for k, v in ema.state_dict().items() if k != 'steps'}
    student.load_state_dict(bare, strict=True)


def test_a_copy_still_distils():
    model = build().eval()
    clone = copy.deepcopy(model)
    with torch.no_grad():
        clone.student.fc.weight.mul_(2)
    expected = build_loss(clone)
    assert clone(*batch(), mode='loss')['distill.loss_kd'].item() == pytest.approx(expected, 1e-4)
    assert model(*batch(), mode='loss')['distill.loss_kd'].item() == pytest.approx(
        build_loss(model), 1e-4
    )


def build_loss(model):
    inputs, _ = batch()
    rows = zip(model.student(inputs).tolist(), model.teacher.network(inputs).tolist(), strict=True)
    return sum(kd(s, t, 2.0) for s, t in rows) / len(inputs)


def test_the_student_starts_as_it_would_alone():
    torch.manual_seed(3)
    alone = MODELS.build(STUDENT)
    alone.init_weights()
    after_alone = torch.rand(3)
    torch.manual_seed(3)
    model = build(distiller=learning_distiller())
    model.init_weights()
    after_distilled = torch.rand(3)
    assert torch.equal(alone.fc.weight, model.student.fc.weight)
    assert torch.equal(after_alone, after_distilled)


def test_a_random_teacher_of_the_same_kind_is_another_network():
    model = build(teacher=dict(STUDENT))
    model.init_weights()
    assert not torch.equal(model.teacher.network.fc.weight, model.student.fc.weight)


def test_weight_zero_changes_no_bit_of_the_gradients():
    model = build(distiller=distiller(dict(type='kd_plugins.KDLoss', tau=2.0, loss_weight=0.0)))
    inputs, labels = batch()
    total, _ = model.parse_losses(model(inputs, labels, mode='loss'))
    total.backward()
    got = [p.grad.clone() for p in model.student.parameters()]
    expected = torch.autograd.grad(
        model.student(inputs, labels, mode='loss')['loss'], list(model.student.parameters())
    )
    for a, b in zip(got, expected, strict=True):
        assert torch.equal(a, b)


def test_the_graph_is_let_go_after_the_step():
    model = build()
    losses = model(*batch(), mode='loss')
    seen = []
    handle = model.student.fc.register_forward_hook(lambda m, i, o: seen.append(weakref.ref(o)))
    losses = model(*batch(), mode='loss')
    handle.remove()
    del losses
    gc.collect()
    assert seen and seen[-1]() is None


def test_terms_follow_the_progress_that_the_model_is_told():
    warm = dict(type='kd_plugins.DKDLoss', tau=2.0, beta=1.0, warmup=4)
    model = build(distiller=distiller(warm)).eval()
    values = []
    for epoch in (0, 1, 3, 9):
        model.set_progress(Progress(iter=epoch * 7, max_iters=70, epoch=epoch, max_epochs=10))
        values.append(model(*batch(), mode='loss')['distill.loss_kd'].item())
    assert [v / values[-1] for v in values] == pytest.approx([0.25, 0.5, 1.0, 1.0])


def test_attributes_are_looked_up_on_the_student():
    model = build()
    assert model.fc is model.student.fc
    with pytest.raises(AttributeError, match='nothing_like_it'):
        model.nothing_like_it  # noqa: B018


def test_mmrazors_own_loss_and_stop_hook_work():
    model = build(distiller=mmrazor_kl()).eval()
    assert model(*batch(), mode='loss')['distill.loss_kd'].item() == pytest.approx(
        build_loss(model), 1e-4
    )
    model.distillation_stopped = True
    assert sorted(model(*batch(), mode='loss')) == ['student.accuracy', 'student.loss']


def test_a_stopped_distillation_has_gradients_of_0_for_what_the_terms_learn():
    """DDP waits for a gradient of every parameter, and stops without one."""
    tau = dict(type='kd_plugins.GlobalTemperature')
    model = build(distiller=distiller(dict(type='kd_plugins.KDLoss', tau=tau)))
    alone = copy.deepcopy(model.student)
    model.distillation_stopped = True
    total = model.parse_losses(model(*batch(), mode='loss'))[0]
    total.backward()
    expected = alone.parse_losses(alone(*batch(), mode='loss'))[0]
    expected.backward()
    assert torch.equal(total, expected)
    for name, parameter in model.named_parameters():
        own = dict(alone.named_parameters()).get(name)
        wanted = torch.zeros_like(parameter) if own is None else own.grad
        assert torch.equal(parameter.grad, wanted), name
    assert any(name.startswith('distiller') for name, _ in model.named_parameters())


def mmrazor_kl():
    cfg = distiller(dict(type='KLDivergence', tau=2.0))
    del cfg['loss_forward_mappings']['loss_kd']['gt_labels']
    return cfg


def test_without_student_loss_only_the_terms_are_left():
    cfg = distiller()
    del cfg['loss_forward_mappings']['loss_kd']['gt_labels']
    model = build(distiller=cfg, calculate_student_loss=False)
    assert list(model(batch()[0], None, mode='loss')) == ['distill.loss_kd']


def test_inplace_activations_do_not_overwrite_records():
    assert not build().student.body[1].inplace
    assert build(module_inplace=True).student.body[1].inplace


def test_teacher_checkpoint_is_loaded_whole(tmp_path):
    teacher = save_teacher(tmp_path / 'teacher.pth')
    model = build(teacher_ckpt=str(tmp_path / 'teacher.pth'), allow_random_teacher=False)
    for key, value in teacher.state_dict().items():
        assert torch.equal(value, model.teacher.network.state_dict()[key])
    model.init_weights()
    assert torch.equal(teacher.fc.weight, model.teacher.network.fc.weight)


@pytest.mark.parametrize(
    'form',
    [
        lambda path: dict(type='Pretrained', checkpoint=path),
        lambda path: dict(type='mmengine.Pretrained', checkpoint=path),
        lambda path: dict(type=PretrainedInit, checkpoint=path),
        lambda path: [
            dict(type='Normal', layer='Linear'),
            dict(type='Pretrained', checkpoint=path),
        ],
    ],
    ids=['name', 'scope', 'class', 'list'],
)
def test_pretrained_init_cfg_of_the_teacher_counts_and_is_strict(form, tmp_path):
    path = str(tmp_path / 'teacher.pth')
    teacher = save_teacher(path)
    with_cfg = dict(TEACHER, init_cfg=form(path))
    with pytest.raises(TypeError):
        MODELS.build(with_cfg)  # the type knows no init_cfg: it is taken out before building
    model = MODELS.build(algorithm_cfg(teacher=with_cfg, allow_random_teacher=False))
    assert torch.equal(teacher.fc.weight, model.teacher.network.fc.weight)
    assert model.teacher.weights == path
    save_teacher(path, classes=5)
    with pytest.raises(ValueError, match='does not fit the teacher'):
        MODELS.build(algorithm_cfg(teacher=with_cfg, allow_random_teacher=True))


@pytest.mark.parametrize(
    ('key', 'value'),
    [('teacher_trainable', True), ('teacher_norm_eval', False), ('student_trainable', False)],
)
def test_what_is_not_supported_says_so(key, value):
    with pytest.raises(ValueError, match=rf'model\.{key}={value} is not supported'):
        build(**{key: value})


@pytest.fixture
def process_group(tmp_path):
    store = torch.distributed.FileStore(str(tmp_path / 'store'), 1)
    torch.distributed.init_process_group('gloo', store=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize('original', [False, True])
def test_a_student_that_fsdp_has_cut_is_refused_in_the_first_step(process_group, original):
    from torch.distributed.fsdp import FullyShardedDataParallel

    model = build()
    FullyShardedDataParallel(model, use_orig_params=original, device_id=torch.device('cpu'))
    # What the wrapper's forward calls; torch 2.1's needs an accelerator's streams before.
    with pytest.raises(RuntimeError, match=r"sharded by torch's FSDP.*strategy=dict\(") as error:
        model(*batch(), mode='loss')
    assert len(str(error.value).splitlines()) == 1


def test_a_student_that_deepspeed_has_cut_is_refused_in_the_first_step():
    model = build()
    model(*batch(), mode='loss')
    other = build()
    other.student.fc.weight.ds_id = 1
    with pytest.raises(RuntimeError, match='sharded by DeepSpeed'):
        other(*batch(), mode='loss')
