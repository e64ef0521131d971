"""mmrazor's own config files after the README's three edits, and its own validation loop."""

import re
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from helpers import algorithm_cfg
from helpers.detection import images
from helpers.tiny_training import config
from mmengine.config import Config
from mmengine.hooks import EMAHook
from mmengine.optim import OptimWrapper
from mmengine.registry import LOOPS, MODELS, init_default_scope
from mmengine.runner import Runner
from mmpretrain.structures import DataSample

CONFIGS = Path(find_spec('mmrazor').origin).parent / '.mim/configs'

#: mmrazor's files that distil a student from a teacher, and run.
RUN = [
    'mmcls/abloss/abloss_logits_resnet50_resnet18_8xb32_in1k.py',
    'mmcls/abloss/abloss_pretrain_backbone_resnet50_resnet18_8xb32_in1k.py',
    'mmcls/crd/crd_neck_r50_r18_8xb16_cifar10.py',
    'mmcls/dist/dist_logits_resnet34_resnet18_8xb32_in1k.py',
    'mmcls/dkd/dkd_resnet34_resnet18_8xb32_in1k.py',
    'mmcls/fitnets/fitnets_backbone_logits_resnet50_resnet18_8xb32_in1k.py',
    'mmcls/kd/kd_logits_resnet34_resnet18_8xb32_in1k.py',
    'mmcls/kd/kd_logits_resnet50_mobilenet-v2_8xb32_in1k.py',
    'mmcls/kd/kd_logits_resnet50_shufflenet-v2-1x_16xb64_in1k.py',
    'mmcls/rkd/rkd_neck_resnet34_resnet18_8xb32_in1k.py',
    'mmcls/wsld/wsld_logits_resnet34_resnet18_8xb32_in1k.py',
    'mmdet/cwd/cwd_cls_head_gfl_r101_fpn_gfl_r50_fpn_1x_coco.py',
    'mmdet/cwd/cwd_fpn_retina_r101_retina_r50_1x_coco.py',
    'mmdet/cwd/cwd_fpn_retina_r101_retina_r50_1x_coco_visualization.py',
    'mmdet/fbkd/fbkd_fpn_faster-rcnn_r101_faster-rcnn_r50_1x_coco.py',
    'mmdet/mgd/mgd_fpn_retina_x101_retina_r50_2x_coco.py',
    'mmdet/pkd/pkd_fpn_faster-rcnn_r101_faster-rcnn_r50_2x_coco.py',
    'mmdet/pkd/pkd_fpn_fcos_x101_retina_r50_1x_coco.py',
    'mmdet/pkd/pkd_fpn_mask-rcnn_swin_retina_r50_2x_coco.py',
    'mmdet/pkd/pkd_fpn_reppoints_x101-dcn_reppoints_r50_2x_coco.py',
    'mmdet/pkd/pkd_fpn_retina_x101_retina_r50_2x_coco.py',
]
#: Those that cannot be built, with what says why: upstream, or a sentence of ours.
REFUSED = {
    # Files of mmpretrain and mmdet that have other names by now.
    'mmcls/deit/deit-base_regnety160_pt-16xb64_in1k.py': 'deit-base_pt-16xb64_in1k.py" does not',
    'mmdet/cwd/cwd_fpn_frcnn_r101_frcnn_r50_1x_coco.py': 'faster_rcnn_r50_fpn_1x_coco.py" does not',
    'mmcls/factor_transfer/factor-transfer_backbone_resnet50_resnet18_8xb16_cifar10_pretrain.py': (
        'model.student_trainable=False is not supported'
    ),
    'mmcls/factor_transfer/factor-transfer_backbone_resnet50_resnet18_8xb16_cifar10_train.py': (
        'loss_s4_pretrain is mapped to nothing'
    ),
}
#: Other algorithms: a student's own layers, generators of pictures, margins set up from mmcls.
OTHERS = [
    'mmcls/ofd/ofd_backbone_resnet50_resnet18_8xb16_cifar10.py',
    'mmcls/byot/byot_resnet18_8xb16_cifar100.py',
    'mmcls/dafl/dafl_logits_resnet34_resnet18_8xb256_cifar10.py',
    'mmcls/dfad/dfad_logits_resnet34_resnet18_8xb32_cifar10.py',
    'mmcls/zskt/zskt_backbone_logits_resnet34_resnet18_8xb16_cifar10.py',
]


@pytest.fixture(scope='module')
def edited(tmp_path_factory):
    """All of mmrazor's configs, edited as the README says."""
    folder = tmp_path_factory.mktemp('mmrazor')
    for path in CONFIGS.rglob('*.py'):
        text = path.read_text()
        for before in ("'mmcls::", "'mmcls.", "_scope_='mmcls"):
            text = text.replace(before, before.replace('mmcls', 'mmpretrain'))
        kind = r"type='(mmrazor\.)?(SingleTeacherDistill|FpnTeacherDistill)'"
        text = re.sub(kind, "type='kd_plugins.SingleTeacherDistill'", text)
        text += "\ncustom_imports = dict(imports=['kd_plugins'])\n"
        copy = folder / path.relative_to(CONFIGS)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(text)
    return folder / 'distill'


def build(path):
    cfg = Config.fromfile(path)
    init_default_scope(cfg.get('default_scope', 'mmpretrain'))
    model = cfg.model
    model.update(teacher_ckpt=None, init_cfg=None, allow_random_teacher=True)
    model.teacher = dict(model.teacher, pretrained=False)
    if '/mmdet/' in str(path):
        # Nothing is downloaded, and half of the layers do.
        deep = 'r101' in model.teacher['cfg_path'] or 'x101' in model.teacher['cfg_path']
        model.teacher['backbone'] = dict(init_cfg=None, **(dict(depth=50) if deep else {}))
    return cfg, MODELS.build(model)


def test_the_lists_are_all_of_mmrazors_files():
    known = {*RUN, *REFUSED, *OTHERS}
    there = {
        str(path.relative_to(CONFIGS / 'distill'))
        for path in CONFIGS.glob('distill/mm*/*/*.py')
        if path.parts[-3] in ('mmcls', 'mmdet')
    }
    assert known == there


@pytest.mark.long
@pytest.mark.parametrize('name', RUN)
def test_mmrazors_config_trains_and_validates_after_three_edits(edited, name):
    torch.manual_seed(0)
    cfg, model = build(edited / name)
    if name.startswith('mmdet'):
        data = images(size=128)
    else:
        samples = [DataSample().set_gt_label(i) for i in range(2)]
        for i, sample in enumerate(samples):
            contrast = torch.arange(16385) % 5
            sample.set_metainfo(dict(sample_idx=torch.tensor(i), contrast_sample_idxs=contrast))
        data = dict(inputs=torch.randint(0, 255, (2, 3, 64, 64)), data_samples=samples)
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=1e-4))
    before = [p.clone() for p in model.student.parameters()]
    log = model.train().train_step(data, wrapper)
    terms = [value for key, value in log.items() if key.startswith('distill.loss')]
    assert terms and all(torch.isfinite(value) for value in terms)
    after = model.student.parameters()
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    if 'val_cfg' in cfg and cfg.val_cfg.get('type'):
        loop = LOOPS.get(cfg.val_cfg.type)
        assert loop.run.__module__ == 'kd_plugins.compat.mmrazor'


@pytest.mark.parametrize('name', REFUSED)
def test_what_does_not_run_says_why(edited, name):
    with pytest.raises(Exception, match=re.escape(REFUSED[name])):
        build(edited / name)


def test_its_validation_of_student_and_teacher_changes_no_training(tmp_path):
    """Its own ``run`` exchanges EMA's weights twice, and once back."""
    ends, metrics = [], []
    for name, kind in (('a', 'ValLoop'), ('b', 'mmrazor.SingleTeacherDistillValLoop')):
        cfg = config(tmp_path / name, 3, model=algorithm_cfg())
        cfg.val_cfg = dict(type=kind)
        cfg.custom_hooks.append(dict(type='EMAHook', momentum=0.3))
        runner = Runner.from_cfg(cfg)
        ends.append({k: v.clone() for k, v in runner.train().state_dict().items()})
        ema = next(hook for hook in runner.hooks if isinstance(hook, EMAHook))
        averaged = ema.ema_model.module.state_dict()
        assert any(not torch.equal(averaged[k], v) for k, v in ends[-1].items())
        metrics.append(runner.val())
    assert all(torch.equal(ends[0][k], v) for k, v in ends[1].items())
    assert set(metrics[1]) == {*metrics[0], *(f'teacher.{k}' for k in metrics[0])}
