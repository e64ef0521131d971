"""Trainings with a stored teacher: samples that say their view, and what reads them."""

from copy import deepcopy

import torch
from mmengine.optim import OptimWrapper
from mmengine.registry import DATASETS, MODELS
from mmengine.runner import save_checkpoint
from torch.utils.data import Dataset

from helpers import algorithm_cfg
from helpers.networks import resnet
from kd_plugins.views import RepeatableViews, SampleView


@DATASETS.register_module(force=True)
class Noisy(Dataset):
    """Pictures of 32 x 32 pixels whose class is where they are bright, with noise."""

    def __init__(self, size=12, noise=0.5, first=0):
        self.size, self.noise, self.first = size, noise, first

    def __len__(self):
        return self.size

    def get_data_info(self, index):
        return dict(number=self.first + index)

    def __getitem__(self, index):
        from mmpretrain.structures import DataSample

        number = self.first + int(index)
        picture = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(number))
        picture[:, 6 * (index % 5) : 6 * (index % 5) + 8] += 2
        picture += self.noise * torch.randn(3, 32, 32)
        return dict(inputs=picture, data_samples=DataSample().set_gt_label(int(index) % 5))


def noisy(views=2, seed=0, **changes):
    """The training set, in views."""
    return RepeatableViews(dict(changes, type='Noisy'), views=views, seed=seed)


def batch(dataset, indices, view=0):
    """A batch as a loader gives it."""
    samples = [dataset[SampleView(i, view)] for i in indices]
    return dict(
        inputs=torch.stack([each['inputs'] for each in samples]),
        data_samples=[each['data_samples'] for each in samples],
    )


def start(cfg, dataset=None):
    """Build the same student from a config and begin a training of it."""
    torch.manual_seed(0)
    model = MODELS.build(cfg)
    model.init_weights()
    model.train()
    model.teacher.begin(dataset or noisy(cfg.get('teacher_cache', {}).get('views', 2)))
    return model


def train(model, dataset, epochs=2, size=4):
    """Train on its pictures in their order; return the weights."""
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9))
    for epoch in range(epochs):
        for i in range(0, len(dataset), size):
            indices = range(i, min(i + size, len(dataset)))
            model.train_step(batch(dataset, indices, epoch % dataset.views), wrapper)
    return {name: value.clone() for name, value in model.state_dict().items()}


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


def in_views(cfg, views, cache=None):
    """Put the training set of a config into views, and what the teacher says into a store."""
    dataset = dict(type='kd_plugins.RepeatableViews', dataset=cfg.train_dataloader.dataset)
    cfg.train_dataloader.dataset = dict(dataset, views=views)
    if cache is not None:
        cfg.model.teacher_cache = dict(cache, views=views)
    return cfg


def save_teacher(path, seed=5):
    """Write the checkpoint of the teacher, with weights that are not all alike."""
    return save_network(path, dict(resnet(depth=14), _scope_='mmpretrain'), seed)


def save_network(path, cfg, seed=5):
    """Write the checkpoint of a network whose last layers say something."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = MODELS.build(cfg)
        network.init_weights()
        for head in (getattr(network, name, None) for name in ('head', 'bbox_head')):
            for parameter in head.parameters() if head is not None else ():
                parameter.data.add_(0.3 * torch.randn_like(parameter))
    save_checkpoint(dict(state_dict=network.state_dict(), meta=dict()), str(path))
    return str(path)
