"""Trainings with a stored teacher: samples that say their view, and what reads them."""

from copy import deepcopy

import torch
from mmengine.registry import DATASETS, MODELS, DefaultScope
from mmengine.runner import save_checkpoint
from torch.utils.data import Dataset

from helpers import algorithm_cfg
from helpers.networks import resnet


@DATASETS.register_module(force=True)
class Viewed(Dataset):
    """Pictures of 32 x 32 pixels, in views that say so: what RepeatableViews promises."""

    def __init__(self, size=12, views=2, seed=0, pipeline='p'):
        self.size, self.views, self.seed, self.pipeline = size, views, seed, pipeline
        self.epoch = 0

    def identity(self):
        return dict(
            views=self.views, seed=self.seed, samples=self.size, pipeline=self.pipeline,
            sample_list='list',
        )  # fmt: skip

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        from mmpretrain.structures import DataSample

        view = self.epoch % self.views
        number = 1000 * self.seed + 10 * index + view
        picture = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(number))
        picture[:, 6 * (index % 5) : 6 * (index % 5) + 8] += 2
        sample = DataSample().set_gt_label(index % 5)
        sample.set_metainfo(
            dict(sample_index=index, view=view, view_hash=number * 2**50 + len(self.pipeline))
        )
        return dict(inputs=picture, data_samples=sample)

    def batch(self, indices):
        samples = [self[i] for i in indices]
        return dict(
            inputs=torch.stack([each['inputs'] for each in samples]),
            data_samples=[each['data_samples'] for each in samples],
        )


def logits_cfg(loss=None, **changes):
    """A distiller of logits."""
    record = dict(recorder='logits')
    recorders = dict(logits=dict(type='mmrazor.ModuleOutputs', source='head.fc'))
    labels = dict(labels=dict(type='mmrazor.ModuleInputs', source='head.loss_module'))
    cfg = dict(
        student_recorders=dict(recorders, **labels),
        teacher_recorders=recorders,
        distill_losses=dict(loss_kd=loss or dict(type='kd_plugins.KDLoss', tau=2.0)),
        loss_forward_mappings=dict(
            loss_kd=dict(
                preds_S=dict(record, from_student=True),
                preds_T=dict(record, from_student=False),
                gt_labels=dict(recorder='labels', from_student=True, data_idx=1),
            )
        ),
    )
    return dict(cfg, **changes)


def pair(folder, checkpoint, views=2, cache=None, **changes):
    """Config of a small ResNet with a stored teacher; ``cache=False`` for a live one."""
    cfg = algorithm_cfg(
        architecture=dict(resnet(), _scope_='mmpretrain'),
        teacher=dict(resnet(depth=14), _scope_='mmpretrain'),
        teacher_ckpt=str(checkpoint),
        allow_random_teacher=False,
        distiller=logits_cfg(),
        data_preprocessor=dict(type='mmpretrain.ClsDataPreprocessor'),
    )
    if cache is not False:
        cfg['teacher_cache'] = dict(dir=str(folder), views=views, **(cache or {}))
    cfg.update(deepcopy(changes))
    return cfg


def save_teacher(path, seed=5):
    """Write the checkpoint of the teacher, with weights that are not all alike."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        with DefaultScope.overwrite_default_scope('mmpretrain'):
            network = MODELS.build(resnet(depth=14))
        network.init_weights()
        torch.nn.init.normal_(network.head.fc.weight, std=0.5)
    save_checkpoint(dict(state_dict=network.state_dict(), meta=dict()), str(path))
    return str(path)
