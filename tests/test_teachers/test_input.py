import pytest
import torch
from helpers import STUDENT, TEACHER, build, save_teacher
from mmengine.registry import MODELS
from mmengine.structures import BaseDataElement
from mmpretrain.models.utils import ClsDataPreprocessor

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
    with pytest.raises(ValueError, match='holds no state dict'):
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
    assert build(teacher=ready, allow_random_teacher=False).teacher is ready


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


def test_padding_becomes_the_teachers():
    pictures = [torch.full((3, 4, 6), 200, dtype=torch.uint8), torch.full((3, 6, 3), 50).byte()]
    samples = [BaseDataElement(metainfo=dict(img_shape=tuple(p.shape[1:]))) for p in pictures]
    student = preprocessor(MEAN_S, STD_S, pad_value=0)
    own = preprocessor(MEAN_T, STD_T, pad_value=7)
    convert = TeacherInput(student, own)
    got = convert(student(dict(inputs=pictures))['inputs'], samples)
    torch.testing.assert_close(got, own(dict(inputs=pictures))['inputs'], rtol=1e-4, atol=1e-3)


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
