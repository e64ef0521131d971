"""Writing ONNX and running it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kd_plugins import compat

#: What stands for a size that is free, by input or output and dimension.
Axes = Mapping[str, Mapping[int, str]]


def write_onnx(
    network: nn.Module,
    inputs: Mapping[str, Tensor],
    outputs: Sequence[str],
    axes: Axes,
    opset: int,
    metadata: Mapping[str, str],
) -> bytes:
    """Return a network as ONNX.

    Args:
        network: In evaluation mode.
        inputs: What it is traced with, in the order of its arguments.
        outputs: Names of its outputs.
        axes: Which sizes are free.
        opset: ONNX operator set.
        metadata: What the file says besides.

    Raises:
        ImportError: If onnx is not installed.
    """
    import onnx

    with TemporaryDirectory() as folder, warnings.catch_warnings():
        # Of every shape that upstream's code computes with; what it does to the result
        # is measured.
        warnings.simplefilter('ignore')
        path = str(Path(folder, 'network.onnx'))
        torch.onnx.export(
            network,
            tuple(inputs.values()),
            path,
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_axes={name: dict(free) for name, free in axes.items()},
            opset_version=opset,
            **compat.onnx_exporter(),
        )
        written = onnx.load(path)
    onnx.checker.check_model(written)
    for key, value in metadata.items():
        written.metadata_props.add(key=key, value=value)
    content: bytes = written.SerializeToString()
    return content


def first_sentence(error: Exception) -> str:
    """Return what an error of torch's exporter or of onnxruntime says first."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].split('. ')[0][:300]


class OnnxNetwork:
    """A network that onnxruntime computes on the processor.

    Args:
        content: The file, or its path.

    Raises:
        ImportError: If onnxruntime is not installed.
    """

    def __init__(self, content: bytes | str) -> None:
        import onnxruntime

        self._session = onnxruntime.InferenceSession(content, providers=['CPUExecutionProvider'])
        #: What it takes; a detector that does not cut boxes at the border has no ``sizes``.
        self.inputs = [each.name for each in self._session.get_inputs()]
        #: What it gives.
        self.outputs = [each.name for each in self._session.get_outputs()]

    def __call__(self, **inputs: Tensor) -> list[Tensor]:
        """Return its outputs, in the order of :attr:`outputs`."""
        return [torch.from_numpy(each) for each in self._session.run(None, self.feed(**inputs))]

    def feed(self, **inputs: Tensor) -> dict[str, np.ndarray[Any, Any]]:
        """Return those of the inputs that it takes, as arrays."""
        return {name: value.numpy() for name, value in inputs.items() if name in self.inputs}
