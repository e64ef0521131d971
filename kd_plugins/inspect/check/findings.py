"""What is worth telling about what a check has seen."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from mmengine.model import BaseModule
from mmengine.runner import CheckpointLoader
from torch import Tensor, nn

from kd_plugins.experiments.metrics import Headline, headline, is_guessing
from kd_plugins.files.matching import TERMS, compare
from kd_plugins.inspect.check.report import Report
from kd_plugins.networks import initialisations, size_made_for
from kd_plugins.teachers.agreement import AGREES

#: Beyond this ratio of gradients, one part drowns the other.
DROWNS = 1000.0
#: So many points of accuracy or average precision less are clearly worse.
CLEARLY = 1.0
#: A teacher of this share of its sureness on the validation set hardly knows pictures, with
#: this share of its doubt it is far too sure of them, and so many are of one class to it.
HARDLY, NO_DOUBT, ALL_ONE = 0.25, 0.1, 0.95
#: Of fewer pictures nothing is said.
ENOUGH = 16


def examine(report: Report) -> None:
    """Add what follows from the report as a whole."""
    for part in (_classes, _losses, _batch, _teacher, _stored, _unlabelled):
        part(report)


def examine_values(
    report: Report, term: str, side: str, source: str, values: Sequence[Tensor]
) -> None:
    """Look at the tensors of one argument of a term."""
    for value in values:
        if not value.is_floating_point() or value.numel() == 0:
            continue
        value = value.detach().float()
        if not torch.isfinite(value).all():
            report.add(
                'error',
                f'{term} reads values from {side}.{source} that are not finite.',
                'check the checkpoint and the normalisation of that network.',
            )
        elif side == 'teacher' and len(value) > 1 and value.ndim > 1 and (value == value[0]).all():
            report.add(
                'error',
                f'{term} reads the same values from {side}.{source} for every sample of the batch: '
                'that teacher tells nothing apart.',
                'check that model.teacher_ckpt belongs to this teacher and that its input is '
                'normalised as in its training.',
            )


def examine_unused(report: Report, unused: Sequence[str]) -> None:
    """Tell which parameters no loss reaches."""
    report.unreached = list(unused)
    if unused:
        report.add(
            'warning',
            f'{len(unused)} trainable parameters get no gradient (first: {unused[0]}); on several '
            'GPUs DistributedDataParallel would stop.',
            'freeze them, or set find_unused_parameters=True for training on several GPUs.',
        )


def examine_size(report: Report, network: nn.Module, inputs: Tensor) -> None:
    """Tell where the teacher's positions are laid out for pictures of another size."""
    made_for, given = size_made_for(network), tuple(inputs.shape[-2:])
    if made_for is not None and made_for != given:
        report.add(
            'warning',
            f'the teacher is made for pictures of {made_for[0]} x {made_for[1]} and gets '
            f'{given[0]} x {given[1]}.',
            f'set model.teacher_input_size={made_for}.',
        )


def compare_start(report: Report, path: str, read: Mapping[str, Tensor], model: nn.Module) -> None:
    """Compare the checkpoint of ``load_from`` with the model, after loading it."""
    mismatch = compare(read, model)
    kept = [key for key in compare({}, model).missing if not key.startswith(TERMS)]
    reshaped = [said.split(' ')[0] for said in mismatch.reshaped]
    missing = [key for key in (*mismatch.missing, *reshaped) if not key.startswith(TERMS)]
    if not missing:
        return
    if len(missing) == len(kept):
        level, change = 'error', 'give a checkpoint of this student.'
    else:
        level, change = 'warning', 'make sure that these are meant to start anew.'
    report.add(
        level,
        f'load_from={path!r} holds {len(kept) - len(missing)} of the {len(kept)} tensors of the '
        f'student (first that does not fit: {missing[0]}); upstream says so only in its log.',
        change,
    )


def examine_parts(report: Report, student: nn.Module) -> None:
    """Tell which parts of the student begin with weights that do not fit them.

    Upstream loads what fits and says the rest in its log. Parts that bring weights into
    their own form (``init_weights`` or hooks of their own) are not looked at.
    """
    for name, module in student.named_modules():
        if not name or getattr(type(module), 'init_weights', None) is not BaseModule.init_weights:
            continue
        for init_cfg in initialisations(module.init_cfg):
            if init_cfg['type'] != 'Pretrained' or module._load_state_dict_pre_hooks:
                continue
            path, prefix = init_cfg['checkpoint'], init_cfg.get('prefix')
            read = CheckpointLoader.load_checkpoint(path, map_location='cpu', logger='silent')
            read = read.get('state_dict', read)
            if prefix:
                start = prefix.removesuffix('.') + '.'
                read = {k.removeprefix(start): v for k, v in read.items() if k.startswith(start)}
            own = {k: v.shape for k, v in module.state_dict().items() if v.dim()}
            fits = [k for k in own if k in read and read[k].shape == own[k]]
            shapes = [k for k in own if k in read and read[k].shape != own[k]]
            if own and (not fits or shapes):
                first = (shapes or [*own])[0]
                report.add(
                    'warning' if fits else 'error',
                    f'{name}.init_cfg.checkpoint={path!r} holds {len(fits)} of the {len(own)} '
                    f'tensors of that part (first that does not fit: {first}); upstream says so '
                    'only in its log.',
                    'give the checkpoint of a network with the same part, or leave init_cfg out.',
                )


def _classes(report: Report) -> None:
    known = {
        'the student': report.student and report.student.classes,
        'the teacher': report.teacher and report.teacher.classes,
        'the training set': report.data and report.data.classes,
    }
    known = {name: count for name, count in known.items() if count}
    if len(set(known.values())) > 1:
        said = ', '.join(f'{name} has {count}' for name, count in known.items())
        report.add(
            'error',
            f'the numbers of classes differ: {said}.',
            'set num_classes of the heads to that of the training set, and give a teacher that '
            'was trained on the same classes.',
        )


def _losses(report: Report) -> None:
    for name, value in report.losses.items():
        if not math.isfinite(value):
            report.add('error', f'{name} is {value} on the first batch.', 'look at what it reads.')
    for term in report.terms:
        if term.value is not None and term.gradient is None and report.task_gradient is not None:
            report.add(
                'error',
                f'{term.name} has no gradient: it would be computed, logged, and teach nothing.',
                'map one of its arguments to a record of the student (from_student=True).',
            )
        elif term.gradient == 0 and term.weight != 0:
            report.add(
                'warning',
                f'{term.name} has a gradient of 0 on the first batch.',
                'look at what it reads; a warm-up or a curriculum may begin at 0, and a history '
                'without a past.',
            )
        elif term.gradient and report.task_gradient:
            ratio = term.gradient / report.task_gradient
            if ratio > DROWNS or ratio < 1 / DROWNS:
                weak = 'task' if ratio > 1 else 'term'
                report.add(
                    'warning',
                    f'the gradient of {term.name} is {ratio:.2g} times that of the task: the '
                    f'{weak} hardly takes part.',
                    f'change model.distiller.distill_losses.{term.name}.loss_weight.',
                )


def _batch(report: Report) -> None:
    data = report.data
    if data is None or not data.base_batch_size or data.lr is None:
        return
    batch, lr = data.batch_size * data.accumulation, data.lr
    base, accumulates = data.base_batch_size, data.accumulation > 1
    if data.scales_lr:
        if accumulates:
            # Upstream multiplied by the batches of a forward pass only.
            report.add(
                'warning',
                f'auto_scale_lr scaled the learning rate to {lr:g} for batches of '
                f'{data.batch_size}, and a step sees {batch} pictures: upstream leaves out '
                'accumulation.',
                'set auto_scale_lr.enable=False and the learning rate to '
                f'{lr * data.accumulation:g}.',
            )
    elif batch != base:
        scaled, processes = lr * batch / base, base / batch
        fits = f'train on {processes:.0f} GPUs, ' if processes > 1 and processes % 1 == 0 else ''
        report.add(
            'warning',
            f'the learning rate {lr:g} is meant for batches of {base} '
            f'(auto_scale_lr.base_batch_size), and one process has batches of {batch}.',
            f'{fits}set it to {scaled:g}: --auto-scale-lr would leave out accumulation and make it '
            f'{lr * data.batch_size / base:g}.'
            if accumulates
            else f'{fits}pass --auto-scale-lr, or set it to {scaled:g}.',
        )


def _teacher(report: Report) -> None:
    if report.student is None:
        return
    if report.teacher is None:
        report.add(
            'note',
            "the teacher will be a snapshot of the student (model.teacher='snapshot'): there is "
            'none to check yet.'
            if report.snapshot
            else f'all answers of the teacher are read from {report.store!r}: it is not built, and '
            'not measured.'
            if report.store
            else 'the distillation has no teacher (model.teacher=None): there is none to check.'
            if report.distils
            else 'the model is no distillation of kd_plugins: there is no teacher to check.',
        )
        return
    if report.teacher.parameters < report.student.parameters:
        report.add(
            'note',
            f'the teacher is smaller than the student ({report.teacher.parameters:,} and '
            f'{report.student.parameters:,} parameters).',
            'check that model.teacher and model.architecture are not swapped.',
        )
    found = headline(report.teacher_metrics)
    if found is not None and report.teacher_samples:
        _skill(report, found)
        _own_input(report, found)
        _against_alone(report, found)


def _stored(report: Report) -> None:
    for each in report.stored:
        if not each.padded and each.difference > AGREES * each.largest:
            report.add(
                'error',
                f'what {report.store!r} holds of {each.record} differs by {each.difference:.3g} '
                f'from what the teacher says now (up to {each.largest:.3g}).',
                'give another model.teacher_cache.dir, and it is filled anew.',
            )


def _skill(report: Report, found: Headline) -> None:
    samples = report.teacher_samples
    classes = (report.teacher and report.teacher.classes) or (report.data and report.data.classes)
    if found.value(report.teacher_metrics) is None:
        report.add(
            'note',
            f'{found.name} tells nothing of the teacher: none of the {samples} pictures that were '
            'drawn has an object.',
            'draw more with --teacher-batches.',
        )
        return
    measured = [('the teacher', report.teacher_metrics), *report.teacher_members]
    for who, metrics in measured:
        if is_guessing(metrics, samples, classes or 0):
            report.add(
                'error',
                f'{who} guesses: {found.name} is {metrics[found.name]:g} on {samples} samples of '
                'the validation set.',
                'check that model.teacher_ckpt was trained on these classes in this order, and '
                "that the teacher's config declares its own normalisation if it differs.",
            )


def _own_input(report: Report, found: Headline) -> None:
    """Compare the teacher on what it teaches with and on its own preprocessing."""
    taught = found.value(report.teacher_metrics)
    own = found.value(report.teacher_own_metrics)
    if taught is None or own is None:
        return
    p = own / 100
    luck = 100 * math.sqrt(p * (1 - p) / report.teacher_samples) if found.is_top1 else 0.0
    worse = own - taught > max(CLEARLY, luck)
    report.add(
        'warning' if worse else 'note',
        f'the teacher has {found.label} {taught:.4g} on the input with which it teaches and '
        f'{own:.4g} on its own preprocessing, which makes another input of the same '
        f'{report.teacher_samples} samples.',
        'bring size and padding of the data pipeline and of model.data_preprocessor nearer to '
        "those of the teacher's training, or set model.teacher_input_size."
        if worse
        else '',
    )


def _unlabelled(report: Report) -> None:
    """Compare the teacher on the training's pictures without labels with the validation set."""
    found, known = report.unlabelled, report.labelled
    classes = report.teacher and report.teacher.classes
    if found is None or known is None or not classes or found.samples < ENOUGH:
        return
    said = (
        f'its largest probability is {found.confidence:.3g} on average of {found.samples} of them, '
        f'and {known.confidence:.3g} on the validation set'
    )
    change = 'look at the pictures of train_dataloader.dataset, and at their colours.'
    chance = 1 / classes
    if found.confidence - chance < HARDLY * (known.confidence - chance):
        report.add('warning', f'the teacher hardly knows the unlabelled pictures: {said}.', change)
    elif 1 - found.confidence < NO_DOUBT * (1 - known.confidence):
        report.add(
            'warning', f'the teacher is far too sure of the unlabelled pictures: {said}.', change
        )
    if found.one_class > ALL_ONE:
        report.add(
            'warning',
            f'the teacher gives one class to {100 * found.one_class:.0f} % of {found.samples} '
            'unlabelled pictures.',
            change,
        )


def _against_alone(report: Report, found: Headline) -> None:
    """Compare the teacher with the student alone, on the same samples."""
    taught, alone = found.value(report.teacher_metrics), found.value(report.alone_metrics)
    if taught is None or alone is None:
        return
    said = (
        f'{found.label} is {taught:.4g} of the teacher and {alone:.4g} of the student alone, on '
        f'the same {report.teacher_samples} samples'
    )
    # Two standard errors of a difference of shares, were the answers independent.
    p = (taught + alone) / 200
    luck = 200 * math.sqrt(2 * p * (1 - p) / report.teacher_samples) if found.is_top1 else 0.0
    if taught <= alone:
        report.add(
            'warning',
            f'the teacher is no better than the student alone: {said}.',
            'train a better teacher on this data first; there is little to learn from this one.',
        )
    elif taught - alone < max(CLEARLY, luck):
        report.add(
            'note',
            f'the teacher is hardly better than the student alone: {said}.',
            'draw more with --teacher-batches to be sure.',
        )
