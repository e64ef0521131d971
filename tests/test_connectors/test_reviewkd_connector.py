"""ReviewKD's connector: fusion from the coarsest level to the finest."""

import copy
import math

import pytest
import torch
from helpers.detection import detector, distillation, images, losses
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS

from kd_plugins.connectors import ReviewKDConnector
from kd_plugins.losses import ReviewKDLoss


def wave(shape, scale, frequency, phase):
    """The same numbers on every machine."""
    steps = torch.arange(math.prod(shape), dtype=torch.float64)
    return (scale * torch.sin(frequency * steps + phase)).view(shape)


def digest(gradient):
    """One number that depends on every element."""
    return (gradient * wave(gradient.shape, 1, 0.37, 0.1)).sum().item()


def features(shapes, phase):
    return [wave(shape, 2 - 0.3 * i, 1.3 - 0.1 * i, phase + i) for i, shape in enumerate(shapes)]


#: What a level learns, in the order of the published conv1, conv2 and att_conv.
ROLES = ('reduce.0.weight', 'reduce.1.weight', 'reduce.1.bias', 'expand.0.weight',
         'expand.1.weight', 'expand.1.bias', 'attention.weight', 'attention.bias')  # fmt: skip

# Shapes of the student's and of the teacher's maps, out_sizes; then what the published
# code printed for them: the loss, digests of its gradients at the student's maps, and
# at each role's weights summed over levels. "FPN" by ReviewKD and hcl of
# detection/model/reviewkd.py, the others by ABF and hcl_loss of
# mdistiller/distillers/ReviewKD.py, in the order of its forward_train; both of
# megvii-research/mdistiller at a08d46f10d6102bd6e3f258ca5ac880b020ea259.
PUBLISHED = {
    'FPN': (
        [(2, 4, 12, 20), (2, 5, 6, 10), (2, 6, 3, 5), (2, 6, 2, 3)],
        [(2, 3, 12, 20), (2, 4, 6, 10), (2, 5, 3, 5), (2, 5, 2, 3)],
        None,
        6.2656365855413565,
        [0.004990902279790977, -0.010191956329951806, -0.5143206890204081, -0.010527940445186817],
        [0.7965217024358641, 0.05114107194384472, 0.02677700810661201, 0.9793376938378459,
         2.2778532475894107, -0.48348277370827014, 0.21025645040270136, 0.005825070117559747],
    ),
    'classifier': (
        [(3, 4, 8, 8), (3, 5, 4, 4), (3, 6, 2, 2), (3, 6)],
        [(3, 3, 8, 8), (3, 4, 4, 4), (3, 5, 2, 2), (3, 5)],
        None,
        6.843538561046305,
        [0.03418166126595279, 0.0430291531073619, -0.20012518863876722, -0.3954517997660758],
        [0.9239264375933525, -0.03090635007788958, -0.06060291249157491, -0.3285406931131374,
         2.6372684641709183, -0.24021820750358214, -0.30040166355571907, 0.003324119960878988],
    ),
    'classifier of a larger teacher': (
        [(3, 4, 8, 8), (3, 5, 4, 4), (3, 6, 2, 2), (3, 6)],
        [(3, 3, 16, 16), (3, 4, 8, 8), (3, 5, 4, 4), (3, 5)],
        [16, 8, 4, 1],
        5.9552949756670905,
        [0.009370283654986301, 0.036387695160603445, -0.17442759786912468, -0.3392127178226883],
        [0.35912080168115945, -0.07065742569147623, -0.01403719044420386, 0.14874904660330251,
         2.5542819857337635, -0.29404292000837495, -0.0478075863480323, 0.0046031215372247716],
    ),
}  # fmt: skip


@pytest.mark.parametrize('case', PUBLISHED)
def test_equals_the_published_code(case):
    shapes_S, shapes_T, sizes, value, at_maps, at_roles = PUBLISHED[case]
    channels_S, channels_T = ([shape[1] for shape in shapes] for shapes in (shapes_S, shapes_T))
    fusion = ReviewKDConnector(channels_S, channels_T, mid_channels=4, out_sizes=sizes).double()
    gradients = dict.fromkeys(ROLES, 0.0)
    for i, level in enumerate(fusion.levels):
        weights = dict(level.named_parameters())
        for role, name in enumerate(ROLES):
            if name in weights:
                data = wave(weights[name].shape, 0.7, 1.1 + 0.01 * role, 0.3 * i + 0.5 * role)
                weights[name].data = data + (role in (1, 4))
    maps = [x.requires_grad_() for x in features(shapes_S, 0.2)]
    loss = ReviewKDLoss()(fusion(maps), features(shapes_T, 0.9))
    loss.backward()
    for level in fusion.levels:
        for name, parameter in level.named_parameters():
            gradients[name] += digest(parameter.grad)
    assert loss.item() == pytest.approx(value, rel=1e-9)
    assert [digest(x.grad) for x in maps] == pytest.approx(at_maps, rel=1e-9)
    assert list(gradients.values()) == pytest.approx(at_roles, rel=1e-9)


def test_five_levels_of_256_channels_have_the_published_number_of_weights():
    fusion = ReviewKDConnector([256] * 5)
    assert sum(p.numel() for p in fusion.parameters()) == 3_286_024


def test_starts_uniform_within_the_published_bound():
    torch.manual_seed(0)
    fusion = ReviewKDConnector([64, 64], mid_channels=96)
    fusion.init_weights()
    for level in fusion.levels:
        for conv, fan_in in ((level.reduce[0], 64), (level.expand[0], 9 * 96)):
            bound = math.sqrt(3 / fan_in)
            assert conv.weight.abs().max() <= bound
            assert conv.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.03)
            assert conv.bias is None
    assert fusion.levels[-1].attention is None and fusion.levels[0].attention.bias is not None


def run(fusion, pictures):
    return fusion([x[pictures] for x in features([(4, 8, 6, 6), (4, 8, 3, 3)], 0.2)])


@pytest.mark.parametrize('norm', ['GN', 'BN'])
def test_only_batch_norm_depends_on_the_other_pictures(norm):
    norm_cfg = dict(type='GN', num_groups=4) if norm == 'GN' else None
    fusion = ReviewKDConnector([8, 8], mid_channels=8, norm_cfg=norm_cfg).double()
    whole, alone = run(fusion, slice(None)), run(fusion, slice(1, 2))
    same = [
        torch.allclose(a[1:2], b, rtol=1e-9, atol=1e-9) for a, b in zip(whole, alone, strict=True)
    ]
    assert same == [norm == 'GN'] * 2


def test_one_value_a_channel_is_refused_for_batch_norm_only():
    maps = [torch.randn(1, 8, 2, 2), torch.randn(1, 8)]
    with pytest.raises(ValueError, match=r'norm_cfg: BatchNorm2d .* \(1, 8, 1, 1\).*GN'):
        ReviewKDConnector([8, 8], mid_channels=8)(maps)
    group = ReviewKDConnector([8, 8], mid_channels=8, norm_cfg=dict(type='GN', num_groups=4))
    assert [x.shape for x in group(maps)] == [(1, 8, 2, 2), (1, 8, 1, 1)]
    assert ReviewKDConnector([8, 8], mid_channels=8).eval()(maps)[1].shape == (1, 8, 1, 1)


@pytest.mark.parametrize('processes', [1, 2])
def test_synchronised_norms_have_the_values_of_other_processes(monkeypatch, processes):
    monkeypatch.setattr('kd_plugins.connectors.reviewkd.get_world_size', lambda: processes)
    fusion = ReviewKDConnector([8], mid_channels=8, norm_cfg=dict(type='SyncBN'))
    maps, (level,) = torch.randn(1, 8, 1, 1), fusion.levels
    if processes == 1:
        with pytest.raises(ValueError, match='SyncBatchNorm cannot normalise'):
            fusion._check_statistics(maps, level)
    else:
        fusion._check_statistics(maps, level)


@pytest.mark.parametrize('norm_cfg', [None, dict(type='GN', num_groups=2)], ids=['BN', 'GN'])
@pytest.mark.parametrize('pictures', [2, 0])
def test_half_precision_and_no_pictures_give_finite_gradients(pictures, norm_cfg):
    fusion = ReviewKDConnector([8, 8], [6, 6], mid_channels=4, norm_cfg=norm_cfg)
    maps = [torch.randn(pictures, 8, side, side, requires_grad=True) for side in (9, 5)]
    targets = [torch.randn(pictures, 6, side, side) for side in (9, 5)]
    with torch.autocast('cpu', torch.bfloat16):
        fused = fusion(maps)
        loss = ReviewKDLoss()(fused, targets)
    loss.backward()
    assert [x.shape for x in fused] == [x.shape for x in targets]
    assert loss.dtype == torch.float32 and (loss.item() > 0) == (pictures > 0)
    assert all(torch.isfinite(x.grad).all() for x in (*maps, *fusion.parameters()))
    assert all(torch.isfinite(x).all() for x in fusion.buffers())


@pytest.mark.parametrize(
    ('setting', 'said'),
    [
        (dict(in_channels=[]), 'in_channels'),
        (dict(in_channels=[8, 0]), r'in_channels\[1\]=0'),
        (dict(in_channels=[8, 8], out_channels=[8]), 'out_channels=.*each of 2 levels'),
        (dict(in_channels=[8, 8], out_sizes=[4]), 'out_sizes=.*each of 2 levels'),
        (dict(in_channels=[8], out_sizes=[(4, 0)]), 'out_sizes=0'),
        (dict(in_channels=[8], mid_channels=0), 'mid_channels=0'),
        (dict(in_channels=[8], mid_channels=6, norm_cfg=dict(type='GN', num_groups=4)), 'norm_cfg'),
        (dict(in_channels=[8], norm_cfg=dict(type='NoNorm')), 'norm_cfg=.*NoNorm'),
    ],
)
def test_settings_out_of_range_are_refused(setting, said):
    with pytest.raises(ValueError, match=rf'ReviewKDConnector\.{said}'):
        ReviewKDConnector(**setting)


def test_other_levels_or_channels_are_refused():
    with pytest.raises(ValueError, match=r'in_channels=\[8, 8\] .*\[\(2, 8, 4, 4\)\]'):
        ReviewKDConnector([8, 8])(torch.ones(2, 8, 4, 4))


def review(levels=5, weight=1.0, **connector):
    """A distiller with ReviewKD on both necks."""
    fusion = dict(type='kd_plugins.ReviewKDConnector', in_channels=[16] * levels, mid_channels=16)
    mapping = dict(
        preds_S=dict(recorder='neck', from_student=True, connector='fusion'),
        preds_T=dict(recorder='neck', from_student=False),
    )
    return dict(
        _delete_=True,
        student_recorders=dict(neck=dict(type='kd_plugins.Features')),
        teacher_recorders=dict(neck=dict(type='kd_plugins.Features')),
        connectors=dict(fusion=dict(fusion, **connector)),
        distill_losses=dict(loss_review=dict(type='kd_plugins.ReviewKDLoss', loss_weight=weight)),
        loss_forward_mappings=dict(loss_review=mapping),
    )


def algorithm(student=None, teacher=None, **settings):
    cfg = distillation(student, teacher)
    cfg['distiller'] = {k: v for k, v in review(**settings).items() if k != '_delete_'}
    return cfg


@pytest.mark.parametrize('norm_cfg', [None, dict(type='GN', num_groups=4)], ids=['BN', 'GN'])
def test_teaches_a_detector_of_a_stock_config(norm_cfg):
    torch.manual_seed(0)
    model = MODELS.build(algorithm(norm_cfg=norm_cfg))
    model.init_weights()
    total, log = model.parse_losses(losses(model, images()))
    total.backward()
    assert log['distill.loss_review'] > 0
    assert all(p.grad is not None for p in model.distiller.connectors.parameters())
    keys = set(model.state_dict())
    stock = set(MODELS.build(dict(detector(), _scope_='mmdet')).state_dict())
    assert {key for key in keys - stock if not key.startswith('distiller.connectors.fusion.')} == (
        set()
    )
    assert stock < keys


def test_weight_zero_trains_the_student_as_alone():
    def train(cfg):
        torch.manual_seed(3)
        model = MODELS.build(cfg)
        model.init_weights()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
        for step in range(2):
            optimizer.zero_grad()
            total, _ = model.parse_losses(losses(model, images(step)))
            total.backward()
            optimizer.step()
        return model.state_dict()

    alone, taught = train(detector()), train(algorithm(weight=0.0))
    assert all(torch.equal(value, taught[key]) for key, value in alone.items())
    taught_more = train(algorithm(weight=1.0))
    assert any(not torch.equal(value, taught_more[key]) for key, value in alone.items())


def test_its_norms_are_not_decayed_where_the_config_says_so():
    model = MODELS.build(algorithm())
    wrapper = build_optim_wrapper(
        model,
        dict(
            optimizer=dict(type='SGD', lr=0.01, weight_decay=1e-4),
            paramwise_cfg=dict(norm_decay_mult=0.0),
        ),
    )
    decay = {id(p): g['weight_decay'] for g in wrapper.param_groups for p in g['params']}
    level = model.distiller.connectors['fusion'].levels[0]
    assert decay[id(level.reduce[1].weight)] == decay[id(level.expand[1].bias)] == 0
    assert decay[id(level.reduce[0].weight)] == decay[id(level.attention.weight)] == 1e-4


OTHER_STRIDES = [4, 8, 16, 32, 64]


@pytest.mark.parametrize(
    ('teacher', 'settings', 'said'),
    [
        (dict(strides=OTHER_STRIDES), {}, r'strides \[8, 16, 32, 64, 128\].*\[4, 8, 16, 32, 64\]'),
        (dict(strides=[8, 16, 32, 64]), {}, r'student.* 5 levels .*teacher 4 levels'),
        ({}, dict(out_channels=[8] * 5), r'\[8, 8, 8, 8, 8\] channels.*\[16, 16, 16, 16, 16\]'),
        (
            {},
            dict(levels=4),
            r'fusion\.in_channels=\[16, 16, 16, 16\] does not fit neck .*5 lev',
        ),
    ],
    ids=['strides', 'levels', 'out_channels', 'in_channels'],
)
def test_other_levels_are_refused_before_training(teacher, settings, said):
    with pytest.raises(ValueError, match=said):
        MODELS.build(algorithm(teacher=detector(width=16, **teacher), **settings))


def test_a_copy_records_for_itself():
    torch.manual_seed(0)
    model = MODELS.build(algorithm())
    twin = copy.deepcopy(model)
    seen = []
    twin.distiller.distill_losses['loss_review'].register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs), with_kwargs=True
    )
    with torch.no_grad():
        for parameter in twin.distiller.connectors.parameters():
            parameter.zero_()
    losses(twin, images())
    # Its own connector made these.
    assert all((x == 0).all() for x in seen[0]['preds_S'])
    assert model.distiller.student_recorders.get_recorder('neck').data_buffer == []
