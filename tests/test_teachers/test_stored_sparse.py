"""Of what detection heads say the anchors alone that are sure of something."""

import math
from dataclasses import replace

import pytest
import torch
from helpers.detection import HEADS, MORE_HEADS, term
from helpers.few_scenes import few_scenes
from helpers.stored import in_views, pair, save_network, save_teacher
from helpers.tiny_training import train
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from test_stored_heads import SIZES, model_of, networks, several, sized, step
from test_stored_training import ROOT, same

from kd_plugins.losses.bckd import BCKDClassificationLoss, BCKDLocalizationLoss
from kd_plugins.losses.ld import LDLoss

STRIDES = (8, 16, 32, 64, 128)


def cache(folder, score, **settings):
    return dict(dict(dir=str(folder), views=1, dtype='float32', min_score=score), **settings)


def record(model, data, indices):
    given = model.data_preprocessor(several(data, indices), True)
    model.teacher.record(model.distiller.teacher_recorders, **given)
    return model.distiller.get_record('head', from_student=False), given


def live(kind, data, indices, **changes):
    """What the network says of a batch."""
    model = model_of(kind, **changes)
    given = model.data_preprocessor(several(data, indices), True)
    with model.distiller.teacher_recorders:
        model.teacher.look(**given)
    return model.distiller.get_record('head', from_student=False), given


#: Sides that no stride divides, in batches that are padded to nothing but the largest of them.
RAGGED = [(65, 97), (33, 130), (100, 40), (8, 9)]


@pytest.mark.parametrize('sizes', [SIZES, RAGGED], ids=['padded', 'ragged'])
@pytest.mark.parametrize('kind', [*HEADS, *MORE_HEADS])
def test_every_kept_anchor_is_found_in_any_batch_and_the_others_say_their_mean(
    tmp_path, kind, sizes
):
    data = sized(sizes)
    pads = dict(type='DetDataPreprocessor', pad_size_divisor=32 if sizes == SIZES else 1)
    whole, given = live(kind, data, range(4), preprocessor=pads)
    # Numbers of a random network may be so large that a fifth are certain.
    score = min(float(whole.cls_logits.sigmoid().amax(dim=2).quantile(0.8)), 0.999)
    model = model_of(kind, cache(tmp_path, score), preprocessor=pads)
    model.teacher.begin(data)
    record(model, data, range(4))  # of all together
    anchors = model.distiller.teacher_recorders.get_recorder('head').spec.anchors
    kept = 0
    for indices in ([0], [2], [1, 0], [3, 1], [3, 2, 0, 1]):
        found, given = record(model, data, indices)
        height, width = given['inputs'].shape[-2:]
        assert found.grids == tuple((math.ceil(height / s), math.ceil(width / s)) for s in STRIDES)
        for row, i in enumerate(indices):
            kept += compare(found, whole, row, i, sizes[i], anchors, score)
    assert kept


def compare(found, whole, row, i, own, anchors, score):
    """Compare anchor by anchor, with loops; return how many are kept."""
    at_found = at_whole = kept = 0
    for (h, w), (_, W), (H, _), stride, k in zip(
        found.grids, whole.grids, whole.grids, STRIDES, anchors, strict=True
    ):
        rows, columns = math.ceil(own[0] / stride), math.ceil(own[1] / stride)
        others, unknown = [], []
        for y in range(h):
            for x in range(w):
                for a in range(k):
                    here = at_found + k * (y * w + x) + a
                    if y >= rows or x >= columns:
                        assert not found.known[row, here]
                        assert (found.cls_logits[row, here] == -12).all()
                        continue
                    there = at_whole + k * (y * W + x) + a
                    assert torch.equal(found.boxes[row, here], whole.boxes[i, there])
                    p = whole.cls_logits[i, there].sigmoid()
                    assert bool(found.known[row, here]) == bool(p.max() >= score)
                    if not found.known[row, here]:
                        others.append(p)
                        unknown.append(found.cls_logits[row, here])
                        if found.bin_logits is not None:
                            assert (found.bin_logits[row, here] == 0).all()
                        continue
                    kept += 1
                    assert torch.equal(found.cls_logits[row, here], whole.cls_logits[i, there])
                    if whole.bin_logits is not None:
                        assert torch.equal(found.bin_logits[row, here], whole.bin_logits[i, there])
        if others:
            mean = torch.stack(others).double().mean(dim=0)
            for logits in unknown:
                # Less than "no object" is none.
                least = mean.clamp(min=1 / (1 + math.exp(12)))
                torch.testing.assert_close(logits.sigmoid().double(), least, rtol=1e-4, atol=1e-6)
        at_found, at_whole = at_found + k * h * w, at_whole + k * H * W
    return kept


@pytest.mark.parametrize('kind', HEADS)
def test_with_all_anchors_kept_the_terms_are_those_of_the_live_teacher(tmp_path, kind):
    data = sized([(64, 96)] * 3)
    given = several(data, range(3))
    losses, gradient = step(model_of(kind), given)
    for state in ('fills', 'reads'):
        model = model_of(kind, cache(tmp_path, 1e-30))
        model.teacher.begin(data)
        assert model.teacher.complete == (state == 'reads')
        found, found_gradient = step(model, given)
        assert torch.equal(found_gradient, gradient)
        for name, value in losses.items():
            assert torch.equal(found[name], value), name
        model.teacher.end()


@pytest.mark.parametrize('kind', HEADS)
@pytest.mark.parametrize('dtype', ['float16', 'float32'])
def test_with_no_anchor_kept_everything_is_finite(tmp_path, kind, dtype):
    data = sized([(64, 64), (64, 64), (96, 64)])
    for state in ('fills', 'reads'):
        model = model_of(kind, cache(tmp_path, 1 - 1e-7, dtype=dtype))
        model.teacher.begin(data)
        assert model.teacher.complete == (state == 'reads')
        losses, gradient = step(model, several(data, range(3)))
        assert gradient.isfinite().all() and all(x.isfinite() for x in losses.values())
        assert losses['distill.loss_bckd_cls'] > 0
        if 'distill.loss_ld' in losses:
            assert losses['distill.loss_ld'] == 0
        model.teacher.end()


def outputs(seed=0):
    """What student and teacher say of two pictures of one size, with the student's targets."""
    model = model_of('GFL')
    data = sized([(64, 96)] * 2)
    given = model.data_preprocessor(several(data, range(2)), True)
    with model.distiller.teacher_recorders:
        model.teacher.look(**given)
    with model.distiller.student_recorders:
        model.architecture(**given, mode='loss')
    said = [model.distiller.get_record('head', from_student=s) for s in (True, False)]
    generator = torch.Generator().manual_seed(seed)
    known = torch.rand(said[1].cls_logits.shape[:2], generator=generator) < 0.5
    assert 0 < (said[0].targets.positive & known).sum() < said[0].targets.positive.sum()
    return *said, known


def test_ld_leaves_out_positives_of_which_nothing_is_known():
    preds_S, preds_T, known = outputs()
    loss = LDLoss()
    found = loss(preds_S, replace(preds_T, known=known))
    targets = replace(preds_S.targets, positive=preds_S.targets.positive & known)
    right = loss(replace(preds_S, targets=targets), preds_T)
    assert torch.equal(found, right) and 0 < found < loss(preds_S, preds_T)
    rubbish = torch.where(known[..., None, None], preds_T.bin_logits, 1e4)
    assert torch.equal(found, loss(preds_S, replace(preds_T, known=known, bin_logits=rubbish)))


@pytest.mark.parametrize('term', [BCKDClassificationLoss, BCKDLocalizationLoss])
def test_bckd_asks_no_distribution_of_anchors_that_are_not_known(term):
    preds_S, preds_T, known = outputs()
    loss = term()
    found = loss(preds_S, replace(preds_T, known=known, bin_logits=None))
    assert torch.equal(found, loss(preds_S, preds_T))


def test_terms_that_need_every_anchor_and_settings_that_are_wrong_stop(tmp_path):
    for score in (0, 1, -0.1, 'low', True):
        with pytest.raises(ValueError, match=r'teacher_cache.min_score=.* is wrong: give a prob'):
            model_of('GFL', cache(tmp_path, score))
    cfg = pair(tmp_path, save_teacher(tmp_path / 'teacher.pth'), cache=dict(min_score=0.1))
    with pytest.raises(ValueError, match=r'min_score is of detection heads, and none of'):
        MODELS.build(cfg)
    student, teacher = networks('GFL')
    cfg = sl2(student, teacher, cache(tmp_path / 'sl2', 0.1))
    said = r'min_score keeps a part of the anchors, and model.distiller.distill_losses.loss_sl2 '
    with pytest.raises(ValueError, match=said + r'\(SL2Loss\) needs all of head_T: leave out min'):
        MODELS.build(cfg)
    data = sized()
    model = model_of('GFL', cache(tmp_path / 'store', 0.1))
    model.teacher.begin(data)
    record(model, data, [0])
    model.teacher.release()
    other = model_of('GFL', cache(tmp_path / 'elsewhere', 0.1))
    other.teacher.store.folder = str(tmp_path / 'store')
    other.teacher.store.header['min_score'] = 0.2
    with pytest.raises(ValueError, match=r'another distillation \(min_score was 0.1 and is 0.2'):
        other.teacher.begin(data)


def sl2(student, teacher, stored):
    from helpers.detection import distillation

    cfg = distillation(student, teacher, changes=dict(teacher_cache=stored))
    base = Config.fromfile(ROOT / 'configs/sl2/sl2_scenes.py').model.distiller
    base.distill_losses.loss_sl2.update(channels_S=[16] * 5, channels_T=[16] * 5)
    cfg['distiller'] = base
    return cfg


def test_stored_anchors_are_compared_with_live_ones(tmp_path):
    data = sized([(64, 64)] * 3)
    model = model_of('GFL', cache(tmp_path, 0.1, dtype='float16'))
    model.teacher.begin(data)
    _, given = record(model, data, range(3))
    (found,) = model.teacher.against_live(**given)
    assert found.samples == 3 and found.padded
    assert 0 < found.difference <= found.largest / 1024
    with torch.no_grad():
        model.teacher.live.network.bbox_head.gfl_cls.bias += 1
    (moved,) = model.teacher.against_live(**given)
    assert moved.difference == pytest.approx(1, abs=0.01)


def test_a_training_reads_what_it_has_filled(tmp_path):
    init_default_scope('mmdet')
    cfg = Config.fromfile(ROOT / 'configs/bckd/bckd_scenes.py')
    path = save_network(tmp_path / 'teacher.pth', dict(cfg.model.teacher, _scope_='mmdet'))

    def scenes(folder, score):
        cfg = Config.fromfile(ROOT / 'configs/bckd/bckd_scenes.py')
        cfg.merge_from_dict(few_scenes(tmp_path))
        for key, value in term('loss_ld', type='kd_plugins.LDLoss', loss_weight=0.1).items():
            cfg.model.distiller[key].update(value)
        cfg.model.teacher_ckpt = path
        cfg.train_cfg.update(max_epochs=2, val_interval=100)
        cfg.param_scheduler = None
        cfg.default_hooks.checkpoint = None
        cfg.log_level, cfg.work_dir = 'WARNING', str(tmp_path / folder)
        stored = dict(dir=str(tmp_path / f'store {score}'), min_score=score)
        return in_views(cfg, 1, stored)

    sizes = {}
    for score in (0.02, 0.5):
        filled = train(scenes('fill', score))
        same(filled, train(scenes('read', score)))
        folder = tmp_path / f'store {score}'
        sizes[score] = sum(each.stat().st_size for each in folder.glob('*.records'))
    assert sizes[0.5] < sizes[0.02]
