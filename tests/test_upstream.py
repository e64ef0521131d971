"""Whatever upstream looks up by name finds the student.

The law: a stock upstream config, distilled with all weights of the distillation at
0, trains as it does alone. Parameter groups with their names, rates and decays in
their order, schedules, modes, averages, predictions and weights are bit for bit the
same. A further config is one line of CASES.
"""

import copy
from typing import NamedTuple

import pytest
import torch
from helpers import TinyClassifier, algorithm_cfg, distiller
from helpers.tiny_training import config
from helpers.upstream import assert_same, average, built, distil, run, stock, watch
from mmdet.models import RetinaNet
from mmengine.hooks import Hook
from mmengine.registry import MODELS

SWITCHED = dict(type='Brighten')
ARCH = dict(embed_dims=16, num_layers=3, num_heads=2, feedforward_channels=32)
#: Warm-ups of 20 epochs in a training of three.
SOON = {'param_scheduler.0.end': 1, 'param_scheduler.1.begin': 1}
LOSS = {'data_preprocessor.num_classes': 5, 'model.head.num_classes': 5}
NO_FILE = {'model.backbone.init_cfg': None}


def vit(**more):
    """A vision transformer of three layers."""
    return {
        'model.backbone.arch': ARCH,
        'model.backbone.img_size': 32,
        'model.backbone.patch_size': 8,
        'model.head.in_channels': 16,
        **LOSS,
        **more,
    }


def convnext(**more):
    """A ConvNeXt of six blocks."""
    arch = dict(depths=[1, 1, 3, 1], channels=[8, 8, 16, 16])
    return {'model.backbone.arch': arch, 'model.head.in_channels': 16, **LOSS, **more}


def rtmdet(**more):
    """An RTMDet as thin as it gets, on one process."""
    bn = dict(type='BN')
    return {
        'model.backbone.norm_cfg': bn,
        'model.neck.norm_cfg': bn,
        'model.bbox_head.norm_cfg': bn,
        'model.backbone.deepen_factor': 0.1,
        'model.backbone.widen_factor': 0.125,
        'model.neck.in_channels': [32, 64, 128],
        'model.neck.out_channels': 16,
        'model.neck.num_csp_blocks': 1,
        'model.bbox_head.in_channels': 16,
        'model.bbox_head.feat_channels': 16,
        'model.bbox_head.num_classes': 3,
        'model.backbone.init_cfg': None,
        'custom_hooks.1.switch_epoch': 2,
        'custom_hooks.1.switch_pipeline': [SWITCHED],
        **more,
    }


YOLOX = {
    'model.backbone.deepen_factor': 0.1,
    'model.backbone.widen_factor': 0.125,
    'model.neck.in_channels': [32, 64, 128],
    'model.neck.out_channels': 16,
    'model.bbox_head.in_channels': 16,
    'model.bbox_head.feat_channels': 16,
    'model.bbox_head.num_classes': 3,
    'model.data_preprocessor.batch_augments.0.random_size_range': (64, 96),
    'model.data_preprocessor.batch_augments.0.interval': 2,
    'custom_hooks.0.num_last_epochs': 1,
}
RETINA = {
    'model.backbone.depth': 18,
    'model.backbone.base_channels': 8,
    'model.backbone.init_cfg': None,
    'model.neck.in_channels': [8, 16, 32, 64],
    'model.neck.out_channels': 16,
    'model.bbox_head.in_channels': 16,
    'model.bbox_head.feat_channels': 16,
    'model.bbox_head.num_classes': 3,
    # A random head sees nothing on the way to -log(0.01).
    'param_scheduler.0.start_factor': 0.5,
}
REGNET = {
    'model.head.num_classes': 5,
    'model.head.topk': (1,),
    'custom_hooks.0.num_samples': 8,
}
MOBILEONE = {
    'model.backbone.arch': dict(
        num_blocks=[1, 1, 1, 1], width_factor=[0.125] * 4, num_conv_branches=[1] * 4,
        num_se_blocks=[0] * 4,
    ),
    'model.head.in_channels': 64,
    'model.head.topk': (1,),
    'custom_hooks.0.schedule': [
        dict(action_epoch=2, train_pipeline=[SWITCHED],
             batch_augments=dict(augments=[dict(type='Mixup', alpha=0.5)])),
        dict(action_epoch=3, loss=dict(type='LabelSmoothLoss', label_smooth_val=0.3,
                                       num_classes=5)),
    ],
    **LOSS,
}  # fmt: skip
SWIN = {
    'model.backbone.arch': dict(embed_dims=8, depths=[1, 1, 2, 1], num_heads=[1, 1, 2, 2]),
    'model.backbone.img_size': 32,
    'model.backbone.patch_size': 2,
    'model.backbone.stage_cfgs.block_cfgs.window_size': 2,
    'model.head.in_channels': 64,
    **LOSS,
}
RESNET = {
    'model.backbone.depth': 18,
    'model.backbone.base_channels': 8,
    'model.backbone.stem_channels': 8,
    'model.head.num_classes': 5,
    'model.head.in_channels': 64,
    'model.head.topk': (1,),
}


class Case(NamedTuple):
    path: str
    options: dict
    source: str = 'head.fc'


#: What upstream looks up, and a stock config with it.
CASES = {
    'layer decay of a ViT, mixup': Case(
        'mmpretrain::mae/benchmarks/vit-base-p16_8xb128-coslr-100e_in1k.py', vit(**NO_FILE)
    ),
    'layer decay of BEiT': Case(
        'mmpretrain::beit/benchmarks/beit-base-p16_8xb128-coslr-100e_in1k.py', vit(**NO_FILE)
    ),
    'layer decay of Swin, clipped': Case(
        'mmpretrain::simmim/benchmarks/swin-base-w7_8xb256-coslr-100e_in1k.py',
        {**SWIN, **NO_FILE},
    ),
    'layer decay of ConvNeXt, EMA beside the origin': Case(
        'mmpretrain::spark/benchmarks/convnextv2-tiny_8xb256-coslr-300e_in1k.py',
        convnext(**NO_FILE),
    ),
    'no decay by names, EMA, init_cfg of the classifier': Case(
        'mmpretrain::deit/deit-base_16xb64_in1k.py', vit(**SOON), 'head.layers.head'
    ),
    'no decay by kinds of layers, EMA': Case(
        'mmpretrain::convnext/convnext-tiny_32xb128_in1k.py', convnext(**SOON)
    ),
    'a recipe that switches, EMA of buffers, a schedule of the decay': Case(
        'mmpretrain::mobileone/mobileone-s1_8xb32_in1k.py', MOBILEONE
    ),
    'precise statistics of batch norms': Case(
        'mmpretrain::regnet/regnetx-400mf_8xb128_in1k.py', REGNET
    ),
    'a scaled learning rate, frozen stages': Case(
        'mmpretrain::resnet/resnet18_8xb32_in1k.py',
        {
            **RESNET,
            'model.backbone.frozen_stages': 1,
            'model.backbone.norm_eval': True,
            'auto_scale_lr.enable': True,
        },
    ),
    "mmdet's layer decay of ConvNeXt, a pipeline that switches": Case(
        'mmdet::rtmdet/rtmdet_l_convnext_b_4xb32-100e_coco.py',
        rtmdet(**{
            'model.backbone': dict(
                type='mmpretrain.ConvNeXt', arch=dict(depths=[1, 1, 3, 1], channels=[8] * 4),
                out_indices=[1, 2, 3], gap_before_final_norm=False,
            ),
            'model.neck.in_channels': [8, 8, 8],
        }),
        'neck.out_convs.0.conv',
    ),
    'a pipeline that switches, ExpMomentumEMA': Case(
        'mmdet::rtmdet/rtmdet_s_8xb32-300e_coco.py', rtmdet(), 'neck.out_convs.0.conv'
    ),
    'the mode switch of YOLOX, ExpMomentumEMA': Case(
        'mmdet::yolox/yolox_tiny_8xb8-300e_coco.py', YOLOX, 'neck.out_convs.0.conv'
    ),
    'frozen stages and statistics of a detector': Case(
        'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py', RETINA, 'neck.fpn_convs.0.conv'
    ),
}  # fmt: skip


@pytest.mark.parametrize('name', CASES)
def test_a_stock_config_trains_as_it_does_alone(name, tmp_path):
    path, options, source = CASES[name]
    cfg = stock(path, options, tmp_path)
    alone, seen = run(cfg)
    assert len(seen.groups) == 6 and len(seen.predictions) in (8, 16)
    assert_trained_alike((alone, seen), run(distil(cfg, source)))
    assert_something_happened(name, seen, alone)


def assert_trained_alike(expected, got):
    """Both runs are the same in all that was seen of them."""
    (alone, seen_alone), (distilled, seen) = expected, got
    assert len(seen_alone.groups) == len(seen.groups)
    for before, after in zip(seen_alone.groups, seen.groups, strict=True):
        assert_same(before, after)
    assert_same(seen_alone.modes, seen.modes)
    assert_same(alone.model.state_dict(), distilled.model.state_dict())
    assert_same(average(alone), average(distilled))
    assert_same(seen_alone.predictions, seen.predictions)


def assert_something_happened(name, seen, runner):
    """The config did what its name says: else the law would hold for nothing."""
    first, last = seen.groups[0], seen.groups[-1]
    rates = {group['lr'] for group in first}
    if 'layer decay' in name:
        assert len(rates) >= 4
    if 'decay by' in name:
        assert len({group['weight_decay'] for group in first}) == 2
    if 'EMA' in name:
        (ema,) = average(runner)
        assert not all(torch.equal(ema[f'module.{k}'], v)
                       for k, v in runner.model.state_dict().items())  # fmt: skip
    if 'switches' in name:
        assert runner.train_dataloader.dataset.pipeline is not None
    if 'mode switch' in name:
        assert runner.train_dataloader.dataset.brighten and runner.model.bbox_head.use_l1
    if 'schedule of the decay' in name:
        assert first[0]['weight_decay'] != last[0]['weight_decay']
    if 'frozen' in name:
        assert seen.modes[0]
    if 'scaled' in name:
        assert first[0]['initial_lr'] == pytest.approx(0.1 * 4 / 256)


DEIT = 'mmpretrain::deit/deit-base_16xb64_in1k.py'
LINEAR = 'head.layers.head'


def test_init_cfg_of_the_algorithm_is_that_of_the_student_alone(tmp_path):
    cfg = stock(DEIT, vit(**SOON), tmp_path)
    distilled = distil(cfg, LINEAR, init_cfg=cfg.model.init_cfg)
    del distilled.model.architecture['init_cfg']
    assert_trained_alike(run(cfg), run(distilled))


def test_load_from_takes_what_the_student_alone_has_saved(tmp_path):
    cfg = stock(DEIT, vit(**SOON), tmp_path)
    cfg.default_hooks.checkpoint = dict(type='CheckpointHook', interval=1)
    first, _ = run(cfg)
    later = copy.deepcopy(cfg)
    later.load_from = str(tmp_path / 'epoch_3.pth')
    later.default_hooks.checkpoint = None
    later.optim_wrapper.optimizer.lr = 1e-3
    alone = run(later)
    assert not torch.equal(alone[0].model.head.layers.head.weight,
                           first.model.head.layers.head.weight)  # fmt: skip
    assert_trained_alike(alone, run(distil(later, LINEAR)))


def test_resuming_as_a_distillation_what_the_student_alone_has_begun(tmp_path):
    cfg = stock(DEIT, vit(**SOON), tmp_path)
    cfg.default_hooks.checkpoint = dict(type='CheckpointHook', interval=1)
    cfg.custom_hooks.append(dict(type='kd_plugins.SeedByProgressHook'))
    whole, seen = run(cfg)
    resumed = distil(cfg, LINEAR)
    resumed.update(resume=True, load_from=str(tmp_path / 'epoch_2.pth'))
    got, seen_again = run(resumed)
    assert_same(seen.groups[4:], seen_again.groups)
    assert_same(whole.model.state_dict(), got.model.state_dict())
    assert_same(average(whole), average(got))


def test_runners_that_take_turns_train_as_each_does_alone(tmp_path):
    cfgs = [
        stock(CASES[name].path, CASES[name].options, tmp_path)
        for name in ('layer decay of a ViT, mixup', 'precise statistics of batch norms')
    ]
    for cfg in cfgs:
        cfg.custom_hooks.append(dict(type='kd_plugins.SeedByProgressHook'))

    def train(runner):
        runner.set_randomness(seed=0)
        runner.train()

    alone = [built(cfg) for cfg in cfgs]
    for runner in alone:
        train(runner)
    first, second = (built(distil(cfg, 'head.fc')) for cfg in cfgs)

    class Meanwhile(Hook):
        """Leaves the first runner for the second one in its first epoch."""

        def after_train_epoch(self, runner):
            if runner.epoch == 0:
                train(second)

    first.register_hook(Meanwhile())
    train(first)
    for expected, got in zip(alone, (first, second), strict=True):
        assert_trained_alike((expected, watch(expected)), (got, watch(got)))


@MODELS.register_module(force=True)
class RetinaNetOfEpochs(RetinaNet):
    """A detector that weighs its losses by what mmdet's SetEpochInfoHook tells it."""

    def set_epoch(self, epoch):
        self.epoch = epoch

    def loss(self, *args, **kwargs):
        losses = super().loss(*args, **kwargs)
        return {k: [v * (1 + self.epoch) for v in values] for k, values in losses.items()}


def test_a_detector_is_told_its_epoch(tmp_path):
    path, options, source = CASES['frozen stages and statistics of a detector']
    cfg = stock(path, {**options, 'model.type': 'RetinaNetOfEpochs'}, tmp_path)
    cfg.custom_hooks.append(dict(type='SetEpochInfoHook'))
    alone, seen = run(cfg)
    assert alone.model.epoch == 2
    assert_trained_alike((alone, seen), run(distil(cfg, source)))


@MODELS.register_module(force=True)
class WithLambda(TinyClassifier):
    """A classifier whose loss mmpretrain's DenseCLHook switches on."""

    loss_lambda = 0.5

    def forward(self, inputs, data_samples=None, mode='tensor'):
        out = super().forward(inputs, data_samples, mode)
        return dict(loss=out['loss'] * self.loss_lambda) if mode == 'loss' else out


def test_an_attribute_that_a_hook_sets_reaches_the_student(tmp_path):
    none = distiller(dict(type='kd_plugins.KDLoss', tau=2.0, loss_weight=0.0))
    student = dict(type='WithLambda')
    ends = []
    for model in (dict(student), algorithm_cfg(architecture=dict(student), distiller=none)):
        cfg = config(tmp_path, model=model, default_hooks=dict(checkpoint=None))
        cfg.custom_hooks += [dict(type='mmpretrain.DenseCLHook', start_iters=2), dict(type='Watch')]
        cfg.update(val_cfg=None, val_dataloader=None, val_evaluator=None)
        ends.append(run(cfg))
    assert_trained_alike(*ends)
    assert ends[1][0].model.student.loss_lambda == 0.5
