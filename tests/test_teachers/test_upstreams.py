"""mmdet's own detector for LD: its teacher is held to what ours are held to."""

import copy
from types import SimpleNamespace

import pytest
import torch
from helpers.detection import detector, images
from mmengine.config import ConfigDict
from mmengine.hub import get_config
from mmengine.registry import MODELS, DefaultScope, init_default_scope
from torch import nn

from kd_plugins.hooks import every_runner
from kd_plugins.teachers import teacher_of
from kd_plugins.teachers.upstreams import check_upstreams_teacher


@pytest.fixture(autouse=True)
def scope():
    init_default_scope('mmdet')


def ld(ckpt, teacher=None, **head):
    """Config of mmdet's LD from a wider GFL."""
    student = detector('GFL')
    loss = dict(type='KnowledgeDistillationKLDivLoss', loss_weight=0.25, T=10)
    student['bbox_head'].update(type='LDHead', loss_ld=loss, **head)
    student.update(
        type='KnowledgeDistillationSingleStageDetector',
        teacher_config=dict(model=teacher or detector('GFL', width=16)),
        teacher_ckpt=None if ckpt is None else str(ckpt),
    )
    return student


def written(tmp_path, cfg, **meta):
    network = MODELS.build(cfg)
    torch.save(dict(state_dict=network.state_dict(), meta=meta), tmp_path / 'T.pth')
    return tmp_path / 'T.pth'


def begin(cfg, classes=None):
    model = MODELS.build(cfg)
    dataset = SimpleNamespace(metainfo=dict(classes=classes))
    runner = SimpleNamespace(
        model=model, cfg=dict(model=cfg), optim_wrapper=SimpleNamespace(), message_hub=None,
        hooks=[],
        train_dataloader=SimpleNamespace(dataset=dataset, batch_sampler=None, sampler=None),
    )  # fmt: skip
    every_runner.before_train(runner)
    return model


def test_a_checkpoint_of_another_architecture_is_refused(tmp_path):
    """Upstream loads what fits and says the rest in one line of the log."""
    wrong = written(tmp_path, detector('GFL', width=24))
    with pytest.raises(ValueError, match=r"teacher_ckpt='.*T\.pth' does not fit the teacher"):
        begin(ld(wrong))
    with pytest.raises(ValueError, match=r'teacher_ckpt=None leaves the teacher without weights'):
        begin(ld(None))
    begin(ld(written(tmp_path, detector('GFL', width=16))))


def test_other_bins_and_classes_are_a_sentence(tmp_path):
    path = written(tmp_path, detector('GFL', width=16))
    with pytest.raises(ValueError, match=r'bbox_head.reg_max=8, .*teacher is 16'):
        begin(ld(path, reg_max=8))
    other = detector('GFL', width=16, classes=5)
    with pytest.raises(ValueError, match=r'bbox_head.num_classes=3, .*teacher is 5'):
        begin(ld(written(tmp_path, other), other))


def test_a_head_without_distributions_or_of_other_strides_is_a_sentence(tmp_path):
    """mmdet would take four numbers for seventeen bins, or places for others."""
    other = detector('ATSS', width=16)
    with pytest.raises(ValueError, match=r'teacher_config has a ATSSHead, .*LDHead .*give a GFL'):
        begin(ld(written(tmp_path, other), other))
    other = detector('GFL', width=16, strides=[8, 16, 32])
    with pytest.raises(ValueError, match=r'bbox_head are \[8, .* 128\] and .*\[8, 16, 32\]'):
        begin(ld(written(tmp_path, other), other))


def test_the_parts_that_lad_keeps_are_held_to_the_same_and_measured(tmp_path):
    """mmdet's LAD: its teacher's parts, and nothing that calls them as one."""
    with DefaultScope.overwrite_default_scope('mmdet'):
        cfg = get_config('mmdet::lad/lad_r50-paa-r101_fpn_2xb8_coco_1x.py').model
    for side in ('', 'teacher_'):
        cfg[f'{side}backbone'].update(depth=18, init_cfg=None, base_channels=8)
        cfg[f'{side}neck'].update(in_channels=[8, 16, 32, 64], out_channels=32)
        cfg[f'{side}bbox_head'].update(in_channels=32, feat_channels=32, num_classes=3)
    cfg.test_cfg.update(score_thr=0.0, max_per_img=5)
    cfg.teacher_ckpt = None
    model = MODELS.build(copy.deepcopy(cfg))
    torch.save(dict(state_dict=model.teacher_model.state_dict()), tmp_path / 'T.pth')
    cfg.teacher_ckpt = str(tmp_path / 'T.pth')
    begin(copy.deepcopy(cfg))
    other = copy.deepcopy(cfg)
    other.teacher_bbox_head.feat_channels = 64
    with pytest.raises(ValueError, match=r"teacher_ckpt='.*T\.pth' does not fit the teacher"):
        MODELS.build(other) and begin(other)
    model.eval()
    found = teacher_of(model).val_step(images())[0].pred_instances
    batch = model.data_preprocessor(images(), False)
    maps = model.teacher_model.bbox_head(model.extract_teacher_feat(batch['inputs']))
    metas = [sample.metainfo for sample in batch['data_samples']]
    expected = model.teacher_model.bbox_head.predict_by_feat(
        *maps, batch_img_metas=metas, rescale=True
    )[0]
    assert len(found) and torch.equal(found.scores, expected.scores)
    assert torch.equal(found.bboxes, expected.bboxes)


def test_its_classes_are_compared_with_the_datas(tmp_path):
    meta = dict(dataset_meta=dict(classes=('a', 'b', 'c')))
    path = written(tmp_path, detector('GFL', width=16), **meta)
    begin(ld(path), ('a', 'b', 'c'))
    with pytest.raises(ValueError, match=r"class 1 is 'c' in the data and 'b' of the teacher"):
        begin(ld(path), ('a', 'c', 'b'))


def test_it_is_measured_on_what_it_is_shown(tmp_path):
    model = MODELS.build(ld(written(tmp_path, detector('GFL', width=16))))
    model.eval()  # mmdet's returns nothing
    head = model.teacher_model.bbox_head
    head.test_cfg = ConfigDict(head.test_cfg)
    taught = teacher_of(model)
    assert taught.teacher.network is model.teacher_model
    first, second = (each.val_step(images())[0] for each in (taught, model.teacher_model))
    assert torch.equal(first.pred_instances.scores, second.pred_instances.scores)


def test_a_model_without_one_is_left_alone():
    model = MODELS.build(detector('GFL'))
    assert check_upstreams_teacher(model, {}) is None
    with pytest.raises(ValueError, match='no teacher to measure'):
        teacher_of(model)
    assert isinstance(model, nn.Module)
