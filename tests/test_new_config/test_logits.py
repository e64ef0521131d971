"""The logits that are found in stock classifiers, against what the networks say and train on."""

import pytest
import torch
from helpers import ROOT
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.model import BaseDataPreprocessor
from mmengine.registry import DefaultScope, init_default_scope

from kd_plugins.networks import build_network, resolve_network
from kd_plugins.new_config.classes import of_classes
from kd_plugins.new_config.logits import find_logits, picture_size
from kd_plugins.new_config.request import Request
from kd_plugins.new_config.writing import new_config, write_config

STUDENT = str(ROOT / 'configs/vanilla/digits_student.py')

#: Config, changes that make it small, and the module whose output its logits are.
NETWORKS = {
    'head.fc': ('resnet/resnet18_8xb16_cifar10.py', {}),
    'head.layers.1.fc': ('mobilenet_v3/mobilenet-v3-small-050_8xb128_in1k.py', {}),
    'head.fc2': ('vig/vig-tiny_8xb128_in1k.py', {}),
    # The classifier stands in the backbone, as VGG's.
    'backbone.classifier.2': ('lenet/lenet5_mnist.py', {}),
    'backbone.fc': ('inception_v3/inception-v3_8xb32_in1k.py', {}),
    # Sums over several modules.
    'head': (
        'csra/resnet101-csra_1xb16_voc07-448px.py',
        dict(backbone=dict(depth=18), head=dict(in_channels=512)),
    ),
}
#: Two classifiers, whose mean is the answer.
DISTILLED = 'deit/deit-tiny-distilled_4xb256_in1k.py'
#: Upstream does not train these.
TEACHERS = [
    'levit/levit-128s_8xb256_in1k.py',
    'efficientformer/efficientformer-l1_8xb128_in1k.py',
]


def built(path, **changes):
    """Return the network of a stock config and the size of its pictures."""
    path = f'mmpretrain::{path}'
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        whole = get_config(path)
    init_default_scope('mmpretrain')
    cfg, _ = resolve_network(dict(cfg_path=path, **changes), 'student')
    return build_network(cfg, 'student'), picture_size(whole) or (224, 224)


def find(network, size, chosen=None, trains=True):
    return find_logits(network, size, '--student X', '--student-logits', chosen, trains)


def said(network, source, size):
    """What the module says, and what the whole network does."""
    heard = []
    network.eval().get_submodule(source).register_forward_hook(lambda *a: heard.append(a[2]))
    channels = next(m for m in network.modules() if isinstance(m, torch.nn.Conv2d)).in_channels
    with torch.no_grad():
        answer = network(torch.randn(3, channels, *size), mode='tensor')
    return heard[0], answer


@pytest.mark.parametrize('source', NETWORKS)
def test_the_logits_are_the_networks_own_answer(source):
    path, changes = NETWORKS[source]
    network, size = built(path, **changes)
    found = find(network, size)
    assert found.source == source and found.labels == 'head.loss_module'
    heard, answer = said(network, source, size)
    assert torch.equal(heard, answer) and found.classes == answer.shape[1]


def test_a_preprocessor_that_leaves_a_list_is_no_matter():
    network, size = built(NETWORKS['head.fc'][0])
    network.data_preprocessor = BaseDataPreprocessor()
    assert find(network, size).source == 'head.fc'


def test_sizes_are_those_of_the_data():
    sizes = {
        path: built(path)[1]
        for path, _ in (
            NETWORKS['backbone.classifier.2'],
            NETWORKS['backbone.fc'],
            NETWORKS['head.fc'],
        )
    }
    assert list(sizes.values()) == [(32, 32), (299, 299), (32, 32)]
    flipped = dict(type='Resize', scale=(64, 32))
    cfg = Config(dict(model={}, test_pipeline=[flipped]))
    assert picture_size(cfg) == (32, 64)
    assert picture_size(Config(dict(model=dict(backbone=dict(img_size=48))))) == (48, 48)


def test_of_two_classifiers_the_networks_own_answer_is_their_mean_and_one_can_be_chosen():
    network, size = built(DISTILLED)
    assert find(network, size).source == 'head'
    heard, answer = said(network, 'head', size)
    assert torch.equal(heard, answer)
    assert find(network, size, 'head.layers.head_dist').source == 'head.layers.head_dist'


def test_of_two_answers_one_has_to_be_chosen():
    network, size = built('conformer/conformer-tiny-p16_8xb128_in1k.py')
    says = 'has 2 classifiers, .* with --student-logits: head.conv_cls_head or head.trans_cls_head'
    with pytest.raises(ValueError, match=says):
        find(network, size)
    found = find(network, size, 'head.trans_cls_head')
    heard, answer = said(network, found.source, size)
    assert torch.equal(heard, answer[1]) and found.labels == 'head.loss_module'
    with pytest.raises(ValueError, match=r"did you mean 'head.trans_cls_head'\?\): those that do"):
        find(network, size, 'head.trans_cls')


@pytest.mark.parametrize('path', TEACHERS)
def test_what_upstream_does_not_train_teaches(path):
    network, size = built(path)
    found = find(network, size, trains=False)
    heard, answer = said(network, found.source, size)
    assert found.source == 'head' and torch.equal(heard, answer)
    with pytest.raises(
        ValueError, match=r'does not train on two pictures .*: MMPretrain does.*distillation=False'
    ):
        find(network, size)


def arcface():
    """A classifier whose loss has a margin that its answer has not."""
    head = dict(_delete_=True, type='ArcFaceClsHead', num_classes=10, in_channels=512)
    return built(NETWORKS['head.fc'][0], head=head)


@pytest.mark.parametrize('trains', [True, False])
def test_a_loss_on_something_else_is_refused(trains):
    with pytest.raises(
        ValueError, match=r'(computes its own loss on something else|other numbers)'
    ):
        find(*arcface(), trains=trains)


def test_networks_without_logits_are_one_sentence():
    with pytest.raises(ValueError, match='gives no logits, one row a picture'):
        find(*built('arcface/resnet50-arcface_8xb32_inshop.py', image_encoder=[
            dict(type='ResNet', depth=18), dict(type='GlobalAveragePooling')],
            head=dict(in_channels=512)))  # fmt: skip
    headless = 'eva02/eva02-tiny-p14_headless.py'
    with pytest.raises(ValueError, match=r'has no head \(head=None\)'):
        find(*built(headless))
    with pytest.raises(ValueError, match='takes several views of a picture'):
        find(*built('simclr/simclr_resnet50_16xb256-coslr-200e_in1k.py'))


def folder_of(root, classes=3):
    for split in ('train', 'val'):
        for i in range(classes):
            (root / split / f'class{i}').mkdir(parents=True)
    return root


@pytest.mark.parametrize(
    ('path', 'changes'),
    [
        (
            'resnest/resnest50_32xb64_in1k.py',
            dict(head=dict(num_classes=3, loss=dict(num_classes=3))),
        ),
        ('lenet/lenet5_mnist.py', dict(backbone=dict(num_classes=3))),
        ('inception_v3/inception-v3_8xb32_in1k.py', dict(backbone=dict(num_classes=3))),
    ],
)  # fmt: skip
def test_every_number_of_classes_follows_the_data(path, changes):
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        cfg = get_config(f'mmpretrain::{path}')
    assert of_classes(cfg.model, 3, '--student') == changes
    of_batch = dict(data_preprocessor=dict(num_classes=3)) if 'resnest' in path else {}
    network, size = built(path, **changes, **of_batch)
    assert find(network, size).classes == 3


def test_folders_of_pictures_for_a_classifier_in_the_backbone(tmp_path):
    student, out = 'mmpretrain::lenet/lenet5_mnist.py', tmp_path / 'my.py'
    data = folder_of(tmp_path / 'data')
    write_config(Request(student, 'kd', out, student, 't.pth', data))
    model = Config.fromfile(out).model
    assert model.architecture.backbone.num_classes == model.teacher.backbone.num_classes == 3
    sources = [model.distiller[f'{s}_recorders'].logits.source for s in ('student', 'teacher')]
    assert sources == ['backbone.classifier.2'] * 2


def test_pictures_are_loaded_once_whoever_loads_them(tmp_path):
    student, out = str(ROOT / 'configs/vanilla/resnet20_1xb64_cifar10-small.py'), tmp_path / 'my.py'
    write_config(Request(student, 'alone', out, data=folder_of(tmp_path / 'data')))
    for loader in (Config.fromfile(out).train_dataloader, Config.fromfile(out).val_dataloader):
        loads = [step.type for step in loader.dataset.pipeline if 'LoadImage' in step.type]
        assert loads == ['kd_plugins.LoadImageFromFile']


def test_a_loss_with_classes_of_its_own_learns_from_folders_of_pictures(tmp_path):
    student, out = 'mmpretrain::resnest/resnest50_32xb64_in1k.py', tmp_path / 'my.py'
    write_config(Request(student, 'alone', out, data=folder_of(tmp_path / 'data')))
    cfg = Config.fromfile(out)
    found = cfg.model.head.num_classes, cfg.model.head.loss.num_classes
    assert found == (3, 3) and cfg.data_preprocessor.num_classes == 3


def refusal(*args, **kwargs):
    with pytest.raises(ValueError) as caught:
        new_config(Request(*args, **kwargs))
    said = str(caught.value)
    assert '\n' not in said and 'Traceback' not in said
    return said


def test_what_upstream_throws_is_one_sentence(tmp_path):
    out = tmp_path / 'my.py'
    (tmp_path / 'broken.py').write_text("model = dict(type='ImageClassifier', backbone=dict(")
    assert '--student' in refusal(str(tmp_path / 'broken.py'), 'alone', out)
    cfg = Config.fromfile(STUDENT)
    cfg.model.backbone.depth = 7
    cfg.dump(tmp_path / 'seven.py')
    says = refusal(str(tmp_path / 'seven.py'), 'alone', out)
    assert says.startswith(f'--student {str(tmp_path / "seven.py")!r} cannot be built: ')
    says = refusal(STUDENT, 'kd', out, 'mmpretrain::resnet/resnet18_gone.py')
    assert says.startswith("--teacher 'mmpretrain::resnet/resnet18_gone.py' cannot be read: ")


def test_a_config_that_only_tests_trains_nothing(tmp_path):
    student = 'mmpretrain::dinov2/vit-small-p14_dinov2-pre_headless.py'
    for method, teacher in (('alone', None), ('kd', student)):
        assert 'says how to test and not how to train' in refusal(
            student, method, tmp_path / 'my.py', teacher
        )


def test_what_dot_cannot_take_apart_is_not_written(tmp_path):
    student, out = 'mmpretrain::deit/deit-tiny_4xb256_in1k.py', tmp_path / 'my.py'
    with pytest.raises(ValueError, match=r"--method dot .*'AdamW' has no momentum .* with SGD"):
        write_config(Request(student, 'dot', out, student))
    assert not out.exists()


def test_a_teacher_of_another_size_gets_its_own(tmp_path):
    student, out = 'mmpretrain::resnet/resnet18_8xb32_in1k.py', tmp_path / 'my.py'
    teacher = 'mmpretrain::swin_transformer_v2/swinv2-tiny-w8_16xb64_in1k-256px.py'
    write_config(Request(student, 'kd', out, teacher))
    assert Config.fromfile(out).model.teacher_input_size == [256, 256]
