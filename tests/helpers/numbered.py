"""Vectors that know their place in the training set, and a training with CTC on them."""

from types import SimpleNamespace

import torch
from mmengine.registry import DATASETS, FUNCTIONS, MODELS

from helpers import TinyClassifier
from helpers.tiny_training import Vectors, config


@DATASETS.register_module(force=True)
class NumberedVectors(Vectors):
    metainfo: dict = {}  # which upstream's wrappers of data sets ask for

    def full_init(self):
        pass

    def get_gt_labels(self):
        return [int(a > 0) + 2 * int(b > 0) for a, b in self.inputs[:, :2].tolist()]

    def __getitem__(self, index):
        sample = SimpleNamespace(sample_idx=index, gt_label=self.get_gt_labels()[index])
        return dict(inputs=self.inputs[index], data_samples=sample)


@FUNCTIONS.register_module(force=True)
def numbered_collate(batch):
    return dict(
        inputs=torch.stack([each['inputs'] for each in batch]),
        data_samples=[each['data_samples'] for each in batch],
    )


@MODELS.register_module(force=True)
class NumberedClassifier(TinyClassifier):
    def forward(self, inputs, data_samples=None, mode='tensor'):
        if mode == 'loss':
            labels = torch.tensor([sample.gt_label for sample in data_samples])
            return dict(loss=self.loss_module(self.fc(self.body(inputs)), labels))
        return self.fc(self.body(inputs))


def ctc_model(**changes):
    """Config of an algorithm with CTC."""
    loss = dict(type='kd_plugins.CTCLoss', samples=12, channels=8, negatives=5, embed_dims=4)
    read = dict(type='ModuleInputs', source='fc')
    return dict(
        type='kd_plugins.SingleTeacherDistill',
        architecture=dict(type='NumberedClassifier', width=8, dropout=0.2),
        teacher='snapshot',
        distiller=dict(
            student_recorders=dict(features=read, inputs=dict(type='ModuleInputs', source='')),
            teacher_recorders=dict(features=dict(type='kd_plugins.Snapshot', source='fc')),
            distill_losses=dict(loss_ctc=dict(loss, **changes)),
            loss_forward_mappings=dict(
                loss_ctc=dict(
                    features_S=dict(recorder='features', from_student=True, data_idx=0),
                    data_samples=dict(recorder='inputs', from_student=True, data_idx=1),
                    features_T=dict(recorder='features', from_student=False),
                )
            ),
        ),
    )


def ctc_config(work_dir, epochs=5, stage_two_epoch=2, loss=None, **options):
    """Config of a training of milliseconds through both stages."""
    cfg = config(work_dir, epochs, model=ctc_model(**(loss or {})))
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        loader.dataset.type = 'NumberedVectors'
        loader.collate_fn.type = 'numbered_collate'
    cfg.param_scheduler = None
    cfg.default_hooks.ctc = dict(type='kd_plugins.CTCHook', stage_two_epoch=stage_two_epoch)
    cfg.optim_wrapper.optimizer.update(lr=0.05, weight_decay=1e-3)
    cfg.merge_from_dict(options)
    return cfg
