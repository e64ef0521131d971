"""Networks of Hugging Face's transformers as teachers, tiny and random, from folders.

`make test-hugging-face` runs this: beside transformers every start of an interpreter that
imports mmpretrain or mmdet takes a quarter longer, so that it has a folder of its own.
"""

import json

import pytest
import torch
import transformers
from helpers.networks import cnn
from mmengine.registry import MODELS
from mmpretrain.structures import DataSample
from safetensors.torch import load_file, save_file

STUDENT = cnn(dict(type='ResNet', depth=18, stem_channels=8, base_channels=4), 32)
TEXT = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
            vocab_size=20)  # fmt: skip
SIZE = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2)
VIT = dict(SIZE, intermediate_size=32, image_size=64, patch_size=16)
DINO = dict(SIZE, image_size=56, patch_size=14)
CLIP_MEAN, CLIP_STD = [0.48, 0.46, 0.41], [0.27, 0.26, 0.28]
#: The class whose weights are saved, its config, and how many of its tokens are of no patch.
KINDS = {
    'Dinov2Model': (lambda: transformers.Dinov2Config(**DINO), 1),
    'Dinov2WithRegistersModel': (lambda: transformers.Dinov2WithRegistersConfig(**DINO), 5),
    'ViTForImageClassification': (lambda: transformers.ViTConfig(**VIT), 1),
    'CLIPModel': (
        lambda: transformers.CLIPConfig(text_config=TEXT, vision_config=VIT, projection_dim=8),
        1,
    ),
    'CLIPVisionModel': (lambda: transformers.CLIPVisionConfig(**VIT), 1),
    'SiglipModel': (lambda: transformers.SiglipConfig(text_config=TEXT, vision_config=VIT), 0),
}


def saved(kind, folder, normalised=True):
    """Save a network of a kind; return it and the config of a teacher."""
    torch.manual_seed(3)
    network = getattr(transformers, kind)(KINDS[kind][0]()).eval()
    network.save_pretrained(folder, safe_serialization=True)
    if normalised:
        says = dict(image_mean=CLIP_MEAN, image_std=CLIP_STD, do_normalize=True)
        (folder / 'preprocessor_config.json').write_text(json.dumps(says))
    backbone = dict(type='kd_plugins.HuggingFaceFeatures', folder=str(folder))
    return network, dict(type='mmpretrain.ImageClassifier', backbone=backbone)


def algorithm(teacher, **more):
    preprocessor = dict(mean=[120.0, 110.0, 100.0], std=[60.0, 50.0, 40.0], to_rgb=True)
    student = dict(STUDENT, _scope_='mmpretrain', data_preprocessor=preprocessor)
    more.setdefault('distiller', dict(type='kd_plugins.AutoDistiller', term='cosine'))
    return MODELS.build(
        dict(type='kd_plugins.SingleTeacherDistill', architecture=student, teacher=teacher,
             **more)
    ).train()  # fmt: skip


def pictures(*size):
    raw = torch.randint(0, 256, (2, 3, *size), generator=torch.Generator().manual_seed(5))
    samples = [DataSample().set_gt_label(i) for i in range(2)]
    return dict(inputs=raw.to(torch.uint8), data_samples=samples)


@pytest.mark.parametrize('long', [1, 2])
@pytest.mark.parametrize('kind', KINDS)
def test_its_patches_are_the_map_of_its_own_input(kind, long, tmp_path):
    network, cfg = saved(kind, tmp_path)
    model = algorithm(cfg)
    side = model.teacher.network.backbone.img_size[0]
    data = pictures(side, long * side)
    converted = model.data_preprocessor(data, True)
    (found,) = model.teacher.look(converted['inputs'])
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (CLIP_MEAN, CLIP_STD))
    tower = getattr(network, 'vision_model', network)
    tower = getattr(tower, 'vit', tower)
    more = {} if 'Dino' in kind else dict(interpolate_pos_encoding=True)
    with torch.no_grad():
        tokens = tower((data['inputs'].flip(1) / 255 - mean) / std, **more).last_hidden_state
    patches = tokens[:, KINDS[kind][1] :]
    patch = 14 if 'Dino' in kind else 16
    for i in range(side // patch):
        for j in range(long * side // patch):
            torch.testing.assert_close(
                found[:, :, i, j], patches[:, i * (long * side // patch) + j], rtol=1e-3, atol=1e-3
            )
    if long == 1:
        losses = model(**converted, mode='loss')
        assert losses['distill.loss_cosine'] > 0 and losses['student.loss'] > 0
    assert not any('teacher' in key for key in model.state_dict())


@pytest.mark.parametrize('kind', ['ViTImageProcessor', 'CLIPImageProcessor', 'BitImageProcessor',
                                  'EfficientNetImageProcessor'])  # fmt: skip
@pytest.mark.parametrize('factor', [1 / 255, 1 / 127.5])
def test_its_input_is_what_its_own_preprocessor_makes(kind, factor, tmp_path):
    _, cfg = saved('Dinov2Model', tmp_path)
    preprocess = getattr(transformers, kind)(
        do_resize=False, do_center_crop=False, image_mean=CLIP_MEAN, image_std=CLIP_STD,
        rescale_factor=factor,
    )  # fmt: skip
    preprocess.save_pretrained(tmp_path)
    model = algorithm(cfg)
    data = pictures(56, 112)
    converted = model.teacher.convert(model.data_preprocessor(data, True)['inputs'])
    for found, bgr in zip(converted, data['inputs'], strict=True):
        rgb = bgr.flip(0).permute(1, 2, 0).numpy()
        (own,) = preprocess(rgb, return_tensors='pt')['pixel_values']
        torch.testing.assert_close(found, own, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('key', ['do_flip_channel_order', 'offset', 'rescale_offset'])
def test_a_preprocessor_that_does_more_is_no_mean_and_deviation(key, tmp_path):
    _, cfg = saved('Dinov2Model', tmp_path)
    path = tmp_path / 'preprocessor_config.json'
    path.write_text(json.dumps(dict(json.loads(path.read_text()), **{key: True})))
    with pytest.raises(ValueError, match=r'does not say how its input was normalised'):
        algorithm(cfg)


def change(folder, **changes):
    """Write the weights anew, without those that are None."""
    path = folder / 'model.safetensors'
    weights = {**load_file(path), **changes}
    kept = {key: value for key, value in weights.items() if value is not None}
    save_file(kept, path, metadata=dict(format='pt'))


@pytest.mark.parametrize(
    ('changes', 'says'),
    [
        ({'layernorm.weight': None}, r'1 weights are missing \(first: layernorm\.weight\)'),
        ({'odd': torch.ones(1)}, r'1 weights are unknown to it \(first: odd\)'),
        ({'layernorm.bias': torch.ones(5)}, r'1 weights are of another shape .*layernorm\.bias'),
    ],
)
def test_a_weight_too_few_or_too_many_is_one_sentence(changes, says, tmp_path):
    _, cfg = saved('Dinov2Model', tmp_path)
    change(tmp_path, **changes)
    with pytest.raises(ValueError, match=says) as caught:
        algorithm(cfg)
    assert '\n' not in str(caught.value) and str(tmp_path) in str(caught.value)


def test_what_a_folder_lacks_is_said(tmp_path):
    _, cfg = saved('Dinov2Model', tmp_path, normalised=False)
    with pytest.raises(ValueError, match=r'data_preprocessor=dict\(mean=\[\.\.\.\]'):
        algorithm(cfg)
    own = dict(mean=[0.0] * 3, std=[255.0] * 3, to_rgb=True)
    assert algorithm(dict(cfg, data_preprocessor=own)).teacher.has_own_input
    (tmp_path / 'model.safetensors').unlink()
    with pytest.raises(FileNotFoundError, match=r'has no model\.safetensors: convert'):
        algorithm(dict(cfg, data_preprocessor=own))
    (tmp_path / 'config.json').unlink()
    with pytest.raises(FileNotFoundError, match=r'has no config\.json'):
        algorithm(cfg)


def test_other_weights_of_the_same_network_are_taken(tmp_path):
    network, cfg = saved('Dinov2Model', tmp_path)
    other = tmp_path / 'other'
    with torch.no_grad():
        network.layernorm.bias.fill_(7.0)
    network.save_pretrained(other, safe_serialization=True)
    model = algorithm(cfg, teacher_ckpt=str(other))
    assert (model.teacher.network.backbone.model.layernorm.bias == 7).all()
    assert model.teacher.weights == str(other)


@pytest.mark.parametrize('kind', ['Dinov2Backbone', 'HieraModel'])
def test_what_gives_no_tokens_of_square_patches_is_one_sentence(kind, tmp_path):
    small = dict(image_size=[64, 64], embed_dim=8, depths=[1] * 4, num_heads=[1] * 4)
    hiera = kind == 'HieraModel'
    config = transformers.HieraConfig(**small) if hiera else transformers.Dinov2Config(**DINO)
    getattr(transformers, kind)(config).save_pretrained(tmp_path, safe_serialization=True)
    backbone = dict(type='kd_plugins.HuggingFaceFeatures', folder=str(tmp_path))
    own = dict(mean=[0.0] * 3, std=[255.0] * 3, to_rgb=True)
    teacher = dict(type='mmpretrain.ImageClassifier', backbone=backbone, data_preprocessor=own)
    says = 'not one for each patch' if hiera else 'gives no last_hidden_state'
    model = algorithm(dict(teacher), distiller=dict(connectors={}))
    with pytest.raises(ValueError, match=says):
        model.teacher.look(torch.rand(1, 3, 64, 64) if hiera else torch.rand(1, 3, 56, 56))


def test_tokens_that_are_no_patches_are_refused(tmp_path):
    """A Swin's are of 32 pixels, and its config says 4."""
    config = transformers.SwinConfig(image_size=64, patch_size=4, embed_dim=8, depths=[1, 1],
                                     num_heads=[1, 1], window_size=4)  # fmt: skip
    transformers.SwinModel(config).save_pretrained(tmp_path, safe_serialization=True)
    backbone = dict(type='kd_plugins.HuggingFaceFeatures', folder=str(tmp_path))
    own = dict(mean=[0.0] * 3, std=[255.0] * 3, to_rgb=True)
    teacher = dict(type='mmpretrain.ImageClassifier', backbone=backbone, data_preprocessor=own)
    with pytest.raises(ValueError, match=r'gives 64 tokens .* patch of 4 pixels and at most 8'):
        algorithm(teacher)
