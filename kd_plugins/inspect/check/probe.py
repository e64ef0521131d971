"""Doing the first steps of a training, on the upstream runner, and looking."""

from __future__ import annotations

import contextlib
import copy
import tempfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import CheckpointLoader, Runner
from torch import nn

from kd_plugins import checks, launch
from kd_plugins.algorithms import SingleTeacherDistill
from kd_plugins.compat import operators
from kd_plugins.experiments.memory import PeakMemory
from kd_plugins.experiments.timing import median, now
from kd_plugins.inspect.check import calibration as calibrating
from kd_plugins.inspect.check import findings
from kd_plugins.inspect.check.boxes import examine_annotations
from kd_plugins.inspect.check.convolutions import watch_convolutions
from kd_plugins.inspect.check.describe import (
    describe_data,
    describe_network,
    describe_optimizer,
    describe_value,
    tensors_in,
)
from kd_plugins.inspect.check.gradients import take_gradients
from kd_plugins.inspect.check.pictures import Pictures
from kd_plugins.inspect.check.report import Calibration, Cost, Read, Report, Term
from kd_plugins.inspect.check.teacher import evaluate_teacher
from kd_plugins.inspect.check.wired import note_wiring
from kd_plugins.inspect.quiet import quiet, silence
from kd_plugins.registry import name_of
from kd_plugins.teachers import SnapshotTeacher, StoredTeacher, predicts
from kd_plugins.teachers.upstreams import upstreams_teacher

Tell = Callable[[int, int, str], None]


class _Enough(Exception):
    """Raised to leave the training."""


def check(
    cfg: Config,
    iterations: int = 3,
    teacher_batches: int = 4,
    debug: bool = False,
    calibration: Calibration | None = None,
    alone: str | None = None,
    pictures: Pictures | None = None,
    tell: Tell = lambda done, total, what: None,
) -> Report:
    """Train a few iterations in a temporary directory and report.

    Everything is built and started by the Runner as in the training itself, so
    whatever would stop that one stops this one; nothing is left behind.

    Args:
        cfg: The config of the training; it is not changed.
        iterations: How many iterations to run, at least 1. Time is the median
            of all but the first.
        teacher_batches: On how many batches of the validation set, drawn at
            random, to evaluate the teacher; 0 for none.
        debug: Let errors through instead of reporting them.
        calibration: Which ratio of the terms' gradients to the task's to propose
            weights for, and over how many iterations to measure it, before the others.
        alone: The checkpoint of a student that was trained alone, to compare the
            teacher with.
        pictures: Gets the first training pictures, as the pipeline makes them.
        tell: Called with how much is done, of how much, and of what.

    Returns:
        The report, worst findings first.
    """
    report = Report(config=str(cfg.filename or 'the config'), calibration=calibration)
    steps = 'the config cannot be built'
    if not examine_annotations(report, cfg):
        return report
    with tempfile.TemporaryDirectory() as folder, silence():
        try:
            runner = launch.build_runner(_for_check(cfg, folder))
            steps = 'the training stops in its first iterations'
            probe = _Probe(report, cfg, iterations, pictures, tell)
            runner.register_hook(probe)
            with contextlib.suppress(_Enough):
                runner.train()
            steps = 'the teacher cannot be evaluated on the validation set'
            if runner._val_loop is None:
                report.add(
                    'warning',
                    'there is no validation: neither the teacher nor the student will be measured.',
                    'give val_dataloader, val_evaluator and val_cfg.',
                )
            elif not predicts(runner.model):
                report.add(
                    'note',
                    'the teacher has no head: it teaches features, and has no figure.',
                )
            elif report.teacher is not None and teacher_batches:
                evaluate_teacher(report, runner, teacher_batches, alone, tell)
        except (Exception, SystemExit) as error:
            if debug:
                raise
            said = checks.sentence_of(error) or checks.said(error)
            ours = isinstance(error, (ValueError, FileNotFoundError, SystemExit))
            report.add('error', f'{steps}: {said if ours else f"{type(error).__name__}: {said}"}')
    report.operators = operators.in_use()
    findings.examine(report)
    return report


def _for_check(cfg: Config, folder: str) -> Config:
    """Return the config without what would stop it, and with a validation in random order."""
    cfg = quiet(cfg, folder)
    # What these would stop at, the report says.
    if 'teacher_cache' in cfg.model:
        cfg.model.teacher_cache.write = False
    hooks = cfg.get('default_hooks') or {}
    for name in list(hooks):
        kind = name_of((hooks[name] or {}).get('type'))
        if kind == 'SafeCheckpointHook':
            hooks[name].type = 'CheckpointHook'
        elif kind == 'DistillationGuardHook':
            hooks.pop(name)
    sampler = (cfg.get('val_dataloader') or {}).get('sampler') or {}
    if name_of(sampler.get('type')) == 'DefaultSampler':
        # In the order of the files, the first batches hold one class.
        sampler['shuffle'] = True
    return cfg


class _Probe(Hook):
    """Looks at the first batch, measures the iterations, and leaves."""

    priority = 'LOWEST'

    def __init__(
        self,
        report: Report,
        cfg: Config,
        iterations: int,
        pictures: Pictures | None,
        tell: Tell,
    ) -> None:
        self.report = report
        self.tell = tell
        self.pictures = pictures
        self.cfg = cfg
        self.iterations = iterations
        self.times: list[float] = []
        # Of every iteration, in which the teacher may look several times.
        self.teacher_times: list[float] = []
        self.teacher_seconds = 0.0
        self.memory = PeakMemory()
        self.left_to_calibrate = report.calibration.iterations if report.calibration else 0

    def before_train(self, runner: Runner) -> None:
        """Compare checkpoints to start from with the model, which upstream does not do."""
        path = self.cfg.get('load_from')
        if not self.cfg.get('resume') and not path:
            student = getattr(runner.model, 'student', runner.model)
            findings.examine_parts(self.report, student)
        if path and not self.cfg.get('resume'):
            read = CheckpointLoader.load_checkpoint(path, map_location='cpu', logger='silent')
            findings.compare_start(self.report, path, read.get('state_dict', read), runner.model)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Look at everything once, then let the iterations run."""
        if self.pictures is not None:
            self.pictures.add(data_batch, runner)
        if self.report.student is None:
            self._look(runner, data_batch)
            if self.report.teacher is not None and self.report.distils:
                begun: list[float] = []
                runner.model.teacher.watch(
                    lambda: begun.append(now()),
                    lambda *_: self._add_teacher_time(now() - begun.pop()),
                )
            self._begin()
        if self.left_to_calibrate > 0:
            self._calibrate(runner, data_batch)

    def _begin(self) -> None:
        self.times.clear()
        self.teacher_times.clear()
        self.teacher_seconds = 0.0
        self.memory.start()
        self.started = now()

    def _add_teacher_time(self, seconds: float) -> None:
        self.teacher_seconds += seconds

    def _calibrate(self, runner: Runner, batch: Any) -> None:
        report, model = self.report, runner.model
        assert report.calibration is not None
        if not report.distils:
            self.left_to_calibrate = 0
            return
        data = model.data_preprocessor(copy.deepcopy(batch), True)
        with runner.optim_wrapper.optim_context(model):
            losses = model._run_forward(data, mode='loss')
        calibrating.measure(report.calibration, model, model.architecture, losses)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Take the time; leave after the last iteration."""
        if self.left_to_calibrate > 0:
            self.left_to_calibrate -= 1
            assert self.report.calibration is not None
            total = self.report.calibration.iterations
            self.tell(total - self.left_to_calibrate, total, 'iterations to calibrate over')
            if self.left_to_calibrate == 0:
                self._propose(runner)
                self._begin()
            return
        self.times.append(now() - self.started)
        self.tell(len(self.times), self.iterations, 'iterations')
        self.teacher_times.append(self.teacher_seconds)
        self.teacher_seconds = 0.0
        self.started = now()
        if len(self.times) == self.iterations:
            self._leave(runner)

    def after_train_epoch(self, runner: Runner) -> None:
        """Leave a training that is shorter than that."""
        if self.times or runner.epoch + 1 >= runner.max_epochs:
            self._leave(runner)

    def _propose(self, runner: Runner) -> None:
        assert self.report.calibration is not None
        if self.report.distils:
            self.report.calibration.iterations -= self.left_to_calibrate
            calibrating.propose(self.report, runner.model)
        self.left_to_calibrate = 0

    def _leave(self, runner: Runner) -> None:
        if self.left_to_calibrate > 0:
            self._propose(runner)
        if not self.times:
            raise _Enough
        # The first iteration pays for workers, caches and compiling.
        seconds = median(self.times, warm_up=1)
        data = self.report.data
        assert data is not None
        memory, of = self.memory.read()
        self.report.cost = Cost(
            device=_device_name(),
            seconds_per_iteration=seconds,
            teacher_share=median(self.teacher_times or [0.0], warm_up=1) / seconds,
            seconds_in_all=seconds * data.iterations_per_epoch * data.epochs,
            peak_memory_mib=memory,
            memory_of=of,
        )
        raise _Enough

    def _look(self, runner: Runner, batch: Any) -> None:
        report, model = self.report, runner.model
        report.data = describe_data(runner, self.cfg)
        report.optimizer, report.groups = describe_optimizer(runner)
        distillation = isinstance(model, SingleTeacherDistill)
        with torch.no_grad():
            data = model.data_preprocessor(copy.deepcopy(batch), True)
        inputs = data['inputs'] if isinstance(data, Mapping) else data[0]
        student = model.architecture if distillation else model
        model_cfg = self.cfg.model
        start = f'load_from {self.cfg.load_from}' if self.cfg.get('load_from') else 'as initialised'
        report.student = describe_network(
            student, model_cfg.get('architecture', model_cfg), start, inputs, 'the config'
        )
        report.distils = distillation
        report.snapshot = distillation and isinstance(model.teacher, SnapshotTeacher)
        teacher = model.teacher if distillation else upstreams_teacher(model)
        if teacher:
            weights = teacher.weights or model_cfg.get('teacher_ckpt')
            report.teacher = describe_network(
                teacher.network,
                model_cfg.get('teacher', {}),
                f'{len(teacher.network.state_dict())} tensors of {weights}'
                if weights
                else 'none were loaded',
                teacher.convert(inputs),
                'the config',
            )
            # A share of the student's size is chosen for the positions.
            if not isinstance(model_cfg.get('teacher_input_size'), Mapping):
                findings.examine_size(report, teacher.network, teacher.convert(inputs))
            if not teacher.has_own_input:
                report.teacher.mean, report.teacher.std = report.student.mean, report.student.std
                report.teacher.swaps_channels = report.student.swaps_channels
        if isinstance(teacher, StoredTeacher):
            _compare(report, teacher, data)
        reading = self._reading_terms(model) if distillation else contextlib.nullcontext()
        watching = watch_convolutions(report, student)
        with reading, watching, runner.optim_wrapper.optim_context(model):
            losses = model._run_forward(data, mode='loss')
        take_gradients(report, model, student, losses)

    @contextlib.contextmanager
    def _reading_terms(self, model: SingleTeacherDistill) -> Iterator[None]:
        """Note what every term is called with."""
        distiller = model.distiller
        handles = []
        for name, module in distiller.distill_losses.items():
            weight = getattr(module, 'loss_weight', None)
            term = Term(name, type(module).__name__, weight if checks.is_number(weight) else None)
            self.report.terms.append(term)

            def note(module: nn.Module, args: Any, kwargs: Any, term: Term = term) -> None:
                note_wiring(self.report, distiller, term.name, module, kwargs)
                for argument, value in kwargs.items():
                    side, source = _source(distiller, term.name, argument)
                    if argument not in {read.argument for read in term.reads}:
                        # Pictures without labels are read in a call of their own.
                        read = Read(argument, f'{side}.{source}', describe_value(value))
                        term.reads.append(read)
                    values = [*tensors_in(value)]
                    findings.examine_values(self.report, term.name, side, source, values)

            handles.append(module.register_forward_pre_hook(note, with_kwargs=True))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def _compare(report: Report, teacher: StoredTeacher, data: Any) -> None:
    """Compare what is stored of the first batch with what the teacher says now."""
    report.store = teacher.folder
    try:
        # Pictures without labels are a batch of their own beside.
        report.stored = teacher.against_live(data['inputs'], data['data_samples'])
    except FileNotFoundError as error:
        report.add('note', f'what is stored cannot be compared with the live teacher: {error}')


def _source(distiller: Any, term: str, argument: str) -> tuple[str, str]:
    """Return the network that an argument of a term is recorded in, and where in it."""
    record = distiller.loss_forward_mappings[term][argument]
    side = 'student' if record['from_student'] else 'teacher'
    recorder = getattr(distiller, f'{side}_recorders').get_recorder(record['recorder'])
    return side, getattr(recorder, 'source', record['recorder'])


def _device_name() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    threads = torch.get_num_threads()
    return f'CPU, {threads} thread{"s" if threads > 1 else ""}'
