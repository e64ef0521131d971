"""Pictures with boxes beside pictures without, in whole trainings of detectors."""

import random

import cv2
import numpy as np
import pytest
import torch
from helpers.detection import build, detector, distillation, images
from helpers.few_scenes import few_scenes
from mmengine.config import ConfigDict
from mmengine.hooks import Hook
from mmengine.logging import MessageHub
from mmengine.registry import DATASETS, HOOKS, MODELS, DefaultScope
from mmengine.runner import Runner

from kd_plugins.datasets import PictureFolder, WithUnlabelled

LOAD = dict(type='LoadImageFromFile')
FLIP = dict(type='RandomFlip', prob=0.5)
LABELS = dict(type='LoadAnnotations', with_bbox=True)
PACK = dict(type='PackDetInputs')
CLASSES = tuple('0123456789')


@pytest.fixture(scope='module')
def scenes(tmp_path_factory):
    root = tmp_path_factory.mktemp('boxes')
    few_scenes(root)
    generator = np.random.default_rng(0)
    for i in range(6):
        path = root / f'unlabelled/{"xy"[i % 2]}/{i}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        shape = (64, 96 if i % 2 else 64, 3)
        cv2.imwrite(str(path), generator.integers(0, 255, shape, dtype=np.uint8))
    (root / 'unlabelled/notes.txt').write_text('no picture')
    return root


def both(root, **unlabelled):
    return dict(
        type='kd_plugins.WithUnlabelled',
        labelled=dict(
            type='mmdet.CocoDataset',
            data_root=f'{root}/scenes_8_4/',
            ann_file='annotations/train.json',
            data_prefix=dict(img='train/'),
            metainfo=dict(classes=CLASSES),
            pipeline=[LOAD, LABELS, FLIP, PACK],
        ),
        unlabelled=dict(
            type='kd_plugins.PictureFolder', data_root=f'{root}/unlabelled',
            pipeline=[LOAD, FLIP, PACK], **unlabelled,
        ),
    )  # fmt: skip


def built(cfg):
    with DefaultScope.overwrite_default_scope('mmdet'):
        return DATASETS.build(cfg)


def test_a_folder_gives_its_pictures_at_any_depth_and_nothing_else(scenes, tmp_path):
    dataset = built(both(scenes)['unlabelled'])
    names = [dataset.get_data_info(i)['img_path'].rsplit('/', 2)[1:] for i in range(len(dataset))]
    assert names == [['x', f'{i}.png'] for i in (0, 2, 4)] + [['y', f'{i}.png'] for i in (1, 3, 5)]
    for folder, says in ((tmp_path, 'holds no pictures'), (tmp_path / 'no', 'is no folder')):
        with pytest.raises(ValueError, match=says):
            PictureFolder(str(folder))
    cfg = both(scenes)['unlabelled']
    for prob in (0.0, 1.0):
        pipeline = [dict(FLIP, prob=prob), PACK]
        with pytest.raises(ValueError, match=r'PictureFolder.pipeline .RandomFl.* loads no pict'):
            built(dict(cfg, pipeline=pipeline))[0]


@pytest.mark.parametrize('step', [
    dict(type='RandomAffine'), dict(type='MinIoURandomCrop'), dict(type='FilterAnnotations'),
    dict(type='RandomShift', prob=1.0),
], ids=lambda step: step['type'])  # fmt: skip
def test_steps_that_read_boxes_are_named(scenes, step):
    dataset = built(dict(both(scenes)['unlabelled'], pipeline=[LOAD, step, PACK]))
    with pytest.raises(ValueError, match=rf'PictureFolder.pipeline: {step["type"]} reads boxes, '):
        [dataset[i] for i in range(len(dataset))]


MIXING = ('Mosaic', 'CachedMosaic', 'MixUp', 'CachedMixUp', 'CopyPaste')


@pytest.mark.parametrize('kind', MIXING)
def test_steps_that_mix_pictures_are_named_when_the_dataset_is_built(scenes, kind):
    step = dict(type=kind) if kind == 'CopyPaste' else dict(type=kind, img_scale=(32, 32))
    with pytest.raises(ValueError, match=rf'PictureFolder.pipeline: {kind} mixes pictures that ha'):
        built(dict(both(scenes)['unlabelled'], pipeline=[LOAD, step, PACK]))
    # Of labelled ones those that need nothing around them.
    for part in ('labelled', 'unlabelled'):
        cfg = both(scenes)
        cfg[part] = dict(cfg['labelled'], pipeline=[LOAD, LABELS, step, PACK])
        if 'Cached' not in kind:
            with pytest.raises(ValueError, match=rf'{part}.pipeline: {kind} .*give .*CachedMosaic'):
                built(cfg)
            continue
        dataset, of_part = built(cfg), range(8) if part == 'labelled' else range(8, 14)
        samples = [dataset[i]['data_samples'] for i in [*of_part] * 3]
        assert all(('gt_instances' in sample) == (part == 'labelled') for sample in samples)


def test_boxes_are_taken_off_and_missing_ones_named(scenes):
    dataset = built(both(scenes))
    assert isinstance(dataset, WithUnlabelled)
    kinds = ['gt_instances' in dataset[i]['data_samples'] for i in range(len(dataset))]
    assert kinds == [True] * 8 + [False] * 6
    twice = both(scenes)
    twice['unlabelled'] = twice['labelled']
    dataset = built(twice)
    assert len(dataset[0]['data_samples'].gt_instances) > 0
    assert 'gt_instances' not in dataset[8]['data_samples']
    # Upstream's hook exchanges the pipeline of the whole training set.
    dataset.pipeline = built(both(scenes)['unlabelled']).pipeline
    with pytest.raises(ValueError, match='train/000000.png.* of WithUnlabelled.labelled has no la'):
        dataset[0]
    assert dataset.pipeline is dataset.datasets[0].pipeline
    twice['unlabelled'] = dict(twice['labelled'], pipeline=[LOAD])
    with pytest.raises(ValueError, match=r"WithUnlabelled.unlabelled packs no .*PackDetInputs'"):
        built(twice)[8]


def preprocess(batch):
    student = detector('GFL')
    student['data_preprocessor'].update(type='kd_plugins.DetDataPreprocessor')
    model = build(student)
    return model.data_preprocessor(batch, True)


def mixed(kinds, sizes):
    batch = images(0, sizes=sizes)
    for sample, labelled in zip(batch['data_samples'], kinds, strict=True):
        if not labelled:
            del sample.gt_instances
    return batch


def test_both_kinds_are_padded_to_their_own_size():
    sizes = [(64, 64), (96, 40), (40, 128)]
    batch = preprocess(mixed([True, False, True], sizes))
    assert batch['inputs'].shape == (2, 3, 64, 128)
    others = batch['unlabelled']
    assert others['inputs'].shape == (1, 3, 96, 64)
    assert all('gt_instances' in sample for sample in batch['data_samples'])
    (sample,) = others['data_samples']
    assert 'gt_instances' not in sample and sample.batch_input_shape == (96, 64)
    alone = preprocess(images(0, sizes=sizes))
    assert 'unlabelled' not in alone and alone['inputs'].shape == (3, 3, 96, 128)
    torch.testing.assert_close(alone['inputs'][1, :, :96, :64], others['inputs'][0])
    none = preprocess(mixed([False] * 3, sizes))
    assert 'unlabelled' not in none and 'gt_instances' not in none['data_samples'][0]


def test_batch_augments_do_the_same_to_both_kinds_as_to_the_labelled_alone():
    """Upstream's draws a size for the next batches, of the shape of the one before."""
    resize = dict(type='BatchSyncRandomResize', random_size_range=(32, 320), size_divisor=32)
    student = detector('GFL')
    student['data_preprocessor'].update(
        type='kd_plugins.DetDataPreprocessor', batch_augments=[dict(resize, interval=3)]
    )
    both, alone = build(student).data_preprocessor, build(student).data_preprocessor
    sizes, random_states = [(96, 96), (96, 160), (96, 96)], []
    for preprocessor in (both, alone):
        random.seed(0)
        shapes = []
        for i in range(12):
            MessageHub.get_current_instance().update_info('iter', i)
            batch = images(i, sizes=sizes)
            if preprocessor is both:
                batch = mixed([True, False, True], sizes)
            else:
                batch = {k: [v[0], v[2]] for k, v in batch.items()}
            batch = preprocessor(batch, True)
            shapes.append(tuple(batch['inputs'].shape[-2:]))
            if preprocessor is both and i > 2:
                (other,) = batch['unlabelled']['data_samples']
                assert batch['unlabelled']['inputs'].shape[-2:] == shapes[-1]
                assert other.batch_input_shape == shapes[-1]
        random_states.append((shapes, random.getstate()))
    assert random_states[0] == random_states[1]
    assert len({*random_states[0][0]}) > 2


@pytest.mark.parametrize('augments', [[], [dict(type='BatchFixedSizePad', size=(160, 160))]])
def test_a_teacher_of_its_own_preprocessor_sees_both_kinds_as_that_pads_them(augments):
    student, teacher = detector('GFL'), detector('GFL', width=16)
    student['data_preprocessor'].update(
        type='kd_plugins.DetDataPreprocessor', batch_augments=augments
    )
    own = dict(
        type='DetDataPreprocessor', mean=[10.0, 20.0, 30.0], std=[5.0, 6.0, 7.0],
        bgr_to_rgb=True, pad_size_divisor=32, batch_augments=augments,
    )  # fmt: skip
    teacher['data_preprocessor'] = own
    model = build(student, teacher, changes=dict(pseudo_boxes=dict(score=0.4)))
    sizes = [(64, 64), (96, 40), (40, 128), (50, 70)]
    given = mixed([True, False, True, False], sizes)
    batch = model.data_preprocessor(given, True)
    # The batch stays as it was.
    assert ['gt_instances' in each for each in given['data_samples']] == [True, False] * 2
    for part, chosen in ((batch, (0, 2)), (batch['unlabelled'], (1, 3))):
        seen = model.teacher.convert(part['inputs'], part['data_samples'])
        wanted = images(0, sizes=sizes)
        wanted = {key: [value[i] for i in chosen] for key, value in wanted.items()}
        wanted = MODELS.build(dict(own, _scope_='mmdet'))(wanted, True)['inputs']
        torch.testing.assert_close(seen, wanted, rtol=1e-5, atol=1e-4)


class Stopped(Exception):
    """What stands for a kill."""


@HOOKS.register_module(force=True)
class StopAfterAnEpochOfBoxes(Hook):
    priority = 'LOWEST'

    def after_train_epoch(self, runner):
        if runner.epoch == 0:
            raise Stopped


def config(root, work_dir, **changes):
    student = detector('GFL', 10)
    preprocessor = dict(student['data_preprocessor'], type='kd_plugins.DetDataPreprocessor')
    teacher = detector('GFL', 10, width=16)
    teacher['test_cfg']['score_thr'] = 0.0
    torch.manual_seed(3)
    return ConfigDict(
        model=distillation(
            student, teacher, changes=dict(changes.pop('model', dict(pseudo_boxes=dict(score=0.0))))
        ),
        data_preprocessor=preprocessor,
        work_dir=str(work_dir),
        train_dataloader=dict(
            batch_size=4,
            num_workers=0,
            dataset=both(root),
            sampler=dict(type='kd_plugins.MultiSourceSampler', batch_size=4, source_ratio=[1, 1]),
            collate_fn=dict(type='pseudo_collate'),
        ),
        train_cfg=dict(by_epoch=True, max_epochs=2),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.001, momentum=0.9)),
        default_hooks=dict(
            logger=dict(type='LoggerHook', interval=1),
            seed=dict(type='kd_plugins.SeedByProgressHook'),
            distillation_log=dict(type='kd_plugins.DistillationLogHook'),
        ),
        default_scope='mmdet',
        experiment_name=str(work_dir),
        randomness=dict(seed=0),
        **changes,
    )


def run(cfg):
    runner = Runner.from_cfg(cfg)
    runner.train()
    return runner


def test_a_training_resumes_to_the_same_weights_with_an_average_beside_it(scenes, tmp_path):
    average = dict(type='EMAHook', momentum=0.1)
    cfg = config(scenes, tmp_path / 'whole')
    cfg.custom_hooks = [average]
    runner = run(cfg)
    whole = {k: v.clone() for k, v in runner.model.state_dict().items()}
    hub = runner.message_hub
    for name in ('distill.loss_bckd_cls', 'unlabelled_bckd_cls', 'pseudo_boxes'):
        values = hub.get_scalar(f'train/{name}').data[0]
        assert len(values) == 8 and min(values) > 0
    assert not any('student.unlabelled' in name for name in hub.log_scalars)
    broken = config(scenes, tmp_path / 'broken')
    broken.custom_hooks = [average, dict(type='StopAfterAnEpochOfBoxes')]
    with pytest.raises(Stopped):
        run(broken)
    again = config(scenes, tmp_path / 'broken', resume=True)
    again.custom_hooks = [average]
    for name, value in run(again).model.state_dict().items():
        assert torch.equal(value, whole[name]), name


def test_a_distillation_that_has_stopped_leaves_nothing_of_it_in_the_log(scenes, tmp_path):
    pseudo = dict(score=0.0, loss_weight=1.0)
    cfg = config(scenes, tmp_path / 'stopped', model=dict(pseudo_boxes=pseudo))
    cfg.custom_hooks = [dict(type='mmrazor.StopDistillHook', stop_epoch=1)]
    logged = run(cfg).message_hub.log_scalars
    assert 'train/student.loss_cls' in logged
    assert not any('unlabelled' in name or 'pseudo' in name for name in logged)


def refused(cfg, says):
    with pytest.raises(ValueError, match=says):
        run(cfg)


def test_what_would_teach_something_else_is_refused_before_training(scenes, tmp_path):
    cfg = config(scenes, tmp_path / '1', model=dict())
    refused(cfg, r'student_recorders.head nothing to record.*set model.pseudo_boxes=')
    cfg = config(scenes, tmp_path / '2')
    cfg.data_preprocessor.type = 'mmdet.DetDataPreprocessor'
    refused(cfg, "for a GFL: give data_preprocessor.type='kd_plugins.DetDataPreprocessor'")
    cfg = config(scenes, tmp_path / 'of classifiers')
    normalises = {key: cfg.data_preprocessor[key] for key in ('mean', 'std')}
    cfg.data_preprocessor = dict(type='kd_plugins.ClsDataPreprocessor', **normalises)
    refused(cfg, "ClsDataPreprocessor. does not .*for a GFL: .*'kd_plugins.DetDataPreprocessor'")
    cfg = config(scenes, tmp_path / '3')
    cfg.train_dataloader.dataset = cfg.train_dataloader.dataset.labelled
    cfg.train_dataloader.sampler = dict(type='DefaultSampler', shuffle=True)
    refused(cfg, r'model.pseudo_boxes is for pictures without labels.*CocoDataset. has none')
    cfg = config(scenes, tmp_path / '4')
    cfg.train_dataloader.dataset = cfg.train_dataloader.dataset.unlabelled
    cfg.train_dataloader.sampler = dict(type='DefaultSampler', shuffle=True)
    cfg.model.pseudo_boxes = None
    refused(cfg, 'PictureFolder. has no boxes, and the student would learn')
    # As it should be: the whole training set is the teacher's.
    cfg.model.update(pseudo_boxes=dict(score=0.0), calculate_student_loss=False)
    # As YOLOX's and RTMDet's preprocessors have it, which resizes boxes.
    resize = dict(type='BatchSyncRandomResize', random_size_range=(64, 128), interval=1)
    cfg.data_preprocessor.update(type='mmdet.DetDataPreprocessor', batch_augments=[resize])
    refused(cfg, r"PictureFolder. have none: give data_preprocessor.type='kd_plugins.DetDataPr")
    cfg.data_preprocessor.type = 'kd_plugins.DetDataPreprocessor'
    runner = run(cfg)
    losses = runner.message_hub.get_scalar('train/loss').data[0]
    assert len(losses) == 4 and min(losses) > 0
    cfg = config(scenes, tmp_path / 'switched', custom_hooks=[dict(type='YOLOXModeSwitchHook')])
    refused(cfg, 'YOLOXModeSwitchHook ends the mosaics .* train_dataloader.dataset is a WithUnlab')
    cfg = config(scenes, tmp_path / 'mosaics')
    parts, plain = cfg.train_dataloader.dataset, dict(type='DefaultSampler', shuffle=True)
    mosaic = dict(type='Mosaic', img_scale=(32, 32))
    cfg.train_dataloader.dataset = dict(
        type='MultiImageMixDataset', dataset=parts.unlabelled, pipeline=[mosaic]
    )
    cfg.train_dataloader.sampler = plain
    cfg.model.calculate_student_loss = False
    refused(cfg, 'MultiImageMixDataset, which mixes .* around a PictureFolder, whose have none')
    cfg = config(scenes, tmp_path / 'joined')
    cfg.train_dataloader.dataset = dict(
        type='ConcatDataset', datasets=[parts.labelled, parts.unlabelled],
        ignore_keys=['classes', 'dataset_type', 'task_name'],
    )  # fmt: skip
    cfg.train_dataloader.sampler = plain
    cfg.model.pseudo_boxes = None
    refused(cfg, 'PictureFolder. has no boxes, and the student would learn')
    cfg = config(scenes, tmp_path / 'teacher alone')
    cfg.model.calculate_student_loss = False
    refused(cfg, 'calculate_student_loss=False lets the .*WithUnlabelled. has labelled pictures')
    cfg = config(scenes, tmp_path / '5')
    cfg.train_dataloader.sampler = dict(type='DefaultSampler', shuffle=True)
    refused(cfg, r'train_dataloader.sampler is a .* wants some labelled and some unlabelled')
    # That of upstream's configs, beside the right sampler.
    cfg = config(scenes, tmp_path / '6')
    cfg.train_dataloader.batch_sampler = dict(type='AspectRatioBatchSampler')
    refused(cfg, 'is a AspectRatioBatchSampler, which makes .* set batch_sampler=None')
