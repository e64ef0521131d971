"""The metrics of a config's validation, of what onnxruntime computes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, cast

from mmengine.config import Config
from mmengine.runner import Runner
from mmengine.structures import InstanceData
from torch import Tensor, nn

from kd_plugins.inspect.quiet import silence
from kd_plugins.shipping.onnx_file import OnnxNetwork
from kd_plugins.shipping.pictures import Pictures, inputs_of


def measure(
    cfg: Config,
    network: nn.Module,
    file: OnnxNetwork,
    size: tuple[int, int] | None = None,
    tell: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, float]:
    """Return what a config's evaluator says of an ONNX file on its validation set.

    Args:
        cfg: The config.
        network: The network that the file was made of: its preprocessor prepares
            pictures, and its head makes predictions of a classifier's logits.
        file: The file; of a detector, with decoding.
        size: Height and width to pad pictures to, None for none.
        tell: Called after every batch with the pictures done and all.
    """
    with silence():
        loader = Runner.build_dataloader(dict(copy.deepcopy(cfg.val_dataloader)), seed=0)
        # One metric, several, or an evaluator of them; nothing of a Runner is used.
        evaluator = Runner.build_evaluator(cast(Any, None), copy.deepcopy(cfg.val_evaluator))
        evaluator.dataset_meta = loader.dataset.metainfo
        pictures = Pictures(loader.dataset, network, size)
        done, total = 0, len(loader.dataset)
        for data in loader:
            images, samples = pictures.prepare(data)
            # One at a time: files of networks whose number of pictures is not free.
            for i, sample in enumerate(samples):
                _predict(network, sample, file(**inputs_of(images[i : i + 1], [sample])))
            evaluator.process(samples, data)
            done += len(samples)
            tell(done, total)
        metrics: dict[str, float] = evaluator.evaluate(total)
    return metrics


def _predict(network: Any, sample: Any, outputs: list[Tensor]) -> None:
    """Add predictions to a sample, as the network's ``predict`` does."""
    if len(outputs) == 1:
        # Those of other packages within mmpretrain's have no head of their own.
        getattr(network, 'head', network)._get_predictions(outputs[0], [sample])
        return
    boxes, scores, labels = (each[0] for each in outputs)
    found = labels >= 0
    # Into the pixels of the picture as it was read.
    scale = boxes.new_tensor(sample.metainfo['scale_factor']).repeat(2)
    sample.pred_instances = InstanceData(
        bboxes=boxes[found] / scale, scores=scores[found], labels=labels[found]
    )
