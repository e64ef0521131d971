"""Printing a report for people."""

from __future__ import annotations

import statistics

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from kd_plugins.experiments.metrics import headline
from kd_plugins.experiments.timing import duration
from kd_plugins.inspect.check.report import Network, Report

_STYLE = {'error': 'bold red', 'warning': 'yellow', 'note': 'dim'}


def show(report: Report, console: Console) -> None:
    """Print one page: findings first, then what was seen."""
    console.print(f'[bold]{escape(report.config)}[/]')
    for finding in report.findings:
        style = _STYLE[finding.level]
        change = f' [dim]→[/] {escape(finding.change)}' if finding.change else ''
        console.print(f'[{style}]{finding.level}[/]: {escape(finding.what)}{change}')
    if not report.findings:
        console.print('no findings')
    if report.student is not None:
        console.print(_networks(report), soft_wrap=False)
    if report.terms:
        console.print(_terms(report), soft_wrap=False)
    if report.wired:
        console.print(_wired(report), soft_wrap=False)
    for line in [*_calibration(report), *_lines(report)]:
        console.print(escape(line))
    verdict = '[bold green]ready to train[/]' if report.ok else '[bold red]not ready to train[/]'
    console.print(verdict)


def _networks(report: Report) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    sides = {'student': report.student, 'teacher': report.teacher}
    present = {name: network for name, network in sides.items() if network is not None}
    table.add_column('')
    for name in present:
        table.add_column(name, overflow='fold')
    rows = {
        'type': lambda n: n.type,
        'from': lambda n: n.source,
        'weights': lambda n: n.weights,
        'parameters': lambda n: (
            f'{n.parameters:,}'
            + (f' ({n.trainable:,} trainable)' if 0 < n.trainable < n.parameters else '')
        ),
        'multiply-adds': lambda n: '?' if n.multiply_adds is None else f'{n.multiply_adds:,}',
        'input': lambda n: f'({", ".join(map(str, n.input_shape))})',
        'classes': lambda n: '?' if n.classes is None else str(n.classes),
        'normalisation': _normalisation,
    }
    for name, cell in rows.items():
        table.add_row(f'[dim]{name}[/]', *(escape(cell(n)) for n in present.values()))
    if report.teacher_samples:
        said = f'{_metrics(report.teacher_metrics)} on {report.teacher_samples} samples'
        if report.teacher_own_metrics:
            said += (
                f', as it teaches; {_metrics(report.teacher_own_metrics)} on its own preprocessing'
            )
        empty = [''] * (len(present) - 1)
        table.add_row('[dim]measured[/]', *empty, escape(said))
        for name, metrics in report.teacher_members:
            table.add_row('', *empty, escape(f'{_metrics(metrics)}: {name}'))
        if report.alone_metrics:
            alone = f'{_metrics(report.alone_metrics)}, trained alone'
            table.add_row('', escape(alone), *empty)
    return table


def _metrics(metrics: dict[str, float]) -> str:
    """Name the first three, the headline before all; -1 is COCO's word for nothing to find."""
    found = headline(metrics)
    names = sorted(metrics, key=lambda name: found is None or name != found.name)[:3]
    return ', '.join(f'{k} {metrics[k]:.4g}' if metrics[k] != -1 else f'{k} ?' for k in names)


def _normalisation(network: Network) -> str:
    if network.mean is None or network.std is None:
        return 'none'
    order = ', BGR to RGB' if network.swaps_channels else ''
    return f'mean {_short(network.mean)}, std {_short(network.std)}{order}'


def _short(values: list[float]) -> str:
    return '/'.join(f'{value:g}' for value in values)


def _terms(report: Report) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in ('term', 'weight', 'reads', 'value', 'gradient'):
        table.add_column(column, overflow='fold')
    task = [value for name, value in report.losses.items() if name.startswith('student.')]
    table.add_row('task', '', '', f'{sum(task):.4g}', _number(report.task_gradient))
    for term in report.terms:
        reads = '\n'.join(f'{read.argument} = {read.source}: {read.what}' for read in term.reads)
        table.add_row(
            f'{term.name}\n[dim]{escape(term.type)}[/]',
            _number(term.weight),
            escape(reads),
            _number(term.value),
            _number(term.gradient),
        )
    return table


def _wired(report: Report) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in ('maps of', 'student', 'teacher', 'compared at', 'parameters between'):
        table.add_column(column, overflow='fold')
    for each in report.wired:
        table.add_row(
            each.term,
            escape(f'{each.student} ({_sizes(each.student_shape)})'),
            escape(f'{each.teacher} ({_sizes(each.teacher_shape)})'),
            _sizes(each.compared),
            f'{each.learned:,}',
        )
    return table


def _sizes(shape: list[int]) -> str:
    return ' x '.join(map(str, shape))


def _calibration(report: Report) -> list[str]:
    calibration = report.calibration
    if calibration is None or not calibration.ratios:
        return []
    lines = [
        f"gradients beside the task's, over the first {calibration.iterations} iterations (median, "
        'least and largest), warm-ups counted as over:'
    ]
    for name, ratios in calibration.ratios.items():
        weight = calibration.weights.get(name)
        lines.append(
            f'  {name}: {statistics.median(ratios):.3g} ({min(ratios):.3g} to {max(ratios):.3g})'
            + ('' if weight is None else f' with weight {weight:g}')
        )
    if calibration.line:
        lines.append(
            f'weights for a ratio of {calibration.wanted:g} each, which are a start and no '
            'optimum: gradients change in the course of a training, and nobody knows the best. '
            'At the end of the config:'
        )
        lines.append(calibration.line)
    return lines


def _number(value: float | None) -> str:
    return '' if value is None else f'{value:.4g}'


def _lines(report: Report) -> list[str]:
    lines = []
    data, cost = report.data, report.cost
    if data is not None:
        parts = [f'{data.batch_size} samples']
        if data.accumulation > 1:
            parts.append(f'{data.accumulation} accumulated')
        meant = f', meant for {data.base_batch_size}' if data.base_batch_size else ''
        lines.append(
            f'data: {data.samples:,} samples of {data.dataset}; a batch of {" x ".join(parts)} a '
            f'process{meant}; {data.iterations_per_epoch:,} iterations an epoch, '
            f'{data.epochs:g} epochs'
        )
    for each in report.stored:
        kl = '' if each.kl is None else f', KL {each.kl:.2g}'
        lines.append(
            f'stored in {report.store!r}: {each.record} of {each.samples} pictures of the first '
            f'batch, at most {each.difference:.2g} from live (up to {each.largest:.3g}){kl}'
        )
    if report.unlabelled is not None and report.labelled is not None:
        of = {'unlabelled pictures': report.unlabelled, 'of the validation set': report.labelled}
        said = (
            f'{each.confidence:.3g} (entropy {each.entropy:.3g} nats) on {each.samples} {name}'
            for name, each in of.items()
        )
        lines.append(f"the teacher's largest probability, on average: {', '.join(said)}")
    if report.unlabelled_boxes is not None and report.labelled_boxes is not None:
        found, known = report.unlabelled_boxes, report.labelled_boxes
        lines.append(
            f'boxes of which the teacher is sure (score {found.score:g} and above), a picture: '
            f'{found.mean:.3g} (at most {found.most}; none in {100 * found.none:.0f} %) in '
            f'{found.samples} unlabelled pictures, {known.mean:.3g} in {known.samples} of the '
            'validation set'
        )
    for group in report.groups:
        lines.append(
            f'{report.optimizer}: {group.parameters:,} parameters in {group.tensors} tensors, '
            f'lr {group.lr:g}, weight decay {group.weight_decay:g}'
        )
    if report.operators is not None:
        lines.append(f"mmcv's operators: {report.operators}")
    if cost is not None and data is not None:
        epoch = cost.seconds_per_iteration * data.iterations_per_epoch
        share = f' (the teacher {100 * cost.teacher_share:.0f} %)' if report.teacher else ''
        lines.append(
            f'cost on {cost.device}: {1000 * cost.seconds_per_iteration:.0f} ms an iteration'
            f'{share}, {duration(epoch)} an epoch, '
            f'{duration(cost.seconds_in_all)} in all without validation, peak memory '
            f'{cost.memory_of} {cost.peak_memory_mib:,} MiB'
        )
    return lines
