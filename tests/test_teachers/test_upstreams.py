"""mmdet's own detector for LD: its teacher is held to what ours are held to."""

from types import SimpleNamespace

import pytest
import torch
from helpers.detection import detector, images
from mmengine.config import ConfigDict
from mmengine.registry import MODELS, init_default_scope
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
    with pytest.raises(ValueError, match=r'bbox_head.reg_max=8, .*teacher_config is 16'):
        begin(ld(path, reg_max=8))
    other = detector('GFL', width=16, classes=5)
    with pytest.raises(ValueError, match=r'bbox_head.num_classes=3, .*teacher_config is 5'):
        begin(ld(written(tmp_path, other), other))


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
