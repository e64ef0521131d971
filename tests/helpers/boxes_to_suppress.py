"""Boxes and scores that non-maximum suppression has to tell apart."""

import torch

from helpers.operators import generator


def scattered(count=60, seed=0):
    """Boxes that overlap here and there, no two with one score."""
    low = torch.rand(count, 2, generator=generator(seed)) * 40
    boxes = torch.cat((low, low + torch.rand(count, 2, generator=generator(seed + 1)) * 30 + 1), 1)
    return boxes, torch.randperm(count, generator=generator(seed + 2)).float() / count + 0.001


def _boxes(*rows):
    return torch.tensor(rows, dtype=torch.float32)


#: Name to boxes and scores.
SETS = {
    'scattered': scattered(),
    'none': (torch.zeros(0, 4), torch.zeros(0)),
    'one': (_boxes((1, 2, 3, 4)), torch.tensor([0.3])),
    # Equal boxes; IoUs of exactly 0.5, 0.25 and, in float32, 0.6; boxes that touch.
    'edges': (
        _boxes(
            *((0, 0, 10, 10), (0, 0, 10, 10), (0, 0, 10, 5), (0, 0, 5, 5), (0, 0, 10, 6)),
            *((10, 0, 20, 10), (0, 10, 10, 20)),
        ),
        torch.tensor([0.9, 0.8, 0.7, 0.6, 0.55, 0.5, 0.4]),
    ),
    # Points, lines, corners in the wrong order, far away.
    'extreme': (
        _boxes(
            *(
                (5, 5, 5, 5),
                (5, 5, 5, 5),
                (0, 5, 10, 5),
                (10, 10, 0, 0),
                (0, 0, 9, 9),
                (0, 0, 8, 9),
            ),
            *((1e6, 1e6, 1e6 + 9, 1e6 + 9), (1e6, 1e6, 1e6 + 8, 1e6 + 9), (-1e4, -1e4, 1e4, 1e4)),
        ),
        torch.tensor([0.9, 0.8, 0.7, 0.65, 0.6, 0.5, 0.45, 0.4, 0.35]),
    ),
}


def ties(count=40):
    """Boxes of few different scores."""
    boxes, scores = scattered(count, seed=5)
    return boxes, (scores * 4).ceil() / 4


def overflowing():
    """Boxes whose areas are no float32 numbers, or that are none themselves."""
    huge, none, endless = 3e38, float('nan'), float('inf')
    rows = [(-huge, 0, huge, 1), (0, 0, endless, 9), (0, 0, none, 9), (none, none, none, none)]
    boxes, scores = SETS['extreme']
    return torch.cat((boxes, _boxes(*rows))), torch.cat(
        (scores, torch.tensor([0.95, 0.55, 0.3, 1.0]))
    )
