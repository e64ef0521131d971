"""Stock detectors, a config of each of mmdet's folders, with kd_plugins' operators and mmcv's.

    make test-ops PYTEST_ARGS='-m long'

Backbones have a block a stage, pictures 96 pixels a side, and all weights are random;
the operators are called with what the configs give them. Losses, gradients and
detections are compared. Where mmcv has no operator for a CPU, a CPU cannot compare.
"""

import pytest
import torch
from helpers import whole_detectors
from helpers.operators import compiled, ours
from helpers.stock_detectors import DETECTORS, ONLY_BUILT

pytestmark = pytest.mark.long

#: Detectors that find nothing here, with either operators: mmcv has no MaskedConv2d for CPUs,
#: random weights give QueryInst boxes that masks cannot be pasted into, and mmdet's SSDHead has
#: no ``loss_cls``, which its own search asks for.
TRAINED_ONLY = ('guided_anchoring', 'queryinst', 'ssd')
#: How far both may be apart: losses and gradients relatively, boxes in pixels.
LOSS, GRADIENT, SCORE, BOX = 1e-5, 1e-4, 1e-5, 1e-2


@pytest.mark.parametrize('folder', [f for f in DETECTORS if f not in ONLY_BUILT])
def test_losses_gradients_and_detections_are_mmcvs(folder):
    name, size, more = DETECTORS[folder]
    detector = whole_detectors.built(f'{folder}/{name}.py')
    data = whole_detectors.batch(size, **more)
    detects = folder not in TRAINED_ONLY
    with ours():
        losses, grads, results = whole_detectors.step(detector, data, detects=detects)
    with compiled():
        expected_losses, expected_grads, expected_results = whole_detectors.step(
            detector, data, detects=detects
        )
    assert losses == pytest.approx(expected_losses, rel=LOSS)
    assert grads.keys() == expected_grads.keys()
    difference = torch.stack([(grads[n] - g).norm() for n, g in expected_grads.items()]).norm()
    of_all = torch.stack([g.norm() for g in expected_grads.values()]).norm()
    assert of_all > 0 and difference <= GRADIENT * of_all
    for result, expected in zip(results, expected_results, strict=True):
        if 'pred_panoptic_seg' in expected:
            wrong = result.pred_panoptic_seg.sem_seg != expected.pred_panoptic_seg.sem_seg
            assert wrong.sum() <= 1e-3 * wrong.numel()
        else:
            assert_found_alike(result.pred_instances, expected.pred_instances)


def assert_found_alike(found, expected):
    assert len(found) == len(expected)
    bounds = dict(scores=SCORE, bboxes=BOX)
    for key, value in expected.to_dict().items():
        if key == 'masks':
            assert (found.masks != value).sum() <= 1e-3 * value.numel()
        else:
            torch.testing.assert_close(found[key], value, rtol=0, atol=bounds.get(key, 0))
