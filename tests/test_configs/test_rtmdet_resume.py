"""mmyolo's RTMDet recipe, interrupted before, at and after the end of its distillation."""

import pytest
import torch
from helpers import ROOT, tiny_training  # noqa: F401  (the second lets runners start faster)
from helpers.few_scenes import few_scenes
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

#: Of four epochs, the first without the term and with the second pipeline.
STOP = 2
TINY, SMALL = (dict(deepen_factor=1 / 6, widen_factor=x) for x in (1 / 8, 1 / 4))


@HOOKS.register_module(force=True)
class Notes(Hook):
    """Notes of every epoch how often the teacher was asked, and whether pictures are mosaics."""

    def before_train_epoch(self, runner):
        self.asked = 0
        network = runner.model.teacher.network
        self.handle = network.backbone.register_forward_hook(self._ask)
        pipeline = runner.train_dataloader.dataset.pipeline.transforms
        self.names = [type(transform).__name__ for transform in pipeline]

    def _ask(self, *_):
        self.asked += 1

    def after_train_epoch(self, runner):
        self.handle.remove()
        runner.notes = getattr(runner, 'notes', {})
        runner.notes[runner.epoch] = (self.asked, 'CachedMosaic' in self.names)


def narrow(model, factors, width):
    model['backbone'].update(factors, init_cfg=None)
    model['neck'].update(in_channels=[width, 2 * width, 4 * width], out_channels=width,
                         num_csp_blocks=1)  # fmt: skip
    model['bbox_head'].update(in_channels=width, feat_channels=width, num_classes=10)
    return model


@pytest.fixture(scope='module')
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp('rtmdet')
    root = few_scenes(folder, train=4, val=2)['train_dataloader.dataset.data_root']
    return folder, root


def recipe(config, name, workers):
    """The config with narrow networks, small pictures and few epochs; else as it is shipped."""
    folder, root = config
    cfg = Config.fromfile(ROOT / 'configs/cwd/cwd_rtmdet_s_tiny_8xb32-300e_coco.py')
    teacher = Config.fromfile(ROOT / 'configs/cwd/cwd_rtmdet_m_s_8xb32-300e_coco.py')
    model = cfg.model
    model.architecture = narrow(model.architecture, TINY, 32)
    model.teacher = dict(narrow(teacher.model.architecture, SMALL, 64))
    model.allow_random_teacher = True
    model.distiller.connectors.projector.update(in_channels=[32] * 3, out_channels=[64] * 3)
    for pipeline in (cfg.train_dataloader.dataset.pipeline, cfg.train_pipeline_stage2):
        for transform in pipeline:
            for key in ('scale', 'img_scale', 'size', 'crop_size'):
                if key in transform:
                    factor = transform[key][0] // 640
                    transform[key] = (64 * factor, 64 * factor)
    for hook in cfg.custom_hooks:
        kind = hook.type.split('.')[-1]
        if kind == 'PipelineSwitchHook':
            hook.update(switch_epoch=STOP, switch_pipeline=cfg.train_pipeline_stage2)
        if kind == 'StopDistillHook':
            hook.stop_epoch = STOP
    cfg.custom_hooks.append(dict(type='Notes'))
    loader = cfg.train_dataloader
    loader.update(
        batch_size=2, num_workers=workers, persistent_workers=False, pin_memory=False,
        worker_init_fn=dict(type='kd_plugins.seed_worker'),
    )  # fmt: skip
    loader.dataset.update(
        data_root=root, ann_file='annotations/train.json', data_prefix=dict(img='train/'),
        metainfo=dict(classes=tuple('0123456789')),
    )  # fmt: skip
    cfg.train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=4, val_interval=99)
    for key in [key for key in cfg if key.startswith(('val_', 'test_'))]:
        cfg[key] = None
    cfg.param_scheduler = [dict(type='LinearLR', start_factor=0.5, by_epoch=True, end=4)]
    cfg.default_hooks.checkpoint.update(interval=1, max_keep_ckpts=-1, save_best=None)
    cfg.work_dir = str(folder / name)
    cfg.experiment_name = f'rtmdet_{name}'
    cfg.log_level = 'ERROR'
    return cfg


def trained(cfg):
    runner = Runner.from_cfg(cfg)
    runner.train()
    return runner, torch.load(f'{cfg.work_dir}/epoch_4.pth', weights_only=False)


@pytest.fixture(scope='module', params=[0, pytest.param(1, marks=pytest.mark.long)])
def whole(config, request):
    return request.param, *trained(recipe(config, f'whole_{request.param}', request.param))


def test_the_teacher_is_not_asked_after_the_end(whole):
    _, runner, saved = whole
    # Two steps an epoch; the pipeline changes with the term.
    assert runner.notes == {0: (2, True), 1: (2, True), 2: (0, False), 3: (0, False)}
    assert 'ema_state_dict' in saved


@pytest.mark.parametrize('after', [1, STOP, 3])
def test_an_interrupted_run_ends_in_the_same_weights(after, config, whole):
    workers, undisturbed, expected = whole
    cfg = recipe(config, f'after_{after}_{workers}', workers)
    cfg.load_from, cfg.resume = f'{undisturbed.work_dir}/epoch_{after}.pth', True
    runner, found = trained(cfg)
    assert runner.notes == {k: v for k, v in undisturbed.notes.items() if k >= after}
    for part in ('state_dict', 'ema_state_dict'):
        assert found[part].keys() == expected[part].keys()
        for name, value in expected[part].items():
            assert torch.equal(found[part][name], value), (part, name)
