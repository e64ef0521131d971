"""Small networks and configs that tests share."""

import kd_plugins  # noqa: F401, I001  (first: it brings mmcv's operators)

from copy import deepcopy
from pathlib import Path

import torch
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from mmengine.runner import save_checkpoint
from torch import nn

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / 'configs'
#: The smallest configs of every method: NAME_digits.py and its kin, or NAME_scenes.py. What a
#: store holds is another test's, and LD's is mmdet's own detector.
ON_DIGITS = sorted(path for path in CONFIGS.glob('*/*_digits.py') if '-stored_' not in path.name)
ON_SCENES = sorted(
    path for path in CONFIGS.glob('*/*_scenes.py')
    if path.stem == f'{path.parent.name}_scenes' != 'ld_scenes'
)  # fmt: skip
SMALLEST = [*ON_DIGITS, *ON_SCENES]


@MODELS.register_module(force=True)
class TinyClassifier(BaseModel):
    """A classifier of vectors without batch statistics."""

    def __init__(self, width=8, classes=4, features=6, dropout=0.0, data_preprocessor=None):
        super().__init__(data_preprocessor)
        self.body = nn.Sequential(
            nn.Linear(features, width), nn.ReLU(inplace=True), nn.Dropout(dropout)
        )
        self.fc = nn.Linear(width, classes)
        self.loss_module = PairLoss()

    def forward(self, inputs, data_samples=None, mode='tensor'):
        logits = self.fc(self.body(inputs))
        if mode == 'loss':
            return dict(loss=self.loss_module(logits, data_samples), accuracy=torch.zeros(()))
        return logits


class PairLoss(nn.Module):
    """Cross-entropy as a module, so that its inputs can be recorded."""

    def forward(self, logits, labels):
        return nn.functional.cross_entropy(logits, labels)


STUDENT = dict(type='TinyClassifier', width=4)
TEACHER = dict(type='TinyClassifier', width=16)


def distiller(loss=None, **changes):
    """A distiller that reads both classifiers."""
    cfg = dict(
        student_recorders=dict(
            logits=dict(type='ModuleOutputs', source='fc'),
            labels=dict(type='ModuleInputs', source='loss_module'),
        ),
        teacher_recorders=dict(logits=dict(type='ModuleOutputs', source='fc')),
        distill_losses=dict(loss_kd=loss or dict(type='kd_plugins.KDLoss', tau=2.0)),
        loss_forward_mappings=dict(
            loss_kd=dict(
                preds_S=dict(recorder='logits', from_student=True),
                preds_T=dict(recorder='logits', from_student=False),
                gt_labels=dict(recorder='labels', from_student=True, data_idx=1),
            )
        ),
    )
    for key, value in changes.items():
        cfg[key] = value
    return cfg


def reviewing():
    """A distiller with ReviewKD between both layers; its norm knows no other samples."""
    levels = dict(levels=dict(type='kd_plugins.Features', sources=['body.1', 'fc']))
    fusion = dict(
        type='kd_plugins.ReviewKDConnector', in_channels=[4, 4], out_channels=[16, 4],
        mid_channels=8, norm_cfg=dict(type='GN', num_groups=1),
    )  # fmt: skip
    mapping = dict(
        preds_S=dict(recorder='levels', from_student=True, connector='fusion'),
        preds_T=dict(recorder='levels', from_student=False),
    )
    return dict(
        student_recorders=levels,
        teacher_recorders=levels,
        connectors=dict(fusion=fusion),
        distill_losses=dict(loss_reviewkd=dict(type='kd_plugins.ReviewKDLoss')),
        loss_forward_mappings=dict(loss_reviewkd=mapping),
    )


def algorithm_cfg(**changes):
    """Config of an algorithm with an untrained teacher."""
    cfg = dict(
        type='kd_plugins.SingleTeacherDistill',
        architecture=deepcopy(STUDENT),
        teacher=deepcopy(TEACHER),
        distiller=distiller(),
        allow_random_teacher=True,
    )
    cfg.update(changes)
    return cfg


def build(**changes):
    """Build that algorithm, as a Runner would."""
    return MODELS.build(algorithm_cfg(**changes))


def save_teacher(path, **changes):
    """Write the checkpoint of a teacher as mmengine would."""
    teacher = MODELS.build(dict(TEACHER, **changes))
    save_checkpoint(dict(state_dict=teacher.state_dict(), meta=dict()), str(path))
    return teacher


def save_checkpoints(folder, number):
    """Write so many checkpoints of different teachers; return their paths."""
    paths = [str(folder / f'epoch_{i + 1}.pth') for i in range(number)]
    for i, path in enumerate(paths):
        with torch.random.fork_rng():
            torch.manual_seed(100 + i)
            save_teacher(path)
    return paths


def eekd_cfg(paths, **changes):
    """What makes an algorithm one of EEKD, with these checkpoints."""
    loss = dict(type='kd_plugins.EEKDLoss', tau=2.0, channels_S=4, channels_T=16, embed_dims=3)
    cfg = distiller(dict(loss, **changes))
    every = dict(type='kd_plugins.EveryCheckpoint', source='fc')
    cfg['student_recorders']['features'] = dict(type='ModuleInputs', source='fc')
    cfg['teacher_recorders'] = dict(logits=every, features=dict(every, of='inputs'))
    cfg['loss_forward_mappings']['loss_kd'].update(
        features_S=dict(recorder='features', from_student=True, data_idx=0),
        features_T=dict(recorder='features', from_student=False),
    )
    return dict(teacher_ckpt=paths, distiller=cfg)


def batch(seed=0, size=5, features=6, classes=4):
    """Vectors and labels."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(size, features, generator=generator)
    return inputs, torch.randint(classes, (size,), generator=generator)
