"""A config of each folder of both model zoos, as student and as teacher, in one step.

``docs/zoo.md`` holds what came out; ``tools/dev/zoo_table.py`` writes it.
"""

import copy
import functools
import gc
import tempfile
import traceback
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.logging import MessageHub
from mmengine.registry import DATASETS, MODELS, DefaultScope
from torch.utils.data import Dataset

import helpers.tiny_training  # noqa: F401  (registers Level)
from helpers import whole_detectors
from helpers.stock_detectors import DETECTORS
from kd_plugins.inspect.check import check, describe
from kd_plugins.networks import build_network, resolve_network
from kd_plugins.new_config.classes import classes_in_cfg
from kd_plugins.new_config.logits import picture_size
from kd_plugins.new_config.writing import Request, write_config
from kd_plugins.recorders.dense_logits import DenseLogitsRecorder

#: The smallest config of each folder of mmpretrain that trains a classifier.
CLASSIFIERS = {
    'arcface': 'resnet50-arcface_8xb32_inshop',
    'barlowtwins': 'benchmarks/resnet50_8xb32-linear-coslr-100e_in1k',
    'beit': 'benchmarks/beit-base-p16_8xb128-coslr-100e_in1k',
    'beitv2': 'benchmarks/beit-base-p16_8xb128-coslr-100e_in1k',
    'byol': 'benchmarks/resnet50_8xb512-linear-coslr-90e_in1k',
    'cae': 'benchmarks/beit-base-p16_8xb128-coslr-100e_in1k',
    'clip': 'vit-base-p16_pt-64xb64_in1k',
    'conformer': 'conformer-tiny-p16_8xb128_in1k',
    'convmixer': 'convmixer-768-32_10xb64_in1k',
    'convnext': 'convnext-tiny_32xb128_in1k',
    'convnext_v2': 'convnext-v2-atto_32xb32_in1k',
    'cspnet': 'cspresnext50_8xb32_in1k',
    'csra': 'resnet101-csra_1xb16_voc07-448px',
    'davit': 'davit-tiny_4xb256_in1k',
    'deit': 'deit-tiny-distilled_4xb256_in1k',
    'deit3': 'deit3-small-p16_64xb64_in1k',
    'densecl': 'benchmarks/resnet50_8xb32-linear-steplr-100e_in1k',
    'densenet': 'densenet121_4xb256_in1k',
    'dinov2': 'vit-small-p14_dinov2-pre_headless',
    'edgenext': 'edgenext-xxsmall_8xb256_in1k',
    'efficientformer': 'efficientformer-l1_8xb128_in1k',
    'efficientnet': 'efficientnet-b0_8xb32_in1k',
    'efficientnet_v2': 'efficientnetv2-b0_8xb32_in1k',
    'eva': 'benchmarks/vit-base-p16_8xb128-coslr-100e_in1k',
    'eva02': 'eva02-tiny-p14_in1k',
    'glip': 'glip-t_headless',
    'hivit': 'hivit-tiny-p16_16xb64_in1k',
    'hornet': 'hornet-tiny_8xb128_in1k',
    'hrnet': 'hrnet-w18_4xb32_in1k',
    'inception_v3': 'inception-v3_8xb32_in1k',
    'lenet': 'lenet5_mnist',
    'levit': 'levit-128s_8xb256_in1k',
    'mae': 'benchmarks/vit-base-p16_8xb128-coslr-100e_in1k',
    'maskfeat': 'benchmarks/vit-base-p16_8xb256-coslr-100e_in1k',
    'mff': 'benchmarks/vit-base-p16_8xb128-coslr-100e_in1k',
    'milan': 'benchmarks/vit-base-p16_8xb128-coslr-100e_in1k',
    'mixmim': 'benchmarks/mixmim-base_8xb128-coslr-100e_in1k',
    'mlp_mixer': 'mlp-mixer-base-p16_64xb64_in1k',
    'mobilenet_v2': 'mobilenet-v2_8xb32_in1k',
    'mobilenet_v3': 'mobilenet-v3-small-050_8xb128_in1k',
    'mobileone': 'mobileone-s1_8xb32_in1k',
    'mobilevit': 'mobilevit-xxsmall_8xb128_in1k',
    'mocov2': 'benchmarks/resnet50_8xb32-linear-steplr-100e_in1k',
    'mocov3': 'benchmarks/vit-small-p16_8xb128-linear-coslr-90e_in1k',
    'mvit': 'mvitv2-tiny_8xb256_in1k',
    'poolformer': 'poolformer-s12_32xb128_in1k',
    'regnet': 'regnetx-400mf_8xb128_in1k',
    'replknet': 'replknet-31B_32xb64_in1k',
    'repmlp': 'repmlp-base_8xb64_in1k',
    'repvgg': 'repvgg-A0_8xb32_in1k',
    'res2net': 'res2net50-w14-s8_8xb32_in1k',
    'resnest': 'resnest50_32xb64_in1k',
    'resnet': 'resnet18_8xb32_in1k',
    'resnext': 'resnext50-32x4d_8xb32_in1k',
    'revvit': 'revvit-small_8xb256_in1k',
    'riformer': 'riformer-s12_8xb128_in1k',
    'sam': 'vit-base-p16_sam_headless',
    'seresnet': 'seresnext50-32x4d_8xb32_in1k',
    'shufflenet_v1': 'shufflenet-v1-1x_16xb64_in1k',
    'shufflenet_v2': 'shufflenet-v2-1x_16xb64_in1k',
    'simclr': 'benchmarks/resnet50_8xb512-linear-coslr-90e_in1k',
    'simmim': 'benchmarks/swin-base-w6_8xb256-coslr-100e_in1k-192px',
    'simsiam': 'benchmarks/resnet50_8xb512-linear-coslr-90e_in1k',
    'spark': 'benchmarks/resnet50_8xb256-coslr-300e_in1k',
    'swav': 'benchmarks/resnet50_8xb512-linear-coslr-90e_in1k',
    'swin_transformer': 'swin-tiny_16xb64_in1k',
    'swin_transformer_v2': 'swinv2-tiny-w8_16xb64_in1k-256px',
    't2t_vit': 't2t-vit-t-14_8xb64_in1k',
    'tinyvit': 'tinyvit-5m_8xb256_in1k',
    'tnt': 'tnt-s-p16_16xb64_in1k',
    'twins': 'twins-svt-small_8xb128_in1k',
    'van': 'van-tiny_8xb128_in1k',
    'vgg': 'vgg11_8xb32_in1k',
    'vig': 'vig-tiny_8xb128_in1k',
    'vision_transformer': 'vit-base-p16_32xb128-mae_in1k',
    'wrn': 'wide-resnet50_8xb32_in1k',
    'xcit': 'xcit-nano-12-p8_8xb128_in1k',
}
#: Folders of mmpretrain that have no classifier of pictures.
NO_CLASSIFIERS = (
    'blip', 'blip2', 'chinese_clip', 'flamingo', 'itpn', 'llava', 'minigpt4', 'ofa', 'otter',
)  # fmt: skip


@DATASETS.register_module(force=True)
class Noise(Dataset):
    """Four pictures of noise with classes, as large as a network wants them."""

    def __init__(self, shape, classes, several):
        self.shape, self.classes, self.several = tuple(shape), classes, several

    def __len__(self):
        return 4

    def __getitem__(self, index):
        from mmpretrain.structures import DataSample

        generator = torch.Generator().manual_seed(index)
        sample = DataSample(metainfo=dict(img_shape=self.shape[1:])).set_gt_label(0)
        if self.several:
            sample.set_gt_score(torch.arange(self.classes) % 2)
        picture = torch.randint(0, 256, self.shape, dtype=torch.uint8, generator=generator)
        return dict(inputs=picture, data_samples=sample)


@functools.cache
def stock(package, folder):
    """Return the address and the content of a folder's config."""
    name = CLASSIFIERS[folder] if package == 'mmpretrain' else DETECTORS[folder][0]
    path = f'{package}::{folder}/{name}.py'
    with DefaultScope.overwrite_default_scope(package):
        return path, get_config(path)


def classifier_row(folder):
    """Say what comes of a classifier: as student, as teacher, its dense logits, its optimizer."""
    try:
        path, cfg = stock('mmpretrain', folder)
    except RuntimeError as error:  # mmengine's, of upstream's replknet
        runs = _unread(error, 'student', 'teacher', 'maps', 'dense')
        return dict(config=f'{CLASSIFIERS[folder]}.py', network='-', **runs, dot='-')
    classes = classes_in_cfg(cfg.model) or 1000
    with tempfile.TemporaryDirectory() as scratch:
        other = Path(scratch) / 'partner.py'
        other.write_text(
            "_base_ = 'mmpretrain::resnet/resnet18_8xb32_in1k.py'\n"
            f'model = dict(head=dict(num_classes={classes}))\n'
        )
        student = _distils(scratch, path, str(other), cfg, 'student_logits')
        teacher = _distils(scratch, str(other), path, Config.fromfile(other), 'teacher_logits')
    optimizer = cfg.get('optim_wrapper', {}).get('optimizer', {}).get('type', 'none')
    return dict(
        config=path.split('/', 1)[1],
        network=_name(cfg.model, 'backbone'),
        student=student,
        teacher=teacher,
        maps=_maps(path, cfg),
        dense=_dense(path, cfg),
        dot='yes' if optimizer == 'SGD' else optimizer,
    )


def _unread(error, *columns):
    return dict.fromkeys(columns, f'mmengine cannot read the config ({type(error).__name__})')


def _maps(path, cfg):
    """Say which maps are wired where a ResNet-18 teaches it by them, in one step."""
    size = _size(cfg)
    try:
        with DefaultScope.overwrite_default_scope('mmpretrain'):
            student, teacher = (
                _stripped(resolve_network(dict(cfg_path=each), each)[0].to_dict())
                for each in (path, 'mmpretrain::resnet/resnet18_8xb32_in1k.py')
            )
            channels = 1 if 'LeNet' in str(student.get('backbone')) else 3
            teacher['backbone']['in_channels'] = channels
            distiller = dict(type='kd_plugins.AutoDistiller', term='cwd', size=size)
            # The student's input is noise, and the teacher's needs no conversion.
            for network in (student, teacher):
                network.update(data_preprocessor=dict(), train_cfg=None)
            torch.manual_seed(0)
            model = MODELS.build(
                dict(
                    type='kd_plugins.SingleTeacherDistill', architecture=student, teacher=teacher,
                    allow_random_teacher=True, distiller=distiller, calculate_student_loss=False,
                )
            )  # fmt: skip
            # A second picture of SAM's 1024 pixels would take 8 GB more.
            pictures = torch.randn(2 if max(size) < 1024 else 1, channels, *size)
            losses = model.train().loss(pictures, None)
            total, _ = model.parse_losses(losses)
            total.backward()
    except Exception as error:  # whatever upstream throws is a row of the table
        return _sentence(error)
    return _wired(model, total)


def _wired(model, total):
    """Say where the maps come from; the student, beside its projector, has to learn."""
    if not bool(torch.isfinite(total)):
        return 'a loss that is not finite'
    of_student = model.student.parameters()
    if not any(p.grad is not None and bool(p.grad.any()) for p in of_student):
        return 'no gradient'
    sides = [
        ', '.join(dict.fromkeys(x.split('[')[0] for x in recorder.level_names))
        for manager in (model.distiller.student_recorders, model.distiller.teacher_recorders)
        for recorder in [manager.recorders['maps']]
    ]
    levels = len(model.distiller.student_recorders.recorders['maps'].level_names)
    return f'yes, {levels} of `{"` and `".join(dict.fromkeys(sides))}`'


def _distils(scratch, student, teacher, cfg, choice):
    """Write KD of the two and check it; return 'yes', or the sentence that refuses it."""
    out, chosen, said = Path(scratch) / f'{choice}.py', None, 'yes'
    for _ in range(2):
        request = Request(student, 'kd', out, teacher, 't.pth')
        setattr(request, choice, chosen)
        try:
            write_config(request)
            break
        except ValueError as error:
            if 'choose one with' not in str(error):
                return _sentence(error, scratch)
            # It says between which modules there is a choice.
            chosen = str(error).rsplit(': ', 1)[1].split(' or ')[0]
            said = f'yes, with `--{choice.replace("_", "-")} {chosen}`'
    written = _runs_here(Config.fromfile(out), _size(cfg), scratch)
    with pytest.MonkeyPatch.context() as patch:
        # Counting is of no interest here, and slow.
        patch.setattr(describe, 'multiply_adds', lambda *_: None)
        report = check(written, iterations=1, teacher_batches=0)
    # Heads that begin at 0 make such a teacher.
    alike = 'for every sample of the batch'
    errors = [f.what for f in report.findings if f.level == 'error' and alike not in f.what]
    return _sentence(errors[0], scratch) if errors else said


def _size(cfg):
    return picture_size(cfg) or (224, 224)


def _runs_here(cfg, size, scratch):
    """Give a written config pictures of noise, and take out what needs files or a GPU."""
    student = cfg.model.architecture
    network, _ = resolve_network(student, 'student')
    head = str(network.get('head', {}).get('type'))
    channels = 1 if 'LeNet' in str(network.get('backbone', {}).get('type')) else 3
    data = dict(
        type='Noise', shape=[channels, *size], classes=classes_in_cfg(network) or 1000,
        several='MultiLabel' in head or 'CSRA' in head,
    )  # fmt: skip
    loader = dict(
        batch_size=2, dataset=data, sampler=dict(type='DefaultSampler', shuffle=False),
        collate_fn=dict(type='default_collate'),
    )  # fmt: skip
    return _alone(cfg, loader, scratch)


def _alone(cfg, loader, scratch):
    cfg.train_dataloader = cfg.val_dataloader = loader
    for key in ('test_dataloader', 'test_evaluator', 'test_cfg', 'tta_model', 'tta_pipeline'):
        cfg.pop(key, None)
    for key in ('auto_scale_lr', 'param_scheduler'):
        cfg.pop(key, None)
    cfg.val_evaluator, cfg.val_cfg = dict(type='Level'), dict()
    cfg.train_cfg = dict(by_epoch=True, max_epochs=300, val_interval=300)
    cfg.work_dir = scratch
    cfg.model.pop('teacher_ckpt', None)
    cfg.model.allow_random_teacher = True
    cfg.custom_hooks = [
        hook for hook in cfg.get('custom_hooks', []) if 'PreciseBN' not in str(hook.type)
    ]
    cfg.optim_wrapper.type = 'OptimWrapper'
    for key in ('loss_scale', 'dtype'):
        cfg.optim_wrapper.pop(key, None)
    _without_weights(cfg.model)
    return cfg


def _without_weights(cfg):
    """Let nothing be read from the net: part by part, as upstream names its weights."""
    for part in ('architecture', 'teacher'):
        network, _ = resolve_network(cfg[part], part)
        cfg[part] = _stripped(network.to_dict())


def _stripped(value):
    if isinstance(value, dict):
        init = value.get('init_cfg')
        if isinstance(init, dict) and 'checkpoint' in init:
            value = dict(value, init_cfg=None)
        return {key: _stripped(each) for key, each in value.items()}
    return [_stripped(each) for each in value] if isinstance(value, list) else value


def _dense(path, cfg):
    """Say whether dense logits can be read, and whether their mean is the network's answer."""
    try:
        network = _built(path)
        recorder = DenseLogitsRecorder()
        recorder.initialize(network)
        network.eval()
        channels = next(m for m in network.modules() if isinstance(m, torch.nn.Conv2d)).in_channels
        inputs = torch.randn(2, channels, *_size(cfg))
        with torch.no_grad(), recorder:
            answer = network(inputs, mode='tensor')
        record = recorder.get_record_data()
    except Exception as error:  # whatever upstream throws is a row of the table
        return _sentence(error)
    same = record.shape[:2] == answer.shape and torch.allclose(
        record.mean((2, 3)), answer, rtol=1e-3, atol=1e-4
    )
    return 'yes, their mean is the answer' if same else 'yes'


def _built(path):
    with DefaultScope.overwrite_default_scope(path.split('::')[0]):
        cfg, _ = resolve_network(dict(cfg_path=path), path)
        return build_network(_stripped(cfg.to_dict()), path)


def detector_row(folder):
    """Say what comes of a detector that teaches one of its own kind."""
    try:
        path, cfg = stock('mmdet', folder)
    except ValueError as error:  # mmengine's, of the folder gn+ws: no address has a plus
        runs = _unread(error, 'bckd', 'rois', 'features')
        return dict(config=f'{DETECTORS[folder][0]}.py', network='-', head='-', **runs)
    row = dict(config=path.split('/', 1)[1], network=cfg.model.type, head=_head(cfg.model))
    with whole_detectors.shallow():
        row['bckd'] = _detects(path, folder, 'bckd')
        row['rois'] = _algorithm_step(path, folder, _of_rois()) if 'roi_head' in cfg.model else '-'
        auto = dict(type='kd_plugins.AutoDistiller', term='cwd')
        row['features'] = _algorithm_step(path, folder, auto)
    return row


def _head(model):
    return _name(model, *(['roi_head'] if 'roi_head' in model else []), 'bbox_head')


def _name(model, *keys):
    kinds = []
    for key in keys:
        part = model.get(key)
        part = part[-1] if isinstance(part, list) else part
        if part:
            kinds.append(str(part.get('type')))
    return ', '.join(kinds) or str(model.get('type'))


def _of_rois():
    from helpers import ROOT

    return Config.fromfile(ROOT / 'configs/_base_/distill/dkd_rois.py').distiller


def _detects(path, folder, method):
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / 'my.py'
        try:
            write_config(Request(path, method, out, path, 't.pth'))
        except ValueError as error:
            return _sentence(error, scratch)
        return _algorithm_step(path, folder, Config.fromfile(out).model.distiller)


def _algorithm_step(path, folder, distiller):
    """One step of a detector beside one of its own kind, of other random weights."""
    _, size, more = DETECTORS[folder]
    try:
        with DefaultScope.overwrite_default_scope('mmdet'):
            network, _ = resolve_network(dict(cfg_path=path), path)
            network = _stripped(network.to_dict())
            torch.manual_seed(0)
            model = MODELS.build(
                dict(
                    type='kd_plugins.SingleTeacherDistill', architecture=network,
                    teacher=copy.deepcopy(network), allow_random_teacher=True, distiller=distiller,
                )
            )  # fmt: skip
            model.student.init_weights()
            hub = MessageHub.get_current_instance()
            for key, value in dict(epoch=0, max_epochs=12, iter=0).items():
                hub.update_info(key, value)
            data = _fitting(whole_detectors.batch(size, **more), network)
            data = model.train().data_preprocessor(data, True)
            losses = model(**data, mode='loss')
            total, _ = model.parse_losses(losses)
            distilled = [v for k, v in losses.items() if k.startswith('distill.loss')]
            total.backward()
    except Exception as error:  # whatever upstream throws is a row of the table
        return _sentence(error)
    finally:
        gc.collect()
    if 'term' in distiller:
        return _wired(model, sum(distilled))
    if not all(bool(torch.isfinite(value)) for value in distilled):
        return 'a loss that is not finite'
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    return 'yes' if any(bool(grad.any()) for grad in grads) else 'no gradient'


def _fitting(data, network):
    """Give Fast R-CNN the proposals that it reads, and a detector of one class its only label."""
    from mmdet.testing import demo_mm_proposals

    shapes = [tuple(picture.shape) for picture in data['inputs']]
    classes = classes_in_cfg(network)
    for sample, proposals in zip(data['data_samples'], demo_mm_proposals(shapes, 20), strict=True):
        if network['type'] == 'FastRCNN':
            sample.proposals = proposals
        if classes == 1:
            sample.gt_instances.labels.zero_()
    return data


def _sentence(error, scratch=None):
    """Return what was said, in one line, without what differs from run to run."""
    said = ' '.join(str(error).split()) or _where(error)
    if isinstance(error, Exception) and not isinstance(error, ValueError):
        said = f'{type(error).__name__}: {said}'
    return said.replace(f'{scratch}/', '') if scratch else said


def _where(error):
    """Return the line that raised an error which says nothing."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f'{last.line} ({Path(last.filename).name})'
