"""Whether a checkpoint is one of this network: one answer for whoever loads it."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from mmengine.logging import print_log
from torch import nn

#: Where mmrazor's checkpoints keep the student, beside ``teacher.*``.
MMRAZOR_STUDENT = 'architecture.'
#: Where ours keep what the terms learn.
TERMS = 'distiller.'
#: What a checkpoint may lack, or have too much: checkpoints before torch 0.4.1
#: know no such count, and some that upstream published hold its preprocessor.
_HARMLESS = re.compile(r'(^|\.)num_batches_tracked$|^data_preprocessor\.')
#: How torch begins its complaint about a weight of another shape.
_RESHAPED = re.compile(r'size mismatch for (\S+): ')


@dataclass(frozen=True)
class Mismatch:
    """What keeps a checkpoint from being one of a network; false if nothing does.

    Args:
        missing: Weights of the network that are not in the checkpoint.
        unexpected: Weights of the checkpoint that are not in the network.
        reshaped: What is to be said of each weight of another shape.
    """

    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    reshaped: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.reshaped)

    def __str__(self) -> str:
        parts = (
            ('of another shape', self.reshaped),
            ('missing', self.missing),
            ('unknown to it', self.unexpected),
        )
        return '; '.join(f'{len(k)} weights are {what} (first: {k[0]})' for what, k in parts if k)


def compare(weights: Mapping[str, Any], network: nn.Module) -> Mismatch:
    """Compare the names and shapes of weights with those of a network.

    Networks whose own loading renames or resizes weights accept more than this.

    Args:
        weights: A state dict, with or without ``module.``, or mmrazor's.
        network: A network, or a distillation.
    """
    given = without_mmrazors_names({k.removeprefix('module.'): v for k, v in weights.items()})
    own = network.state_dict()
    shapes = {key: tuple(getattr(value, 'shape', ())) for key, value in given.items()}
    reshaped = [
        f'{key} is {shapes[key]} in the file and {tuple(value.shape)} here'
        for key, value in own.items()
        if key in given and shapes[key] != tuple(value.shape)
    ]
    return Mismatch(
        tuple(key for key in own if key not in given and not _HARMLESS.search(key)),
        tuple(key for key in given if key not in own and not _HARMLESS.search(key)),
        tuple(reshaped),
    )


def without_mmrazors_names(weights: Mapping[str, Any]) -> dict[str, Any]:
    """Return the weights by the student's own names, as we write them.

    Where there are ``architecture.*``, these are the student's, and the teacher's
    are left out.
    """
    if not any(key.startswith(MMRAZOR_STUDENT) for key in weights):
        return dict(weights)
    return {
        key.removeprefix(MMRAZOR_STUDENT): value
        for key, value in weights.items()
        if not key.startswith('teacher.')
    }


class WholeLoads:
    """Makes every load of a network take all of its weights, or fail.

    mmengine loads what fits and warns of the rest, so that a checkpoint of
    another network leaves this one partly at random. Copies of the network (EMA's
    is one) share the object.

    Args:
        network: The network.
        left_out: Patterns, as in file names (``*``, ``?``), of weights that a
            training may leave out, because the checkpoint lacks them, has more
            of them, or has them in another shape.
        key: The config key of ``left_out``, for messages.
    """

    def __init__(self, network: nn.Module, left_out: Sequence[str], key: str) -> None:
        self.left_out = tuple(left_out)
        self.key = key
        #: Whether the weights have been initialised, so that some may stay as they are.
        self.initialised = False
        self._loading: list[tuple[str, list[str], set[str]]] = []
        network._register_load_state_dict_pre_hook(self._before)
        network.register_load_state_dict_post_hook(self._after)

    def __deepcopy__(self, memo: dict[int, Any]) -> WholeLoads:
        return self

    def _before(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        # Torch gives the hook after the load the missing keys, but not these.
        # Networks take out of the state dict what they compute anew for another input size.
        self._loading.append((prefix, error_msgs, set(state_dict)))

    def _after(self, module: nn.Module, found: Any) -> None:
        prefix, errors, given = self._loading.pop()
        computed = {name for name, _ in module.named_buffers() if prefix + name in given}
        left_out: list[str] = []
        left_over: list[str] = []

        def judge(
            keys: list[str], passed: list[str], harmless: Set[str] = frozenset()
        ) -> tuple[str, ...]:
            """Move what is no obstacle out of torch's list; return the others."""
            here = [key for key in keys if key.startswith(prefix)]
            bad = []
            for key in here:
                name = key.removeprefix(prefix)
                if name.startswith(TERMS) or self._may_be_left_out(name):
                    passed.append(name)
                elif not _HARMLESS.search(name) and name not in harmless:
                    bad.append(name)
                    continue
                keys.remove(key)
            return tuple(bad)

        reshaped, example = [], 'head.*'
        for error in list(errors):
            match = _RESHAPED.search(error)
            name = match[1].removeprefix(prefix) if match else ''
            if match and self._may_be_left_out(name):
                left_out.append(name)
                errors.remove(error)
            else:
                reshaped.append(' '.join(error.split()).rstrip('.'))
                example = f'{TERMS}*' if name.startswith(TERMS) else example
        mismatch = Mismatch(
            judge(found.missing_keys, left_out, computed),
            judge(found.unexpected_keys, left_over),
            tuple(reshaped),
        )
        if mismatch:
            raise ValueError(
                f"the checkpoint is another model's, not that of this {describe(module)}: "
                f'{mismatch}. Give a checkpoint of the model as configured; in a training, '
                f'{self.key} names the weights that it may lack, such as [{example!r}].'
            )
        for name in left_out:
            print_log(
                f'{name} is not taken from the checkpoint: here it stays as it was initialised',
                'current',
                logging.WARNING,
            )
        for name in left_over:
            print_log(f'{name} of the checkpoint is not used: nothing here has it', 'current')

    def _may_be_left_out(self, name: str) -> bool:
        return self.initialised and any(fnmatchcase(name, p) for p in self.left_out)


def describe(network: nn.Module) -> str:
    """Name a network by its type and, where it has one, its backbone's; several by their number."""
    network = getattr(network, 'architecture', network)
    several = getattr(network, 'networks', None)
    if isinstance(several, list):
        return f'{len(several)} x {describe(several[0])}'
    backbone = getattr(network, 'backbone', None)
    inner = f' with {type(backbone).__name__}' if backbone is not None else ''
    return type(network).__name__ + inner
