"""What upstream would load, loads; nothing is left at random."""

from urllib.error import URLError

import pytest
import torch
from helpers import TEACHER, build
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from kd_plugins.files.weights import load_weights


def classifier(backbone, channels):
    init_default_scope('mmpretrain')
    return MODELS.build(
        dict(
            type='ImageClassifier',
            backbone=backbone,
            neck=dict(type='GlobalAveragePooling') if backbone['type'].startswith('Swin') else None,
            head=dict(type='LinearClsHead', num_classes=3, in_channels=channels),
        )
    )


def vit(size):
    arch = dict(embed_dims=12, num_layers=1, num_heads=2, feedforward_channels=16)
    return classifier(dict(type='VisionTransformer', arch=arch, img_size=size, patch_size=8), 12)


def swin(size, kind='SwinTransformer', **changes):
    arch = dict(embed_dims=8, depths=[1, 1], num_heads=[1, 2])
    if kind == 'SwinTransformerV2':
        arch['extra_norm_every_n_blocks'] = 0
    backbone = dict(type=kind, arch=arch, img_size=size, out_indices=(1,), **changes)
    return classifier(backbone, 16)


NETWORKS = {
    'vit': lambda size: vit(size),
    'swin': lambda size: swin(size, window_size=size // 16),
    'swin-v2': lambda size: swin(size, 'SwinTransformerV2', window_size=size // 16),
}


@pytest.mark.parametrize('name', NETWORKS)
def test_transformers_of_another_input_size_load_as_upstream_loads_them(name, tmp_path):
    source = NETWORKS[name](64)
    ours, theirs = NETWORKS[name](128), NETWORKS[name](128)
    torch.save(source.state_dict(), tmp_path / 't.pth')
    load_weights(ours, str(tmp_path / 't.pth'))
    theirs.load_state_dict(source.state_dict(), strict=False)
    start = NETWORKS[name](128).state_dict()
    resized = [k for k, v in source.state_dict().items() if v.shape != start[k].shape]
    assert resized
    for key, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[key], value), key
    for key in resized:
        assert ours.state_dict()[key].shape == start[key].shape


@pytest.mark.parametrize('compiled', ['whole', 'part', 'wrapped'])
def test_files_of_compiled_networks_load(compiled, tmp_path):
    source, target = MODELS.build(TEACHER), MODELS.build(TEACHER)
    if compiled == 'part':
        source.body = torch.compile(source.body)
        state = source.state_dict()
    else:
        state = torch.compile(source).state_dict()
    if compiled == 'wrapped':
        state = {f'module.{key}': value for key, value in state.items()}
    assert all('_orig_mod.' in key for key in state if 'body' in key)
    torch.save(state, tmp_path / 't.pth')
    load_weights(target, str(tmp_path / 't.pth'))
    for ours, theirs in zip(target.body.parameters(), source.body.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert torch.equal(target.fc.weight, source.fc.weight)


class Renaming(nn.Module):
    """A network whose version 2 calls ``old`` ``new``, and swaps both of ``pair``."""

    _version = 2

    def __init__(self):
        super().__init__()
        self.new = nn.Linear(2, 2)
        self.first, self.second = nn.Linear(2, 2), nn.Linear(2, 2)

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, *args):
        if local_metadata.get('version', 1) < 2:
            for key in [k for k in state_dict if k.startswith(f'{prefix}old.')]:
                state_dict[key.replace('old.', 'new.')] = state_dict.pop(key)
            for key in ('weight', 'bias'):
                one, two = f'{prefix}first.{key}', f'{prefix}second.{key}'
                state_dict[one], state_dict[two] = state_dict[two], state_dict[one]
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args)


@pytest.mark.parametrize('wrap', ['', 'module.', '_orig_mod.', 'architecture.'])
def test_a_network_renames_by_the_version_in_the_file(wrap, tmp_path):
    source, target = Renaming(), Renaming()
    outer = nn.Module()
    for name in wrap.split('.')[:1]:
        if name:
            outer.add_module(name, source)
        else:
            outer = source
    torch.save(dict(state_dict=outer.state_dict()), tmp_path / 't.pth')
    load_weights(target, str(tmp_path / 't.pth'))
    for key, value in source.state_dict().items():
        assert torch.equal(target.state_dict()[key], value), key


def test_a_network_renames_what_a_file_without_a_version_has(tmp_path):
    source, target = Renaming(), Renaming()
    old = {key.replace('new.', 'old.'): value for key, value in source.state_dict().items()}
    torch.save(old, tmp_path / 't.pth')
    load_weights(target, str(tmp_path / 't.pth'))
    assert torch.equal(target.new.weight, source.new.weight)
    assert torch.equal(target.first.weight, source.second.weight)


class Forgetful(nn.Module):
    """A network that drops a weight, and an index that it computes, from what it loads."""

    def __init__(self, drops):
        super().__init__()
        self.fc = nn.Linear(2, 2)
        self.drops = drops
        self.register_buffer('index', torch.arange(4))

    def _load_from_state_dict(self, state_dict, prefix, *args):
        state_dict.pop(prefix + self.drops, None)
        super()._load_from_state_dict(state_dict, prefix, *args)


def test_nothing_is_left_at_random(tmp_path):
    torch.save(Forgetful('').state_dict(), tmp_path / 't.pth')
    load_weights(Forgetful('index'), str(tmp_path / 't.pth'))
    # The layer inside loads what its parent has dropped, so the parent's own weight it is.
    network = Forgetful('weight')
    network.weight = nn.Parameter(torch.zeros(2))
    torch.save(network.state_dict(), tmp_path / 't.pth')
    with pytest.raises(ValueError, match=r'1 weights are missing \(first: weight\)'):
        load_weights(network, str(tmp_path / 't.pth'))


def test_a_path_that_is_not_found_says_from_where(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = rf"model\.teacher_ckpt='teacher\.pth' is not a file \(looked for in '{tmp_path}'\)"
    with pytest.raises(FileNotFoundError, match=said):
        build(teacher_ckpt='teacher.pth')
    said = rf"model\.teacher\.cfg_path='teacher\.py' is not a file \(looked for in '{tmp_path}'\)"
    with pytest.raises(FileNotFoundError, match=said):
        build(teacher=dict(cfg_path='teacher.py'))
    with pytest.raises(FileNotFoundError, match=r"'/nowhere/t\.pth' is not a file: train"):
        build(teacher_ckpt='/nowhere/t.pth')


@pytest.mark.parametrize('side', ['architecture', 'teacher'])
def test_a_path_beside_an_inherited_type_is_refused(side):
    said = (
        rf"model\.{side} has both type='TinyClassifier' and cfg_path='other\.py'.*"
        rf"{side}=dict\(_delete_=True, cfg_path='other\.py'\)"
    )
    with pytest.raises(ValueError, match=said):
        build(**{side: dict(TEACHER, cfg_path='other.py')})


WRAPPED = {
    'net': lambda state: dict(net=state, epoch=3),
    'average': lambda state: dict(model_ema=state, args=dict(lr=0.1)),
    'two keys': lambda state: dict(
        model=dict(state_dict=state, epoch=3), optimizer=dict(state={0: dict(step=torch.ones(1))})
    ),
    'prefix': lambda state: {f'net.student.{k}': v for k, v in state.items()},
    'prefix below a key': lambda state: dict(
        state_dict={f'model.{k}': v for k, v in state.items()}, optimizer={}
    ),
}


@pytest.mark.parametrize('form', WRAPPED)
def test_the_only_weights_of_a_file_load_whatever_they_are_called(form, tmp_path):
    source, target = MODELS.build(TEACHER), MODELS.build(TEACHER)
    torch.save(WRAPPED[form](source.state_dict()), tmp_path / 't.pth')
    load_weights(target, str(tmp_path / 't.pth'))
    for key, value in source.state_dict().items():
        assert torch.equal(target.state_dict()[key], value)


def test_a_file_of_several_networks_is_not_guessed_at(tmp_path):
    state = MODELS.build(TEACHER).state_dict()
    torch.save(dict(net=state, net_ema=state, epoch=3), tmp_path / 't.pth')
    said = r"several state dicts, under \['net', 'net_ema'\] .*torch.load\(FILE\)\[KEY\]"
    with pytest.raises(ValueError, match=said):
        load_weights(MODELS.build(TEACHER), str(tmp_path / 't.pth'))
    torch.save(dict(state, epoch=3), tmp_path / 't.pth')
    with pytest.raises(ValueError, match=r"tensors, and beside them what is none, under \['epoch'"):
        load_weights(MODELS.build(TEACHER), str(tmp_path / 't.pth'))
    torch.save([1], tmp_path / 't.pth')
    with pytest.raises(ValueError, match='is not a checkpoint, but a list'):
        load_weights(MODELS.build(TEACHER), str(tmp_path / 't.pth'))


def test_a_prefix_of_other_names_is_none(tmp_path):
    """Weights of a part are not those of the whole."""
    source = MODELS.build(TEACHER)
    torch.save({f'body.{k}': v for k, v in source.body.state_dict().items()}, tmp_path / 't.pth')
    with pytest.raises(ValueError, match=r'2 weights are missing \(first: fc.weight\)'):
        load_weights(MODELS.build(TEACHER), str(tmp_path / 't.pth'))


def test_an_address_that_cannot_be_reached_is_one_sentence():
    said = r"teacher_ckpt='https://nowhere.invalid/t.pth' could not be fetched \(.*the path of the"
    with pytest.raises(FileNotFoundError, match=said):
        load_weights(MODELS.build(TEACHER), 'https://nowhere.invalid/t.pth')


@pytest.mark.parametrize('name', ['torchvision://nope', 'open-mmlab://resnet18'])
def test_a_name_that_no_list_has_is_one_sentence(name):
    """Upstream says KeyError."""
    said = rf"teacher_ckpt='{name}' is no checkpoint that mmengine finds \(KeyError: .*path or"
    with pytest.raises(FileNotFoundError, match=said):
        load_weights(MODELS.build(TEACHER), name)


def test_an_address_of_the_students_that_cannot_be_reached_is_told(monkeypatch):
    """Upstream's error names none."""

    def fetch(*args):
        raise URLError('no route')

    monkeypatch.setattr(torch.hub, 'download_url_to_file', fetch)
    student = dict(type='mmpretrain.ResNet', depth=18)
    address = 'https://nowhere.invalid/t.pth'
    student['init_cfg'] = dict(type='Pretrained', checkpoint=address)
    network = MODELS.build(student)
    with pytest.raises(FileNotFoundError, match=rf"'{address}' .* \(no route\): .*or put it to '/"):
        network.init_weights()


def test_a_package_of_another_name_is_told():
    with pytest.raises(ValueError, match=r"mmcls is called mmpretrain now, write 'mmpretrain::a"):
        build(teacher=dict(cfg_path='mmcls::a.py'))
