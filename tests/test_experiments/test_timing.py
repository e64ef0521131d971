import pytest
import torch

from kd_plugins.experiments import timing


def test_the_warm_up_does_not_count():
    assert timing.median([9.0, 8.0, 1.0, 3.0, 2.0], warm_up=2) == 2.0
    assert timing.median([4.0, 1.0]) == 2.5
    assert timing.median([9.0, 5.0], warm_up=7) == 5.0
    with pytest.raises(ValueError, match='at least one'):
        timing.median([])


@pytest.mark.parametrize(
    'seconds, said',
    [
        (0.042, '0.042 s'), (5, '5.0 s'), (36.3, '36 s'), (119.4, '119 s'),
        (300, '5 min'), (3600, '60 min'), (7200, '2.0 h'), (11000, '3.1 h'), (216000, '2.5 d'),
    ],
)  # fmt: skip
def test_durations_are_said_in_their_unit(seconds, said):
    assert timing.duration(seconds) == said


def test_the_clock_waits_for_the_device(monkeypatch):
    waited = []
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'synchronize', lambda: waited.append(True))
    first, second = timing.now(), timing.now()
    assert waited == [True, True] and second >= first
