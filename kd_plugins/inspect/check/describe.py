"""Saying what a network is and what a term reads."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from mmengine.analysis import FlopAnalyzer
from mmengine.config import Config
from mmengine.runner import Runner
from torch import Tensor, nn

from kd_plugins.files.matching import describe as name_of
from kd_plugins.inspect.check.report import Data, Group, Network
from kd_plugins.networks import classes_of, normalisation, swaps_channels


def describe_network(
    network: nn.Module, cfg: Any, weights: str, inputs: Tensor, default: str
) -> Network:
    """Describe a network by its config and by what it is.

    Args:
        network: The network.
        cfg: Its config in the training's config.
        weights: Where its weights come from, in words.
        inputs: A preprocessed batch as it sees it, (N, channels, H, W).
        default: What to call it if its config has no path.
    """
    path = cfg.get('cfg_path') if isinstance(cfg, Mapping) else None
    mean, std = normalisation(network.data_preprocessor)
    plain = mean.numel() == 1 and mean.item() == 0 and std.item() == 1
    parameters = list(network.parameters())
    return Network(
        type=name_of(network),
        source=path or default,
        weights=weights,
        parameters=sum(p.numel() for p in parameters),
        trainable=sum(p.numel() for p in parameters if p.requires_grad),
        multiply_adds=multiply_adds(network, inputs),
        input_shape=list(inputs.shape),
        classes=classes_of(network),
        mean=None if plain else [round(v, 4) for v in mean.flatten().tolist()],
        std=None if plain else [round(v, 4) for v in std.flatten().tolist()],
        swaps_channels=swaps_channels(network.data_preprocessor),
    )


def multiply_adds(network: nn.Module, inputs: Tensor) -> int | None:
    """Count the multiply-adds of one forward pass for one picture, None if it cannot be traced."""
    training = {module: module.training for module in network.modules()}
    network.eval()
    try:
        counter = FlopAnalyzer(network, (inputs[:1],))
        counter.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        counter.tracer_warnings('none')
        with torch.no_grad():
            return int(counter.total())
    except Exception:  # tracing runs the network's own code, which may refuse in any way
        return None
    finally:
        for module, mode in training.items():
            module.training = mode


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Yield the tensors of nested records, sequences and mappings."""
    if isinstance(value, Tensor):
        yield value
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from tensors_in(getattr(value, field.name))
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors_in(item)
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for item in value:
            yield from tensors_in(item)


def describe_value(value: Any) -> str:
    """Say shape, type and range: ``(32, 10) float32, -4.1 to 9.7``."""
    if isinstance(value, Tensor):
        kind = str(value.dtype).removeprefix('torch.')
        shape = f'({", ".join(map(str, value.shape))})'
        if value.numel() == 0:
            return f'{shape} {kind}, empty'
        plain = value.detach()
        plain = plain.float() if plain.is_floating_point() else plain
        if plain.dtype == torch.bool or plain.is_complex():
            return f'{shape} {kind}'
        return f'{shape} {kind}, {plain.min().item():.4g} to {plain.max().item():.4g}'
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        said = [f'{k} {describe_value(v)}' for k, v in fields.items() if [*tensors_in(v)]]
        return f'{type(value).__name__}: {"; ".join(said)}'
    if isinstance(value, Sequence) and not isinstance(value, str) and len(value) > 0:
        return f'{len(value)} of: {describe_value(value[0])}'
    return type(value).__name__


def describe_data(runner: Runner, cfg: Config) -> Data:
    """Describe what a training that has begun is fed."""
    loader = runner.train_dataloader
    per_epoch = len(loader)
    classes = getattr(loader.dataset, 'metainfo', {}).get('classes')
    scaling = cfg.get('auto_scale_lr') or {}
    size = getattr(loader, 'batch_size', None) or cfg.train_dataloader.batch_size
    optimizer = getattr(runner.optim_wrapper, 'optimizer', None)
    lr = getattr(optimizer, 'defaults', {}).get('lr')
    if lr is not None and scaling.get('enable', False):
        # Upstream scales the parameter groups, which have factors of their own.
        lr *= size / scaling['base_batch_size']
    return Data(
        dataset=type(loader.dataset).__name__,
        samples=len(loader.dataset),
        classes=len(classes) if classes else None,
        batch_size=size,
        accumulation=getattr(runner.optim_wrapper, '_accumulative_counts', 1),
        base_batch_size=scaling.get('base_batch_size'),
        scales_lr=bool(scaling.get('enable', False)),
        iterations_per_epoch=per_epoch,
        epochs=runner.max_iters / per_epoch,
        lr=lr,
    )


def describe_optimizer(runner: Runner) -> tuple[str, list[Group]]:
    """Name the optimizer, and its parameter groups by learning rate and weight decay."""
    wrapper = runner.optim_wrapper
    groups: dict[tuple[float, float], list[Tensor]] = {}
    for group in wrapper.param_groups:
        # Schedulers with a warm-up have lowered lr already.
        key = (group.get('initial_lr', group['lr']), group.get('weight_decay', 0.0))
        groups.setdefault(key, []).extend(group['params'])
    name = type(wrapper.optimizer).__name__
    return f'{name} in {type(wrapper).__name__}', [
        Group(len(params), sum(p.numel() for p in params), *key) for key, params in groups.items()
    ]
