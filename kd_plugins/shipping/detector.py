"""Detectors as ONNX, compared with torch on real pictures."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from kd_plugins.files.writing import write_aside
from kd_plugins.shipping.agreement import RELATIVE, Agreement, relative_difference
from kd_plugins.shipping.dense import DenseDetector, DenseOutputs
from kd_plugins.shipping.onnx_file import Axes, OnnxNetwork, first_sentence, write_onnx
from kd_plugins.shipping.pictures import Pictures, inputs_of
from kd_plugins.shipping.two_stage import TwoStageDetector, TwoStageOutputs

#: How many pictures of the validation set are compared.
COMPARED = 8
#: Why nothing is written then.
NOTHING = 'torch finds nothing in the validation pictures, so there is nothing to compare'
#: What the names of mmcv's operators end with that need nothing of ONNX.
IN_ONNX = ('RoIAlign', 'Loss')


@dataclass
class Written:
    """A detector's file, and how far it is from torch.

    Args:
        free: Whether the number of pictures is free, else it is 1.
        pictures: How many pictures were compared.
        what: What was compared: ``'detections'``, ``'proposals'`` or ``'maps'``.
        found: How many of them torch and onnxruntime found, together; 0 for maps.
        far: How far both are from each other, in words.
    """

    free: bool
    pictures: int
    what: str
    found: int
    far: str


def export_detector(
    detector: nn.Module,
    path: Path,
    pictures: Pictures,
    metadata: dict[str, str],
    raw: bool = False,
    opset: int = 17,
) -> Written:
    """Write a detector as ONNX, and compare what it computes with torch.

    Inputs: ``images``, a normalised batch (N, channels, H, W), padded on the right
    and below; ``sizes``, the heights and widths of its pictures without padding
    (N, 2), where the detector cuts boxes off at the border. Outputs: ``boxes``
    (N, D, 4), corners in pixels of ``images``; ``scores`` (N, D); ``labels`` (N, D),
    -1 where a picture has fewer than D; as the detector's ``predict`` returns them
    without rescaling. N is free where the network allows it, else 1; H and W are
    free unless the pictures are padded to one size.

    Args:
        detector: An mmdet detector, with its weights.
        path: Where to.
        pictures: Those of a validation set. Some are compared one at a time, in
            twos, and, where the size is free, in another size.
        metadata: What the file says besides.
        raw: Write the outputs of the heads, without decoding and suppression.
        opset: ONNX operator set.

    Raises:
        ImportError: If onnx or onnxruntime is not installed.
        ValueError: If a head cannot be written, torch finds nothing in the pictures,
            or both differ. Nothing is written then.
    """
    network = as_function(detector.cpu().eval(), raw)
    cases = list(_cases(pictures))
    for free in (True, False):
        images, samples = cases[-1] if free else cases[0]
        inputs = inputs_of(images, samples)
        _try(network, inputs, path)  # which tells the names of maps
        axes = _axes(network, free, pictures.size is None)
        try:
            content = write_onnx(network, inputs, network.names, axes, opset, metadata)
            compared = [case for case in cases if free or len(case[1]) == 1]
            found, far, wrong = _compare(network, OnnxNetwork(content), compared)
        except ImportError:
            raise
        except Exception as error:  # many kinds, of torch's exporter and of onnxruntime
            wrong = f'it cannot be exported or run ({first_sentence(error)})'
        if not wrong:
            write_aside(content, path)
            return Written(free, min(COMPARED, len(pictures)), network.gives, found, far)
    hint = ''
    if pictures.size is None and wrong != NOTHING:
        hint = '; a size that is not free may help: --onnx HEIGHT WIDTH'
    raise ValueError(f'{str(path)!r} was not written: {wrong}{hint}.')


def as_function(detector: nn.Module, raw: bool) -> Any:
    """Return a detector as a function of tensors.

    Raises:
        ValueError: If it cannot be one.
    """
    for module in detector.modules():
        kind = type(module)
        # mmcv's compiled ones; RoIAlign is replaced by torchvision's, losses are not computed.
        if kind.__module__.startswith('mmcv.ops') and not kind.__name__.endswith(IN_ONNX):
            raise ValueError(
                f'{type(detector).__name__} is not written as ONNX: there is no operator for its '
                f'{kind.__name__}.'
            )
        if 'deform_conv2d' in vars(sys.modules[kind.__module__]):  # a function: TOOD's
            raise ValueError(
                f'{kind.__name__} is not written as ONNX: there is no operator for its '
                'deform_conv2d.'
            )
    if hasattr(detector, 'roi_head'):
        return (TwoStageOutputs if raw else TwoStageDetector)(detector).eval()
    return (DenseOutputs if raw else DenseDetector)(detector).eval()


def _cases(pictures: Pictures) -> Iterator[tuple[Tensor, list[Any]]]:
    """Yield batches: pictures alone, one of them in another size, and in twos."""
    indices = pictures.some(COMPARED)
    for i in indices:
        yield pictures.batch([i])
    if pictures.size is None:
        images, samples = pictures.batch(indices[-1:])
        # Half as large, in steps that most strides divide.
        goal = tuple(max(32, side // 64 * 32) for side in images.shape[-2:])
        for sample in samples:
            sample.set_metainfo(dict(img_shape=goal, batch_input_shape=goal, pad_shape=goal))
        yield functional.interpolate(images, goal, mode='bilinear'), samples
    if len(indices) == 1:
        images, samples = pictures.batch(indices * 2)
        yield torch.cat([images[:1], images[1:].flip(-1)]), samples
    for i in range(0, len(indices) - 1, 2):
        yield pictures.batch(indices[i : i + 2])


def _try(network: Any, inputs: dict[str, Tensor], path: Path) -> None:
    """Run the detector in torch.

    Raises:
        ValueError: If it cannot: some have a smallest size.
    """
    try:
        with torch.no_grad():
            network(*inputs.values())
    except (RuntimeError, IndexError) as error:
        sides = ' x '.join(map(str, inputs['images'].shape[-2:]))
        raise ValueError(
            f'{str(path)!r} was not written: torch itself cannot run this detector on validation '
            f'pictures of {sides} ({first_sentence(error)}): make them larger, in the pipeline of '
            'val_dataloader or by --onnx HEIGHT WIDTH.'
        ) from None


def _axes(network: Any, batch: bool, size: bool) -> Axes:
    first = {0: 'N'} if batch else {}
    sides = {2: 'H', 3: 'W'} if size else {}
    axes: dict[str, dict[int, str]] = dict(images=first | sides, sizes=first)
    for name in network.names:
        own = {i: f'{name}.{side}' for i, side in sides.items()}
        axes[name] = first | (own if network.gives == 'maps' else {1: 'D'})
    return axes


def _compare(
    network: Any, computed: OnnxNetwork, cases: list[tuple[Tensor, list[Any]]]
) -> tuple[int, str, str]:
    """Return how many rows were found, how far they are from each other, and what is wrong."""
    worst, rows = 0.0, Agreement()
    for images, samples in cases:
        inputs = inputs_of(images, samples)
        found = computed(**inputs)
        with torch.no_grad():
            if network.gives == 'detections':
                results = network.detector.predict(images, copy.deepcopy(samples), rescale=False)
                rows.add_detections([each.pred_instances for each in results], *found)
            elif network.gives == 'proposals':
                rows.add_proposals(network(*inputs.values()), found)
            else:
                worst = max(worst, relative_difference(network(*inputs.values()), found))
    if network.gives == 'maps':
        far = f'{worst:.1g} of the largest value of an output'
        return 0, far, '' if worst < RELATIVE else f'onnxruntime and torch differ by {far}'
    rest = 'of a score' if network.gives == 'detections' else 'of the largest output'
    far = f'{rows.pixels:.1g} pixels and {rows.rest:.1g} {rest}'
    if not rows.rows:
        return 0, far, NOTHING
    wrong = f'{rows.lost} of {rows.rows} {network.gives} differ between onnxruntime and torch'
    return rows.rows, far, '' if rows.agrees else wrong
