"""The check that runs on accelerators, where there is none."""

import math
import sys

import pytest
import torch
from helpers import CONFIGS, ROOT


@pytest.fixture
def tool(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / 'tests/gpu'))
    import every_method

    return every_method


def printed_rows(tool, monkeypatch, capsys, *paths):
    monkeypatch.setattr(sys, 'argv', ['every_method.py', '--steps', '1', *map(str, paths)])
    wrong = tool.main()
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if ' float32 ' in line]
    return wrong, {row[0]: row[2:] for row in rows if row[0] != 'config'}


def test_a_step_repeats_itself(tool, monkeypatch, capsys):
    paths = [
        CONFIGS / name
        for name in (
            'dot/dot_ctkd_kd_digits.py',
            'fullmatch/fullmatch_digits.py',
            'bckd/bckd_scenes.py',
        )
    ]
    wrong, rows = printed_rows(tool, monkeypatch, capsys, *paths)
    assert wrong == 0 and list(rows) == [path.stem for path in paths]
    assert all(
        row[:3] == ['0.0e+00', '0.0e+00', '0'] and float(row[3]) > 0 for row in rows.values()
    )


@pytest.mark.parametrize('what', ['loss', 'weights'])
@pytest.mark.parametrize('size', [0.01, float('nan'), float('inf')])
def test_a_step_that_went_elsewhere_is_wrong(tool, monkeypatch, capsys, size, what):
    step = tool.step

    def disturbed(cfg, batch, classes, device, precision, steps):
        found = step(cfg, batch, classes, device, precision, steps)
        if steps and what == 'loss':  # not the one to compare with
            name = next(iter(found.losses))
            found.losses[name] += size * max(found.losses.values())
        elif steps:
            found.change[5] += size
        return found

    monkeypatch.setattr(tool, 'step', disturbed)
    wrong, rows = printed_rows(tool, monkeypatch, capsys, CONFIGS / 'dkd/dkd_digits.py')
    # An optimizer may make much of a rounding error, so steps are printed, but must be finite.
    right = what == 'weights' and math.isfinite(size)
    assert wrong == (not right) and (rows['dkd_digits'][-1] == 'WRONG') is not right
    assert float(rows['dkd_digits'][what == 'weights']) != 0


def test_a_method_that_stops_is_wrong_and_the_next_is_tried(tool, monkeypatch, capsys):
    step = tool.step
    monkeypatch.setattr(
        tool, 'step', lambda cfg, *args: step(cfg, *args) if cfg.model.teacher else 1 / 0
    )
    paths = [CONFIGS / 'zipf/zipf_digits.py', CONFIGS / 'kd/kd_digits.py']
    wrong, rows = printed_rows(tool, monkeypatch, capsys, *paths)
    assert wrong == 1 and list(rows) == ['kd_digits'] and rows['kd_digits'][-1] != 'WRONG'


def test_a_step_that_is_never_taken_is_wrong(tool, monkeypatch, capsys):
    # What a scaler does whose gradients are infinite at every scale.
    monkeypatch.setattr('mmengine.optim.OptimWrapper.step', lambda self, **kwargs: None)
    monkeypatch.setattr(tool, 'distances', lambda found, expected: (0.0, 1.0))
    wrong, rows = printed_rows(tool, monkeypatch, capsys, CONFIGS / 'kd/kd_digits.py')
    assert wrong == 1 and rows['kd_digits'][-1] == 'WRONG'
    assert int(rows['kd_digits'][2]) == tool.ATTEMPTS - 1


def test_distances_are_shares_of_the_expected(tool):
    def made(first, second, change):
        return tool.Step(dict(a=first, b=second), torch.tensor(change), 0, 0.0, 0.0)

    expected = made(1.0, 4.0, [0.0, 4.0])
    assert tool.distances(made(2.0, 4.0, [3.0, 4.0]), expected) == (1.0, 0.75)
    # Next to a large loss a tiny one may be off by more of itself.
    losses, change = tool.distances(made(0.001, 4.0, [0.0, 4.0]), made(0.002, 4.0, [0.0, 4.0]))
    assert losses == pytest.approx(0.001 / 0.04) and change == 0


def test_mixed_precision_is_written_as_users_write_it(tool, tmp_path):
    kd, dot = (
        tool.config(CONFIGS / path, str(tmp_path))
        for path in ('kd/kd_digits.py', 'dot/dot_kd_digits.py')
    )
    assert tool.wrapper_of(kd, 'float32') == kd.optim_wrapper.to_dict()
    assert tool.wrapper_of(kd, 'float16') == dict(
        type='AmpOptimWrapper', dtype='float16', loss_scale='dynamic',
        optimizer=kd.optim_wrapper.optimizer,
    )  # fmt: skip
    assert tool.wrapper_of(dot, 'bfloat16')['type'] == 'kd_plugins.DOTOptimWrapper'
