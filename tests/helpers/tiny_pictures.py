"""Pictures with classes or boxes for tiny trainings, and the pairs that learn them."""

from copy import deepcopy

import torch
from mmengine.config import Config
from mmengine.registry import DATASETS
from torch.utils.data import Dataset

from helpers import ROOT, algorithm_cfg
from helpers.detection import detector, distillation, images
from helpers.networks import distilled, resnet, vit
from helpers.two_stage import distillation as of_rois

SCOPE = 'mmpretrain'


@DATASETS.register_module(force=True)
class Pictures(Dataset):
    """Pictures of 32 x 32 pixels, whose class is where they are bright."""

    def __init__(self, size=12):
        generator = torch.Generator().manual_seed(1)
        self.inputs = torch.rand(size, 3, 32, 32, generator=generator)
        for i, picture in enumerate(self.inputs):
            picture[:, 6 * (i % 5) : 6 * (i % 5) + 8] += 2

    def __len__(self):
        return len(self.inputs)

    def __getitem__(self, index):
        from mmpretrain.structures import DataSample

        sample = DataSample().set_gt_label(index % 5)
        return dict(inputs=self.inputs[index], data_samples=sample)


@DATASETS.register_module(force=True)
class HalfLabelled(Pictures):
    """The same pictures, the later half of them without a class."""

    def __init__(self, size=12):
        super().__init__(size)
        self.datasets = [range(size // 2), range(size // 2, size)]

    def __getitem__(self, index):
        data = super().__getitem__(index)
        if index in self.datasets[1]:
            del data['data_samples'].gt_label
        return data


@DATASETS.register_module(force=True)
class Boxes(Dataset):
    """Pictures of 64 x 64 pixels with two boxes each."""

    def __init__(self, size=12):
        self.batch = images(1, sizes=[(64, 64)] * size)

    def __len__(self):
        return len(self.batch['inputs'])

    def __getitem__(self, index):
        return {key: values[index] for key, values in self.batch.items()}


def patches(**changes):
    """Config of CSKD beside DeiT: a CNN teaches a vision transformer."""
    distiller = Config.fromfile(ROOT / 'configs/_base_/distill/cskd.py').distiller
    distiller.distill_losses = dict(
        loss_deit=dict(type='kd_plugins.DeiTLoss', loss_weight=0.5),
        loss_cskd=dict(type='kd_plugins.CSKDLoss'),
    )
    return algorithm_cfg(
        architecture=dict(distilled(predictions=3), _scope_='mmpretrain'),
        teacher=dict(resnet(), _scope_='mmpretrain'),
        distiller=distiller,
        **changes,
    )


def from_cnn(**changes):
    """Config of VkD and OFA-KD: a CNN teaches a vision transformer, whose first layer answers."""
    branch = dict(
        type='kd_plugins.OFATokenBranch', in_channels=16, num_classes=5, merges=1, blocks=1,
        extra_tokens=1,
    )  # fmt: skip
    logits = dict(recorder='logits', from_student=False)
    labels = dict(recorder='labels', from_student=True, data_idx=1)
    mapping = dict(
        preds_S=dict(recorder='logits', from_student=True), preds_T=logits, gt_labels=labels
    )
    stage = dict(recorder='stage', from_student=True, connector='branch')
    pooled = dict(
        preds_S=dict(recorder='tokens', from_student=True),
        preds_T=dict(recorder='pooled', from_student=False, data_idx=0),
    )
    return algorithm_cfg(
        architecture=dict(vit(), _scope_='mmpretrain'),
        teacher=dict(resnet(), _scope_='mmpretrain'),
        distiller=dict(
            student_recorders=dict(
                logits=dict(type='ModuleOutputs', source='head.layers.head'),
                labels=dict(type='ModuleInputs', source='head.loss_module'),
                stage=dict(type='ModuleOutputs', source='backbone.layers.0'),
                tokens=dict(type='ModuleOutputs', source='backbone.ln1'),
            ),
            teacher_recorders=dict(
                logits=dict(type='ModuleOutputs', source='head.fc'),
                pooled=dict(type='ModuleInputs', source='head.fc'),
            ),
            connectors=dict(branch=branch),
            distill_losses=dict(
                loss_ofa=dict(type='kd_plugins.OFALoss', eps=1.5),
                loss_ofa_stage=dict(type='kd_plugins.OFALoss', eps=1.5),
                loss_vkd=dict(
                    type='kd_plugins.VkDLoss', channels_S=16, channels_T=64, extra_tokens=1
                ),
            ),
            loss_forward_mappings=dict(
                loss_ofa=mapping, loss_ofa_stage=dict(mapping, preds_S=stage), loss_vkd=pooled
            ),
        ),
        **changes,
    )


def half_labelled(losses=None, student=None, **changes):
    """Config of KD between small ResNets for batches of which some pictures have no label.

    Args:
        losses: Terms that are given logits and labels; KD if none are said.
        student: Changes of the student's backbone.
        changes: Of the algorithm.
    """
    parts = Config.fromfile(ROOT / 'configs/_base_/distill/logits.py').distiller
    parts.distill_losses = losses or dict(loss_kd=dict(type='kd_plugins.KDLoss', tau=2.0))
    mapping = parts.loss_forward_mappings.pop('loss_kd')
    parts.loss_forward_mappings = {name: deepcopy(mapping) for name in parts.distill_losses}
    cfg = algorithm_cfg(
        # Batch statistics would tell the samples of a batch from each other.
        architecture=dict(resnet(**dict(dict(norm_eval=True), **(student or {}))), _scope_=SCOPE),
        teacher=dict(resnet(), _scope_=SCOPE),
        distiller=parts,
        data_preprocessor=dict(type='kd_plugins.ClsDataPreprocessor', mean=[0.5], std=[2.0]),
    )
    return cfg | changes


def _term(base, name, student=None, **parts):
    """Config of a student of pictures beside one term, without a teacher."""
    distiller = Config.fromfile(ROOT / f'configs/_base_/distill/{base}.py').distiller
    distiller.distill_losses = {f'loss_{name}': parts.pop('loss')}
    return algorithm_cfg(
        # Batch statistics would tell the samples of a batch from each other.
        architecture=dict(student or resnet(norm_eval=True), _scope_='mmpretrain'),
        teacher=None,
        distiller=distiller,
        **parts,
    )


def zipf(loss=None, **changes):
    """Config of Zipf's label smoothing of a small ResNet."""
    return _term('zipf', 'zipf', loss=dict(loss or {}, type='kd_plugins.ZipfLoss'), **changes)


def recursive_mix(loss=None, part=None, **changes):
    """Config of RecursiveMix of a small ResNet with 64 channels and 5 classes."""
    return _term(
        'recursive_mix',
        'rm',
        loss=dict(
            dict(type='kd_plugins.RecursiveMixLoss', channels=64, num_classes=5), **(loss or {})
        ),
        batch_parts=[dict(part or {}, type='kd_plugins.RecursiveMix')],
        **changes,
    )


def beside_ctkd(cfg):
    """The same beside a teacher, with KD at a learned temperature."""
    distiller = cfg['distiller']
    distiller.teacher_recorders = dict(logits=dict(type='ModuleOutputs', source='head.fc'))
    tau = dict(type='kd_plugins.GlobalTemperature')
    distiller.distill_losses.loss_kd = dict(type='kd_plugins.KDLoss', tau=tau)
    record = dict(recorder='logits', from_student=True)
    distiller.loss_forward_mappings.loss_kd = dict(
        preds_S=record, preds_T=dict(record, from_student=False)
    )
    return dict(cfg, teacher=dict(resnet(), _scope_='mmpretrain'))


def boxes(kind='GFL'):
    """Config of BCKD between two thin detectors, the student's batch statistics fixed."""
    student = detector(kind)
    student['backbone']['norm_eval'] = True
    return distillation(student, detector(kind, width=16))


def crossed(kind='GFL'):
    """Config of CrossKD between two thin detectors, after their one convolution a branch."""
    cfg = boxes(kind)
    cfg['distiller'] = Config.fromfile(ROOT / 'configs/_base_/distill/crosskd.py').distiller
    cfg['distiller'].student_recorders.inside.after = 1
    return cfg


def rois(tau=1.0, fpn=False):
    """Config of DKD on RoIs of thin Faster R-CNNs, with ``fpn`` mmrazor's PKD beside it."""
    cfg = of_rois(loss=dict(tau=tau))
    if fpn:
        distiller = cfg['distiller']
        for side in ('student', 'teacher'):
            neck = dict(type='mmrazor.ModuleOutputs', source='neck')
            distiller[f'{side}_recorders'].neck = neck
        for level in range(4):
            name = f'loss_pkd_fpn{level}'
            distiller.distill_losses[name] = dict(type='mmrazor.PKDLoss', loss_weight=0.1)
            distiller.loss_forward_mappings[name] = {
                f'preds_{side}': dict(recorder='neck', data_idx=level, from_student=side == 'S')
                for side in 'ST'
            }
    return cfg


def _on_maps(terms, layers):
    """``distill_losses`` and ``loss_forward_mappings`` of terms on all levels at once."""
    losses, mappings = {}, {}
    for name, settings in terms.items():
        own = layers if name in ('MGD', 'SL2') else {}
        losses[f'loss_{name.lower()}'] = dict(settings, type=f'kd_plugins.{name}Loss', **own)
        mapping = {
            f'preds_{side}': dict(recorder='maps', from_student=side == 'S') for side in 'ST'
        }
        if name == 'SL2':
            mapping['head_T'] = dict(recorder='head', from_student=False)
        mappings[f'loss_{name.lower()}'] = mapping
    return dict(distill_losses=losses, loss_forward_mappings=mappings)


def necks(**terms):
    """Config of terms on both FPNs of two thin detectors, by name: their settings."""
    cfg = boxes()
    distiller = cfg['distiller']
    for side in ('student', 'teacher'):
        distiller[f'{side}_recorders'].maps = dict(type='kd_plugins.Features')
    layers = dict(channels_S=[16] * 5, channels_T=[16] * 5)
    for key, value in _on_maps(terms, layers).items():
        distiller[key] = value
    return cfg


def stages(**terms):
    """Config of terms on two stages of small ResNets, by name: their settings."""
    maps = dict(
        maps=dict(type='kd_plugins.Features', sources=['backbone.layer2', 'backbone.layer3'])
    )
    layers = dict(channels_S=[32, 64], channels_T=[32, 64])
    return algorithm_cfg(
        architecture=dict(resnet(norm_eval=True), _scope_='mmpretrain'),
        teacher=dict(resnet(), _scope_='mmpretrain'),
        distiller=dict(student_recorders=maps, teacher_recorders=maps, **_on_maps(terms, layers)),
        data_preprocessor=dict(type='BaseDataPreprocessor'),
    )


def wired(term=None, loss_weight=1e-3):
    """Config of a term wired by itself between small ResNets of other widths; MGD by default."""
    mgd = dict(type='kd_plugins.MGDLoss', loss_weight=loss_weight, mask_ratio=0.0)
    thin = resnet(base_channels=8)
    thin['head']['in_channels'] = 32
    return algorithm_cfg(
        architecture=dict(resnet(norm_eval=True), _scope_='mmpretrain'),
        teacher=dict(thin, _scope_='mmpretrain'),
        distiller=dict(type='kd_plugins.AutoDistiller', term=term or mgd, size=32),
        data_preprocessor=dict(type='BaseDataPreprocessor'),
    )
