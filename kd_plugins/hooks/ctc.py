"""CTC: the change from its first stage to its second."""

from __future__ import annotations

import math
from typing import Any

import torch
from mmengine.dataset import DefaultSampler
from mmengine.dist import all_gather_object
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper
from torch import nn
from torch.utils.data import DataLoader

from kd_plugins import checks
from kd_plugins.distillers import reset_records
from kd_plugins.distillers.protocols import protocol_of
from kd_plugins.hooks.of_runner import trained_model
from kd_plugins.losses.ctc import CTCLoss
from kd_plugins.networks import forked_random_states
from kd_plugins.registry import HOOKS
from kd_plugins.teachers.snapshot import SnapshotTeacher
from kd_plugins.views import number_if_repeatable


@HOOKS.register_module()
class CTCHook(Hook):
    """Lead a training through both stages of :class:`kd_plugins.losses.CTCLoss`.

    At the end of ``stage_two_epoch`` epochs the student is copied and frozen, both maps
    of the loss start anew, and one pass over the augmented training set writes what
    they make of the copy's features into both memories. The copy, the memories and the
    stage are in checkpoints, so that a resume in either stage goes on as undisturbed.

    The hook also sets the learning rate of every epoch, as published: from epoch e = 1
    on ``(1 + cos(pi e / (E + 1))) / 2`` of the optimizer's in the E epochs of stage one,
    the same in those of stage two, times ``lr_factor`` there; and the weight decay,
    times ``weight_decay_factor`` in stage two. Leave ``param_scheduler`` out.

    Args:
        stage_two_epoch: Epochs of stage one: 200 of 300.
        lr_factor: Of the learning rate in stage two.
        weight_decay_factor: Of the weight decay in stage two.

    Raises:
        ValueError: If the training has no such loss or snapshot, is too short, has no
            epochs, or its data do not say which sample is which.
    """

    # After the seeds of the epoch, which are VERY_HIGH.
    priority = 'NORMAL'

    def __init__(
        self,
        stage_two_epoch: int,
        lr_factor: float = 0.1,
        weight_decay_factor: float = 0.5,
    ) -> None:
        name = type(self).__name__
        self.stage_two_epoch = checks.whole_number(f'{name}.stage_two_epoch', stage_two_epoch)
        self.lr_factor = checks.number(f'{name}.lr_factor', lr_factor, 'a factor above 0', above=0)
        self.weight_decay_factor = checks.number(
            f'{name}.weight_decay_factor', weight_decay_factor, 'a factor, 0 or above', least=0
        )

    def before_train(self, runner: Any) -> None:
        """Check the training, and tell the loss what it learns from."""
        model, key = trained_model(runner), type(self).__name__
        if runner.max_epochs <= self.stage_two_epoch:
            raise checks.refuse(
                f'{key}.stage_two_epoch', self.stage_two_epoch,
                f'fewer than the {runner.max_epochs} epochs of the training, in a loop of epochs',
            )  # fmt: skip
        if runner.param_schedulers:
            raise ValueError(
                f'{key} sets the learning rate of every epoch, and param_scheduler would set it '
                'again: leave param_scheduler out.'
            )
        dataset = runner.train_dataloader.dataset
        if not hasattr(dataset, 'get_gt_labels'):
            raise ValueError(
                f'train_dataloader.dataset is a {type(dataset).__name__}, which does not say which '
                "sample is which: CTC trains on one of mmpretrain's data sets itself, not on "
                'several or repeated ones.'
            )
        if getattr(model.data_preprocessor, 'batch_augments', None) is not None:
            raise ValueError(
                'data_preprocessor.batch_augments mixes pictures, and CTC remembers every picture '
                'by its number: leave the augments of train_cfg out.'
            )
        if getattr(dataset, 'mix', None) is not None:
            raise ValueError(
                'train_dataloader.dataset.mix mixes pictures, and CTC remembers every picture by '
                'its number: leave mix out.'
            )
        if not self._terms(model) or not isinstance(vars(model).get('teacher'), SnapshotTeacher):
            raise ValueError(
                f'{key} needs a kd_plugins.CTCLoss among model.distiller.distill_losses, and '
                "model.teacher='snapshot'."
            )
        if protocol_of(model.architecture) == 'sigmoid':
            raise ValueError(
                f'{key} is for pictures of one class, whose negatives are those of other classes, '
                f'and those of the student ({type(model.architecture.head).__name__}) may have '
                'several: leave CTC out.'
            )
        for term in self._terms(model).values():
            term.set_classes(
                dataset.get_gt_labels(), all_gather_object(runner.seed)[0],
                _batch_size(runner.train_dataloader) or 0,
            )  # fmt: skip
            # In the epoch of the change a checkpoint may be of either.
            expected = 1 if runner.epoch < self.stage_two_epoch else 2
            if runner.epoch != self.stage_two_epoch and term.stage != expected:
                raise ValueError(
                    f'{key}.stage_two_epoch={self.stage_two_epoch!r} does not fit the checkpoint, '
                    f'which is in stage {term.stage} at epoch {runner.epoch}: resume with the '
                    'number that the training began with; to begin another training from it, give '
                    'load_from what tools/export_student.py makes of it.'
                )

    def before_train_epoch(self, runner: Any) -> None:
        """Change the stage if it is time; set learning rate and weight decay."""
        model = trained_model(runner)
        if runner.epoch == self.stage_two_epoch:
            for name, term in self._terms(model).items():
                if term.stage == 1:
                    self._change(runner, model, name, term)
        first = runner.epoch < self.stage_two_epoch
        length = self.stage_two_epoch if first else runner.max_epochs - self.stage_two_epoch
        epoch = runner.epoch + 1 - (0 if first else self.stage_two_epoch)
        lr = 0.5 * (1 + math.cos(math.pi * epoch / (length + 1)))
        decay = 1.0 if first else self.weight_decay_factor
        for group in runner.optim_wrapper.param_groups:
            group.setdefault('initial_lr', group['lr'])
            group.setdefault('initial_weight_decay', group.get('weight_decay', 0.0))
            group['lr'] = group['initial_lr'] * lr * (1 if first else self.lr_factor)
            group['weight_decay'] = group['initial_weight_decay'] * decay

    @torch.no_grad()
    def _change(self, runner: Any, model: nn.Module, name: str, term: CTCLoss) -> None:
        runner.logger.info('CTC: the student is copied, and stage two begins.')
        distiller, teacher = model.distiller, vars(model)['teacher']
        term.begin_stage_two()
        wrapper = runner.optim_wrapper
        if isinstance(wrapper, OptimWrapper):
            for parameter in term.parameters():
                # They have not learnt yet.
                wrapper.optimizer.state.pop(parameter, None)
        teacher.take(model.architecture)
        mapping = distiller.loss_forward_mappings[name]['features_T']
        # The student's own draws stay those of a training without this pass.
        with forked_random_states():
            for batch in _whole(runner.train_dataloader):
                data = model.data_preprocessor(batch, True)
                with distiller.teacher_recorders:
                    teacher.look(data['inputs'], data['data_samples'])
                term.refresh(data['data_samples'], distiller.get_record(**mapping))
                reset_records(distiller)

    @staticmethod
    def _terms(model: nn.Module) -> dict[str, CTCLoss]:
        terms = getattr(getattr(model, 'distiller', None), 'distill_losses', None) or {}
        return {name: term for name, term in terms.items() if isinstance(term, CTCLoss)}


def _whole(loader: DataLoader) -> DataLoader:
    """Return a loader of every sample: one may drop the last batch, or repeat a part of them."""
    if loader.batch_size is None and loader.batch_sampler is None:
        return loader
    whole = DataLoader(
        loader.dataset,
        _batch_size(loader) or 64,  # which changes nothing: the snapshot is in eval mode
        sampler=DefaultSampler(loader.dataset, shuffle=False),
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        pin_memory=loader.pin_memory,
        worker_init_fn=loader.worker_init_fn,
    )
    return number_if_repeatable(whole)


def _batch_size(loader: DataLoader) -> int | None:
    """Return the most samples of a batch, of which a sampler of batches knows."""
    return loader.batch_size or getattr(loader.batch_sampler, 'batch_size', None)
