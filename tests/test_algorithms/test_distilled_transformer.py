"""A vision transformer beside a CNN teacher, from the config to the stock model."""

import copy
import time

import pytest
import torch
from helpers import ROOT
from helpers.networks import build, cnn, distilled, install_timm, remove_timm, resnet, vit
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner
from torch import nn

from kd_plugins.files.export_student import export_student
from kd_plugins.files.weights import load_weights
from kd_plugins.structures import Progress


def config(tmp_path, epochs=2, **changes):
    cfg = Config.fromfile(ROOT / 'configs/cskd/cskd_digits.py')
    cfg.model.update(teacher_ckpt=None, allow_random_teacher=True)
    cfg.train_dataloader.dataset.indices = 64
    cfg.train_cfg.update(max_epochs=epochs, val_interval=epochs)
    cfg.default_hooks.checkpoint.interval = 1
    cfg.default_hooks.checkpoint.max_keep_ckpts = -1
    cfg.work_dir = str(tmp_path)
    cfg.experiment_name = f'{tmp_path.name}_{time.time_ns()}'
    cfg.merge_from_dict(changes)
    return cfg


def read(path):
    return torch.load(path, map_location='cpu', weights_only=False)


def stock(cfg, student):
    """mmpretrain's own model of the same architecture, and how to test it."""
    cfg = copy.deepcopy(cfg)
    cfg.model = copy.deepcopy(student)
    cfg.model.backbone.out_type = 'cls_token'
    cfg.model.head = dict(type='DeiTClsHead', num_classes=10, in_channels=32)
    cfg.experiment_name = f'stock_{time.time_ns()}'
    return cfg


def test_a_trained_checkpoint_is_the_stock_models_and_evaluates_the_same(tmp_path):
    cfg = config(tmp_path, **{'model.architecture.head.predictions': 2})
    runner = Runner.from_cfg(cfg)
    before = copy.deepcopy(runner.model.student.state_dict())
    runner.train()
    measured = runner.val_loop.run()
    saved = read(tmp_path / 'epoch_2.pth')['state_dict']
    assert all(not key.startswith(('architecture', 'distiller', 'teacher')) for key in saved)
    for key in ('head.layers.head_dist.weight', 'backbone.dist_token', 'backbone.cls_token'):
        assert not torch.equal(saved[key], before[key])
    theirs = stock(cfg, cfg.model.architecture)
    tester = Runner.from_cfg(theirs)
    assert type(tester.model.head).__module__.startswith('mmpretrain.')
    tester.model.load_state_dict(saved)
    assert tester.test() == measured
    pictures = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    ours, other = runner.model.eval().student, tester.model.eval()
    torch.testing.assert_close(ours(pictures, mode='tensor'), other(pictures, mode='tensor'))


def test_the_averaged_weights_are_what_is_evaluated_and_saved(tmp_path):
    cfg = config(tmp_path)
    cfg.custom_hooks.append(dict(type='EMAHook', momentum=0.3, priority='ABOVE_NORMAL'))
    cfg.default_hooks.checkpoint.interval = 1
    runner = Runner.from_cfg(cfg)
    measured = {}

    def look(module, args, output):
        if not module.training:
            measured.update(inputs=args[0], tokens=output[-1])

    runner.model.student.backbone.register_forward_hook(look)
    runner.train()
    saved = read(tmp_path / 'epoch_2.pth')
    raw = {k: v.clone() for k, v in runner.model.student.state_dict().items()}
    # The raw ones lie beside them.
    for key, value in raw.items():
        assert torch.equal(saved['ema_state_dict'][f'module.{key}'], value), key
    fresh = MODELS.build(cfg.model.architecture).eval()
    load_weights(fresh, str(tmp_path / 'epoch_2.pth'))
    torch.testing.assert_close(fresh.backbone(measured['inputs'])[-1], measured['tokens'])
    fresh.load_state_dict(raw)
    assert not torch.allclose(fresh.backbone(measured['inputs'])[-1], measured['tokens'])
    for chosen, wanted in ((False, saved['state_dict']), (True, raw)):
        exported = export_student(cfg, str(tmp_path / 'epoch_2.pth'), chosen)['state_dict']
        assert exported.keys() == raw.keys()
        assert all(torch.equal(exported[key], wanted[key]) for key in raw)


def test_a_resumed_training_has_the_targets_of_an_undisturbed_one(tmp_path):
    whole, parts = tmp_path / 'whole', tmp_path / 'parts'
    Runner.from_cfg(config(whole, 4)).train()
    first = config(parts, 4)
    runner = Runner.from_cfg(first)

    class Interrupted(Exception):
        pass

    def stop(runner):
        if runner.epoch == 2:
            raise Interrupted

    runner.register_hook(_hook(stop), priority='LOWEST')
    with pytest.raises(Interrupted):
        runner.train()
    second = config(parts, 4)
    second.resume = True
    Runner.from_cfg(second).train()
    with pytest.raises(ValueError, match='has no ema_state_dict.*leave --raw out'):
        export_student(second, str(parts / 'epoch_4.pth'), raw=True)
    a, b = (read(path / 'epoch_4.pth')['state_dict'] for path in (whole, parts))
    assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def _hook(before_epoch):
    from mmengine.hooks import Hook

    class Stop(Hook):
        def before_train_epoch(self, runner):
            before_epoch(runner)

    return Stop()


@pytest.mark.parametrize('augment', ['Mixup', 'CutMix'])
def test_the_teacher_sees_what_mixup_made_and_the_labels_are_mixed(augment, tmp_path):
    cfg = config(tmp_path, 1, **{'train_cfg.val_interval': 1})
    cfg.model.architecture.train_cfg = dict(augments=dict(type=augment, alpha=1.0))
    # In iterations, since one epoch is none.
    cfg.model.distiller.distill_losses.loss_cskd.decay = dict(form='linear', by_epoch=False)
    runner = Runner.from_cfg(cfg)
    seen = {}
    model = runner.model

    def look(name):
        return lambda module, args, *rest: seen.setdefault(name, []).append(args[0].clone())

    model.student.backbone.register_forward_hook(look('student'))
    model.teacher.network.backbone.register_forward_hook(look('teacher'))
    labels = []
    model.student.head.loss_module.register_forward_hook(
        lambda module, args, output: labels.append(args[1])
    )
    runner.train()
    steps = len(labels)
    assert steps == 2
    for student, teacher in zip(seen['student'][:steps], seen['teacher'][:steps], strict=True):
        torch.testing.assert_close(student, teacher)
    assert all(label.shape == (32, 10) for label in labels)
    assert any((label.max(dim=1).values < 0.999).any() for label in labels)


def test_epochs_in_a_loop_without_them_are_refused_before_a_weight_moves(tmp_path):
    cfg = config(tmp_path, 1)
    runner = Runner.from_cfg(cfg)
    runner.model.init_weights()
    with pytest.raises(ValueError, match=r"CSKDLoss.decay='linear' counts epochs"):
        runner.train()


def algorithm(student, teacher, **changes):
    cfg = Config.fromfile(ROOT / 'configs/cskd/cskd_digits.py').model
    init_default_scope('mmpretrain')
    networks = dict(architecture=student, teacher=teacher, teacher_ckpt=None)
    return MODELS.build(dict(cfg, allow_random_teacher=True, **networks, **changes))


def xcit():
    """A network whose positions are nowhere to be read."""
    return dict(
        type='ImageClassifier',
        backbone=dict(
            type='XCiT',
            patch_size=16,
            embed_dims=16,
            depth=1,
            num_heads=2,
            mlp_ratio=1,
            qkv_bias=True,
            layer_scale_init_value=1.0,
            tokens_norm=True,
            out_type='cls_token',
        ),  # fmt: skip
        head=dict(type='LinearClsHead', num_classes=5, in_channels=16),
    )


@pytest.mark.parametrize(
    'student, teacher, says',
    [
        (distilled, xcit, r'teacher_recorders: DenseLogits finds neither a feature map nor'),
        (xcit, resnet, r'student_recorders.token.source='),
        (
            distilled,
            lambda: resnet(7),
            r'loss_deit would compare different classes: .*5 .*7 classes',
        ),
    ],
)
def test_a_pair_that_cannot_be_distilled_is_refused_when_it_is_built(student, teacher, says):
    with pytest.raises(ValueError, match=rf'model\.distiller.*{says}') as caught:
        algorithm(student(), teacher())
    assert len(str(caught.value).splitlines()) == 1


def dense_only(student, teacher):
    """CSKD without its token, so that only the dense logits can be compared."""
    record = dict(type='kd_plugins.DenseLogits')
    return algorithm(
        student,
        teacher,
        distiller=dict(
            student_recorders=dict(dense=record),
            teacher_recorders=dict(dense=record),
            distill_losses=dict(loss_cskd=dict(type='kd_plugins.CSKDLoss')),
            loss_forward_mappings=dict(
                loss_cskd=dict(
                    preds_S=dict(recorder='dense', from_student=True),
                    preds_T=dict(recorder='dense', from_student=False),
                )
            ),
        ),
    )


def test_dense_logits_of_other_classes_or_of_no_patches_are_refused_when_built():
    dense_only(distilled(), resnet())
    says = r"loss_cskd would compare different classes: 'head.layers.head_dist' .* 5 .* 7 classes"
    with pytest.raises(ValueError, match=says):
        dense_only(distilled(), resnet(7))
    says = r'model.distiller.student_recorders: DenseLogits finds neither a feature map nor patch'
    with pytest.raises(ValueError, match=says):
        dense_only(xcit(), resnet())


def test_a_missing_timm_is_one_sentence(monkeypatch):
    remove_timm(monkeypatch)
    cfg = Config.fromfile(ROOT / 'configs/cskd/cskd_regnety-16gf_deit-tiny_8xb128_in1k.py')
    init_default_scope('mmpretrain')
    with pytest.raises(ImportError, match=r'TIMMBackbone requires timm, please install') as caught:
        MODELS.build(cfg.model)
    assert len(str(caught.value).splitlines()) == 1


def test_a_published_checkpoint_of_timm_loads_into_the_teacher(monkeypatch, tmp_path):
    install_timm(monkeypatch, width=24)
    import timm

    published = timm.create_model(model_name='regnety_160')
    published.head = nn.Sequential()
    published.head.fc = nn.Linear(24, 5)
    torch.save(dict(model=published.state_dict()), tmp_path / 'regnety.pth')
    teacher = build(cnn(dict(type='TIMMBackbone', model_name='regnety_160'), 24))
    load_weights(teacher, str(tmp_path / 'regnety.pth'))
    assert torch.equal(teacher.backbone.timm_model.stem.weight, published.stem.weight)
    assert torch.equal(teacher.head.fc.weight, published.head.fc.weight)
    # What mmengine saved of it keeps its names.
    torch.save(dict(state_dict=teacher.state_dict()), tmp_path / 'ours.pth')
    load_weights(
        build(cnn(dict(type='TIMMBackbone', model_name='x'), 24)), str(tmp_path / 'ours.pth')
    )


def test_a_transformer_may_teach_too():
    model = dense_only(distilled(), vit(out_type='cls_token'))
    from mmpretrain.structures import DataSample

    model.set_progress(Progress(iter=0, max_iters=100, epoch=0, max_epochs=10))
    samples = [DataSample().set_gt_label(i) for i in range(3)]
    losses = model(torch.randn(3, 3, 32, 32), samples, mode='loss')
    losses['distill.loss_cskd'].backward()
    assert model.student.backbone.patch_embed.projection.weight.grad.any()
    assert all(p.grad is None for p in model.teacher.network.parameters())
