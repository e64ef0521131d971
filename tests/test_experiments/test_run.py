import json
from pathlib import Path

import pytest
import torch
from helpers import ROOT

from kd_plugins.experiments import repeat
from kd_plugins.experiments import run as running
from kd_plugins.experiments.identity import config_hash
from kd_plugins.experiments.repeat import run_all
from kd_plugins.experiments.results import Run, finished, load_config, steps_done
from kd_plugins.experiments.run import run_once


@pytest.fixture
def run(tmp_path):
    """A short training of the digits student."""
    config = tmp_path / 'short.py'
    config.write_text(
        f"_base_ = ['{ROOT}/configs/vanilla/digits_student.py']\n"
        "log_level = 'WARNING'\n"
        'default_hooks = dict(checkpoint=dict(interval=1))\n'
        'train_cfg = dict(max_epochs=2, val_interval=1)\n'
        'train_dataloader = dict(dataset=dict(indices=64))\n'
        'val_dataloader = dict(dataset=dict(indices=40))\n'
    )
    return Run('short', str(config), 3, str(tmp_path / 'work'))


def final_weights(run):
    path = Path(run.work_dir) / 'epoch_2.pth'
    return torch.load(path, map_location='cpu', weights_only=False)['state_dict']


def test_keeps_what_a_run_gave(run):
    assert finished(run) is None and steps_done(run) == 0
    result = run_once(run)
    assert steps_done(run) == 2
    assert result.steps == [1, 2]
    assert len(result.accuracy) == 2 and result.last == result.accuracy[1]
    assert result.best == max(result.accuracy)
    assert result.parameters == 10978
    # Predictions are the ones that the last validation counted.
    from kd_plugins.registry import DATASETS

    test = DATASETS.build(dict(type='kd_plugins.Digits', split='test', indices=40))
    right = [p == test[i]['gt_label'] for i, p in enumerate(result.predictions)]
    assert 100 * sum(right) / 40 == pytest.approx(result.last, abs=1e-3)
    assert finished(run) == result


def test_a_finished_run_is_not_run_again_until_its_config_changes(run, monkeypatch):
    result = run_once(run)
    monkeypatch.setattr(repeat, '_run_side_by_side', lambda *_: pytest.fail('ran again'))
    seen = []
    assert run_all([run], 1, Path(run.work_dir) / 'log', lambda r, x: seen.append(x)) == {
        run: result
    }
    assert seen == [result]
    Path(run.config).write_text(Path(run.config).read_text() + 'param_scheduler = None\n')
    assert finished(run) is None
    monkeypatch.undo()

    def interrupt(cfg):
        raise KeyboardInterrupt

    # Even a start that is cut off at once leaves nothing of the old config to go on with.
    with monkeypatch.context() as patch:
        patch.setattr(running.Runner, 'from_cfg', interrupt)
        with pytest.raises(KeyboardInterrupt):
            run_once(run)
    names = {path.name for path in Path(run.work_dir).iterdir()}
    assert not names & {'metrics.json', 'last_checkpoint'}


@pytest.mark.parametrize('validated', [True, False], ids=['after', 'before the validation'])
def test_an_interrupted_run_goes_on_to_the_same_end(run, tmp_path, monkeypatch, validated):
    whole = Run(run.name, run.config, run.seed, str(tmp_path / 'whole'))
    undisturbed = run_once(whole)

    def interrupt(curve):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(running.Validations, 'headline', interrupt)
        with pytest.raises(KeyboardInterrupt):
            run_once(run)
    # As if it had been stopped after the first epoch: the second one's files are gone.
    folder = Path(run.work_dir)
    (folder / 'epoch_2.pth').unlink()
    (folder / 'last_checkpoint').write_text(str(folder / 'epoch_1.pth'))
    curve = json.loads((folder / 'metrics.json').read_text())
    kept = {'1': curve['1']} if validated else {}
    (folder / 'metrics.json').write_text(json.dumps(kept))
    assert finished(run) is None and steps_done(run) == 1
    result = run_once(run)
    assert result.steps == [1, 2]
    assert result.accuracy == undisturbed.accuracy
    assert result.predictions == undisturbed.predictions
    a, b = final_weights(run), final_weights(whole)
    assert all(torch.equal(a[key], b[key]) for key in a)
    # The time is that of both parts: 2 epochs of 2 iterations, and their validations.
    hub = torch.load(folder / 'epoch_2.pth', weights_only=False)['message_hub']
    times = hub['log_scalars']['train/time'].data[0]
    assert len(times) == 4 and result.seconds > sum(times)


def test_another_teacher_makes_results_stale(tmp_path):
    teacher = tmp_path / 'teacher.pth'
    teacher.write_bytes(b'one')
    config = tmp_path / 'taught.py'
    config.write_text(f"model = dict(type='X', teacher_ckpt='{teacher}')\n")
    run = Run('taught', str(config), 0, str(tmp_path))
    before = config_hash(load_config(run))
    result = dict(
        config_hash=before, steps=[1], accuracy=[1.0], predictions=[], parameters=1, seconds=1.0
    )
    (tmp_path / 'result.json').write_text(json.dumps(result))
    assert finished(run) is not None
    (tmp_path / 'result.json').write_text(json.dumps(dict(config_hash=before)))
    assert finished(run) is None
    (tmp_path / 'result.json').write_text(json.dumps(result))
    teacher.write_bytes(b'two')
    assert finished(run) is None
