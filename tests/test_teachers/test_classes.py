"""Whose class is which: names compared, and a teacher's classes chosen."""

import copy
import re

import pytest
import torch
from helpers import TEACHER, TinyClassifier, algorithm_cfg, batch, distiller
from helpers.detection import detector, distillation, images, losses
from helpers.tiny_training import config
from mmengine.hub import get_config
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner
from torch import nn

from kd_plugins.teachers.classes import classes_in, difference, keep_classes

NAMES = ('cat', 'dog', 'owl', 'fox')


@MODELS.register_module(force=True)
class HeadedClassifier(TinyClassifier):
    """One whose classifier lies in a head, as mmpretrain's do."""

    def __init__(self, classes=4, **kwargs):
        super().__init__(classes=classes, **kwargs)
        self.head = nn.Module()
        self.head.num_classes = classes
        self.head.fc = self.fc
        del self.fc

    @property
    def fc(self):
        return self.head.fc


def cfg_of(**model):
    """Config of an algorithm whose teacher has a head."""
    of = distiller(teacher_recorders=dict(logits=dict(type='ModuleOutputs', source='head.fc')))
    teacher = dict(TEACHER, type='HeadedClassifier')
    return algorithm_cfg(teacher=teacher, distiller=of, **model)


def build(**model):
    return MODELS.build(cfg_of(**model))


@pytest.mark.parametrize(
    ('teacher', 'student', 'said'),
    [
        (NAMES, NAMES, None),
        (NAMES, ('Cat', 'Dog', 'owl', 'fox'), None),
        (('cat', 'dog', 'owl', 'red fox'), NAMES, None),
        (None, NAMES, None),
        (('dog', 'cat', 'owl', 'fox'), NAMES, "class 0 is 'cat' in the data and 'dog' of the"),
        (('cat', 'dog', 'fox', 'owl'), NAMES, "class 2 is 'owl' .* 'fox' .*, whose class 3 it is"),
        (('a', 'b', 'owl', 'd'), NAMES, "class 0 is 'cat' in the data and 'a' of the teacher$"),
        # ImageNet has two cranes: which is which, their names do not say.
        (('crane', 'a', 'b', 'crane'), ('crane', 'a', 'b', 'crane'), None),
    ],
)
def test_what_contradicts(teacher, student, said):
    found = difference(teacher, student)
    if said is None:
        assert found is None
    else:
        assert re.search(said, found)


def test_names_stand_in_checkpoints_of_every_age():
    for meta in (
        dict(dataset_meta=dict(classes=list(NAMES))),
        dict(dataset_meta=dict(CLASSES=NAMES)),
        dict(CLASSES=NAMES),
    ):
        assert classes_in(dict(meta=meta)) == NAMES
    for meta in (None, {}, dict(dataset_meta=None), dict(dataset_meta=dict(classes=3))):
        assert classes_in(dict(meta=meta)) is None
    assert classes_in({}) is None


def write(network, path, names):
    """A checkpoint that names its classes."""
    meta = dict(dataset_meta=dict(classes=names))
    torch.save(dict(state_dict=network.state_dict(), meta=meta), path)


def saved_teacher(tmp_path, names=NAMES):
    """The checkpoint of a teacher whose classes have names; its weights."""
    teacher = build().teacher.network
    path = tmp_path / 'teacher.pth'
    torch.save(
        dict(state_dict=teacher.state_dict(), meta=dict(dataset_meta=dict(classes=names))), path
    )
    return str(path), teacher


def training(tmp_path, path, names, **model):
    cfg = cfg_of(teacher_ckpt=path, allow_random_teacher=False, **model)
    runner = Runner.from_cfg(config(tmp_path / 'run', 1, model=cfg))
    runner.train_dataloader.dataset.metainfo = dict(classes=names)
    return runner


def test_exchanged_classes_stop_before_the_first_step(tmp_path):
    path, _ = saved_teacher(tmp_path)
    training(tmp_path, path, NAMES).train()
    other = ('cat', 'owl', 'dog', 'fox')
    with pytest.raises(ValueError, match=r"class 1 is 'owl' in the data and 'dog'.*class_map"):
        training(tmp_path, path, other).train()
    training(tmp_path, path, other, teacher_class_map=list(other)).train()


@pytest.mark.parametrize(
    ('names', 'class_map'),
    [
        # ImageNet's folders, other languages, a chosen class under another name.
        (('n01', 'n02', 'n03', 'n04'), [0, 1, 2, 3]),
        (('Katze', 'Hund', 'Eule', 'Fuchs'), ['cat', 'dog', 'owl', 'fox']),
        ((0, 1, 2, 3), [0, 1, 2, 3]),
        # Of an index the name is not looked at.
        (('dog', 'cat', 'owl', 'fox'), [0, 1, 2, 3]),
    ],
)
def test_a_class_map_says_that_names_differ(tmp_path, names, class_map):
    path, _ = saved_teacher(tmp_path)
    training(tmp_path, path, names, teacher_class_map=class_map).train()
    if names[0] == 'n01':
        with pytest.raises(ValueError, match=r"'n01' in the data and 'cat' .* \[0, 1, 2, ...\]"):
            training(tmp_path, path, names).train()


def test_a_class_map_of_names_is_still_held_to_the_data(tmp_path):
    path, _ = saved_teacher(tmp_path)
    names = ('cat', 'dog', 'owl', 'Fuchs')
    with pytest.raises(ValueError, match=r"class 0 is 'cat' .* 'dog' of .* whose class 1 it is"):
        training(tmp_path, path, names, teacher_class_map=['dog', 'cat', 'owl', 'fox']).train()


def test_classes_that_are_no_strings_are_compared_all_the_same():
    assert difference(('0', '1', '2'), (0, 1, 2)) is None
    assert "class 0 is 1 in the data and '0'" in (difference(('0', '1', '2'), (1, 0, 2)) or '')


@pytest.mark.parametrize('class_map', [['owl', 'cat', 'fox', 'dog'], [2, 0, 3, 1]])
def test_the_teacher_answers_in_the_students_order(tmp_path, class_map):
    path, teacher = saved_teacher(tmp_path)
    model = build(teacher_ckpt=path, allow_random_teacher=False, teacher_class_map=class_map)
    inputs, labels = batch()
    expected = teacher(inputs, labels, mode='tensor')[:, [2, 0, 3, 1]]
    assert torch.equal(model.teacher.look(inputs, labels), expected)
    assert model.teacher.classes == ('owl', 'cat', 'fox', 'dog')


def test_a_class_map_that_cannot_be_followed_is_refused(tmp_path):
    path, _ = saved_teacher(tmp_path)
    for class_map, said in (
        (['cat', 'dog', 'owl', 'wolf'], r"teacher_class_map\[3\]='wolf' cannot be found.*'fox'"),
        ([0, 1, 2, 4], r'teacher_class_map\[3\]=4 is no class .* from 0 to 3'),
        ([0, 1, 2, 1.5], r'teacher_class_map\[3\]=1.5'),
        ('cat', r"teacher_class_map='cat' needs a list"),
        ([], 'needs a list'),
    ):
        with pytest.raises(ValueError, match=said):
            build(teacher_ckpt=path, allow_random_teacher=False, teacher_class_map=class_map)
    bare = tmp_path / 'bare.pth'
    torch.save(build().teacher.network.state_dict(), bare)
    with pytest.raises(ValueError, match='names no classes: give indices'):
        build(teacher_ckpt=str(bare), allow_random_teacher=False, teacher_class_map=[*NAMES])
    with pytest.raises(ValueError, match='somebody else has built'):
        built = cfg_of(teacher_class_map=[0, 1, 2, 3], allow_random_teacher=False)
        MODELS.build(dict(built, teacher=MODELS.build(built['teacher'])))
    with pytest.raises(ValueError, match='is of a teacher, and model.teacher=None'):
        MODELS.build(algorithm_cfg(teacher=None, teacher_class_map=[0, 1]))


STOCK = [
    'retinanet/retinanet_r18_fpn_1x_coco.py',
    'gfl/gfl_r50_fpn_1x_coco.py',
    'rtmdet/rtmdet_tiny_8xb32-300e_coco.py',
    'yolox/yolox_tiny_8xb8-300e_coco.py',
    'faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py',
    'mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py',
    'cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco.py',
]


def stock(name):
    """A stock detector's config, thin."""
    cfg = get_config(f'mmdet::{name}').model
    cfg.backbone.init_cfg = None
    if cfg.backbone.type == 'ResNet':
        cfg.backbone.update(depth=18, base_channels=16)
        cfg.neck.in_channels = [16, 32, 64, 128]
    return cfg


def heads_of(network):
    roi_head = getattr(network, 'roi_head', None)
    head = (roi_head or network).bbox_head
    return list(head) if isinstance(head, nn.ModuleList) else [head]


@pytest.mark.parametrize('name', STOCK)
def test_stock_detectors_predict_the_chosen_classes(name):
    """Each prediction of a chosen class stays, under its new number."""
    init_default_scope('mmdet')
    torch.manual_seed(0)
    network = MODELS.build(stock(name)).eval()
    with torch.no_grad():
        for head in heads_of(network):
            for key, p in head.named_parameters():
                if key.endswith('weight') and p.dim() > 1:
                    p.add_(torch.randn_like(p) * 0.02)
    chosen = copy.deepcopy(network)
    index = [7, 0, 79, 33]
    keep_classes(chosen, index)
    data = network.data_preprocessor(images(size=64), False)
    with torch.no_grad():
        compare = of_rois if hasattr(network, 'roi_head') else of_anchors
        compare(network, chosen, data, index)


def of_anchors(network, chosen, data, index):
    before, after = (
        n(data['inputs'], data['data_samples'], mode='tensor')[0] for n in (network, chosen)
    )
    columns = network.bbox_head.cls_out_channels
    keep = [*index, *range(80, columns)]
    for a, b in zip(after, before, strict=True):
        n, _, h, w = b.shape
        wanted = b.view(n, -1, columns, h, w)[:, :, keep].flatten(1, 2)
        torch.testing.assert_close(a, wanted, rtol=0, atol=1e-6)


def of_rois(network, chosen, data, index):
    features = network.extract_feat(data['inputs'])
    rois = torch.tensor([[0, 10.0, 12, 50, 60], [1, 30.0, 20, 60, 50]])
    heads = heads_of(network)
    for stage, head in enumerate(heads):
        first = (stage,) if len(heads) > 1 else ()
        before, after = (
            n.roi_head._bbox_forward(*first, features, rois) for n in (network, chosen)
        )
        columns = before['cls_score'][:, [*index, 80]]
        torch.testing.assert_close(after['cls_score'], columns, rtol=0, atol=1e-6)
        deltas = before['bbox_pred']
        if not head.reg_class_agnostic:
            deltas = deltas.view(2, 80, 4)[:, index].flatten(1)
        torch.testing.assert_close(after['bbox_pred'], deltas, rtol=0, atol=1e-6)
    if network.roi_head.with_mask:
        first = (0,) if len(heads) > 1 else ()
        before, after = (
            n.roi_head._mask_forward(*first, features, rois)['mask_preds']
            for n in (network, chosen)
        )
        torch.testing.assert_close(after, before[:, index], rtol=0, atol=1e-6)


def test_scores_of_masks_follow_their_classes():
    init_default_scope('mmdet')
    torch.manual_seed(0)
    network = MODELS.build(stock('ms_rcnn/ms-rcnn_r50-caffe_fpn_1x_coco.py')).eval()
    chosen = copy.deepcopy(network)
    index = [7, 0, 79, 33]
    keep_classes(chosen, index)
    maps, masks = torch.randn(3, 256, 14, 14), torch.randn(3, 28, 28)
    with torch.no_grad():
        before, after = (n.roi_head.mask_iou_head(maps, masks) for n in (network, chosen))
    torch.testing.assert_close(after, before[:, index], rtol=0, atol=1e-6)
    assert chosen.roi_head.mask_iou_head.num_classes == 4


def test_heads_of_other_classes_stay_as_they_are():
    init_default_scope('mmdet')
    network = MODELS.build(stock('htc/htc_r50_fpn_1x_coco.py'))
    keep_classes(network, [7, 0, 79, 33])
    head = network.roi_head
    assert head.semantic_head.conv_logits.out_channels == head.semantic_head.num_classes == 183
    assert [m.conv_logits.out_channels for m in head.mask_head] == [4, 4, 4]
    assert network.rpn_head.num_classes == 1


@pytest.mark.parametrize(
    ('name', 'kind', 'head'),
    [
        ('ssd/ssd300_coco.py', 'SingleStageDetector', 'SSDHead'),
        # Their boxes or their masks alone could be chosen.
        ('point_rend/point-rend_r50-caffe_fpn_ms-1x_coco.py', 'PointRend', 'CoarseMaskHead'),
        ('panoptic_fpn/panoptic-fpn_r50_fpn_1x_coco.py', 'PanopticFPN', 'HeuristicFusionHead'),
        ('seesaw_loss/mask-rcnn_r50_fpn_seesaw-loss_random-ms-2x_lvis-v1.py', 'MaskRCNN', '2FC'),
    ],
)
def test_a_detector_with_a_head_whose_class_layers_are_not_known_is_refused(name, kind, head):
    init_default_scope('mmdet')
    network = MODELS.build(stock(name))
    weights = copy.deepcopy(network.state_dict())
    with pytest.raises(ValueError, match=f'cannot choose classes of {kind}: .*{head}'):
        keep_classes(network, [0, 1])
    # Nothing was changed by halves.
    for key, w in network.state_dict().items():
        torch.testing.assert_close(w, weights[key], rtol=0, atol=0, equal_nan=True)


def test_a_dense_teacher_of_more_classes_teaches_fewer(tmp_path):
    teacher = detector('RetinaNet', classes=5, width=16)
    path = tmp_path / 'teacher.pth'
    init_default_scope('mmdet')
    names = ['a', 'b', 'c', 'd', 'e']
    built = MODELS.build(teacher)
    built.init_weights()
    torch.save(
        dict(state_dict=built.state_dict(), meta=dict(dataset_meta=dict(classes=names))), path
    )
    cfg = distillation(detector('RetinaNet'), teacher)
    cfg.update(teacher_ckpt=str(path), allow_random_teacher=False)
    with pytest.raises(ValueError, match='classes'):
        MODELS.build(cfg)
    model = MODELS.build(dict(cfg, teacher_class_map=['e', 'a', 'c']))
    found = losses(model, images())
    assert torch.isfinite(found['distill.loss_bckd_cls'])
    assert [*model.teacher.classes] == ['e', 'a', 'c']
