"""The student alone that is made from a distillation is the one that users write themselves."""

import copy

import pytest
import torch
from helpers import ROOT
from helpers.new_style import new_style
from mmengine.config import Config
from mmengine.hub import get_config

from kd_plugins.experiments.alone import another_network, differences, student_alone
from kd_plugins.experiments.results import Run
from kd_plugins.experiments.run import run_once
from kd_plugins.networks import resolve_network
from kd_plugins.new_config.detection import heads_of

OF_DIGITS = [
    'kd/kd', 'dkd/dkd', 'ctkd/ctkd_kd', 'ctkd/ctkd_dkd', 'zipf/zipf', 'reviewkd/reviewkd',
    'recursive_mix/recursive-mix', 'eekd/eekd', 'eekd/checkpointkd',
]  # fmt: skip
ON_PHOTOGRAPHS = [
    'kd/kd', 'dkd/dkd', 'ctkd/ctkd_kd', 'ctkd/ctkd_dkd', 'dot/dot_kd', 'dot/dot_dkd',
]  # fmt: skip
#: A distillation, and the config of its student alone that the package or upstream has.
PAIRS = [
    *((f'configs/{name}_digits.py', 'configs/vanilla/digits_student.py') for name in OF_DIGITS),
    *(
        (
            f'configs/{name}_resnet20_resnet8_1xb64_cifar10-small.py',
            'configs/vanilla/resnet8_1xb64_cifar10-small.py',
        )
        for name in ON_PHOTOGRAPHS
    ),
    ('configs/kd/kd_resnet56_resnet20_1xb64_cifar100.py',
     'configs/vanilla/resnet20_1xb64_cifar100.py'),
    ('configs/bckd/bckd_scenes.py', 'configs/vanilla/gfl_scenes_student.py'),
    ('configs/dkd/dkd_faster-rcnn_scenes.py', 'configs/vanilla/faster-rcnn_scenes_student.py'),
]  # fmt: skip


def config(path):
    return Config.fromfile(ROOT / path)


@pytest.mark.parametrize('distilled, alone', PAIRS)
def test_it_is_the_students_own_config(distilled, alone):
    made, own = student_alone(config(distilled)), config(alone)
    if 'loss' in made.cfg.model.get('head', {}):
        own.model.head.loss.setdefault('loss_weight', 1.0)
    assert differences(made.cfg, own, of_students=True) == []
    # The weight that KD gives to the student's own loss is undone, and said.
    lowered = config(distilled).model.architecture.get('head', {}).get('loss', {})
    said = [note for note in made.notes if 'weight' in note]
    assert len(said) == (lowered.get('loss_weight', 1.0) != 1.0)
    assert another_network(config(alone), config(distilled)) is None


@pytest.mark.parametrize('distilled, own', [
    ('kd/kd_resnet34_resnet18_8xb64_in1k.py', 'vanilla/resnet18_8xb64_in1k.py'),
    ('dkd/dkd_resnet34_resnet18_8xb64_in1k.py', 'vanilla/resnet18_8xb64_in1k.py'),
    ('dkd/dkd_faster-rcnn_r101_r18_fpn_180k_coco.py', 'vanilla/faster-rcnn_r18_fpn_180k_coco.py'),
    ('bckd/bckd_gfl_r101_r50_fpn_1x_coco.py', 'mmdet::gfl/gfl_r50_fpn_1x_coco.py'),
])  # fmt: skip
def test_of_an_upstream_student_it_is_upstreams_model(distilled, own):
    made = student_alone(config(f'configs/{distilled}')).cfg
    theirs = get_config(own) if '::' in own else config(f'configs/{own}')
    assert [d for d in differences(made, theirs, of_students=True) if d.of != 'training'] == []
    assert another_network(theirs, config(f'configs/{distilled}')) is None


def test_without_the_weight_of_an_override_it_is_upstreams(tmp_path):
    """KD's 0.5 is written over a config of upstream's, which has a 1."""
    cfg = config('configs/kd/kd_resnet34_resnet18_8xb64_in1k.py')
    assert cfg.model.architecture.head.loss.loss_weight == 0.5
    made = student_alone(cfg)
    assert made.cfg.model.head.loss.loss_weight == 1.0
    assert made.notes == ["the weight of the student's own loss, 0.5 in the distillation, is what "
                          'it is without one']  # fmt: skip
    assert cfg.model.architecture.head.loss.loss_weight == 0.5


def test_the_weights_of_a_detectors_losses_stay():
    """They balance several, and a list of heads that is overridden is written whole."""
    path = 'mmdet::sparse_rcnn/sparse-rcnn_r50_fpn_1x_coco.py'
    stock, _ = resolve_network(dict(cfg_path=path), 'x')
    student = dict(cfg_path=path, **heads_of(path, 7))
    made = student_alone(Config(dict(model=dict(architecture=student, distiller={}))))
    assert made.notes == [] and len(made.cfg.model.roi_head.bbox_head) == 6
    for own, theirs in zip(
        made.cfg.model.roi_head.bbox_head, stock.roi_head.bbox_head, strict=True
    ):
        assert (own.num_classes, theirs.num_classes) == (7, 80)
        for loss in ('loss_cls', 'loss_bbox', 'loss_iou'):
            assert own[loss] == theirs[loss] and own[loss].loss_weight > 1
    # One that the user has chosen is his, though it is 1.
    path = 'mmdet::gfl/gfl_r50_fpn_1x_coco.py'
    student = dict(cfg_path=path, bbox_head=dict(loss_bbox=dict(loss_weight=1.0)))
    made = student_alone(Config(dict(model=dict(architecture=student, distiller={}))))
    assert made.cfg.model.bbox_head.loss_bbox.loss_weight == 1.0


SHORT = {
    'train_cfg.max_epochs': 2,
    'train_cfg.val_interval': 1,
    'train_dataloader.dataset.indices': 96,
    'val_dataloader.dataset.indices': 60,
    'default_hooks.checkpoint.interval': 1,
    'log_level': 'WARNING',
}


def weights(run):
    return torch.load(f'{run.work_dir}/epoch_2.pth', weights_only=False)['state_dict']


def test_it_trains_the_bits_of_a_distillation_of_no_weight(tmp_path):
    cfg = config('configs/ctkd/ctkd_kd_digits.py')
    cfg.merge_from_dict(SHORT)
    made = student_alone(cfg).cfg
    made.dump(tmp_path / 'alone.py')
    cfg.merge_from_dict({
        'model.teacher_ckpt': None, 'model.allow_random_teacher': True,
        'model.architecture.head.loss.loss_weight': 1.0,
        'model.distiller.distill_losses.loss_kd.loss_weight': 0.0,
        'default_hooks.curriculum_temperature.length': 2,
    })  # fmt: skip
    cfg.dump(tmp_path / 'kd.py')
    runs = [Run(n, str(tmp_path / f'{n}.py'), 5, str(tmp_path / n)) for n in ('alone', 'kd')]
    alone, kd = (run_once(run) for run in runs)
    assert alone.predictions == kd.predictions and alone.accuracy == kd.accuracy
    assert alone.memory_mib > 0
    ours, theirs = map(weights, runs)
    assert set(theirs) - set(ours) == {k for k in theirs if k.startswith('distiller.')}
    assert all(torch.equal(value, theirs[key]) for key, value in ours.items())


def test_dot_becomes_plain_sgd_of_the_same_precision():
    cfg = config('configs/dot/dot_dkd_digits.py')
    made = student_alone(cfg)
    assert made.cfg.optim_wrapper == dict(
        optimizer=dict(type='SGD', lr=0.05, momentum=0.9, weight_decay=5e-4)
    )
    assert any('without DOT' in note for note in made.notes)
    cfg.optim_wrapper.update(dtype='bfloat16', distill_keys=['distill.*'], accumulative_counts=2)
    cfg.optim_wrapper.optimizer.update(type='kd_plugins.DOTSGD', delta=0.05)
    assert student_alone(cfg).cfg.optim_wrapper == dict(
        type='AmpOptimWrapper', dtype='bfloat16', accumulative_counts=2,
        optimizer=dict(type='SGD', lr=0.05, momentum=0.9, weight_decay=5e-4),
    )  # fmt: skip


def test_hooks_of_the_distillation_are_left_out_and_others_stay():
    cfg = config('configs/ctkd/ctkd_kd_digits.py')
    cfg.custom_hooks += [
        dict(type='EMAHook'), dict(type='mmrazor.StopDistillHook', stop_epoch=3),
        dict(type='kd_plugins.GradientCosineHook'),
    ]  # fmt: skip
    made = student_alone(cfg).cfg
    assert [hook.type for hook in made.custom_hooks] == ['kd_plugins.SeedByProgressHook', 'EMAHook']
    assert 'curriculum_temperature' not in made.default_hooks
    assert made.default_hooks.keys() == cfg.default_hooks.keys() - {'curriculum_temperature'}


def test_the_students_start_is_kept():
    cfg = config('configs/dkd/dkd_digits.py')
    cfg.model.init_cfg = dict(type='Pretrained', checkpoint='start.pth')
    preprocessor = dict(type='mmpretrain.ClsDataPreprocessor', mean=[0.0], std=[16.0])
    cfg.model.data_preprocessor = preprocessor
    made = student_alone(cfg).cfg
    assert made.model.init_cfg == [dict(type='Pretrained', checkpoint='start.pth')]
    # The Runner puts the top level's only where the model has none.
    assert made.model.data_preprocessor == preprocessor
    other = copy.deepcopy(cfg)
    other.model.data_preprocessor.mean = [1.0]
    assert differences(cfg, other) and not differences(cfg, made)
    cfg.pop('data_preprocessor')
    assert student_alone(cfg).cfg.model.data_preprocessor == preprocessor
    cfg.data_preprocessor = cfg.model.pop('data_preprocessor')
    cfg.model.architecture.data_preprocessor = dict(mean=[1.0], std=[1.0])
    made = student_alone(cfg).cfg
    assert 'data_preprocessor' not in made.model and 'data_preprocessor' in made


@pytest.mark.parametrize('path, said', [
    ('configs/ctc/ctc_digits.py', 'CTCHook sets how the student itself trains'),
    ('configs/ld/ld_scenes.py', "'KnowledgeDistillationSingleStageDetector' has no"),
    ('configs/vanilla/digits_student.py', "'ImageClassifier' has no model.architecture"),
])  # fmt: skip
def test_what_has_no_student_alone_is_refused(path, said):
    with pytest.raises(ValueError, match=said) as refused:
        student_alone(config(path))
    assert '--alone' in str(refused.value) and path in str(refused.value)


def with_unlabelled(cfg):
    cfg.train_dataloader.dataset = dict(
        type='kd_plugins.WithUnlabelled',
        labelled=cfg.train_dataloader.dataset,
        unlabelled=dict(type='CustomDataset', data_prefix='x', with_label=False),
    )
    cfg.train_dataloader.sampler = dict(
        type='kd_plugins.MultiSourceSampler', batch_size=32, source_ratio=[1, 3]
    )
    return cfg


def test_pictures_without_labels_want_a_student_that_is_given():
    """And that one has the labelled pictures, in batches of its own."""
    own = config('configs/vanilla/digits_student.py')
    cfg = with_unlabelled(config('configs/kd/kd_digits.py'))
    with pytest.raises(ValueError, match=r'\(WithUnlabelled\) have no label.*--alone'):
        student_alone(cfg)
    assert {d.of for d in differences(own, cfg)} == {'training'}
    assert any(d.key.startswith('train_dataloader.sampler') for d in differences(own, cfg))
    cfg.train_dataloader.dataset.labelled.indices = 7
    assert [d.of for d in differences(own, cfg)][0] == 'data'
    del cfg.train_dataloader.dataset.labelled.indices
    cfg.train_dataloader.dataset.labels_per_class = 4
    assert [d.of for d in differences(own, cfg)][0] == 'data'
    for wrapped in (False, True):
        cfg = config('configs/kd/kd_digits.py')
        folder = dict(type='CustomDataset', data_prefix='x', with_label=False)
        cfg.train_dataloader.dataset = (
            dict(type='RepeatDataset', times=2, dataset=folder) if wrapped else folder
        )
        with pytest.raises(ValueError, match=r'\(CustomDataset\) have no label.*--alone'):
            student_alone(cfg)


def test_of_a_new_style_config_it_is_the_same(tmp_path):
    cfg = config('configs/dkd/dkd_digits.py')
    path = tmp_path / 'new.py'
    path.write_text(new_style(cfg))
    made = student_alone(Config.fromfile(path, lazy_import=True)).cfg
    made.dump(tmp_path / 'alone.py')
    found = Config.fromfile(tmp_path / 'alone.py')
    assert differences(found, config('configs/vanilla/digits_student.py'), of_students=True) == []


@pytest.mark.parametrize('key, value, of', [
    ('train_dataloader.dataset.indices', 7, 'data'),
    ('val_dataloader.dataset.split', 'train', 'data'),
    ('data_preprocessor.mean', [1.0], 'data'),
    ('val_evaluator.topk', (1, 5), 'data'),
    ('train_dataloader.batch_size', 8, 'steps'),
    ('train_cfg.max_epochs', 3, 'steps'),
    ('optim_wrapper.accumulative_counts', 2, 'steps'),
    ('optim_wrapper.optimizer.lr', 0.5, 'training'),
    ('load_from', 'start.pth', 'training'),
])  # fmt: skip
def test_what_makes_two_trainings_unlike_is_found(key, value, of):
    first, second = (config('configs/dkd/dkd_digits.py') for _ in range(2))
    assert differences(first, second) == []
    second.merge_from_dict({key: value})
    (found,) = differences(first, second)
    assert found.of == of and found.key.startswith(key.rsplit('.', 1)[0])
    assert repr(value)[:5] in str(found) or of == 'data'


def test_what_changes_no_figure_is_no_difference():
    first, second = (config('configs/dkd/dkd_digits.py') for _ in range(2))
    second.merge_from_dict({
        'train_cfg.val_interval': 1, 'train_dataloader.num_workers': 2, 'work_dir': 'x',
        'default_hooks.logger.interval': 1, 'model.distiller.distill_losses.loss_kd.tau': 1.0,
    })  # fmt: skip
    assert differences(first, second) == []
