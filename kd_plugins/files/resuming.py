"""Finding the checkpoint to go on from, and telling whether a checkpoint is the right one."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from mmengine.logging import print_log
from torch import nn

from kd_plugins.files import reading
from kd_plugins.files.matching import compare
from kd_plugins.files.writing import write_aside

#: The file in a work directory that names the newest checkpoint.
POINTER = 'last_checkpoint'
#: What a checkpoint must hold to go on from, beside the weights.
RESUMABLE = ('meta', 'message_hub', 'optimizer')


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
            check_checkpoint(reading.load(path, map_location='cpu'), None, resume=True)
        except reading.UntrustedCheckpointError:
            raise  # older ones are no answer to that
        except (ValueError, OSError) as error:
            complaints.append(f'{path.name}: {error}')
            continue
        for complaint in complaints:
            print_log(f'passed over {complaint}', 'current', logging.WARNING)
        if path != named:
            write_aside(str(path), pointer)
        return
    if complaints:
        raise ValueError(
            f'{str(folder)!r} has no checkpoint to resume from: of {len(complaints)} none can be '
            f'read; {complaints[0]}'
        )


def check_checkpoint(checkpoint: Any, model: nn.Module | None, resume: bool) -> None:
    """Refuse a checkpoint of another model, or one that cannot be gone on from.

    Args:
        checkpoint: What was read.
        model: The model that is to take its weights; None for any.
        resume: Whether a training is to go on from it, which needs all of its
            weights, the optimizer and the counts.

    Raises:
        ValueError: Saying what is missing, and what to give instead.
    """
    if not isinstance(checkpoint, dict):
        raise ValueError(
            f'the checkpoint holds a {type(checkpoint).__name__}, not the dict of a checkpoint: '
            'give a file that a training wrote.'
        )
    missing = [key for key in RESUMABLE if key not in checkpoint]
    if resume and missing:
        raise ValueError(
            f'the checkpoint has no {" and no ".join(missing)}, so a training cannot go on from '
            'it: give one that this training wrote at its interval (best_*.pth have no optimizer), '
            'or start from its weights by load_from, without --resume.'
        )
    if model is None:
        return
    mismatch = compare(checkpoint.get('state_dict', checkpoint), model)
    nothing = len(mismatch.missing) == len(compare({}, model).missing)
    if nothing or (resume and (mismatch.missing or mismatch.reshaped)):
        raise ValueError(
            f"the checkpoint is another model's: {mismatch}. Give one of {type(model).__name__} as "
            'configured.'
        )
