import pickle

import numpy as np
import pytest
import torch
from helpers import STUDENT, TEACHER, build, distiller, save_teacher
from mmdet.models.data_preprocessors import DetDataPreprocessor
from mmdet.structures import DetDataSample
from mmengine.logging import MessageHub
from mmengine.model import BaseDataPreprocessor
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import InstanceData
from mmpretrain.models.utils import ClsDataPreprocessor
from mmpretrain.structures import DataSample

from kd_plugins.files.weights import load_weights
from kd_plugins.teachers.input import TeacherInput


def teacher(**changes):
    return MODELS.build(dict(TEACHER, **changes))


@pytest.mark.parametrize(
    'wrap',
    [
        lambda s: s,
        lambda s: dict(state_dict=s, meta=dict(epoch=3)),
        lambda s: dict(model=s, epoch=240, best_acc=1.0),
        lambda s: dict(model={f'module.{k}': v for k, v in s.items()}),
        lambda s: dict(state_dict=dict(s, **{'distiller.theta': torch.ones(())})),
    ],
    ids=['bare', 'mmengine', 'mdistiller', 'data-parallel', 'distilled'],
)
def test_known_formats_load_every_weight(tmp_path, wrap):
    source, target = teacher(), teacher()
    torch.save(wrap(source.state_dict()), tmp_path / 'teacher.pth')
    load_weights(target, str(tmp_path / 'teacher.pth'))
    for key, value in source.state_dict().items():
        assert torch.equal(value, target.state_dict()[key])


def test_missing_file_is_named(tmp_path):
    path = str(tmp_path / 'nowhere.pth')
    with pytest.raises(FileNotFoundError, match=r"model\.teacher_ckpt='.*nowhere\.pth' is not a"):
        build(teacher_ckpt=path)


def test_other_class_count_is_named(tmp_path):
    save_teacher(tmp_path / 't.pth', classes=100)
    with pytest.raises(ValueError, match=r'fc\.weight is \(100, 16\).*\(4, 16\) in the teacher'):
        build(teacher_ckpt=str(tmp_path / 't.pth'))


def test_other_architecture_is_named(tmp_path):
    torch.save({'conv.weight': torch.ones(1)}, tmp_path / 't.pth')
    says = r"t\.pth' does not fit.*4 weights are missing \(first: body.*first: conv\.weight"
    with pytest.raises(ValueError, match=says):
        build(teacher_ckpt=str(tmp_path / 't.pth'))


def test_what_is_no_checkpoint_is_refused(tmp_path):
    torch.save([1, 2], tmp_path / 't.pth')
    with pytest.raises(ValueError, match='is not a checkpoint, but a list'):
        build(teacher_ckpt=str(tmp_path / 't.pth'))
    torch.save(dict(epoch=1), tmp_path / 't.pth')
    with pytest.raises(
        ValueError, match=r"holds no state dict of tensors \(its keys: \['epoch'\]\)"
    ):
        build(teacher_ckpt=str(tmp_path / 't.pth'))


def test_old_checkpoints_without_batch_counters_load(tmp_path):
    norm = torch.nn.BatchNorm1d(3)
    torch.nn.init.uniform_(norm.running_mean)
    state = norm.state_dict()
    del state['num_batches_tracked']
    torch.save(state, tmp_path / 't.pth')
    fresh = torch.nn.BatchNorm1d(3)
    load_weights(fresh, str(tmp_path / 't.pth'))
    assert torch.equal(fresh.running_mean, norm.running_mean)


def test_a_teacher_without_weights_is_refused():
    with pytest.raises(ValueError, match=r'model\.teacher_ckpt=None.*allow_random_teacher=True'):
        build(allow_random_teacher=False)


def test_a_built_teacher_is_taken_as_it_is():
    ready = teacher()
    assert build(teacher=ready, allow_random_teacher=False).teacher.network is ready


def test_a_part_of_a_network_is_refused():
    with pytest.raises(TypeError, match=r'model\.teacher builds a KDLoss.*BaseModel'):
        build(teacher=dict(type='kd_plugins.KDLoss'))


def test_a_network_without_a_type_is_refused():
    with pytest.raises(ValueError, match=r"model\.architecture=\{'width': 4\} names no network"):
        build(architecture=dict(width=STUDENT['width']))


MEAN_S, STD_S = (120.0, 110.0, 100.0), (60.0, 50.0, 40.0)
MEAN_T, STD_T = (10.0, 20.0, 30.0), (1.0, 2.0, 3.0)


def preprocessor(mean, std, **kwargs):
    return ClsDataPreprocessor(mean=list(mean), std=list(std), **kwargs)


@pytest.mark.parametrize('rgb_S', [False, True])
@pytest.mark.parametrize('rgb_T', [False, True])
def test_the_teacher_sees_what_its_own_preprocessor_would_give(rgb_S, rgb_T):
    pictures = torch.randint(0, 256, (2, 3, 6, 5), dtype=torch.uint8)
    student = preprocessor(MEAN_S, STD_S, to_rgb=rgb_S)
    own = preprocessor(MEAN_T, STD_T, to_rgb=rgb_T)
    convert = TeacherInput(student, own)
    got = convert(student(dict(inputs=pictures))['inputs'])
    torch.testing.assert_close(got, own(dict(inputs=pictures))['inputs'], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize('stale', [False, True])
@pytest.mark.parametrize('means', [(MEAN_T, STD_T), (MEAN_S, STD_S)], ids=['other', 'same'])
def test_padding_becomes_the_teachers_wherever_the_preprocessor_padded(means, stale):
    """What samples say of their sizes is stale after torchvision's Resize."""
    pictures = [torch.full((3, 4, 6), 200, dtype=torch.uint8), torch.full((3, 6, 3), 50).byte()]
    said = [(2, 2)] * 2 if stale else [tuple(p.shape[1:]) for p in pictures]
    samples = [DataSample(metainfo=dict(img_shape=shape)) for shape in said]
    student = preprocessor(MEAN_S, STD_S, pad_value=0)
    own = preprocessor(*means, pad_value=7)
    convert = TeacherInput(student, own)
    batch = student(dict(inputs=pictures, data_samples=samples))['inputs']
    before = batch.clone()
    got = convert(batch)
    torch.testing.assert_close(got, own(dict(inputs=pictures))['inputs'], rtol=1e-4, atol=1e-3)
    assert torch.equal(batch, before)  # the student's


def test_a_stale_size_blanks_nothing():
    picture = torch.randint(0, 256, (1, 3, 8, 8), dtype=torch.uint8)
    samples = [DataSample(metainfo=dict(img_shape=(4, 4)))]
    student, own = preprocessor(MEAN_S, STD_S), preprocessor(MEAN_T, STD_T)
    convert = TeacherInput(student, own)
    got = convert(student(dict(inputs=picture, data_samples=samples))['inputs'])
    torch.testing.assert_close(got, own(dict(inputs=picture))['inputs'], rtol=1e-4, atol=1e-3)


def detectors(mean, std, **kwargs):
    normal = dict(mean=list(mean), std=list(std)) if mean else {}
    return DetDataPreprocessor(**normal, **kwargs)


def detection_batch():
    generator = torch.Generator().manual_seed(0)
    pictures = [
        torch.randint(1, 256, (3, *size), dtype=torch.uint8, generator=generator)
        for size in ((20, 33), (31, 18))
    ]
    samples = [
        DetDataSample(
            metainfo=dict(img_shape=(5, 5)),
            gt_instances=InstanceData(bboxes=torch.zeros(0, 4)),
            ignored_instances=InstanceData(bboxes=torch.zeros(0, 4)),
        )
        for _ in pictures
    ]
    return dict(inputs=pictures, data_samples=samples)


def test_a_preprocessor_without_a_mean_is_a_declaration():
    """YOLOX's networks take raw pixels, padded by 114."""
    student = detectors(MEAN_S, STD_S, bgr_to_rgb=True, pad_size_divisor=16)
    own = detectors(None, None, pad_size_divisor=16, pad_value=114)
    convert = TeacherInput(student, own)
    got = convert(student(detection_batch(), True)['inputs'])
    expected = own(detection_batch(), True)['inputs']
    assert expected.max() == 255 and (expected == 114).any()
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-3)


def test_a_channel_order_alone_is_a_declaration():
    student, own = detectors(MEAN_S, STD_S), detectors(MEAN_S[::-1], STD_S[::-1], bgr_to_rgb=True)
    got = TeacherInput(student, own)(student(detection_batch(), True)['inputs'])
    torch.testing.assert_close(got, own(detection_batch(), True)['inputs'])
    pictures = torch.randint(0, 256, (2, 3, 6, 5), dtype=torch.uint8)
    got = TeacherInput(ClsDataPreprocessor(), ClsDataPreprocessor(to_rgb=True))(pictures.float())
    assert torch.equal(got, pictures.flip(1).float())


def test_grey_pictures_of_the_student_are_left_alone():
    """They have no channel order to swap, so that nothing else makes a copy of the batch."""
    pictures = [torch.full((1, 4, 6), 200).byte(), torch.full((1, 6, 3), 50).byte()]
    student, own = ClsDataPreprocessor(to_rgb=True), ClsDataPreprocessor(pad_value=7)
    convert = TeacherInput(student, own)
    batch = student(dict(inputs=pictures))['inputs']
    before = batch.clone()
    assert torch.equal(convert(batch), own(dict(inputs=pictures))['inputs'])
    assert torch.equal(batch, before)


def samples_of(pictures):
    return [DataSample().set_gt_label(i) for i in range(len(pictures))]


def test_padding_is_that_of_the_batch_that_is_converted_not_of_the_latest():
    student, own = preprocessor(MEAN_S, STD_S), preprocessor(MEAN_T, STD_T, pad_value=7)
    convert = TeacherInput(student, own)
    pictures = [
        [torch.full((3, *size), 200).byte() for size in sizes]
        for sizes in ([(6, 6), (6, 4)], [(5, 6), (6, 6)])
    ]
    batches = [student(dict(inputs=each, data_samples=samples_of(each))) for each in pictures]
    for each, batch in zip(pictures, batches, strict=True):
        expected = own(dict(inputs=each))['inputs']
        got = convert(**batch)
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-3)
        # A part of it, and a copy.
        samples = batch['data_samples']
        got = [convert(batch['inputs'][i : i + 1].clone(), samples[i : i + 1]) for i in range(2)]
        torch.testing.assert_close(torch.cat(got), expected, rtol=1e-4, atol=1e-3)


def test_what_is_remembered_of_padding_ends_with_the_samples():
    student = preprocessor(MEAN_S, STD_S)
    convert = TeacherInput(student, preprocessor(MEAN_T, STD_T, pad_value=7))
    pictures = [torch.zeros(3, 6, 6), torch.zeros(3, 4, 6)]
    for _ in range(3):
        batch = student(dict(inputs=pictures, data_samples=samples_of(pictures)))
        assert len(convert.padding._of_samples) == 2
    again = pickle.loads(pickle.dumps(convert))
    assert torch.equal(again(**batch), convert(**batch))


def test_compiled_code_pads_every_batch_by_itself():
    student, own = preprocessor(MEAN_S, STD_S), preprocessor(MEAN_T, STD_T, pad_value=7)
    convert = TeacherInput(student, own)
    torch._dynamo.reset()
    compiled = torch.compile(lambda x: convert(x) + 0, backend='eager')
    for sizes in ([(6, 6), (6, 6)], [(6, 4), (5, 6)], [(3, 6), (6, 6)]):
        pictures = [torch.full((3, *size), 200).byte() for size in sizes]
        got = compiled(student(dict(inputs=pictures))['inputs'])
        expected = own(dict(inputs=pictures))['inputs']
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-3)


def mixing(kind, sizes, divisor=1):
    """What the teacher gets of a batch that was mixed, and what its own would have made of it."""
    init_default_scope('mmpretrain')
    augments = dict(augments=[dict(type=kind, alpha=1.0)])
    pictures = [
        torch.randint(0, 256, (3, *size), generator=torch.Generator().manual_seed(i)).byte()
        for i, size in enumerate(sizes)
    ]
    samples = [DataSample().set_gt_label(i) for i in range(len(sizes))]
    batches = []
    for settings in (dict(mean=MEAN_S, std=STD_S), dict(mean=MEAN_T, std=STD_T, pad_value=7)):
        each = ClsDataPreprocessor(
            **settings, batch_augments=augments, num_classes=4, pad_size_divisor=divisor
        )
        if not batches:
            convert = TeacherInput(each, preprocessor(MEAN_T, STD_T, pad_value=7))
        torch.manual_seed(3)
        np.random.seed(3)
        batches.append(each(dict(inputs=pictures, data_samples=samples), True)['inputs'])
    return convert(batches[0]), batches[1]


@pytest.mark.parametrize('kind', ['Mixup', 'CutMix'])
@pytest.mark.parametrize('divisor', [1, 8])
def test_pictures_of_one_size_may_be_mixed(kind, divisor):
    got, expected = mixing(kind, [(20, 18)] * 3, divisor)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize('kind', ['Mixup', 'CutMix', 'ResizeMix'])
def test_padding_that_is_mixed_into_pictures_is_refused(kind):
    """A picture lies over another one's padding; it was blanked."""
    with pytest.raises(ValueError, match=rf'batch_augments \({kind}\) mixes pictures that are pad'):
        mixing(kind, [(20, 18), (12, 24)])


def padded_places(augment):
    """Where the teacher's batch is padded, and how large the pictures in it are."""
    init_default_scope('mmdet')
    MessageHub.get_current_instance().update_info('iter', 0)
    student = detectors(MEAN_S, STD_S, pad_size_divisor=32, batch_augments=[augment])
    if augment['type'] == 'BatchSyncRandomResize':
        student.batch_augments[0]._input_size = (64, 64)  # as it draws later in a training
    convert = TeacherInput(student, detectors(MEAN_T, STD_T, pad_value=1000))
    return (convert(student(detection_batch(), True)['inputs']) == 1000).all(dim=1)


def outside(sizes, whole):
    places = torch.ones(len(sizes), *whole, dtype=torch.bool)
    for place, (height, width) in zip(places, sizes, strict=True):
        place[:height, :width] = False
    return places


def test_batches_that_are_resized_keep_their_padding():
    # Padded to 32 x 64, then resized to 64 x 64: heights double.
    resize = dict(type='BatchSyncRandomResize', random_size_range=(64, 64))
    expected = outside([(40, 33), (62, 18)], (64, 64))
    assert torch.equal(padded_places(resize), expected)


def test_batches_that_are_padded_further_are_padding_there():
    pad = dict(type='BatchFixedSizePad', size=(48, 80), img_pad_value=0)
    assert torch.equal(padded_places(pad), outside([(20, 33), (31, 18)], (48, 80)))


@pytest.mark.parametrize('scale, divisor', [((96, 128), 1), ((60, 120), 64), ((30, 60), 32)])
def test_crowddets_resizing_pads_once_more(scale, divisor):
    augment = dict(type='BatchResize', scale=scale, pad_size_divisor=divisor)
    places = padded_places(augment)
    # Padded to 32 x 64, then resized by one factor, then padded.
    factor = min(scale[0] / 32, scale[1] / 64)
    whole = [-(-round(side * factor) // divisor) * divisor for side in (32, 64)]
    sizes = [(round(h * factor), round(w * factor)) for h, w in ((20, 33), (31, 18))]
    assert torch.equal(places, outside(sizes, whole))


def test_the_preprocessor_of_another_package_is_refused():
    """mmsegmentation's says neither to_rgb nor _channel_conversion."""

    class SegDataPreProcessor(BaseDataPreprocessor):
        _enable_normalize, channel_conversion = False, True

    with pytest.raises(ValueError, match=r"the student has .* 'SegDataPreProcessor'"):
        TeacherInput(SegDataPreProcessor(), preprocessor(MEAN_T, STD_T))


def test_a_preprocessor_of_another_kind_is_refused():
    class Strange(BaseDataPreprocessor):
        def forward(self, data, training=False):
            return data

    own = preprocessor(MEAN_T, STD_T)
    with pytest.raises(ValueError, match=r"the student has the data_preprocessor 'Strange'"):
        TeacherInput(Strange(), own)
    with pytest.raises(ValueError, match=r"the teacher has the data_preprocessor 'Strange'"):
        TeacherInput(own, Strange())
    assert TeacherInput(Strange(), None)(torch.ones(1)) == 1


@pytest.mark.parametrize(
    'declared, cfg',
    [
        (False, None),
        (True, dict(type='mmdet.DetDataPreprocessor', pad_size_divisor=32)),
        (True, dict(type='mmpretrain.ClsDataPreprocessor', to_rgb=True)),
        (True, dict(type='mmpretrain.ClsDataPreprocessor', num_classes=10)),
        (True, dict(type='mmpretrain.ClsDataPreprocessor', mean=[1.0], std=[1.0])),
    ],
    ids=['none', 'raw', 'order', 'classes', 'mean'],
)
def test_configs_and_built_models_declare_by_one_rule(declared, cfg):
    as_cfg = build(teacher=dict(TEACHER, data_preprocessor=cfg))
    as_model = build(teacher=teacher(data_preprocessor=cfg), allow_random_teacher=False)
    assert as_cfg.teacher.has_own_input is as_model.teacher.has_own_input is declared


def test_a_config_that_names_a_preprocessor_declares_it_though_nothing_is_set():
    """Raw pixels are an input of its own; of a built model nobody can tell any more."""
    cfg = dict(TEACHER, data_preprocessor=dict(type='mmpretrain.ClsDataPreprocessor'))
    assert build(teacher=cfg).teacher.has_own_input


def test_mmpretrains_classifiers_declare_nothing_where_nothing_was_given():
    cfg = dict(
        type='mmpretrain.ImageClassifier',
        backbone=dict(type='ResNet_CIFAR', depth=18, base_channels=8, stem_channels=8),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', num_classes=4, in_channels=64),
    )
    init_default_scope('mmpretrain')
    fc = dict(logits=dict(type='ModuleOutputs', source='head.fc'))
    for teacher in (cfg, MODELS.build(cfg)):
        model = build(teacher=teacher, distiller=distiller(teacher_recorders=fc))
        assert not model.teacher.has_own_input


def test_one_normalisation_is_left_bit_for_bit():
    same = preprocessor(MEAN_S, STD_S, to_rgb=True)
    convert = TeacherInput(same, preprocessor(MEAN_S, STD_S, to_rgb=True))
    inputs = torch.randn(2, 3, 4, 4)
    assert convert(inputs) is inputs
    assert TeacherInput(same, None)(inputs) is inputs


def test_a_student_without_normalisation_is_converted_too():
    pictures = torch.randint(0, 256, (2, 3, 4, 4), dtype=torch.uint8)
    own = preprocessor(MEAN_T, STD_T)
    convert = TeacherInput(ClsDataPreprocessor(), own)
    got = convert(pictures.float())
    torch.testing.assert_close(got, own(dict(inputs=pictures))['inputs'])


def test_another_input_size_is_resized_to():
    convert = TeacherInput(ClsDataPreprocessor(), None, size=(4, 8))
    ramp = torch.arange(16.0).view(1, 1, 1, 16).expand(1, 1, 8, 16)
    got = convert(ramp)
    assert got.shape == (1, 1, 4, 8)
    # Away from the border, an antialiased halving of a ramp is the ramp at half the rate.
    torch.testing.assert_close(got[0, 0, 0, 2:-2], torch.arange(8.0)[2:-2] * 2 + 0.5)
    # One bright column in four: an average sees a quarter of it everywhere.
    comb = (torch.arange(32) % 4 == 0).float().view(1, 1, 1, 32).expand(1, 1, 4, 32)
    few = TeacherInput(ClsDataPreprocessor(), None, size=(4, 8))(comb)
    assert ((few[..., 1:-1] - 0.25).abs() < 0.1).all()
    assert TeacherInput(ClsDataPreprocessor(), None, size=6)(ramp).shape[-2:] == (6, 6)
