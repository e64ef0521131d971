"""The configs of DeiT and CSKD on ImageNet against what was published."""

import pytest
import yaml
from helpers import ROOT
from helpers.networks import install_timm
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from kd_plugins.networks import resolve_network

# Pictures a step, learning rate, parameters, and top-1 of DeiT and CSKD. Zzzzz1/CSKD at
# fa0d8b8d922f4914d7d82feaded69845d21e47b4, configs/cskd_*.py and README.md; parameters
# as upstream's DeiT with a distillation token, 5.9, 22.4 and 87.3 million.
SIZES = {
    'tiny': (128, 1e-3, 5910800, 74.5, 76.3),
    'small': (64, 5e-4, 22436432, 81.2, 82.3),
    'base': (32, 2.5e-4, 87338192, 83.4, 83.8),
}


def load(path):
    init_default_scope('mmpretrain')
    return Config.fromfile(ROOT / 'configs' / path)


def steps(pipeline):
    return {step['type']: step for step in pipeline}


@pytest.mark.parametrize('size', SIZES)
@pytest.mark.parametrize('method', ['cskd', 'deit-hard'])
def test_the_published_settings(method, size, monkeypatch):
    batch, lr, parameters, _, _ = SIZES[size]
    cfg = load(f'{method[:4]}/{method}_regnety-16gf_deit-{size}_8xb{batch}_in1k.py')
    terms = dict(cfg.model.distiller.distill_losses)
    deit = dict(type='kd_plugins.DeiTLoss', form='hard', loss_weight=0.5)
    cskd = dict(type='kd_plugins.CSKDLoss', form='hard', decay='linear', loss_weight=1.0)
    assert terms == dict(loss_deit=deit) | (dict(loss_cskd=cskd) if method == 'cskd' else {})
    student, _ = resolve_network(cfg.model.architecture, 'model.architecture')
    network = MODELS.build(student)
    assert sum(p.numel() for p in network.parameters()) == parameters
    assert network.head.predictions == (3 if method == 'cskd' else 2)
    assert student.head.loss == dict(
        type='LabelSmoothLoss', label_smooth_val=0.1, mode='original', loss_weight=0.5
    )
    rates = [m.drop_prob for m in network.modules() if hasattr(m, 'drop_prob')]
    assert not any(rates)
    assert student.train_cfg.augments == [
        dict(type='Mixup', alpha=0.8),
        dict(type='CutMix', alpha=1.0),
    ]
    assert cfg.model.teacher_ckpt.endswith('/deit/regnety_160-a5fe301d.pth')
    adamw = cfg.optim_wrapper.optimizer
    assert (adamw.type, adamw.lr, adamw.weight_decay, adamw.eps) == ('AdamW', lr, 0.05, 1e-8)
    assert cfg.optim_wrapper.get('clip_grad') is None
    warm_up, cosine = cfg.param_scheduler
    assert warm_up.start_factor * lr == pytest.approx(1e-6) and warm_up.end == 5
    assert (cosine.begin, cosine.T_max, cosine.end, cosine.eta_min) == (5, 295, 300, 1e-5)
    assert cfg.train_cfg.max_epochs == 300
    loader = cfg.train_dataloader
    assert loader.batch_size == batch and 8 * batch == cfg.auto_scale_lr.base_batch_size
    assert (loader.sampler.type, loader.sampler.num_repeats) == ('RepeatAugSampler', 3)
    pipeline = steps(loader.dataset.pipeline)
    augment = pipeline['RandAugment']
    assert (augment.magnitude_level, augment.magnitude_std, augment.num_policies) == (9, 0.5, 2)
    assert augment.policies == 'timm_increasing' and augment.total_level == 10
    assert pipeline['RandomErasing'].erase_prob == 0.25
    assert pipeline['RandomErasing'].mode == 'rand'
    hooks = {hook.type: hook for hook in cfg.custom_hooks}
    assert 1 - hooks['EMAHook'].momentum == pytest.approx(0.99996)


def test_tokens_and_positions_are_not_decayed():
    from mmengine.optim import build_optim_wrapper

    cfg = load('cskd/cskd_regnety-16gf_deit-tiny_8xb128_in1k.py')
    student, _ = resolve_network(cfg.model.architecture, 'model.architecture')
    model = MODELS.build(dict(type='ImageClassifier', backbone=student.backbone, head=student.head))
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    names = {id(p): name for name, p in model.named_parameters()}
    decay = {names[id(g['params'][0])]: g['weight_decay'] for g in wrapper.optimizer.param_groups}
    for name, parameter in model.named_parameters():
        free = parameter.dim() == 1 or name.endswith(('_token', 'pos_embed'))
        assert decay[name] == (0 if free else 0.05), name


def test_soft_distillation_has_the_papers_weights():
    cfg = load('deit/deit-soft_regnety-16gf_deit-tiny_8xb128_in1k.py')
    assert dict(cfg.model.distiller.distill_losses.loss_deit) == dict(
        type='kd_plugins.DeiTLoss', form='soft', tau=3.0, normalizer='mean', loss_weight=0.1
    )
    assert cfg.model.architecture.head.loss.loss_weight == 0.9


def test_the_teacher_has_the_width_of_its_network(monkeypatch):
    install_timm(monkeypatch, width=3024)
    cfg = load('cskd/cskd_regnety-16gf_deit-tiny_8xb128_in1k.py')
    teacher = MODELS.build(cfg.model.teacher)
    assert teacher.head.fc.weight.shape == (1000, 3024)
    assert cfg.model.teacher.backbone.model_name == 'regnety_160'


def test_metafiles_have_the_papers_figures():
    wanted = {
        f'{method}_regnety-16gf_deit-{size}_8xb{row[0]}_in1k': row[3 + (method == 'cskd')]
        for size, row in SIZES.items()
        for method in ('cskd', 'deit-hard')
    }
    found = {}
    for folder in ('cskd', 'deit'):
        models = yaml.safe_load((ROOT / f'configs/{folder}/metafile.yml').read_text())['Models']
        assert all(model['Metadata']['Source of results'] == 'paper' for model in models)
        found |= {m['Name']: m['Results'][0]['Metrics']['Top 1 Accuracy'] for m in models}
    assert found == wanted
