"""Checkpoints that survive a kill at any moment."""

from __future__ import annotations

import logging
import os.path as osp
from pathlib import Path
from typing import Any

import torch.distributed
from mmengine.dist import barrier, is_main_process
from mmengine.hooks import CheckpointHook
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper

from kd_plugins.files import reading
from kd_plugins.files.writing import ATOMIC, write_aside
from kd_plugins.optim import DOTOptimWrapper
from kd_plugins.optim.dot_sgd import check_state
from kd_plugins.registry import HOOKS

_POINTER = 'last_checkpoint'
#: What a checkpoint must hold to go on from, beside the weights.
_RESUMABLE = ('meta', 'message_hub', 'optimizer')


@HOOKS.register_module()
class SafeCheckpointHook(CheckpointHook):
    """mmengine's ``CheckpointHook``, with an order that loses nothing.

    * A checkpoint is written beside its place, synced and renamed, so that no
      half-written file ever has a checkpoint's name.
    * What ``max_keep_ckpts`` and ``save_best`` make superfluous is deleted once
      the new file and ``last_checkpoint`` are on the disk, not before. There
      are one more for that moment: keep room for them.
    * ``--resume`` without a file goes on from the newest checkpoint that can be
      read, whatever state ``last_checkpoint`` was left in. Without a
      ``last_checkpoint`` nothing is resumed.
    * A checkpoint of another model stops the run, where mmengine would go on
      with the random weights that it did not find in the file. So does one to
      resume from that was written with DOT where DOT is off, or without it
      where DOT is on.

    The arguments are those of ``CheckpointHook``. A remote ``out_dir`` is
    written by its own backend.

    Raises:
        kd_plugins.files.writing.CheckpointNotWrittenError: If the disk is full; the
            checkpoint before is intact.
        ValueError: If the file to resume or to load from is another model's,
            or not one to resume from.
    """

    backend_args: dict | None
    file_backend: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        local = '://' not in str(self.out_dir or '')
        if local and self.backend_args is None and self.file_client_args is None:
            self.backend_args = dict(backend=ATOMIC)

    def before_run(self, runner: Any) -> None:
        """Point ``last_checkpoint`` at the newest readable file before it is followed."""
        if runner._resume is True and runner._load_from is None:
            if is_main_process() and '://' not in str(self.out_dir or ''):
                folder = self._folder(runner)
                repair_pointer(Path(runner.work_dir) / _POINTER, folder, self.filename_tmpl)
            barrier()

    def after_load_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        """Refuse what is not this model's, or cannot be gone on from."""
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        _check_content(checkpoint, model, bool(runner._resume))
        if runner._resume and isinstance(runner.optim_wrapper, OptimWrapper):
            with_dot = isinstance(runner.optim_wrapper, DOTOptimWrapper)
            check_state(checkpoint['optimizer'], with_dot)

    def _folder(self, runner: Any) -> Path:
        if self.out_dir is None or self.out_dir == runner.work_dir:
            return Path(runner.work_dir)
        return Path(self.out_dir) / Path(runner.work_dir).name

    def _save_checkpoint_with_step(self, runner: Any, step: int, meta: dict) -> None:
        """Write, point, then delete."""
        outdated: list[int] = []
        if self.max_keep_ckpts > 0:
            kept = [kept for kept in self.keep_ckpt_ids if kept != step] + [step]
            outdated = kept[: -self.max_keep_ckpts]
            # The file remembers the outdated ones too: a kill before they are
            # deleted leaves that to the resumed run, where upstream looks for them.
            runner.message_hub.update_info('keep_ckpt_ids', kept)
        name = self.filename_tmpl.format(step)
        self.last_ckpt = self.file_backend.join_path(self.out_dir, name)
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        runner.save_checkpoint(
            self.out_dir,
            name,
            self.file_client_args,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=meta,
            by_epoch=self.by_epoch,
            backend_args=self.backend_args,
            **self.args,
        )
        if is_main_process():
            write_aside(str(self.last_ckpt).encode(), Path(runner.work_dir) / _POINTER)
            for old in outdated:
                self._delete(self.file_backend.join_path(self.out_dir, self._name(old)))
        if self.max_keep_ckpts > 0:
            self.keep_ckpt_ids.clear()
            self.keep_ckpt_ids.extend(kept[-self.max_keep_ckpts :])
            runner.message_hub.update_info('keep_ckpt_ids', list(self.keep_ckpt_ids))

    def _save_best_checkpoint(self, runner: Any, metrics: dict) -> None:
        """Write the better checkpoint as upstream does, and delete the others after it."""
        backend, self.file_backend = self.file_backend, _Keeping(self.file_backend)
        try:
            super()._save_best_checkpoint(runner, metrics)
            superfluous = self.file_backend.kept
        finally:
            self.file_backend = backend
        best = {getattr(self, 'best_ckpt_path', None)}
        best.update(getattr(self, 'best_ckpt_path_dict', {}).values())
        for path in superfluous:
            if path not in best:
                self._delete(path)

    def _name(self, step: Any) -> str:
        return self.filename_tmpl.format(step)

    def _delete(self, path: Any) -> None:
        # The names came from a checkpoint: none of them may lead out of its folder.
        if osp.dirname(str(path)) != str(self.out_dir):
            return
        if self.file_backend.isfile(path):
            self.file_backend.remove(path)
        elif self.file_backend.isdir(path):  # as DeepSpeed writes them
            self.file_backend.rmtree(path)


class _Keeping:
    """A storage backend that notes what is to be deleted instead of deleting it."""

    def __init__(self, backend: Any) -> None:
        self.backend = backend
        self.kept: list[Any] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.backend, name)

    def remove(self, path: Any) -> None:
        self.kept.append(path)

    rmtree = remove


def repair_pointer(pointer: Path, folder: Path, template: str) -> None:
    """Let ``last_checkpoint`` name the newest checkpoint that can be read.

    That is the one it names, unless it cannot be read, or a later one was
    written after it. A pointer that does not exist stays so, which is how a
    user asks for a new start.

    Args:
        pointer: The file ``last_checkpoint``.
        folder: Where the checkpoints are.
        template: Their names, with ``{}`` for the step.

    Raises:
        ValueError: If there are checkpoints and none of them can be read.
    """
    if not pointer.is_file():
        return
    named = Path(pointer.read_text(encoding='utf-8', errors='replace').strip() or '.')
    # Work directories are moved and copied.
    current = named if named.is_file() else folder / named.name
    before, _, after = template.partition('{}')

    def step(path: Path) -> int:
        middle = path.name.removeprefix(before).removesuffix(after)
        return int(middle) if middle.isdigit() else -1

    def age(path: Path) -> tuple[float, int]:
        return path.stat().st_mtime, step(path)

    found = [path for path in folder.glob(f'{before}*{after}') if step(path) >= 0]
    newest_first = sorted(found, key=age, reverse=True)
    if current.is_file():
        later = [p for p in newest_first if step(p) > step(current) and age(p) > age(current)]
        rest = [p for p in newest_first if p not in (current, *later)]
        newest_first = [*later, current, *rest]
    complaints = []
    for path in newest_first:
        try:
            _check_content(reading.load(path, map_location='cpu'), None, resume=True)
        except reading.UntrustedCheckpointError:
            raise  # older ones are no answer to that
        except (ValueError, OSError) as error:
            complaints.append(f'{path.name}: {error}')
            continue
        for complaint in complaints:
            print_log(f'passed over {complaint}', 'current', logging.WARNING)
        if path != named:
            write_aside(str(path).encode(), pointer)
        return
    if complaints:
        raise ValueError(
            f'{str(folder)!r} has no checkpoint to resume from: of {len(complaints)} none can be '
            f'read; {complaints[0]}'
        )


def _check_content(checkpoint: Any, model: torch.nn.Module | None, resume: bool) -> None:
    if not isinstance(checkpoint, dict):
        raise ValueError(
            f'the checkpoint holds a {type(checkpoint).__name__}, not the dict of a checkpoint: '
            'give a file that a training wrote.'
        )
    missing = [key for key in _RESUMABLE if key not in checkpoint]
    if resume and missing:
        raise ValueError(
            f'the checkpoint has no {" and no ".join(missing)}, so a training cannot go on from '
            'it: give one that this training wrote at its interval (best_*.pth have no optimizer), '
            'or start from its weights by load_from, without --resume.'
        )
    if model is None:
        return
    weights = checkpoint.get('state_dict', checkpoint)
    given = {str(key).removeprefix('module.') for key in weights}
    own = set(model.state_dict())
    # Under a prefix of mmrazor's our algorithm accepts the student as well.
    found = own & (given | {key.removeprefix('architecture.') for key in given})
    if not found or (resume and found != own):
        lacking = sorted(own - found)
        raise ValueError(
            f"the checkpoint is another model's: {len(lacking)} of {len(own)} weights are not in "
            f'it (first: {lacking[0]}): give one of {type(model).__name__} as configured.'
        )
