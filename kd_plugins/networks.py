"""Building the student and the teacher from what a config says."""

from __future__ import annotations

import inspect
import os
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine.config import Config, ConfigDict
from mmengine.hub import get_config
from mmengine.model import BaseModel
from mmengine.model.weight_init import PretrainedInit
from mmengine.registry import MODELS, DefaultScope
from torch import Tensor, nn

from kd_plugins.files.paths import relative_to
from kd_plugins.registry import name_of

#: Packages that have another name by now.
_FORMER = dict(mmcls='mmpretrain')

NetworkCfg = Mapping[str, Any] | BaseModel


def resolve_network(cfg: Mapping[str, Any], key: str) -> tuple[ConfigDict, str | None]:
    """Turn the config of a network into one that a registry can build.

    Args:
        cfg: Either a model config with a ``type``, or ``cfg_path`` and what to
            change in it: ``dict(cfg_path='mmpretrain::resnet/resnet18_8xb32_in1k.py',
            head=dict(num_classes=10))``. ``pretrained=True`` asks for the
            weights that the package's model index lists.
        key: The config key, for error messages.

    Returns:
        The model config and, if asked for, where its pretrained weights are.

    Raises:
        ValueError: If there is neither a ``type`` nor a ``cfg_path``, or both, or
            if no model index lists the weights that are asked for.
        FileNotFoundError: If the config file does not exist.
    """
    rest = ConfigDict(**cfg)
    path = rest.pop('cfg_path', None)
    if 'type' in rest and path is not None:
        raise ValueError(
            f'{key} has both type={rest.type!r} and cfg_path={path!r}, so one of two networks '
            'would be dropped: leave one out; where the type is inherited from a base config, '
            f'write {key.split(".")[-1]}=dict(_delete_=True, cfg_path={path!r}).'
        )
    if 'type' in rest:
        return rest, None
    if path is None:
        raise ValueError(
            f"{key}={dict(cfg)!r} names no network: give its type, or cfg_path='PACKAGE::PATH.py' "
            'of an upstream config, or the path of a config file.'
        )
    # A path is the network's own argument: mmpretrain's classifiers have one.
    asked = rest.get('pretrained')
    pretrained = False if isinstance(asked, str) else bool(rest.pop('pretrained', False))
    package = path.split('::')[0] if '::' in path else None
    if package in _FORMER:
        raise ValueError(
            f'{key}.cfg_path={path!r}: {package} is called {_FORMER[package]} now, write '
            f'{path.replace(package, _FORMER[package], 1)!r}.'
        )
    if package:
        with DefaultScope.overwrite_default_scope(package):
            try:
                whole = get_config(path, pretrained)
            except AssertionError:  # mmengine's, of a config that is listed without weights
                whole = get_config(path)
    elif not os.path.isfile(path):
        raise FileNotFoundError(
            f'{key}.cfg_path={path!r} is not a file{relative_to(path)}: give the path of a config '
            "file from there, or 'PACKAGE::PATH.py' of an upstream config."
        )
    else:
        whole = Config.fromfile(path)
    model = whole.model
    if 'data_preprocessor' in whole:
        # mmpretrain keeps it at the top level, where the Runner would find it.
        model.setdefault('data_preprocessor', whole.data_preprocessor)
    model.setdefault('_scope_', whole.get('default_scope', package))
    weights = whole.get('model_path') if pretrained else None
    if pretrained and weights is None:
        raise ValueError(
            f'{key}.pretrained=True: no model index of an upstream package lists weights of '
            f'{path!r}: give their path or address, '
            f"{key}.init_cfg=dict(type='Pretrained', checkpoint=...)."
        )
    return ConfigDict(Config._merge_a_into_b(rest, model)), weights


def initialisations(init_cfg: Any) -> list[dict[str, Any]]:
    """Return what an ``init_cfg`` says, one or several, with one name for pretrained weights.

    mmengine knows these as ``'Pretrained'`` only: by its name with a scope it loads
    them first and initialises over them.
    """
    if not init_cfg:
        return []
    cfgs = [init_cfg] if isinstance(init_cfg, Mapping) else init_cfg
    return [
        dict(cfg, type='Pretrained')
        if cfg['type'] is PretrainedInit or name_of(cfg['type']) == 'Pretrained'
        else dict(cfg)
        for cfg in cfgs
    ]


def build_network(cfg: Mapping[str, Any], key: str) -> BaseModel:
    """Build a network and check that the Runner could train or test it.

    Raises:
        TypeError: If the type is not an mmengine ``BaseModel``.
    """
    own = ConfigDict(**cfg)
    scope = str(own.get('type')).partition('.')[0]
    if scope in ('mmdet', 'mmpretrain'):
        # What it builds by itself, such as its preprocessor, is of its own package.
        own.setdefault('_scope_', scope)
    network = MODELS.build(own)
    if not isinstance(network, BaseModel):
        raise TypeError(
            f'{key} builds a {type(network).__name__}, which is not an mmengine BaseModel: give a '
            'whole model such as ImageClassifier, not a part of one.'
        )
    return network


def build_student_network(
    cfg: Mapping[str, Any] | BaseModel, preprocessor: Mapping[str, Any] | nn.Module | None
) -> BaseModel:
    """Build the student with the preprocessor that it trains with.

    Args:
        cfg: ``model.architecture``.
        preprocessor: The algorithm's, which the Runner takes from the top level
            of the config; it counts before the one in ``architecture``.

    Returns:
        The student, whose ``data_preprocessor`` is that one.
    """
    if isinstance(cfg, BaseModel):
        if preprocessor is not None:
            cfg.data_preprocessor = (
                preprocessor if isinstance(preprocessor, nn.Module) else MODELS.build(preprocessor)
            )
        return cfg
    student_cfg, pretrained = resolve_network(cfg, 'model.architecture')
    if preprocessor is not None:
        # Upstream classifiers complete the preprocessor's config themselves: they know its
        # default type, and hand it the mixup of their train_cfg.
        student_cfg['data_preprocessor'] = fit_preprocessor(preprocessor, student_cfg)
    if pretrained:
        student_cfg['init_cfg'] = dict(type='Pretrained', checkpoint=pretrained)
    return build_network(student_cfg, 'model.architecture')


def fit_preprocessor(
    preprocessor: Mapping[str, Any] | nn.Module, network: Mapping[str, Any]
) -> Mapping[str, Any] | nn.Module:
    """Bring the top-level preprocessor into the form that a network takes.

    mmpretrain's classifiers add the mixup of their ``train_cfg`` to the config,
    which another package's preprocessor would not understand: that one is
    built here.

    Raises:
        ValueError: If mixup would be lost that way.
    """
    if isinstance(preprocessor, nn.Module):
        return preprocessor
    cfg = ConfigDict(**preprocessor)
    if 'type' not in cfg:
        return cfg
    with MODELS.switch_scope_and_registry(network.get('_scope_')) as registry:
        kind = registry.get(cfg.type) if isinstance(cfg.type, str) else cfg.type
        if kind is None or 'batch_augments' in inspect.signature(kind).parameters:
            return cfg
        if 'augments' in (network.get('train_cfg') or {}):
            raise ValueError(
                f'data_preprocessor.type={cfg.type!r} cannot apply the augments of '
                "model.architecture.train_cfg: use type='mmpretrain.ClsDataPreprocessor'."
            )
        return registry.build(cfg)


class Classifier(NamedTuple):
    """The layer of a network whose outputs are its logits.

    Args:
        name: The layer's name in the network, ``'head.fc'`` in most of mmpretrain's.
        classes: How many logits it gives.
    """

    name: str
    classes: int


def classifier(network: nn.Module, who: str = 'the network') -> Classifier:
    """Find the linear layer that gives a classifier's logits.

    It is the only ``nn.Linear`` of the head that is as wide as the head's classes.

    Args:
        network: A classifier in mmpretrain's layout, with a ``head``.
        who: What to call it in error messages.

    Raises:
        ValueError: If there is no such layer, or more than one.
    """
    head = getattr(network, 'head', None)
    layers = [
        Classifier(f'head.{name}', module.out_features)
        for name, module in (head.named_modules() if isinstance(head, nn.Module) else ())
        if isinstance(module, nn.Linear) and module.out_features == getattr(head, 'num_classes', 0)
    ]
    if len(layers) != 1:
        raise ValueError(
            f'{who} is a {type(network).__name__} whose head ({type(head).__name__}) has '
            f'{len(layers)} linear layers as wide as its classes, so its logits cannot be found: '
            'start from configs/kd and name the module in the recorders.'
        )
    return layers[0]


def classes_of(network: nn.Module, layer: str | None = None) -> int | None:
    """Return how many classes a network tells apart, None where that cannot be told.

    Heads of classifiers, dense detectors and two-stage detectors say it; of the
    stages of a cascade the last one does. Background is no class.

    Args:
        network: A classifier or a detector.
        layer: The name of one of its modules, to ask about the outputs of that one
            instead; it can be told of an ``nn.Linear`` only.
    """
    if layer is not None:
        module = dict(network.named_modules()).get(layer)
        return module.out_features if isinstance(module, nn.Linear) else None
    roi_head = getattr(network, 'roi_head', None)
    for head in (getattr(network, 'head', None), getattr(roi_head or network, 'bbox_head', None)):
        if isinstance(head, nn.ModuleList) and len(head):
            head = head[-1]
        classes = getattr(head, 'num_classes', None)
        if isinstance(classes, int) and classes > 0:
            return classes
    return None


def score_threshold(network: nn.Module) -> tuple[str, float]:
    """Return where a detector says from which score it keeps boxes, and the score; 0 for none."""
    settings = getattr(network, 'test_cfg', None) or {}
    for path, part in (('test_cfg', settings), ('test_cfg.rcnn', settings.get('rcnn') or {})):
        if part.get('score_thr') is not None:
            return f'{path}.score_thr', float(part['score_thr'])
    return 'test_cfg.score_thr', 0.0


def size_made_for(network: nn.Module) -> tuple[int, int] | None:
    """Return height and width of the pictures that a network's positions are laid out for.

    Transformers say it, in mmpretrain's layout or timm's; None where no size is said.
    """
    backbone = getattr(network, 'backbone', None) or getattr(network, 'model', None)
    for module in (backbone, getattr(backbone, 'patch_embed', None)):
        for key in ('img_size', 'init_input_size'):
            size = getattr(module, key, None)
            if isinstance(size, int):
                return size, size
            if isinstance(size, Sequence) and len(size) == 2:
                return int(size[0]), int(size[1])
    return None


def normalisation(preprocessor: Any) -> tuple[Tensor, Tensor]:
    """Mean and deviation, (channels, 1, 1); 0 and 1 where there is neither."""
    if getattr(preprocessor, '_enable_normalize', False):
        buffers = dict(preprocessor.named_buffers(recurse=False))
        return buffers['mean'].double().cpu(), buffers['std'].double().cpu()
    return torch.zeros(1, 1, 1).double(), torch.ones(1, 1, 1).double()


def swaps_channels(preprocessor: Any) -> bool:
    """Whether a preprocessor turns BGR into RGB."""
    # mmpretrain says to_rgb, mmengine and mmdet keep _channel_conversion.
    return bool(
        getattr(preprocessor, 'to_rgb', False)
        or getattr(preprocessor, '_channel_conversion', False)
    )


def forbid_inplace(network: nn.Module) -> None:
    """Switch off in-place activations, which would overwrite what was recorded."""
    for module in network.modules():
        if getattr(module, 'inplace', False):
            module.inplace = False  # type: ignore[assignment]


def check_whole(network: nn.Module) -> None:
    """Refuse a network whose parameters something has cut into pieces.

    Torch's FSDP marks the parameters that it has flattened, its newer form makes
    them DTensors, and DeepSpeed's ZeRO-3 numbers those it has taken apart.

    Raises:
        RuntimeError: Naming what has done it, and what to use instead.
    """
    for parameter in network.parameters():
        if getattr(parameter, '_fsdp_flattened', False) or type(parameter).__name__ == 'DTensor':
            cutter = "torch's FSDP"
        elif hasattr(parameter, 'ds_id'):
            cutter = 'DeepSpeed'
        else:
            continue
        raise RuntimeError(
            f'the student is sharded by {cutter}, which is not supported for a distillation: '
            'recorders and terms read whole tensors of the student, and its checkpoints have its '
            "own keys; train with strategy=dict(type='DDPStrategy'), gradient checkpointing and "
            'accumulation, or without runner_type.'
        )


@contextmanager
def forked_random_states() -> Iterator[None]:
    """Run a block on random states of its own.

    What is built inside neither changes the numbers drawn afterwards, so that
    the student starts as it would without a teacher, nor repeats them, so that
    a teacher of the same architecture is another network.
    """
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(random.random())
    np.random.seed(np.random.randint(2**32, dtype=np.uint32))
    torch.default_generator.manual_seed(int(torch.randint(2**62, ()).item()))
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


def channels_of(network: nn.Module) -> int:
    """Return the channels of a network's pictures, which its first convolution tells."""
    convs = (m for m in network.modules() if isinstance(m, nn.Conv2d))
    first = next(convs, None)
    return 3 if first is None or first.in_channels not in (1, 3, 4) else first.in_channels


def places_of_queries(network: nn.Module | None) -> tuple[str, ...]:
    """Return the parts of a network whose rows are queries."""
    names = {kind.__name__ for kind in type(network).__mro__}
    if 'DetectionTransformer' in names:
        return ('decoder', 'bbox_head', 'query_embedding', 'dn_query_generator')
    if 'MaskFormer' in names:
        return ('panoptic_head',)
    return ('rpn_head', 'roi_head') if 'SparseRCNN' in names else ()
