"""Which maps of two networks are compared, and by what layers."""

import copy
import re

import pytest
import torch
from helpers.detection import detector
from helpers.networks import build, resnet, vit
from helpers.two_stage import distillation as of_rois
from mmengine.registry import MODELS, DefaultScope
from torch import nn

from kd_plugins.new_config.methods import methods
from kd_plugins.wiring import TERMS, Side, wire
from kd_plugins.wiring.flow import flow

#: Widths of the thin detectors' necks.
THIN, WIDE = 8, 16


def side(network, name='the student', size=(64, 64)):
    return Side(name, network, size)


def of(kind='GFL', width=THIN):
    cfg = detector(kind)
    cfg['neck']['out_channels'] = cfg['bbox_head']['in_channels'] = width
    with DefaultScope.overwrite_default_scope('mmdet'):
        return MODELS.build(cfg)


def wired(student, teacher, term='cwd', where=None, size=(256, 256), **more):
    return wire(side(student, size=size), side(teacher, 'the teacher', size), term, where, **more)


def refused(*args, **kwargs):
    with pytest.raises(ValueError) as caught:
        wired(*args, **kwargs)
    said = str(caught.value)
    assert '\n' not in said and said.endswith('.')
    return said


def names(wiring):
    return [(str(level.student), str(level.teacher)) for level in wiring.levels]


class Stem(nn.Module):
    """A backbone or neck of given strides and channels, as averages of the picture."""

    def __init__(self, strides, channels, inside=()):
        super().__init__()
        self.strides, self.inside = strides, inside
        self.maps = nn.ModuleDict(
            {str(s): nn.Conv2d(3, channels, 1, s) for s in (*strides, *inside)}
        )

    def forward(self, x):
        for stride in self.inside:
            self.maps[str(stride)](x)
        return tuple(self.maps[str(stride)](x) for stride in self.strides)


class Net(nn.Module):
    """A detector of one part."""

    def __init__(self, strides, channels=4, inside=(), part='neck'):
        super().__init__()
        setattr(self, part, Stem(strides, channels, inside))
        self.part = part

    def forward(self, x, data_samples=None, mode='tensor'):
        return getattr(self, self.part)(x)


def strides(wiring):
    return [(level.student.stride, level.teacher.stride) for level in wiring.levels]


def test_maps_of_the_same_stride_are_partners():
    wiring = wired(Net([4, 8, 16, 32]), Net([8, 16, 32, 64]), size=(128, 128))
    assert strides(wiring) == [(8, 8), (16, 16), (32, 32)]
    assert names(wiring)[0] == ('neck[1]', 'neck[0]')
    recorders = wiring.distiller()
    assert recorders['student_recorders']['maps']['sources'] == [
        dict(output_of='neck', items=[1, 2, 3])
    ]
    assert recorders['teacher_recorders']['maps']['sources'] == [
        dict(output_of='neck', items=[0, 1, 2])
    ]
    assert 'connectors' not in recorders


def test_of_several_maps_of_one_stride_the_last_are_partners():
    class Twice(Net):
        def __init__(self, number):
            super().__init__([8])
            self.number = number
            self.neck.forward = lambda x: tuple(self.neck.maps['8'](x) for _ in range(self.number))

    assert names(wired(Twice(3), Twice(2))) == [('neck[1]', 'neck[0]'), ('neck[2]', 'neck[1]')]


def test_patches_of_14_pixels_are_compared_with_16_and_others_are_not():
    assert strides(wired(Net([16]), Net([14]), size=(224, 224))) == [(16, 14)]
    assert 'no stride in common' in refused(Net([16]), Net([12]), size=(192, 192))


def test_where_the_ends_have_nothing_in_common_the_coarsest_inside_is():
    student = Net([32], inside=(4, 8, 16), part='backbone')
    teacher = Net([16], part='backbone')
    wiring = wired(student, teacher, size=(128, 128))
    assert names(wiring) == [('backbone.maps.16', 'backbone')]
    # Of a neck only what it gives is looked at.
    said = refused(Net([32], inside=(16,)), Net([16]), size=(128, 128))
    assert 'the student gives neck[0] (4 channels at stride 32)'.replace('[0]', '') in said
    assert 'the teacher gives neck (4 channels at stride 16)' in said


@pytest.mark.parametrize('extra', [0, 1, 5])
def test_a_transformers_tokens_are_a_map_without_the_first_ones(extra):
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone = nn.Conv2d(3, 6, 16, 16)
            self.backbone.forward = lambda x: self.backbone.bias.expand(1, extra + 16, 6)

        def forward(self, x, data_samples=None, mode='tensor'):
            return self.backbone(x)

    teacher = Net([16], 6, part='backbone')
    wiring = wired(Tokens(), teacher, size=(64, 64))
    assert wiring.levels[0].student.extra_tokens == extra
    assert wiring.levels[0].student.size == (4, 4) and wiring.widths == ([6], [6])


def test_tokens_that_make_no_square_are_refused_with_their_shape():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone = nn.Conv2d(3, 6, 16, 16)
            self.backbone.num_extra_tokens = 1
            self.backbone.forward = lambda x: self.backbone.bias.expand(1, 14, 6)

        def forward(self, x, data_samples=None, mode='tensor'):
            return self.backbone(x)

    said = refused(Odd(), Net([16], part='backbone'), size=(64, 64))
    assert 'backbone of the student gives tokens of shape [1, 14, 6]' in said
    assert 'the teacher' in said


def test_a_cnn_learns_of_a_vision_transformer():
    student, teacher = Net([4, 8], 12, part='backbone'), build(vit(out_type='cls_token'))
    student.more = nn.Linear(100, 10)  # a projector may not be larger than the student
    wiring = wired(student, teacher, size=(32, 32))
    # What it gives is its class token alone; the patches are those of its last norm.
    assert names(wiring) == [('backbone[1]', 'backbone.ln1')]
    assert wiring.widths == ([12], [16]) and wiring.levels[0].teacher.extra_tokens == 1
    source = dict(output_of='backbone.ln1', extra_tokens=1)
    assert wiring.distiller()['teacher_recorders']['maps']['sources'] == [source]


def test_the_padded_picture_of_a_transformer_is_no_map():
    """As a stem for pictures of 32 pixels would learn of, whose stride is 1."""
    student, teacher = Net([1, 2], 12, part='backbone'), build(vit(out_type='cls_token'))
    assert teacher.backbone.patch_embed.adaptive_padding is not None
    said = refused(student, teacher, size=(32, 32))
    assert 'no stride in common' in said and 'adaptive_padding' not in said


class Stage(nn.Module):
    """A stage of a network: something wider on the way, then half of the height and width."""

    def __init__(self, before, after):
        super().__init__()
        self.expand, self.down = (
            nn.Conv2d(before, 5 * before, 1),
            nn.Conv2d(5 * before, after, 2, 2),
        )

    def forward(self, x):
        return self.down(self.expand(x))


@pytest.mark.parametrize('wrapped', [False, True])
def test_what_lies_on_the_way_to_the_next_stage_is_no_map_of_the_last_one(wrapped):
    """As the first convolution of a ResNet-50's or a MobileNetV2's stage."""
    stages = [Stage(3, 4), Stage(4, 6), Stage(6, 8), Stage(8, 7), Stage(7, 9)]
    student = Net([2], part='backbone')
    student.backbone = nn.Sequential(nn.Sequential(*stages)) if wrapped else nn.Sequential(*stages)
    wiring = wired(student, Net([16], part='backbone'), size=(128, 128))
    assert names(wiring)[0][0] == ('backbone.0.3' if wrapped else 'backbone.3')
    assert wiring.widths == ([7], [4])


def stage_names(path, size=(64, 64)):
    """The student's map beside a vision transformer's patches of 16 pixels, of a stock config."""
    from mmengine.hub import get_config

    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = get_config(f'mmpretrain::{path}').model
        model.backbone.pop('init_cfg', None)
        student = MODELS.build(dict(model, train_cfg=None))
    return names(wired(student, Net([16], 8, part='backbone'), 'pkd', size=size))


@pytest.mark.parametrize(
    ('path', 'stage'),
    [
        ('resnet/resnet50_8xb32_in1k.py', 'layer3'),
        ('mobilenet_v2/mobilenet-v2_8xb32_in1k.py', 'layer5'),
        ('efficientnet/efficientnet-b0_8xb32_in1k.py', 'layers.4'),
        ('convnext/convnext-tiny_32xb128_in1k.py', 'stages.2'),
        ('inception_v3/inception-v3_8xb32_in1k.py', 'Mixed_6e'),
    ],
)
def test_a_stage_of_a_stock_network_stands_beside_patches(path, stage):
    size = (299, 299) if 'inception' in path else (64, 64)
    ((of_student, _),) = stage_names(path, size)
    assert of_student == f'backbone.{stage}'


def test_tokens_of_a_picture_that_is_no_square_make_none():
    """Of 24 x 6 patches there are as many as of 12 x 12."""
    for out_type in ('raw', 'cls_token'):
        long = build(vit(img_size=(96, 24), patch_size=4, out_type=out_type))
        # The projection of the patches, before any layer, would be a map of stride 4.
        for stride in (4, 8):
            said = refused(long, Net([stride], part='backbone'), size=(96, 24))
            assert 'tokens of shape [1, 145, 16], which make no square map of pict' in said
            assert 'pictures of 96 x 24 pixels' in said


def test_different_channels_get_a_projector_with_a_norm():
    wiring = wired(of(), of(width=WIDE))
    cfg = wiring.distiller()
    assert cfg['connectors']['projector'] == dict(
        type='kd_plugins.MapsConnector', in_channels=[THIN] * 5, out_channels=[WIDE] * 5,
        norm_cfg=dict(type='BN'),
    )  # fmt: skip
    assert cfg['loss_forward_mappings']['loss_cwd']['preds_S']['connector'] == 'projector'
    # A weight, a scale and a shift a level.
    assert wiring.learned() == 5 * (THIN * WIDE + 2 * WIDE)
    assert 'norm_cfg' not in wired(of(), of(width=WIDE), 'pkd').distiller()['connectors'][
        'projector'
    ]  # fmt: skip


def test_published_settings_are_those_of_the_students_kind():
    dense = {term: dict(wired(of(), of(width=WIDE), term).loss) for term in ('pkd', 'mgd', 'sl2')}
    assert dense['pkd']['loss_weight'] == 10 and dense['mgd']['mask_ratio'] == 0.65
    assert dense['sl2']['channels_S'] == [THIN] * 5 and dense['sl2']['channels_T'] == [WIDE] * 5
    with DefaultScope.overwrite_default_scope('mmdet'):
        two_stage = [MODELS.build(of_rois()[key]) for key in ('architecture', 'teacher')]
    assert wired(*two_stage, 'pkd').loss['loss_weight'] == 6
    assert wired(*two_stage, 'mgd').loss['mask_ratio'] == 0.45
    # Published between the convolutions of the neck, of which the fifth level has none.
    number = {term: len(wired(*two_stage, term).levels) for term in ('cwd', 'pkd', 'mgd')}
    assert number == dict(cwd=5, pkd=4, mgd=4)
    assert wired(*two_stage, 'mgd').loss['channels_S'] == [16] * 4
    classifiers = build(resnet()), build(resnet(depth=14))
    assert wired(*classifiers, 'mgd', size=(32, 32)).loss['mask_on'] == 'channels'


def test_pkd_takes_the_first_four_of_five_levels():
    assert len(wired(of(), of()).levels) == 5 and len(wired(of(), of(), 'pkd').levels) == 4


def test_levels_of_a_term_are_the_only_ones_that_are_wired():
    term = dict(type='kd_plugins.CWDLoss', levels=[2, 0])
    wiring = wired(of(), of(width=WIDE), term)
    assert names(wiring) == [('neck[2]', 'neck[2]'), ('neck[0]', 'neck[0]')]
    assert 'levels' not in wiring.loss
    kept = wired(of(), of(), dict(type='kd_plugins.SL2Loss', levels=[1]))
    assert kept.loss['levels'] == [1] and kept.loss['channels_S'] == [THIN]
    assert 'levels=[5] is wrong' in refused(of(), of(), dict(type='kd_plugins.CWDLoss', levels=[5]))


def test_channels_of_a_term_that_are_given_are_those_of_the_maps():
    term = dict(type='kd_plugins.SL2Loss', channels_S=[THIN] * 5, channels_T=(WIDE,) * 5)
    assert wired(of(), of(width=WIDE), term).loss['channels_T'] == [WIDE] * 5
    said = refused(of(), of(width=WIDE), dict(term, channels_S=[THIN] * 4))
    assert f'term.channels_S={[THIN] * 4} is wrong: give {[THIN] * 5}, those of' in said


def test_class_scores_of_two_heads_are_compared_call_by_call():
    wiring = wired(of(), of(width=WIDE), where='head')
    sources = [dict(output_of='bbox_head.gfl_cls', calls=[0, 1, 2, 3, 4])]
    recorders = wiring.distiller()
    assert recorders['student_recorders']['maps']['sources'] == sources
    other = of()
    other.bbox_head.gfl_cls = nn.Conv2d(other.bbox_head.gfl_cls.in_channels, 7, 3, padding=1)
    said = refused(other, of(), where='head')
    assert 'class scores of other channels' in said and 'the student and the teacher' in said


def test_class_scores_of_other_anchors_or_classes_are_refused():
    def network(classes, **anchors):
        cfg = detector('RetinaNet', classes=classes)
        cfg['bbox_head']['anchor_generator'].update(anchors)
        with DefaultScope.overwrite_default_scope('mmdet'):
            return MODELS.build(cfg)

    wired(network(4), network(4), where='head')
    others = (
        network(4, octave_base_scale=8),
        network(4, ratios=[2.0, 1.0, 0.5]),
        # 9 anchors of 4 classes, and 3 of 12.
        network(12, scales_per_octave=1),
    )
    for other in others:
        said = refused(network(4), other, where='head')
        assert 'the student has 4 classes and anchors' in said and 'the teacher has' in said


def test_a_head_that_gives_boxes_among_its_scores_is_refused():
    class Joined(Net):
        def __init__(self):
            super().__init__([8, 16], part='bbox_head')

        def forward(self, x, data_samples=None, mode='tensor'):
            return (self.bbox_head(x),)

    assert 'scores and boxes in one' in refused(Joined(), Joined(), where='head')


def test_the_networks_and_random_states_are_as_before():
    network = of().train()
    network.backbone.eval()
    before = copy.deepcopy(network.state_dict())
    modes = [module.training for module in network.modules()]
    hooks = [len(module._forward_hooks) for module in network.modules()]
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    for where in ('backbone', 'neck', 'head'):
        flow(network, (64, 64), where, 'it')
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
    assert [module.training for module in network.modules()] == modes
    assert [len(module._forward_hooks) for module in network.modules()] == hooks


def test_a_projector_larger_than_the_student_is_refused_with_both_numbers():
    student, teacher = build(resnet()), Net([4], 512, part='backbone')
    own = sum(p.numel() for p in student.parameters())
    said = refused(student, teacher, 'mgd', size=(32, 32))
    learned = 64 * 512 + 512 + 2 * (9 * 512 * 512 + 512)
    assert f'{learned:,} parameters' in said and f'{own:,}' in said
    assert 'the student' in said and 'the teacher' in said


@pytest.mark.parametrize(
    ('term', 'says'),
    [
        (dict(type='kd_plugins.DKDLoss'), r'DKDLoss wants gt_labels'),
        (dict(type='kd_plugins.KDLoss', tau=1.0), r'KDLoss is no loss on maps'),
        (dict(type='kd_plugins.NoLoss'), r'is no registered loss'),
        ('fgd', r"='fgd' is wrong: give 'cwd' or"),
        (3, r'=3 is wrong'),
    ],
)
def test_a_term_that_cannot_be_wired_is_refused(term, says):
    assert re.search(says, refused(of(), of(), term))


def test_a_part_that_is_not_there_is_refused_with_the_parts_that_are():
    said = refused(Net([8], part='backbone'), Net([8], part='backbone'), where='neck')
    assert said.startswith('the student is a Net and has no neck') and 'backbone' in said
    assert "where='head'" not in said
    assert 'no dense head' in refused(build(resnet()), build(resnet()), where='head')
    assert "where='nek' is wrong" in refused(of(), of(), where='nek')
    classifiers = build(resnet()), build(resnet())
    said = refused(*classifiers, where='neck')
    assert 'the neck of the student' in said and 'gives no map of positions' in said
    assert said.endswith("take where='backbone'.")


def test_a_term_with_a_head_is_refused_where_there_is_none_or_it_sees_other_maps():
    assert "teacher's dense head" in refused(build(resnet()), build(resnet()), 'sl2')
    assert "teacher's dense head" in refused(of(), of(), 'sl2', 'backbone')
    said = refused(Net([8, 16]), Net([8, 16, 32]), 'sl2', size=(128, 128))
    assert 'the teacher' in said and '2 of them have a partner in the student' in said


def test_a_student_that_is_frozen_there_is_refused():
    student = of()
    student.backbone.requires_grad_(False)
    student.neck.requires_grad_(False)
    assert 'the neck of the student is frozen' in refused(student, of())
    student.neck.requires_grad_(True)
    wired(student, of())


def test_every_term_by_name_is_registered_and_has_a_folder():
    assert {name for name, says in methods().items() if says.term} == set(TERMS)
    assert all(methods()[name].term == name for name in TERMS)
    assert all(MODELS.get(term.type) is not None for term in TERMS.values())
