"""For CSKD and Zipf: what a classifier says at every position of its last feature map."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from mmrazor.models.task_modules.recorder.base_recorder import BaseRecorder
from torch import Tensor, nn

from kd_plugins import checks
from kd_plugins.losses.base import at_least_float32
from kd_plugins.registry import TASK_UTILS

__all__ = ['DenseLogitsRecorder']

#: Where mmpretrain's heads keep a linear classifier; of two, the distillation token's.
CLASSIFIERS = ('head.layers.head_dist', 'head.layers.head', 'head.fc')


@TASK_UTILS.register_module()
class DenseLogitsRecorder(BaseRecorder):
    """Record a network's dense logits: its classifier applied at every position.

    A record is one tensor, (N, classes, H, W), of every forward pass, with
    gradients where the pass has them. In a config:
    ``dense=dict(type='kd_plugins.DenseLogits')``.

    Without arguments it reads mmpretrain's classifiers:

    * what goes into a ``GlobalAveragePooling`` neck, of whatever backbone
      (convolutional, Swin, MLP-Mixer, timm's networks through ``TIMMBackbone``), or
      into the pooling inside of MixMIM;
    * what ConvNeXt, HorNet, EdgeNeXt and TinyViT average before their last norm;
    * the patch tokens of vision transformers after the last norm, with or
      without class and distillation tokens, whatever their ``out_type``, read
      by the distillation token's classifier where there is one.

    The mean of the record over all positions is the network's own answer where it
    averages positions. Where it takes the layer norm of the average (ConvNeXt and its
    like; BEiT and other transformers of ``out_type='avg_featmap'``), every
    position is divided by the deviation of the average, not by its own.

    Args:
        features: Name of the module to read instead: its output, or the last
            of several, is the feature map, (N, C, H, W), or tokens, (N, L, C),
            of a square grid.
        classifier: Name of the classifier to apply instead, an ``nn.Linear`` or
            a convolution of 1 x 1.
        extra_tokens: How many tokens of ``features`` come before the patches.
        upsample: How many times as many rows and columns to give, bilinearly
            between the positions (half-pixel centres). To upsample the features
            first would give the same, for the classifier is linear.
        others: Further heads of the network, each as a mapping of the arguments
            above, such as ``dict(features='backbone.layer3', classifier='aux')``.
            The record is then a tuple, this head's tensor first.

    Raises:
        ValueError: If the network has no such module, no feature map or no
            linear classifier on it, or if ``upsample`` is no whole number; in the
            first step, if ``features`` turns out to be something else.
    """

    def __init__(
        self,
        features: str | None = None,
        classifier: str | None = None,
        extra_tokens: int = 0,
        upsample: int = 1,
        others: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        super().__init__(features or 'backbone')
        self._features, self.classifier = features, classifier
        self._extra_tokens = extra_tokens
        self._upsample = checks.whole_number('DenseLogits.upsample', upsample)
        self._others = [DenseLogitsRecorder(**other) for other in others]
        self._recording = False
        self._pending: Tensor | None = None
        self.num_classes: int | None = None

    def prepare_from_model(self, model: nn.Module | None = None) -> None:
        """Find the features and the classifier, and hook the former."""
        for other in self._others:
            other.initialize(model)
        modules = dict(model.named_modules()) if model is not None else {}
        name = self.classifier = self.classifier or _find_classifier(modules)
        if name is None:
            raise ValueError(
                f'DenseLogits finds no linear classifier in the {_describe(modules)}: it knows '
                f'{", ".join(CLASSIFIERS)}; name the nn.Linear right after the features, if there '
                "is one, with classifier='...'."
            )
        self._linear = _named(modules, name, 'classifier')
        if not _is_linear(self._linear):
            raise ValueError(
                f'DenseLogits.classifier={name!r} is a {type(self._linear).__name__}: name an '
                'nn.Linear, or a convolution of 1 x 1, which can be applied at every position.'
            )
        self.num_classes = self._linear.weight.shape[0]
        pooling = _pooling(modules.get('neck'))
        backbone: Any = modules.get('backbone')
        if self._features is not None:
            _named(modules, self._features, 'features').register_forward_hook(self._read_output)
        elif pooling is not None:
            self._source = 'neck'
            pooling.register_forward_pre_hook(self._read_input)
        elif isinstance(getattr(backbone, 'avgpool', None), nn.AdaptiveAvgPool1d):
            backbone.avgpool.register_forward_pre_hook(self._read_input)
        elif getattr(backbone, 'gap_before_final_norm', False):
            # The last stage gives what is averaged, the last norm takes the average.
            last = max(backbone.out_indices)
            norm = getattr(backbone, f'norm{last}')
            hook = functools.partial(self._read_before_norm, norm)
            backbone.stages[last].register_forward_hook(hook)
        elif _has_patches(backbone):
            self._check_transformer(backbone, modules['head'])
            # What comes out may be a class token only, so look before it is picked.
            backbone._format_output = functools.partial(
                self._read_tokens, backbone._format_output, backbone
            )
            backbone.register_forward_hook(self._finish_tokens)
        else:
            raise ValueError(
                f'DenseLogits finds neither a feature map nor patch tokens in the '
                f'{_describe(modules)}: it reads what goes into a GlobalAveragePooling neck that '
                "ends it, and the patch tokens of mmpretrain's vision transformers; name another "
                "module that returns a map of positions with features='...', or take a network "
                'that has one before its classifier.'
            )

    def _check_transformer(self, backbone: Any, head: nn.Module) -> None:
        width = self._linear.weight.shape[1]
        # RevViT has two streams of features side by side in the end.
        streams = 2 if hasattr(backbone, 'fusion_layer') else 1
        if getattr(head, 'hidden_dim', None) is not None or width != streams * backbone.embed_dims:
            raise ValueError(
                f'DenseLogits cannot apply a classifier of {width} features to patch tokens of '
                f'{backbone.embed_dims}'
                + (' behind a hidden layer' if getattr(head, 'hidden_dim', None) else '')
                + ': give the head hidden_dim=None, so that it is one linear layer.'
            )

    def _read_output(self, module: nn.Module, args: tuple, output: Any) -> None:
        if self._recording:
            self._record(_last(output))

    def _read_input(self, module: nn.Module, args: tuple) -> None:
        if self._recording:
            features = _last(args[0])
            # Poolings of one dimension get (N, C, L).
            self._record(features if features.dim() != 3 else features.transpose(1, 2))

    def _read_before_norm(self, norm: nn.Module, module: Any, args: tuple, output: Any) -> None:
        if self._recording:
            if output.dim() == 3:  # TinyViT has tokens, and its stages say their grid
                output = output.unflatten(1, tuple(module.resolution)).movedim(-1, 1)
            self._record(_normed_as_average(output, norm))

    def _read_tokens(
        self, formatted: Callable, backbone: Any, tokens: Tensor, grid: tuple[int, int]
    ) -> Any:
        """Keep the patches of the latest layer that is put out, then do what upstream does."""
        if self._recording:
            patches = tokens[:, backbone.num_extra_tokens :]
            self._pending = patches.unflatten(1, tuple(grid)).movedim(-1, 1)
            if backbone.out_type == 'avg_featmap' and hasattr(backbone, 'ln2'):
                # The classifier knows averages after this norm.
                self._pending = _normed_as_average(self._pending, backbone.ln2)
        return formatted(tokens, grid)

    def _finish_tokens(self, module: nn.Module, args: tuple, output: Any) -> None:
        if self._recording and self._pending is not None:
            self._record(self._pending)
            self._pending = None

    def _record(self, features: Tensor) -> None:
        if features.dim() == 3:
            features = self._square(features)
        weight = self._linear.weight.flatten(1)
        if features.dim() != 4 or features.shape[1] != weight.shape[1]:
            raise ValueError(
                f'DenseLogits.features={self.source!r} has the shape {tuple(features.shape)}, '
                f'which is no feature map (N, {weight.shape[1]}, H, W) for the classifier: name '
                'the module whose output the global pooling gets.'
            )
        logits = F.linear(features.movedim(1, -1), weight, self._linear.bias).movedim(-1, 1)
        if self._upsample > 1:
            logits = F.interpolate(logits, scale_factor=self._upsample, mode='bilinear')
        self.data_buffer.append(logits)

    def _square(self, tokens: Tensor) -> Tensor:
        """Arrange tokens, (N, L, C), as a map of a square grid."""
        patches = tokens[:, self._extra_tokens :]
        side = round(patches.shape[1] ** 0.5)
        if side**2 != patches.shape[1] or not side:
            raise ValueError(
                f'DenseLogits.features={self.source!r} gives {tokens.shape[1]} tokens, and without '
                f'extra_tokens={self._extra_tokens} they fill no square grid: give the number of '
                'class and other tokens that come before the patches.'
            )
        return patches.unflatten(1, (side, side)).movedim(-1, 1)

    def __enter__(self) -> None:
        super().__enter__()
        self._recording = True
        for other in self._others:
            other.__enter__()

    def __exit__(self, exc_type: Any, exc_value: Any, traceback: Any) -> None:
        super().__exit__(exc_type, exc_value, traceback)
        self._recording = False
        for other in self._others:
            other.__exit__(exc_type, exc_value, traceback)
        if self._others:
            each = (self.data_buffer, *(other.data_buffer for other in self._others))
            self._data_buffer = list(zip(*each, strict=False))
            for other in self._others:
                other.reset_data_buffer()


def _find_classifier(modules: dict[str, nn.Module]) -> str | None:
    return next((name for name in CLASSIFIERS if _is_linear(modules.get(name))), None)


def _is_linear(module: nn.Module | None) -> bool:
    if isinstance(module, nn.Conv2d):
        return module.kernel_size == (1, 1) and module.groups == 1
    return isinstance(module, nn.Linear)


def _pooling(neck: nn.Module | None) -> nn.Module | None:
    """Return the global pooling that ends a neck."""
    while isinstance(neck, nn.Sequential) and len(neck):
        neck = neck[-1]
    of_maps = isinstance(getattr(neck, 'gap', None), (nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool1d))
    return neck if of_maps and type(neck).__name__ == 'GlobalAveragePooling' else None


def _normed_as_average(maps: Tensor, norm: Any) -> Tensor:
    """Return positions whose average is a layer norm of their average, (N, C, H, W).

    A layer norm subtracts the mean over channels, which is linear, and divides by the
    deviation, which is here that of the average.
    """
    maps = at_least_float32(maps)
    deviation = (maps.mean((2, 3)).var(dim=1, unbiased=False) + norm.eps).sqrt()
    centred = (maps - maps.mean(dim=1, keepdim=True)) / deviation[:, None, None, None]
    weight, bias = (x[:, None, None].to(maps.dtype) for x in (norm.weight, norm.bias))
    return centred * weight + bias


def _has_patches(backbone: nn.Module | None) -> bool:
    """Whether it is one of mmpretrain's transformers that pick their output from all tokens."""
    pick = getattr(backbone, '_format_output', None)
    known = all(hasattr(backbone, key) for key in ('num_extra_tokens', 'out_type', 'embed_dims'))
    return known and pick is not None and len(inspect.signature(pick).parameters) == 2


def _named(modules: dict[str, nn.Module], name: str, key: str) -> Any:
    if name not in modules:
        raise ValueError(
            f'DenseLogits.{key}={name!r} is not in the {_describe(modules)}: give the name of one '
            'of its modules.'
        )
    return modules[name]


def _describe(modules: dict[str, nn.Module]) -> str:
    names = {key: type(modules[key]).__name__ for key in ('', 'backbone', 'neck') if key in modules}
    parts = [names[key] for key in ('backbone', 'neck') if key in names]
    return names.get('', 'network') + (f' of {" and ".join(parts)}' if parts else '')


def _last(output: Any) -> Any:
    return output[-1] if isinstance(output, (list, tuple)) else output
