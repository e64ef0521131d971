"""int8 files by onnxruntime's static quantisation."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import Tensor

from kd_plugins.files.writing import write_aside
from kd_plugins.shipping.onnx_file import OnnxNetwork

#: The operators that have weights: nothing that decoding and suppression are made of.
WITH_WEIGHTS = ['Conv', 'Gemm', 'MatMul']


def quantise(path: Path, out: Path, pictures: Iterator[Mapping[str, Tensor]]) -> None:
    """Write an ONNX file with int8 weights and activations of its layers.

    Weights have a scale a channel, activations one that holds what they reach on the
    pictures; the file has the form QDQ. What has no weights stays in float32.

    Args:
        path: The file.
        out: Where to.
        pictures: Inputs to calibrate with.

    Raises:
        ImportError: If onnxruntime or onnx is not installed.
    """
    import onnx
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    network = OnnxNetwork(str(path))

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def get_next(self) -> Any:
            inputs = next(pictures, None)
            return None if inputs is None else network.feed(**inputs)

    before = logging.root.manager.disable
    logging.disable(logging.WARNING)  # which recommend what is done here
    try:
        with TemporaryDirectory() as folder:
            prepared, made = Path(folder, 'prepared.onnx'), Path(folder, 'int8.onnx')
            # Symbolic shapes are not found through what decoding is made of.
            quant_pre_process(str(path), str(prepared), skip_symbolic_shape=True)
            network_of_layers = onnx.load(prepared)
            without = _without_weights(network_of_layers.graph)
            onnx.save(network_of_layers, prepared)
            quantization.quantize_static(
                str(prepared),
                str(made),
                Reader(),
                per_channel=True,
                op_types_to_quantize=WITH_WEIGHTS,
                nodes_to_exclude=without,
            )
            write_aside(made.read_bytes(), out)
    finally:
        logging.disable(before)


def _without_weights(graph: Any) -> list[str]:
    """Return the names of products of activations, as attention has them; names all nodes."""
    weights = {each.name for each in graph.initializer}
    found = []
    for i, node in enumerate(graph.node):
        node.name = node.name or f'node {i}'
        if node.op_type in WITH_WEIGHTS and not weights & {*node.input[:2]}:
            found.append(node.name)
    return found
