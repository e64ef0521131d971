"""Pictures with classes or boxes for tiny trainings, and the pairs that learn them."""

import torch
from mmengine.config import Config
from mmengine.registry import DATASETS
from torch.utils.data import Dataset

from helpers import ROOT, algorithm_cfg
from helpers.detection import detector, distillation, images
from helpers.networks import distilled, resnet
from helpers.two_stage import distillation as of_rois


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


def boxes(kind='GFL'):
    """Config of BCKD between two thin detectors, the student's batch statistics fixed."""
    student = detector(kind)
    student['backbone']['norm_eval'] = True
    return distillation(student, detector(kind, width=16))


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
