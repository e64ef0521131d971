"""One network as a teacher."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from kd_plugins import checks
from kd_plugins.networks import size_made_for
from kd_plugins.teachers.base import Answer, Teacher
from kd_plugins.teachers.input import TeacherInput
from kd_plugins.teachers.watching import Watchers

#: What samples say of sizes, (height, width).
_SIZES = ('img_shape', 'pad_shape', 'batch_input_shape')


class NetworkTeacher(Teacher):
    """A fixed network, whole in eval mode.

    It goes where its input is, and reads it in the type of its own weights, so
    that whoever asks needs to know neither.

    Args:
        network: The network, with its weights.
        input: What makes its input of the student's.
        data_preprocessor: The student's, whose batches it is shown.
        weights: Where its weights come from, in words.
        dtype: What autocast computes in; float32 for none even where the
            student trains in mixed precision; None for the student's precision.
        channels_last: Whether it computes in torch's channels-last layout.
        compile: Arguments of ``torch.compile``; None to leave it as it is.
        owned: Whether it may be moved and converted with its algorithm. A
            network that somebody else has built is only moved to its input.
        classes: The names of its classes in its order; None where nobody said.
        class_map: The ``teacher_class_map`` that chose them.
    """

    network: nn.Module

    def __init__(
        self,
        network: nn.Module,
        input: TeacherInput,
        data_preprocessor: nn.Module,
        weights: str | None = None,
        dtype: torch.dtype | None = None,
        channels_last: bool = False,
        compile: Mapping[str, Any] | None = None,
        owned: bool = True,
        classes: Sequence[str] | None = None,
        class_map: Sequence[int | str] | None = None,
    ) -> None:
        self.network = network.requires_grad_(False).eval()
        self.input = input
        self.data_preprocessor = data_preprocessor
        self.weights = weights
        self.classes = classes
        self.class_map = class_map
        self.dtype = dtype
        self.layout = torch.channels_last if channels_last else None
        if self.layout is not None:
            network.to(memory_format=self.layout)  # type: ignore[call-overload]
        self.owned = owned
        self._compile = compile
        self._run: Callable[..., Any] = self._compiled(network)
        self._watchers = Watchers()

    @property
    def has_own_input(self) -> bool:  # type: ignore[override]
        """Whether the network declares a preprocessor of its own."""
        return self.input.declared

    def look(self, inputs: Tensor, data_samples: Sequence[Any] | None = None) -> Any:
        """See :meth:`Teacher.look`."""
        return self._look(inputs, data_samples, partial(self._run, mode='tensor'))

    def find(self, recorders: Any, inputs: Tensor, data_samples: Sequence[Any]) -> list[Any]:
        """See :meth:`Teacher.find`."""
        network: Any = self.network

        def run(converted: Tensor, samples: Sequence[Any]) -> list[Any]:
            # Predictions are written into the samples, which are not the teacher's.
            own = [sample.new() for sample in samples]
            with _boxes_in_full(network):
                predicted = network.predict(converted, own, rescale=False)
            found = [each.pred_instances for each in predicted]
            (height, width), (own_height, own_width) = inputs.shape[-2:], converted.shape[-2:]
            if (height, width) != (own_height, own_width):
                for objects in found:
                    scale = (width / own_width, height / own_height)
                    objects.bboxes = objects.bboxes * objects.bboxes.new_tensor(scale * 2)
            return found

        with recorders:
            return self._look(inputs, data_samples, run)

    @torch.no_grad()
    def _look(self, inputs: Tensor, data_samples: Any, run: Callable[..., Any]) -> Any:
        self._watchers.tell_before()
        with self._asked(inputs, data_samples) as converted:
            try:
                outputs = run(converted, data_samples)
            except (AssertionError, RuntimeError, ValueError) as error:
                _explain(error, self.network, converted)
                raise
        self._watchers.tell_after(outputs, data_samples)
        return outputs

    def look_for_features_only(self) -> None:
        """See :meth:`Teacher.look_for_features_only`."""
        self._run = partial(_features, self._compiled(self.network.extract_feat))

    def answer(self, question: Callable[[nn.Module], Answer]) -> Answer:
        """See :meth:`Teacher.answer`."""
        with self._precision(self._weight().device):
            return question(self.network)

    @torch.no_grad()
    def convert(self, inputs: Tensor, data_samples: Sequence[Any] | None = None) -> Tensor:
        """Return the network's input, (N, channels, H', W'), for the student's batch."""
        self._go_to(inputs.device)
        inputs = self.input(inputs, data_samples)
        if inputs.is_floating_point():
            inputs = inputs.to(self._weight().dtype)
        if self.layout is not None and inputs.dim() == 4:
            inputs = inputs.contiguous(memory_format=self.layout)
        return inputs

    @torch.no_grad()
    def predict(self, inputs: Tensor, data_samples: Sequence[Any] | None = None) -> Any:
        """See :meth:`Teacher.predict`."""
        with self._asked(inputs, data_samples) as converted:
            return self.network(converted, data_samples, mode='predict')

    def watch(
        self, before: Callable[..., None] | None = None, after: Callable[..., None] | None = None
    ) -> Callable[[], None]:
        """See :meth:`Teacher.watch`."""
        return self._watchers.add(before, after)

    def follow(self, change: Callable[[nn.Module], Any]) -> None:
        """See :meth:`Teacher.follow`."""
        if self.owned:
            change(self.network)
            # Tells its own preprocessor, too.
            self.network.to(self._weight().device)

    @contextmanager
    def _asked(self, inputs: Tensor, data_samples: Sequence[Any] | None) -> Iterator[Tensor]:
        """Give the network's input, in its precision; the samples say its size meanwhile."""
        if self.network.training:
            # Whoever holds a built network as well may have switched its mode.
            self.network.eval()
        with self._precision(inputs.device):
            converted = self.convert(inputs, data_samples)
            with _resized(data_samples, inputs.shape, converted.shape):
                yield converted

    def _precision(self, device: torch.device) -> AbstractContextManager:
        if self.dtype is None:
            return nullcontext()
        if self.dtype is torch.float32:
            return torch.autocast(device.type, enabled=False)
        return torch.autocast(device.type, self.dtype)

    def _compiled(self, part: Any) -> Any:
        return part if self._compile is None else torch.compile(part, **self._compile)

    def _go_to(self, device: torch.device) -> None:
        if self._weight().device != device:
            self.network.to(device)
        # Somebody else may have built the network where it is.
        self.input.to(device)

    def _weight(self) -> Tensor:
        return next(self.network.parameters())


def _explain(error: Exception, network: nn.Module, inputs: Tensor) -> None:
    """Say what a network cannot do with its input, where that is what its error is about.

    Raises:
        ValueError: Naming the key that would make another input.
    """
    kind, given = type(network).__name__, list(inputs.shape)
    wanted = re.search(r'to have (\d+) channels, but got (\d+) channels', str(error))
    if wanted and int(wanted[2]) == inputs.shape[1]:
        raise ValueError(
            f'model.teacher ({kind}) takes pictures of {wanted[1]} channels, and the batch of the '
            f'student has {wanted[2]} (shape {given}): give a teacher of as many channels, or '
            'read the pictures with as many (color_type of LoadImageFromFile, and mean and std of '
            'both data_preprocessors).'
        ) from error
    made_for = size_made_for(network)
    if made_for is not None and made_for != tuple(inputs.shape[-2:]):
        raise ValueError(
            f'model.teacher ({kind}) is made for pictures of {made_for[0]} x {made_for[1]}, and '
            f'does not run on those of the student (shape {given}; {checks.said(error)}): set '
            f'model.teacher_input_size={made_for}.'
        ) from error


def _features(extract_feat: Callable[[Tensor], Any], inputs: Tensor, *_: Any, mode: str) -> Any:
    """Stand in for a whole forward."""
    return extract_feat(inputs)


@contextmanager
def _boxes_in_full(network: nn.Module) -> Iterator[None]:
    """Let heads of mmdet decode and suppress boxes in float32, and make no masks of them.

    Half precision rounds boxes, and mmcv's suppression does not even take it on processors.
    Masks would be pasted into whole pictures, for nobody.
    """
    replaced = []
    for head in network.modules():
        method = getattr(head, 'predict_by_feat', None)

        def decode(*args: Any, method: Any = method, **kwargs: Any) -> Any:
            with torch.autocast('cuda', enabled=False), torch.autocast('cpu', enabled=False):
                return method(*_in_full(args), **_in_full(kwargs))

        instead = dict(predict_by_feat=decode, predict_mask=_without_masks)
        replaced += [(head, name, by) for name, by in instead.items() if hasattr(head, name)]
    for head, name, by in replaced:
        head.__dict__[name] = by
    try:
        yield
    finally:
        for head, name, _ in replaced:
            del head.__dict__[name]


def _without_masks(x: Any, batch_img_metas: Any, results_list: Any, *_: Any, **__: Any) -> Any:
    """Stand in for a RoI head's ``predict_mask``."""
    return results_list


def _in_full(values: Any) -> Any:
    """Return nested values with tensors of half precision as float32."""
    if isinstance(values, Tensor):
        half = values.dtype in (torch.float16, torch.bfloat16)
        return values.float() if half else values
    if type(values) is dict:  # no config
        return {key: _in_full(value) for key, value in values.items()}
    if type(values) in (list, tuple):
        return type(values)(_in_full(value) for value in values)
    return values


@contextmanager
def _resized(
    data_samples: Sequence[Any] | None, before: Sequence[int], after: Sequence[int]
) -> Iterator[None]:
    """Let samples say the sizes of another input, which detectors clip and scale boxes by.

    Args:
        data_samples: They are as they were afterwards.
        before: The shape of the batch of which they speak.
        after: The shape of the batch of which they shall speak.
    """
    kept = []
    if before[-2:] != after[-2:]:
        scales = [new / old for new, old in zip(after[-2:], before[-2:], strict=True)]
        samples = data_samples if isinstance(data_samples, (list, tuple)) else ()
        # One that is there twice is told once.
        for sample in {id(each): each for each in samples}.values():
            info = getattr(sample, 'metainfo', {})
            old = {
                key: info[key]
                for key in (*_SIZES, 'scale_factor')
                if hasattr(info.get(key), '__len__')
            }
            new = {
                # That of the picture is (width, height), all others are (height, width).
                key: _scaled(value, scales[::-1]) if key == 'scale_factor'
                else tuple(round(side) for side in _scaled(value, scales))
                for key, value in old.items()
            }  # fmt: skip
            if old:
                kept.append((sample, old))
                sample.set_metainfo(new)
    try:
        yield
    finally:
        for sample, old in kept:
            sample.set_metainfo(old)


def _scaled(values: Sequence[float], scales: Sequence[float]) -> tuple[float, ...]:
    """Multiply pairs of values, one after the other, by a pair of scales."""
    return tuple(value * scales[i % 2] for i, value in enumerate(values))
