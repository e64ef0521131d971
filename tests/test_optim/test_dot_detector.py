"""mmdet's own localisation distillation (LD) under DOT, untouched."""

import copy

import pytest
import torch
from helpers import ROOT
from helpers.detection import images
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope

CONFIG = ROOT / 'configs/dot/dot_ld_gflv1_r101_r18_fpn_1x_coco.py'


def small(cfg):
    """The stock config with thin heads, and a teacher as small as the student."""
    student = cfg.model
    student.backbone.init_cfg = None
    for network in (student, teacher := Config.fromfile(student.teacher_config).model):
        network.backbone.update(copy.deepcopy(student.backbone))
        network.neck.update(in_channels=[64, 128, 256, 512], out_channels=32)
        network.bbox_head.update(num_classes=3, in_channels=32, feat_channels=32, stacked_convs=1)
    student.update(teacher_config=dict(model=teacher), teacher_ckpt=None)
    return student


@pytest.fixture
def detector():
    cfg = Config.fromfile(CONFIG)
    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)
    model = MODELS.build(small(cfg))
    # Detectors start with a GroupNorm and biases that hide a wrong gradient.
    for p in model.parameters():
        if p.requires_grad and p.dim() == 1:
            torch.nn.init.normal_(p, 0.2, 0.1)
    model.train()
    return model, cfg.optim_wrapper


def by_hand(model, steps, lr, mu, delta, decay):
    """Each part's gradient from a forward pass of its own."""
    params = [p for p in model.parameters() if p.requires_grad]
    buffers = [{}, {}]
    for step in range(steps):
        both = []
        for distillation in (False, True):
            data = model.data_preprocessor(images(step), True)
            losses = model(**data, mode='loss')
            part = [v for k, values in losses.items() if (k == 'loss_ld') is distillation
                    for v in (values if isinstance(values, list) else [values])]  # fmt: skip
            both.append(torch.autograd.grad(sum(part), params, allow_unused=True))
        for i, p in enumerate(params):
            pair = [grads[i] for grads in both]
            alone = any(g is None for g in pair)
            applied = 0.0
            for side, grad in enumerate(pair):
                if grad is None:
                    continue
                momentum = mu if alone else mu + (2 * side - 1) * delta
                grad = grad + decay * p.detach() if side == 0 else grad
                begun = i in buffers[side]
                buffers[side][i] = momentum * buffers[side][i] + grad if begun else grad
                applied = applied + buffers[side][i]
            p.data -= lr * applied


def test_a_stock_detector_with_an_ld_head_trains_with_dot(detector):
    model, cfg = detector
    expected = copy.deepcopy(model)
    assert not any('teacher' in name for name, _ in model.named_parameters())
    wrapper = build_optim_wrapper(model, cfg)
    wrapper.initialize_count_status(model, 0, 3)
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    hub = MessageHub.get_current_instance()
    wrapper.cosine_wanted = True
    for step in range(3):
        log = model.train_step(images(step), wrapper)
        assert log['distill_loss'] > 0 and log['task_loss'] > 0
        torch.testing.assert_close(log['distill_loss'], log['loss_ld'])
    assert abs(hub.get_scalar('train/grad_cosine').current()) > 1e-6
    by_hand(expected, 3, lr=0.01, mu=0.9, delta=0.075, decay=1e-4)
    moved = 0
    for (name, ours), theirs in zip(model.named_parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6, msg=name)
        moved += not torch.equal(ours, start[name])
    assert moved > 40
