"""Taking the student out of a training's checkpoint, as a checkpoint or as ONNX."""

from __future__ import annotations

import copy
import hashlib
import io
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from torch import Tensor, nn

from kd_plugins import compat
from kd_plugins.files.weights import load_weights
from kd_plugins.files.writing import write_aside
from kd_plugins.networks import build_network, build_student_network, normalisation, resolve_network

#: What the stock tools read of a checkpoint's meta, and what says where it comes from.
META = ('dataset_meta', 'epoch', 'iter', 'seed', 'time', 'mmengine_version')


def build_student(cfg: Config) -> nn.Module:
    """Build the student of a distillation's config, or the model of its own config.

    Its preprocessor is the one that the training uses.

    Raises:
        ValueError: If the config has no model.
    """
    if 'model' not in cfg:
        raise ValueError(f'{cfg.filename!r} has no model: give the config of the training.')
    init_default_scope(cfg.get('default_scope') or 'mmengine')
    # The Runner hands the top level's to the model, and the algorithm its own to the student.
    model = copy.deepcopy(cfg.model)
    if cfg.get('data_preprocessor') is not None:
        model.setdefault('data_preprocessor', cfg.data_preprocessor)
    if 'architecture' in model:
        return build_student_network(model.architecture, model.get('data_preprocessor'))
    return build_network(resolve_network(model, 'model')[0], 'model')


def export_student(cfg: Config, checkpoint: str, raw: bool = False) -> dict[str, Any]:
    """Return a checkpoint of nothing but the student.

    Args:
        cfg: Config of the distillation, or of the student.
        checkpoint: What the training wrote (last, best or averaged), or a
            distillation of mmrazor.
        raw: Of a training with mmengine's ``EMAHook``, take the weights that
            were trained instead of their average, which is what it evaluates.

    Returns:
        ``state_dict``, whose keys are those of the stock model, every one of
        them, and ``meta`` with what of :data:`META` the checkpoint has.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a weight is missing, left over or of another shape, or
            there is no average to choose against.
    """
    student = build_student(cfg)
    source = load_weights(student, checkpoint, 'checkpoint', 'student')
    if raw:
        # The EMAHook writes the average as the model, and the model here.
        kept = source.get('ema_state_dict')
        if kept is None:
            raise ValueError(
                f'checkpoint={checkpoint!r} has no ema_state_dict, so its weights are the raw ones '
                'already: leave --raw out.'
            )
        student.load_state_dict({key: kept[f'module.{key}'] for key in student.state_dict()})
    meta = source.get('meta') or {} if isinstance(source, dict) else {}
    weights: dict[str, Tensor] = {k: v.cpu().clone() for k, v in student.state_dict().items()}
    return dict(state_dict=weights, meta={key: meta[key] for key in META if key in meta})


def save(checkpoint: dict[str, Any], path: Path, publish: bool = False) -> Path:
    """Write a checkpoint; an interruption leaves the old file or the new one.

    Args:
        checkpoint: What to write.
        path: Where to.
        publish: Append the first 8 digits of the file's SHA-256 to its name,
            as upstream's publish tools do; loaders of addresses check it.

    Returns:
        Where it was written.
    """
    buffer = io.BytesIO()
    torch.save(checkpoint, buffer)
    content = buffer.getvalue()
    if publish:
        digest = hashlib.sha256(content).hexdigest()[:8]
        path = path.with_name(f'{path.stem}-{digest}{path.suffix}')
    write_aside(content, path)
    return path


def export_onnx(
    student: nn.Module, path: Path, size: tuple[int, int], opset: int = 17
) -> tuple[float, bool]:
    """Write a classifier as ONNX, and compare what it computes with torch.

    Input ``images``: a normalised batch, (N, channels, H, W); the preprocessor's
    mean and deviation are in the file's metadata. Output ``logits``: (N, C).
    Batch norms, dropout and drop-path are as in evaluation. N is free where the
    network allows it, else 1: tracing turns a batch size that windowed
    attention computes with into a constant.

    Args:
        student: An mmpretrain classifier, with its weights.
        path: Where to.
        size: Height and width of the pictures.
        opset: ONNX operator set.

    Returns:
        The largest difference between both, relative to the largest logit, and
        whether N is free.

    Raises:
        ImportError: If onnx or onnxruntime is not installed.
        ValueError: If the network is no classifier, or both differ by over 1e-4.
    """
    mean, std = normalisation(student.data_preprocessor)
    network = _Logits(student.cpu().eval())
    # Two pictures, apart: an export that mixes up the batch does not agree.
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, _channels(student, mean), *size, generator=generator)
    with torch.no_grad():
        logits = network(images)
    if not isinstance(logits, Tensor) or logits.dim() != 2:
        raise ValueError(
            f'{type(student).__name__} returns no logits of shape (N, C): only classifiers are '
            'written as ONNX; MMDeploy does detectors.'
        )
    for free in (True, False):
        batch = images if free else images[:1]
        axes = dict(images={0: 'N'}, logits={0: 'N'}) if free else None
        with TemporaryDirectory() as folder:
            written = Path(folder, path.name)
            _write_onnx(network, batch, written, axes, opset, dict(mean=mean, std=std))
            error = _difference(written, images, logits, [2, 1] if free else [1])
            if error < 1e-4:
                write_aside(written.read_bytes(), path)
                return error, free
    raise ValueError(
        f'what was written as {str(path)!r} differs from torch by {error:.1g} of the largest '
        'logit: this network cannot be exported by this torch release.'
    )


def _write_onnx(
    network: nn.Module,
    images: Tensor,
    path: Path,
    axes: dict[str, dict[int, str]] | None,
    opset: int,
    constants: dict[str, Tensor],
) -> None:
    import onnx

    with warnings.catch_warnings():
        # Of every shape that upstream's code computes with; what it does to the result
        # is measured.
        warnings.simplefilter('ignore')
        torch.onnx.export(
            network,
            (images,),
            str(path),
            input_names=['images'],
            output_names=['logits'],
            dynamic_axes=axes,
            opset_version=opset,
            **compat.onnx_exporter(),
        )
    written = onnx.load(str(path))
    onnx.checker.check_model(written)
    for key, values in constants.items():
        text = ' '.join(f'{value:g}' for value in values.flatten().tolist())
        written.metadata_props.add(key=key, value=text)
    onnx.save(written, str(path))


def _difference(path: Path, images: Tensor, logits: Tensor, batches: list[int]) -> float:
    """Return the largest difference for batches of these sizes, relative to the largest logit."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=['CPUExecutionProvider'])
    largest = torch.zeros(())
    for size in batches:
        # The last pictures: the first ones are what was traced with.
        try:
            (computed,) = session.run(['logits'], dict(images=images[-size:].numpy()))
        except Exception:  # onnxruntime's own, where a constant does not fit the batch
            return float('inf')
        difference = (torch.from_numpy(computed) - logits[-size:]).abs().max()
        largest = torch.maximum(largest, difference)
    return float(largest / logits.abs().max().clamp(min=1e-6))


class _Logits(nn.Module):
    """A classifier as a function of pictures."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Any:
        return self.network(images, mode='tensor')


def _channels(student: nn.Module, mean: Tensor) -> int:
    for module in student.modules():
        if isinstance(module, nn.Conv2d):
            return module.in_channels
    return mean.numel()
