"""The scenes' configs from the data to a student that the stock tools take."""

from pathlib import Path

import pytest
import torch
from helpers import ROOT
from helpers.detection import untrained
from helpers.stored import save_network
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner

from kd_plugins.datasets.digit_scenes import make_scenes
from kd_plugins.datasets.scene_drawing import SceneSettings
from kd_plugins.experiments.results import Run, finished
from kd_plugins.experiments.run import run_once
from kd_plugins.files.export_student import export_student

STUDENT = 'vanilla/gfl_scenes_student.py'
TWO_STAGE = 'vanilla/faster-rcnn_scenes_student.py'
PATHS = [STUDENT, 'vanilla/gfl_scenes_teacher.py', 'ld/ld_scenes.py', 'bckd/bckd_scenes.py',
         'bckd/bckd-stored_scenes.py',
         'cwd/cwd_scenes.py', 'pkd/pkd_scenes.py', 'mgd/mgd_scenes.py', 'sl2/sl2_scenes.py',
         'crosskd/crosskd_scenes.py',
         TWO_STAGE, 'dkd/dkd_faster-rcnn_scenes.py',
         'reviewkd/reviewdkd_faster-rcnn_scenes.py']  # fmt: skip
#: mmdet's scores of a detector that knows nothing are 0, and -1 where no digit is so large.
METRICS = {f'coco/bbox_mAP{end}' for end in ('', '_50', '_75', '_s', '_m', '_l')}


@pytest.fixture(scope='module')
def scenes(tmp_path_factory):
    """A few scenes, one of them without a digit."""
    settings = SceneSettings(train=8, val=3, digits=(0, 3))
    return make_scenes(tmp_path_factory.mktemp('data') / 'digit_scenes', settings)


def short(path, scenes, work_dir):
    """The config of a training of two epochs of two steps on them."""
    cfg = Config.fromfile(ROOT / 'configs' / path)
    cfg.model = untrained(cfg)
    if 'teacher_config' in cfg.model:
        # mmdet's own detector for LD, whose teacher has to have weights.
        cfg.model.teacher_ckpt = str(Path(work_dir) / 'teacher.pth')
        init_default_scope('mmdet')
        network = MODELS.build(cfg.model.teacher_config.model)
        torch.save(dict(state_dict=network.state_dict()), cfg.model.teacher_ckpt)
    if 'teacher_cache' in cfg.model:
        cfg.model.teacher_cache.dir = str(Path(work_dir) / 'answers')
        cfg.model.teacher_ckpt = str(Path(work_dir) / 'teacher.pth')
        save_network(cfg.model.teacher_ckpt, cfg.model.teacher)
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.dataset.get('dataset', loader.dataset).data_root = str(scenes)
    for evaluator in (cfg.val_evaluator, cfg.test_evaluator):
        evaluator.ann_file = str(scenes / 'annotations/val.json')
    cfg.train_dataloader.batch_size = 4
    # Where nothing is found, mmdet gives no metric at all.
    test_cfg = cfg.model.get('architecture', cfg.model).test_cfg
    test_cfg.get('rcnn', test_cfg).score_thr = 0.0
    cfg.train_cfg.update(max_epochs=2, val_interval=2)
    cfg.param_scheduler = None
    cfg.default_hooks.checkpoint.interval = 1
    cfg.log_level = 'WARNING'
    cfg.work_dir = str(work_dir)
    cfg.experiment_name = f'{Path(path).stem}_{Path(work_dir).name}'
    return cfg


def stock_student(path=STUDENT):
    cfg = Config.fromfile(ROOT / 'configs' / path)
    init_default_scope('mmdet')
    return MODELS.build(cfg.model)


@pytest.mark.parametrize('path', PATHS)
def test_trains_validates_and_leaves_a_stock_detector(path, scenes, tmp_path):
    cfg = short(path, scenes, tmp_path)
    runner = Runner.from_cfg(cfg)
    before = {name: p.detach().clone() for name, p in runner.model.named_parameters()}
    runner.train()
    assert runner.iter == 4
    after = dict(runner.model.named_parameters())
    assert all(torch.isfinite(p).all() for p in after.values())
    assert sum(not torch.equal(before[name], after[name]) for name in before) > 0.9 * len(before)
    logged = {key.removeprefix('val/') for key in runner.message_hub.log_scalars}
    assert logged >= METRICS
    saved = torch.load(tmp_path / 'epoch_2.pth', weights_only=False)['state_dict']
    learned = {key for key in saved if key.startswith('distiller.')}
    with_layers = ('reviewdkd', 'cwd', 'pkd', 'mgd', 'sl2', 'crosskd')
    assert bool(learned) == any(name in path for name in with_layers)
    if path != 'vanilla/gfl_scenes_teacher.py':
        student = {key: value for key, value in saved.items() if key not in learned}
        stock = stock_student(TWO_STAGE if 'rcnn' in path else STUDENT)
        stock.load_state_dict(student, strict=True)
    if 'bckd' in path:
        assert any('loss_bckd_loc' in key for key in runner.message_hub.log_scalars)


def test_a_taught_student_is_exported_as_the_student_alone(scenes, tmp_path):
    cfg = short('bckd/bckd_scenes.py', scenes, tmp_path)
    runner = Runner.from_cfg(cfg)
    theirs = {
        **{f'architecture.{k}': v for k, v in runner.model.student.state_dict().items()},
        **{f'teacher.{k}': v for k, v in runner.model.teacher.network.state_dict().items()},
    }
    ours = dict(runner.model.state_dict(), **{'distiller.term.weight': torch.zeros(1)})
    for content in (ours, theirs):
        path = tmp_path / 'checkpoint.pth'
        torch.save(dict(state_dict=content, meta=dict(epoch=2, cfg='secret')), path)
        for config in (cfg, Config.fromfile(ROOT / 'configs' / STUDENT)):
            exported = export_student(config, str(path))
            assert exported['meta'] == dict(epoch=2)
            model = stock_student()
            model.load_state_dict(exported['state_dict'], strict=True)
            for a, b in zip(model.parameters(), runner.model.student.parameters(), strict=True):
                assert torch.equal(a, b)


def test_upstreams_inference_reads_what_a_distillation_wrote(scenes, tmp_path):
    from mmdet.apis import DetInferencer, inference_detector, init_detector

    cfg = short('bckd/bckd_scenes.py', scenes, tmp_path)
    runner = Runner.from_cfg(cfg)
    runner.train()
    checkpoint = str(tmp_path / 'epoch_2.pth')
    short(STUDENT, scenes, tmp_path / 'student').dump(tmp_path / 'student.py')
    picture = str(scenes / 'val/000001.png')
    # What the trained student itself finds in it.
    data = runner.val_dataloader.dataset[1]
    assert data['data_samples'].img_path == picture
    runner.model.eval()
    with torch.no_grad():
        batch = dict(inputs=[data['inputs']], data_samples=[data['data_samples']])
        expected = runner.model.val_step(batch)[0].pred_instances
    assert len(expected) == 50 and expected.scores.std() > 0

    detector = init_detector(str(tmp_path / 'student.py'), checkpoint, device='cpu')
    assert type(detector).__name__ == 'GFL'
    assert detector.dataset_meta['classes'] == tuple('0123456789')
    found = inference_detector(detector, picture).pred_instances
    inferencer = DetInferencer(str(tmp_path / 'student.py'), checkpoint, 'cpu', show_progress=False)
    reply = inferencer(picture, return_datasamples=True)['predictions'][0].pred_instances
    for result in (found, reply):
        assert torch.equal(result.labels, expected.labels)
        assert torch.equal(result.scores, expected.scores)
        assert torch.equal(result.bboxes, expected.bboxes)


@pytest.mark.parametrize('score_thr', [0.0, 1.1], ids=['detections', 'no detection'])
def test_a_repeated_detector_keeps_its_average_precision(score_thr, scenes, tmp_path):
    cfg = short(STUDENT, scenes, tmp_path / 'work')
    cfg.model.test_cfg.score_thr = score_thr
    cfg.dump(tmp_path / 'short.py')
    run = Run('alone', str(tmp_path / 'short.py'), 0, str(tmp_path / 'work'))
    result = run_once(run)
    assert result.headline.name == 'coco/bbox_mAP' and result.steps == [2]
    assert set(result.metrics) >= METRICS
    assert result.accuracy == [100 * result.metrics['coco/bbox_mAP'][0]]
    assert result.accuracy == [0.0] or score_thr == 0
    assert result.predictions == [] and result.seconds > 0
    assert result.parameters == sum(p.numel() for p in stock_student().parameters())
    assert finished(run) == result


def test_an_evaluator_that_nobody_asked_for_is_named(scenes, tmp_path):
    cfg = short(STUDENT, scenes, tmp_path / 'work')
    cfg.val_evaluator.metric = 'proposal'
    cfg.dump(tmp_path / 'short.py')
    run = Run('alone', str(tmp_path / 'short.py'), 0, str(tmp_path / 'work'))
    with pytest.raises(ValueError, match='val_evaluator gives .*AR@100.* none of .*coco/bbox_mAP'):
        run_once(run)
