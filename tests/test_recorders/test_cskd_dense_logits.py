"""The dense logits that CSKD reads."""

import copy

import pytest
import torch
from helpers.networks import ARCH, build, cnn, distilled, install_timm, resnet, vit
from mmengine.registry import init_default_scope
from torch import nn

from kd_plugins.networks import build_network, resolve_network
from kd_plugins.recorders import DenseLogitsRecorder

MAPS = {
    'cifar resnet': lambda: resnet(),
    'several maps': lambda: cnn(
        dict(type='ResNet', depth=18, base_channels=8, stem_channels=8, out_indices=(1, 2, 3)), 64
    ),
    'pooling in a list': lambda: cnn(
        dict(type='ResNet', depth=18, base_channels=8, stem_channels=8),
        64,
        neck=[dict(type='GlobalAveragePooling')],
    ),
    'mobilenet': lambda: cnn(dict(type='MobileNetV2', widen_factor=0.25), 1280),
    'swin': lambda: cnn(
        dict(
            type='SwinTransformer',
            arch=dict(embed_dims=8, depths=[1, 1, 1, 1], num_heads=[1, 2, 2, 2]),
            img_size=64,
            window_size=2,
        ),
        64,
    ),
}  # fmt: skip


def pictures(rows=64, columns=64, size=2):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(size, 3, rows, columns, generator=generator)


def read(network, inputs, **arguments):
    recorder = DenseLogitsRecorder(**arguments)
    recorder.initialize(network)
    with recorder:
        answers = network(inputs, mode='tensor')
    return recorder, answers


@pytest.mark.parametrize('name', MAPS)
def test_the_mean_over_positions_is_the_networks_own_answer(name):
    network = build(MAPS[name]())
    recorder, answers = read(network, pictures(64, 128))
    (dense,) = recorder.data_buffer
    assert dense.shape[:2] == (2, 5) and dense.shape[3] == 2 * dense.shape[2] > 2
    torch.testing.assert_close(dense.mean(dim=(2, 3)), answers, rtol=1e-4, atol=1e-5)
    # Every position has an answer of its own.
    assert dense.flatten(2).std(dim=2).min() > 1e-4
    assert recorder.num_classes == 5


def test_a_position_has_what_the_classifier_says_of_its_features():
    network = build(resnet())
    recorder, _ = read(network, pictures(32, 32))
    features = network.backbone(pictures(32, 32))[-1]
    for row, column in ((0, 0), (2, 7), (7, 3)):
        expected = network.head.fc(features[:, :, row, column])
        torch.testing.assert_close(recorder.data_buffer[0][:, :, row, column], expected)


TRANSFORMERS = {
    'class token': (dict(), dict()),
    'no class token': (
        dict(with_cls_token=False, out_type='avg_featmap'), dict(with_cls_token=False),
    ),
    'distillation token': (dict(kind='DistilledVisionTransformer', head='DeiTClsHead'),) * 2,
    'raw': (
        dict(kind='DistilledVisionTransformer', head='DeiTClsHead', out_type='raw'),
        dict(kind='DistilledVisionTransformer', head='DeiTClsHead'),
    ),
    'several layers': (dict(out_indices=[0, 1]), dict()),
    'no final norm': (dict(final_norm=False), dict(final_norm=False)),
    'norm after the mean': (dict(out_type='avg_featmap'), dict()),
    'BEiT': (dict(kind='BEiTViT', out_type='avg_featmap'), dict(kind='BEiTViT')),
    'DeiT3': (dict(kind='DeiT3'),) * 2,
}  # fmt: skip


@pytest.mark.parametrize('name', TRANSFORMERS)
def test_patches_are_what_upstreams_feature_map_has(name):
    ours, theirs = TRANSFORMERS[name]
    network = build(vit(**ours))
    inputs = pictures(32, 32)
    if name == 'raw':
        recorder = DenseLogitsRecorder()
        recorder.initialize(network)
        with recorder:
            network.extract_feat(inputs)
    else:
        recorder, _ = read(network, inputs)
    (dense,) = recorder.data_buffer
    stock = build(vit(**dict(theirs, out_type='featmap')))
    stock.load_state_dict(network.state_dict(), strict=False)
    features = stock.backbone(inputs)[-1]
    if 'avg_featmap' in ours.values():
        features = as_the_average(features, network.backbone.ln2)
        with torch.no_grad():
            answer = network(inputs, mode='tensor')
        torch.testing.assert_close(dense.mean(dim=(2, 3)), answer)
    layers = network.head.layers
    classifier = layers.head_dist if hasattr(layers, 'head_dist') else layers.head
    for row in range(4):
        for column in range(4):
            expected = classifier(features[:, :, row, column])
            torch.testing.assert_close(dense[:, :, row, column], expected)


def as_the_average(features, norm):
    """Positions in the norm of their average, picture by picture."""
    pictures = []
    for picture in features:
        average = picture.mean(dim=(1, 2))
        deviation = (((average - average.mean()) ** 2).mean() + norm.eps) ** 0.5
        normed = [
            (picture[:, i, j] - picture[:, i, j].mean()) / deviation * norm.weight + norm.bias
            for i in range(picture.shape[1])
            for j in range(picture.shape[2])
        ]
        pictures.append(torch.stack(normed, dim=1).view_as(picture))
    return torch.stack(pictures)


MIXER = dict(_delete_=True, embed_dims=24, num_layers=2, tokens_mlp_dims=16, channels_mlp_dims=32)
#: Stock networks that average inside of the backbone, or tokens, and the last stage of some.
AVERAGES = {
    'convnext_v2/convnext-v2-atto_32xb32_in1k': ({}, 'stages.3'),
    'edgenext/edgenext-xxsmall_8xb256_in1k': ({}, 'stages.3'),
    'tinyvit/tinyvit-5m_8xb256_in1k': ({}, None),
    'mlp_mixer/mlp-mixer-base-p16_64xb64_in1k': (
        dict(backbone=dict(arch=MIXER), head=dict(in_channels=24)), None
    ),
}  # fmt: skip


@pytest.mark.parametrize('path', AVERAGES)
def test_the_mean_over_positions_is_the_answer_of_networks_that_average_inside(path):
    changes, stage = AVERAGES[path]
    init_default_scope('mmpretrain')
    cfg, _ = resolve_network(dict(cfg_path=f'mmpretrain::{path}.py', **changes), 'student')
    network = build_network(cfg, 'student').eval()
    with torch.no_grad():
        # Norms that do something.
        for name, p in network.named_parameters():
            if 'norm' in name:
                p.add_(torch.randn_like(p) * 0.3)
    maps = []
    if stage is not None:
        last = network.backbone.get_submodule(stage)
        last.register_forward_hook(lambda *args: maps.append(args[2]))
    size = (256, 256) if 'edgenext' in path else (224, 224)
    with torch.no_grad():
        recorder, answer = read(network, torch.randn(2, 3, *size))
    (dense,) = recorder.data_buffer
    torch.testing.assert_close(dense.mean(dim=(2, 3)), answer, rtol=1e-4, atol=1e-5)
    assert dense.std(dim=(2, 3)).min() > 0
    if stage is not None:
        features = as_the_average(maps[0], network.backbone.norm3)
        expected = network.head.fc(features[:, :, 2, 3])
        torch.testing.assert_close(dense[:, :, 2, 3], expected, rtol=1e-4, atol=1e-5)


def test_patches_keep_the_grid_of_pictures_that_are_no_squares():
    recorder, _ = read(build(vit()), pictures(16, 48))
    assert recorder.data_buffer[0].shape == (2, 5, 2, 6)


def test_the_distillation_tokens_classifier_reads_the_patches_unless_told_otherwise():
    network = build(distilled())
    first, _ = read(network, pictures(32, 32))
    second, _ = read(network, pictures(32, 32), classifier='head.layers.head')
    with torch.no_grad():
        network.head.layers.head_dist.weight.mul_(2)
        network.head.layers.head_dist.bias.mul_(2)
    third, _ = read(network, pictures(32, 32))
    torch.testing.assert_close(third.data_buffer[0], 2 * first.data_buffer[0])
    assert not torch.allclose(second.data_buffer[0], first.data_buffer[0])


def test_timms_networks_are_read_through_mmpretrains_backbone(monkeypatch):
    install_timm(monkeypatch, width=24)
    network = build(cnn(dict(type='TIMMBackbone', model_name='regnety_160'), 24))
    recorder, answers = read(network, pictures())
    (dense,) = recorder.data_buffer
    assert dense.shape == (2, 5, 8, 8)
    torch.testing.assert_close(dense.mean(dim=(2, 3)), answers)


def test_gradients_reach_patches_and_classifier():
    network = build(distilled()).train()
    recorder = DenseLogitsRecorder()
    recorder.initialize(network)
    with recorder:
        network.extract_feat(pictures(32, 32))
    recorder.data_buffer[0].square().sum().backward()
    assert network.head.layers.head_dist.weight.grad.any()
    assert network.backbone.patch_embed.projection.weight.grad.any()
    assert network.head.layers.head.weight.grad is None


def test_every_forward_pass_is_one_record_and_none_outside():
    network = build(vit(out_indices=[0, 1]))
    recorder = DenseLogitsRecorder()
    recorder.initialize(network)
    network(pictures(32, 32), mode='tensor')
    assert recorder.data_buffer == []
    with recorder:
        network(pictures(32, 32), mode='tensor')
        network(pictures(16, 16), mode='tensor')
    shapes = [tuple(record.shape) for record in recorder.data_buffer]
    assert shapes == [(2, 5, 4, 4), (2, 5, 2, 2)]
    network(pictures(32, 32), mode='tensor')
    assert len(recorder.data_buffer) == 2


@pytest.mark.parametrize('make', [resnet, distilled])
def test_a_copy_of_the_network_feeds_its_own_recorder(make):
    network = build(make())
    recorder = DenseLogitsRecorder()
    recorder.initialize(network)
    other, theirs = copy.deepcopy((network, recorder))
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.5)
    with recorder, theirs:
        other.extract_feat(pictures(32, 32))
    assert recorder.data_buffer == [] and len(theirs.data_buffer) == 1
    with recorder, theirs:
        network.extract_feat(pictures(32, 32))
    assert len(recorder.data_buffer) == 1 and theirs.data_buffer == []


def test_other_modules_can_be_named():
    network = build(resnet(out_indices=(1, 2)))
    recorder, _ = read(network, pictures(32, 32), features='backbone', classifier='head.fc')
    usual, _ = read(network, pictures(32, 32))
    torch.testing.assert_close(recorder.data_buffer[0], usual.data_buffer[0])
    # Tokens without a grid are a square one, after those that are no patches.
    network = build(vit())
    recorder, _ = read(network, pictures(32, 32), features='backbone.ln1', extra_tokens=1)
    usual, _ = read(network, pictures(32, 32))
    torch.testing.assert_close(recorder.data_buffer[0], usual.data_buffer[0])


def test_a_convolution_of_one_pixel_is_a_classifier():
    network = build(resnet())
    network.head.conv = nn.Conv2d(64, 5, 1)
    recorder, _ = read(network, pictures(32, 32), classifier='head.conv')
    expected = network.head.conv(network.backbone(pictures(32, 32))[-1])
    torch.testing.assert_close(recorder.data_buffer[0], expected)


def hidden():
    cfg = vit()
    cfg['head']['hidden_dim'] = 16
    return cfg


REFUSED = {
    'no map': (
        lambda: dict(vit(), backbone=dict(type='ConvNeXt', gap_before_final_norm=False,
                                          arch=dict(depths=[1] * 4, channels=[16] * 4))),
        dict(classifier='head.layers.head'),
        r'finds neither a feature map nor patch tokens in the ImageClassifier of ConvNeXt',
    ),
    'pooling of rows': (
        lambda: cnn(dict(type='ResNet', depth=18, base_channels=8), 64,
                    neck=dict(type='GlobalAveragePooling', dim=3)),
        dict(), 'of ResNet and GlobalAveragePooling: it reads',
    ),
    'no linear classifier': (
        lambda: dict(resnet(), head=dict(type='StackedLinearClsHead', num_classes=5,
                                         in_channels=64, mid_channels=[8])),
        dict(), r'finds no linear classifier in the ImageClassifier of CIFARResNet',
    ),
    'hidden layer': (hidden, dict(), r'to patch tokens of 16 behind a hidden layer: give the head'),
    'unknown features': (
        resnet, dict(features='backbone.layer9'), r"features='backbone.layer9' is not in the Image",
    ),
    'unknown classifier': (
        resnet, dict(classifier='head.fcc'), r"classifier='head.fcc' is not in the ImageClassifier",
    ),
    'classifier of another kind': (
        resnet, dict(classifier='backbone'), r"classifier='backbone' is a CIFARResNet: name an",
    ),
}  # fmt: skip


@pytest.mark.parametrize('name', REFUSED)
def test_what_cannot_be_read_is_refused_before_the_training(name):
    make, arguments, says = REFUSED[name]
    with pytest.raises(ValueError, match=f'DenseLogits.*{says}') as caught:
        DenseLogitsRecorder(**arguments).initialize(build(make()))
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    'make, arguments, says',
    [
        (resnet, dict(features='neck'), r"features='neck' has the shape \(2, 64\), which is no"),
        (resnet, dict(features='backbone.layer1'), r'\(2, 16, 32, 32\), which is no .*64, H, W'),
        (vit, dict(features='backbone.ln1'), r'17 tokens, and without extra_tokens=0 they fill no'),
    ],
)
def test_what_turns_out_to_be_no_map_is_refused_in_the_first_step(make, arguments, says):
    with pytest.raises(ValueError, match=f'DenseLogits.*{says}'):
        read(build(make()), pictures(32, 32), **arguments)


def test_half_precision_gives_half_precision_logits_of_the_same_value():
    network = build(distilled(predictions=3))
    full, _ = read(network, pictures(32, 32))
    with torch.autocast('cpu', torch.bfloat16):
        half, _ = read(network, pictures(32, 32))
    assert half.data_buffer[0].dtype == torch.bfloat16 and ARCH['embed_dims'] == 16
    torch.testing.assert_close(half.data_buffer[0].float(), full.data_buffer[0], rtol=0.1, atol=0.1)


def test_upsampled_logits_are_those_of_upsampled_features():
    network = build(resnet())
    recorder, _ = read(network, pictures(32, 48), upsample=2)
    (dense,) = recorder.data_buffer
    features = network.backbone(pictures(32, 48))[-1]
    finer = nn.functional.interpolate(features, scale_factor=2, mode='bilinear')
    assert dense.shape == (2, 5, 16, 24)
    wanted = network.head.fc(finer.movedim(1, -1)).movedim(-1, 1)
    torch.testing.assert_close(dense, wanted, rtol=1e-4, atol=1e-5)
    for value in (0, 1.5, True):
        with pytest.raises(ValueError, match=rf'DenseLogits\.upsample={value} is wrong'):
            DenseLogitsRecorder(upsample=value)


def test_several_heads_give_a_record_of_several():
    network = build(resnet(out_indices=(1, 2)))
    network.aux = nn.Linear(32, 5)
    other = dict(features='backbone.layer2', classifier='aux', upsample=2)
    recorder = DenseLogitsRecorder(others=[other])
    recorder.initialize(network)
    for _ in range(2):  # what the first pass left is gone
        with recorder:
            for seed in range(2):
                network(pictures(32, 32) + seed)
        assert len(recorder.data_buffer) == 2
        last, middle = recorder.get_record_data(record_idx=1)
        alone, _ = read(network, pictures(32, 32) + 1)
        assert torch.equal(last, alone.data_buffer[0])
        alone, _ = read(network, pictures(32, 32) + 1, **other)
        assert torch.equal(middle, alone.data_buffer[0]) and middle.shape == (2, 5, 32, 32)
    recorder.reset_data_buffer()
    assert not recorder.data_buffer
    with pytest.raises(ValueError, match=r"classifier='more' is not in the ImageClassifier"):
        DenseLogitsRecorder(others=[dict(other, classifier='more')]).initialize(network)
