"""Frozen foundation models as teachers: timm's and mmpretrain's, tiny and random, offline."""

import re
from pathlib import Path

import pytest
import timm
import torch
from helpers.detection import detector, images
from helpers.networks import cnn, resnet
from mmengine.registry import MODELS
from mmpretrain.structures import DataSample
from safetensors.torch import save_file

from kd_plugins.teachers import teacher_of
from kd_plugins.wiring.flow import flow

MEAN, STD = [120.0, 110.0, 100.0], [60.0, 50.0, 40.0]
ARCH = dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32)
STUDENT = cnn(dict(type='ResNet', depth=18, stem_channels=8, base_channels=4), 32)
TINY = dict(embed_dim=32, depth=2, num_heads=2)
#: Real classes of timm, with the name of their weights, which says their normalisation.
NAMES = dict(
    dinov2=('vit_small_patch14_reg4_dinov2.lvd142m', dict(TINY, img_size=56), 56),
    clip=('vit_base_patch16_clip_quickgelu_224.openai', dict(TINY, img_size=64), 64),
    eva=('eva02_tiny_patch14_224.mim_in22k', dict(TINY, img_size=56), 56),
    convnext=('convnext_atto.d2_in1k', dict(depths=(1, 1, 1, 1), dims=(8, 8, 16, 32)), 64),
)


def from_timm(case, tmp_path, suffix='.pth', change=lambda weights: weights, dynamic=True):
    """Save the weights of a network; return it, and a config that reads them."""
    name, settings, _ = NAMES[case]
    if dynamic and case != 'convnext':
        settings = dict(settings, dynamic_img_size=True)
    torch.manual_seed(3)
    network = timm.create_model(name, **settings).eval()
    weights = change({key: value.contiguous() for key, value in network.state_dict().items()})
    path = str(tmp_path / f'weights{suffix}')
    save_file(weights, path) if suffix == '.safetensors' else torch.save(weights, path)
    backbone = dict(type='kd_plugins.TimmFeatures', model_name=name, **settings)
    return network, dict(type='mmpretrain.ImageClassifier', backbone=backbone), path


def algorithm(teacher, ckpt=None, term='cosine', student=None, **more):
    torch.manual_seed(1)
    preprocessor = dict(mean=MEAN, std=STD, to_rgb=True)
    student = student or dict(STUDENT, _scope_='mmpretrain', data_preprocessor=preprocessor)
    more.setdefault('distiller', dict(type='kd_plugins.AutoDistiller', term=term))
    return MODELS.build(
        dict(type='kd_plugins.SingleTeacherDistill', architecture=student, teacher=teacher,
             teacher_ckpt=ckpt, **more)
    ).train()  # fmt: skip


def pictures(size=(56, 56), number=2):
    generator = torch.Generator().manual_seed(5)
    raw = torch.randint(0, 256, (number, 3, *size), generator=generator)
    return dict(
        inputs=raw.to(torch.uint8), data_samples=[DataSample().set_gt_label(i) for i in range(2)]
    )


def of_patches(network, inputs):
    """The tokens of the patches behind the last norm as a map, one by one."""
    if not hasattr(network, 'num_prefix_tokens'):
        return network.forward_features(inputs)
    tokens = network.forward_features(inputs)
    patch = network.patch_embed.patch_size[0]
    height, width = (side // patch for side in inputs.shape[2:])
    found = torch.zeros(len(inputs), tokens.shape[2], height, width)
    for i in range(height):
        for j in range(width):
            found[:, :, i, j] = tokens[:, network.num_prefix_tokens + i * width + j]
    return found


@pytest.mark.parametrize('shape', [(1, 1), (1, 2)])
@pytest.mark.parametrize('case', NAMES)
def test_timms_network_gives_its_patches_of_its_own_input(case, shape, tmp_path):
    network, cfg, path = from_timm(case, tmp_path)
    side = NAMES[case][2]
    if case == 'dinov2':
        assert network.num_prefix_tokens == 5  # its class and four registers
    model = algorithm(cfg, path, distiller=dict(connectors={}))
    data = pictures((shape[0] * side, shape[1] * side))
    inputs = model.data_preprocessor(data, True)['inputs']
    (found,) = model.teacher.look(inputs)
    # RGB of the BGR picture, by the mean and deviation that timm says of these weights.
    mean, std = (torch.tensor(network.pretrained_cfg[key]).view(3, 1, 1) for key in ('mean', 'std'))
    own = (data['inputs'].flip(1) / 255 - mean) / std
    torch.testing.assert_close(found, of_patches(network, own), rtol=1e-3, atol=1e-3)
    assert model.teacher.has_own_input and found.dim() == 4


def test_clip_has_another_normalisation_than_imagenet(tmp_path):
    found = [from_timm(case, tmp_path)[0].pretrained_cfg['mean'] for case in ('clip', 'dinov2')]
    assert found[0] != found[1]


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
def test_every_weight_of_a_file_has_its_place(suffix, tmp_path):
    # CLIP's has a projection, and the classifier of a ConvNeXt is not run.
    for case in ('clip', 'convnext'):
        network, cfg, path = from_timm(case, tmp_path, suffix)
        loaded = algorithm(cfg, path, distiller=dict(connectors={})).teacher.network.backbone.model
        expected = network.state_dict()
        assert loaded.state_dict().keys() == expected.keys() and 'head.' in str([*expected])
        assert all(torch.equal(v, expected[k]) for k, v in loaded.state_dict().items())


def without(weights):
    return {k: v for k, v in weights.items() if k != 'norm.weight'}


def beside(weights):
    return dict(weights, odd=torch.ones(1))


def reshaped(weights):
    return dict(weights, **{'norm.bias': torch.ones(5)})


@pytest.mark.parametrize(
    ('change', 'says'),
    [
        (without, r'1 weights are missing \(first: backbone\.model\.norm\.weight\)'),
        (beside, r'1 weights are unknown to it \(first: backbone\.model\.odd\)'),
        (reshaped, r'1 weights are of another shape \(first: backbone\.model\.norm\.bias is \(5\)'),
    ],
)
@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
def test_a_weight_too_few_or_too_many_is_one_sentence(change, says, suffix, tmp_path):
    _, cfg, path = from_timm('dinov2', tmp_path, suffix, change)
    with pytest.raises(ValueError, match=says) as caught:
        algorithm(cfg, path)
    said = str(caught.value)
    assert said.startswith(f'model.teacher_ckpt={path!r} does not fit') and '\n' not in said


def test_a_file_of_tensors_that_breaks_off_is_named(tmp_path):
    _, cfg, path = from_timm('dinov2', tmp_path, '.safetensors')
    whole = Path(path).read_bytes()
    Path(path).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r'weights\.safetensors.* is not a readable checkpoint'):
        algorithm(cfg, path)


@pytest.mark.parametrize(
    ('name', 'more', 'says'),
    [
        ('vit_smal.lvd142m', {}, r"model_name='vit_smal\.lvd142m' is wrong"),
        (
            'vit_small_patch14_dinov2.lvd',
            {},
            r"\.lvd' .* is no network .*\(lvd\)",
        ),
        ('resnet18', dict(dynamic_img_size=True), r"is no network of timm: .*'dynamic_img_size'"),
        ('resnet18', dict(pretrained=True), r'TimmFeatures\.pretrained=True .* teacher_ckpt'),
    ],
)
def test_what_timm_does_not_know_is_refused(name, more, says):
    backbone = dict(type='kd_plugins.TimmFeatures', model_name=name, **more)
    teacher = dict(type='mmpretrain.ImageClassifier', backbone=backbone)
    with pytest.raises(ValueError, match=says):
        algorithm(teacher, allow_random_teacher=True)


@pytest.mark.parametrize('name', ['vit_base_patch16_clip_224.openai', 'vit_base_patch16_clip_224'])
def test_weights_of_another_activation_are_refused(name):
    """OpenAI's were trained with QuickGELU, which only timm's networks with it in the name have."""
    assert 'QuickGELU' in timm.get_pretrained_cfg('vit_base_patch16_clip_224.openai').notes[0]
    backbone = dict(type='kd_plugins.TimmFeatures', model_name=name, **TINY)
    teacher = dict(type='mmpretrain.ImageClassifier', backbone=backbone)
    if '.' not in name:
        # Those of LAION, its default, were trained with the one that it has.
        algorithm(teacher, allow_random_teacher=True, teacher_input_size=224)
        return
    right = r"give 'vit_base_patch16_clip_quickgelu_224\.openai': these weights"
    with pytest.raises(ValueError, match=right):
        algorithm(teacher, allow_random_teacher=True)


def test_a_hiera_has_no_norm_before_its_classifier():
    backbone = dict(type='kd_plugins.TimmFeatures', model_name='hiera_tiny_224', embed_dim=8,
                    stages=(1, 1, 1, 1))  # fmt: skip
    teacher = dict(type='mmpretrain.ImageClassifier', backbone=backbone)
    model = algorithm(teacher, allow_random_teacher=True, distiller=dict(connectors={}))
    inputs = torch.rand(1, 3, 224, 224)
    (found,) = model.teacher.look(inputs)
    network = model.teacher.network.backbone.model
    with torch.no_grad():
        expected = network.forward_features(model.teacher.convert(inputs))
    torch.testing.assert_close(found.flatten(2).transpose(1, 2), expected.flatten(1, -2))


def test_another_size_than_it_is_laid_out_for_names_the_setting(tmp_path):
    _, cfg, path = from_timm('dinov2', tmp_path, dynamic=False)
    model = algorithm(cfg, path)
    data = model.data_preprocessor(pictures((84, 84)), True)
    with pytest.raises(ValueError, match=r'set model\.teacher_input_size=\(56, 56\)'):
        model(**data, mode='loss')
    model = algorithm(cfg, path, teacher_input_size=56)
    assert model(**data, mode='loss')['distill.loss_cosine'] > 0


def test_keys_of_an_attention_are_no_map(tmp_path):
    """They are (N, heads, L, C), here 21 x 16 as of a map of stride 3.5."""
    _, cfg, path = from_timm('dinov2', tmp_path)
    found = flow(algorithm(cfg, path).teacher.network, (56, 56), 'backbone', 'the teacher')
    assert [(str(x), x.stride) for x in found.given] == [('backbone', 14)]
    assert [(str(x), x.extra_tokens) for x in found.inside] == [('backbone.model.norm', 5)]


@pytest.mark.parametrize('name', ['cosine', 'gram'])
def test_a_classifier_learns_from_labels_and_from_a_map_at_once(name, tmp_path):
    term = name if name == 'cosine' else dict(type='kd_plugins.GramLoss')
    _, cfg, path = from_timm('dinov2', tmp_path)
    model = algorithm(cfg, path, term=term)
    # Only cosine needs a projector, from 16 channels to the teacher's 32.
    connected = bool(len(model.distiller.connectors))
    assert connected is (name == 'cosine')
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    data = model.data_preprocessor(pictures(), True)
    values = []
    for _ in range(8):
        losses = model(**data, mode='loss')
        assert losses['student.loss'] > 0
        values.append(losses[f'distill.loss_{name}'].item())
        optimizer.zero_grad()
        model.parse_losses(losses)[0].backward()
        optimizer.step()
    assert values[-1] < 0.9 * values[0]
    assert all(p.grad is None for p in model.teacher.network.parameters())
    assert not any('teacher' in key or 'timm' in key for key in model.state_dict())
    with pytest.raises(ValueError, match='teacher, of type ImageClassifier, has no head, and'):
        teacher_of(model)


HEADLESS = {
    'dinov2/vit-small-p14_dinov2-pre_headless.py': dict(img_size=56),
    'eva02/eva02-tiny-p14_headless.py': dict(img_size=56),
    'eva/eva-l-p14_headless.py': dict(img_size=56),
    'clip/vit-large-p14_headless.py': dict(img_size=64),
}


@pytest.mark.parametrize('path', HEADLESS)
def test_mmpretrains_headless_networks_are_wired(path):
    teacher = dict(
        cfg_path=f'mmpretrain::{path}',
        backbone=dict(HEADLESS[path], arch=dict(ARCH, _delete_=True), out_type='featmap'),
    )
    if path.startswith('clip'):
        # Its own config says no normalisation: the student's would be taken.
        with pytest.raises(ValueError, match=r'has no data_preprocessor\): give model\.teacher\.d'):
            algorithm(teacher, allow_random_teacher=True)
        teacher['data_preprocessor'] = dict(mean=[122.77] * 3, std=[68.5] * 3, to_rgb=True)
    model = algorithm(teacher, allow_random_teacher=True)
    assert getattr(model.teacher.network, 'head', None) is None
    side = HEADLESS[path]['img_size']
    data = model.data_preprocessor(pictures((side, side)), True)
    losses = model(**data, mode='loss')
    assert losses['distill.loss_cosine'] > 0 and losses['student.loss'] > 0
    assert model.teacher.has_own_input


def test_a_detectors_backbone_learns_from_boxes_and_from_a_map_at_once(tmp_path):
    """Of pictures that are no square, with the patches where the student's positions are."""
    _, cfg, path = from_timm('dinov2', tmp_path)
    torch.manual_seed(0)
    student = detector(
        'GFL', preprocessor=dict(type='DetDataPreprocessor', mean=MEAN, std=STD, bgr_to_rgb=True)
    )
    model = algorithm(
        cfg, path, student=dict(student, _scope_='mmdet'),
        distiller=dict(type='kd_plugins.AutoDistiller', term='cosine', where='backbone'),
        teacher_input_size=dict(scale=0.875),
    )  # fmt: skip
    data = model.data_preprocessor(images(sizes=[(64, 128)] * 2), True)
    shapes = []
    model.teacher.watch(after=lambda outputs, samples: shapes.append(outputs[0].shape))
    losses = model(**data, mode='loss')
    # 56 x 112 pixels, 4 x 8 patches: the student's at stride 16.
    assert [tuple(shape) for shape in shapes] == [(2, 32, 4, 8)]
    assert {'student.loss_cls', 'student.loss_bbox', 'distill.loss_cosine'} <= losses.keys()
    losses['distill.loss_cosine'].backward()
    reached = {name.split('.')[1] for name, p in model.student.named_parameters(prefix='student')
               if p.grad is not None and p.grad.any()}  # fmt: skip
    assert reached == {'backbone'}


@pytest.mark.parametrize(
    ('size', 'says'),
    [
        (dict(scale=0), r'teacher_input_size\.scale=0 is wrong: give dict\(scale=\.\.\.\)'),
        (dict(scal=2), r"teacher_input_size={'scal': 2} is wrong"),
        (dict(scale=1, side=2), r'teacher_input_size='),
        ((1, 2, 3), r'teacher_input_size=\(1, 2, 3\) is wrong: .* or dict\(scale=\.\.\.\)'),
    ],
)
def test_a_bad_share_of_the_size_is_refused(size, says):
    with pytest.raises(ValueError, match=says):
        algorithm(resnet() | dict(_scope_='mmpretrain'), None, 'mse', allow_random_teacher=True,
                  teacher_input_size=size)  # fmt: skip


def test_a_share_of_the_size_is_of_every_batch():
    teacher = resnet() | dict(_scope_='mmpretrain')
    model = algorithm(teacher, None, 'mse', allow_random_teacher=True,
                      teacher_input_size=dict(scale=0.875))  # fmt: skip
    for size, expected in (((64, 96), (56, 84)), ((32, 48), (28, 42))):
        assert model.teacher.convert(torch.rand(1, 3, *size)).shape[2:] == expected


@pytest.mark.parametrize('setting', ['loss_wieght', 'tau'])
def test_a_setting_that_a_term_has_not_is_one_sentence(setting):
    term = {'type': 'kd_plugins.CosineLoss', setting: 1.0}
    with pytest.raises(ValueError) as caught:
        algorithm(resnet() | dict(_scope_='mmpretrain'), term=term, allow_random_teacher=True)
    said = str(caught.value)
    assert re.match(rf'model\.distiller\.term\.{setting}=1\.0 is no setting of CosineLoss', said)
    assert 'loss_weight' in said and '\n' not in said
