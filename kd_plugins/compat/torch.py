"""Settings of later torch releases that are put back where they are needed."""

from __future__ import annotations

import inspect
from typing import Any


def allow_two_backward_passes() -> None:
    """Let compiled code be gone backward through twice, as DOT does.

    Since torch 2.6 what ``torch.compile`` makes reuses memory of the forward pass
    in the first backward pass, and refuses the second one.
    """
    from torch._functorch import config

    if hasattr(config, 'donated_buffer'):
        config.donated_buffer = False


def onnx_exporter() -> dict[str, Any]:
    """Return what makes ``torch.onnx.export`` use the exporter that both stacks have.

    torch 2.9 made another one the default, which needs onnxscript.
    """
    import torch

    parameters = inspect.signature(torch.onnx.export).parameters
    return dict(dynamo=False) if 'dynamo' in parameters else {}
