"""One training, interrupted and gone on with, and what it leaves."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import ROOT
from helpers.tiny_runs import tiny_run

from kd_plugins.experiments import repeat, results
from kd_plugins.experiments import run as running
from kd_plugins.experiments.logs import read_training
from kd_plugins.experiments.results import Run, finished, other_versions, steps_done
from kd_plugins.experiments.run import RunBusyError, only_one, run_once


def digits(folder, **hooks):
    """A short training of the digits student."""
    config = folder / 'short.py'
    config.write_text(
        f"_base_ = ['{ROOT}/configs/vanilla/digits_student.py']\n"
        "log_level = 'WARNING'\n"
        'default_hooks = dict(checkpoint=dict(interval=1))\n'
        'train_cfg = dict(max_epochs=2, val_interval=1)\n'
        'train_dataloader = dict(dataset=dict(indices=64))\n'
        'val_dataloader = dict(dataset=dict(indices=40))\n'
        + ''.join(f'{key} = {value!r}\n' for key, value in hooks.items())
    )
    return Run('short', str(config), 3, str(folder / 'work'))


def weights(run, file):
    path = Path(run.work_dir) / file
    return torch.load(path, map_location='cpu', weights_only=False)['state_dict']


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def interrupt_at(patch, step, validated=True):
    """Stop a training before or after the validation at a step."""
    noted = running.Validations.after_val_epoch

    def after_val_epoch(self, runner, metrics=None):
        now = self._step(runner)
        if now != step or validated:
            noted(self, runner, metrics)
        if now == step:
            raise KeyboardInterrupt

    patch.setattr(running.Validations, 'after_val_epoch', after_val_epoch)


def test_keeps_what_a_run_gave(tmp_path):
    # An average of the weights is what is validated; without it most answers differ.
    average = dict(type='EMAHook', momentum=0.9)
    run = digits(tmp_path, custom_hooks=[dict(type='kd_plugins.SeedByProgressHook'), average])
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
    assert result.versions['torch'] in torch.__version__ and result.hardware


def test_a_finished_run_is_not_run_again_until_its_config_changes(tmp_path, monkeypatch):
    run = tiny_run(tmp_path)
    result = run_once(run)
    seen = []
    with monkeypatch.context() as patch:
        patch.setattr(repeat, '_run_side_by_side', lambda *_: pytest.fail('ran again'))
        kept = repeat.run_all([run], 1, tmp_path / 'log', lambda r, x: seen.append(x))
    assert kept == {run: result} and seen == [result]
    Path(run.config).write_text(Path(run.config).read_text() + '\nparam_scheduler = None\n')
    assert finished(run) is None

    def interrupt(cfg):
        raise KeyboardInterrupt

    # Even a start that is cut off at once leaves nothing of the old config to go on with.
    with monkeypatch.context() as patch:
        patch.setattr(running.Runner, 'from_cfg', interrupt)
        with pytest.raises(KeyboardInterrupt):
            run_once(run)
    names = {path.name for path in Path(run.work_dir).iterdir()}
    assert not names & {'metrics.json', 'last_checkpoint'}


@pytest.mark.parametrize('step, validated', [(1, False), (2, True)])
def test_an_interrupted_run_goes_on_to_the_same_end(tmp_path, monkeypatch, step, validated):
    (tmp_path / 'whole').mkdir()
    run, whole = digits(tmp_path), digits(tmp_path / 'whole')
    undisturbed = run_once(whole)
    with monkeypatch.context() as patch:
        interrupt_at(patch, step, validated)
        with pytest.raises(KeyboardInterrupt):
            run_once(run)
    assert finished(run) is None and steps_done(run) == step
    result = run_once(run)
    assert result.steps == [1, 2]
    assert result.accuracy == undisturbed.accuracy
    assert result.predictions == undisturbed.predictions
    assert same(weights(run, 'epoch_2.pth'), weights(whole, 'epoch_2.pth'))
    # The time is that of both parts: 2 epochs of 2 iterations, and their validations.
    hub = torch.load(Path(run.work_dir) / 'epoch_2.pth', weights_only=False)['message_hub']
    times = hub['log_scalars']['train/time'].data[0]
    assert len(times) == 4 and result.seconds > sum(times)


@pytest.mark.parametrize('step, validated', [(1, True), (2, False), (2, True), (3, True)])
def test_early_stopping_counts_on_where_a_run_goes_on(tmp_path, monkeypatch, step, validated):
    # Nothing gains 200 points, so it stops with the second validation that does not.
    stop = dict(type='EarlyStoppingHook', monitor='accuracy/top1', min_delta=200, patience=2)
    run = tiny_run(tmp_path, epochs=6, custom_hooks=[stop])
    undisturbed = run_once(tiny_run(tmp_path / 'whole', epochs=6, custom_hooks=[stop]))
    assert undisturbed.steps == [1, 2, 3]
    with monkeypatch.context() as patch:
        interrupt_at(patch, step, validated)
        with pytest.raises(KeyboardInterrupt):
            run_once(run)
    result = run_once(run)
    assert result.steps == [1, 2, 3] and result.accuracy == undisturbed.accuracy


def test_curves_of_another_config_in_the_same_directory_are_not_its_own(tmp_path):
    first = run_once(tiny_run(tmp_path, epochs=5))
    run = tiny_run(tmp_path, epochs=2)
    second = run_once(run)
    assert (first.steps, second.steps) == ([1, 2, 3, 4, 5], [1, 2])
    training = read_training(Path(run.work_dir))
    assert list(training.val['accuracy/top1']) == [1, 2] and max(training.train['loss']) == 6
    assert list(training.val['accuracy/top1'].values()) == second.accuracy
    # They are kept.
    assert len([*Path(run.work_dir, 'earlier').glob('*/vis_data/scalars.json')]) == 1


def test_runs_of_one_process_keep_their_curves_apart(tmp_path):
    # mmdet's configs name their visualizer, and mmengine keeps one of each name in a process.
    named = dict(type='Visualizer', vis_backends=[dict(type='LocalVisBackend')], name='visualizer')
    first = digits(tmp_path, visualizer=named)
    second = replace(first, seed=4, work_dir=str(tmp_path / 'second'))
    for run in (first, second):
        validated = run_once(run).accuracy
        training = read_training(Path(run.work_dir))
        assert list(training.val['accuracy/top1'].values()) == validated
    assert len([*Path(first.work_dir).glob('*/vis_data/scalars.json')]) == 1


def test_a_run_with_load_from_goes_on_from_its_own_checkpoint(tmp_path, monkeypatch):
    # A checkpoint of a training of 75 epochs, which this one only starts from.
    other = tiny_run(tmp_path / 'other', epochs=1, seed=8)
    run_once(other)
    start = tmp_path / 'start.pth'
    content = torch.load(Path(other.work_dir) / 'epoch_1.pth', weights_only=False)
    content['meta'].update(epoch=75, iter=75 * 3)
    torch.save(content, start)

    run = tiny_run(tmp_path / 'a', load_from=str(start))
    whole = tiny_run(tmp_path / 'b', load_from=str(start))
    plain = tiny_run(tmp_path / 'c')
    undisturbed, without = run_once(whole), run_once(plain)
    with monkeypatch.context() as patch:
        interrupt_at(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            run_once(run)
    result = run_once(run)
    assert result.steps == undisturbed.steps == without.steps == [1, 2, 3, 4]
    assert result.accuracy == undisturbed.accuracy
    assert same(weights(run, 'epoch_4.pth'), weights(whole, 'epoch_4.pth'))
    # And both have started from it.
    assert not same(weights(whole, 'epoch_4.pth'), weights(plain, 'epoch_4.pth'))
    # With resume of its own every seed would become that of the checkpoint.
    with pytest.raises(ValueError, match=r"load_from='.*start.pth' with resume=True would give"):
        run_once(tiny_run(tmp_path / 'd', load_from=str(start), resume=True))


def test_a_loop_without_epochs_keeps_every_validation(tmp_path, monkeypatch):
    run = tiny_run(tmp_path / 'a', iterations=7)
    whole = tiny_run(tmp_path / 'b', iterations=7)
    seen = []
    with monkeypatch.context() as patch:
        noted = running.Validations.after_val_epoch

        def after_val_epoch(self, runner, metrics=None):
            noted(self, runner, metrics)
            seen.append((runner.iter, metrics['accuracy/top1']))

        patch.setattr(running.Validations, 'after_val_epoch', after_val_epoch)
        undisturbed = run_once(whole)
    assert [step for step, _ in seen] == [2, 4, 6, 7]
    assert list(zip(undisturbed.steps, undisturbed.accuracy, strict=True)) == seen
    assert results.length(results.load_config(whole)) == (7, 'iterations')
    for validated in (True, False):
        # Cut off at the fourth iteration: after the checkpoint, and around its validation.
        run = tiny_run(tmp_path / str(validated), iterations=7)
        with monkeypatch.context() as patch:
            interrupt_at(patch, 4, validated)
            with pytest.raises(KeyboardInterrupt):
                run_once(run)
        assert steps_done(run, 'iterations') == 4 and finished(run) is None
        result = run_once(run)
        assert (result.steps, result.accuracy) == (undisturbed.steps, undisturbed.accuracy)
        assert same(weights(run, 'iter_7.pth'), weights(whole, 'iter_7.pth'))


def test_validations_after_the_checkpoint_are_not_those_of_the_training(tmp_path):
    run = tiny_run(tmp_path)
    run_once(run)
    folder = Path(run.work_dir)
    # A start that stopped early has left a validation that this one does not reach.
    noted = json.loads((folder / 'metrics.json').read_text())
    (folder / 'metrics.json').write_text(json.dumps(dict(noted, **{'9': {'accuracy/top1': 99.0}})))
    (folder / 'result.json').unlink()
    assert run_once(run).steps == [1, 2, 3, 4]


def coco(path, areas, crowd=False):
    """Write one picture with squares of these areas."""
    annotations = [
        dict(
            id=i + 1, image_id=1, category_id=1, bbox=[0, 0, area**0.5, area**0.5], area=area,
            iscrowd=int(crowd),
        )
        for i, area in enumerate(areas)
    ]  # fmt: skip
    images = [dict(id=1, file_name='a.png', width=500, height=500)]
    content = dict(images=images, annotations=annotations, categories=[dict(id=1, name='thing')])
    path.write_text(json.dumps(content))
    return str(path)


@pytest.mark.parametrize(
    'areas, crowd',
    [([100.0], False), ([100.0, 2000.0], False), ([32.0**2], False), ([90000.0], False),
     ([], False), ([100.0], True)],
)  # fmt: skip
def test_a_validation_without_detections_is_what_one_useless_detection_gives(
    areas, crowd, tmp_path
):
    from mmdet.evaluation import CocoMetric

    def evaluate(boxes, scores):
        metric = CocoMetric(ann_file=coco(tmp_path / 'a.json', areas, crowd))
        metric.dataset_meta = dict(classes=('thing',))
        found = dict(
            bboxes=torch.tensor(boxes).reshape(-1, 4),
            scores=torch.tensor(scores),
            labels=torch.zeros(len(scores), dtype=torch.long),
        )
        metric.process({}, [dict(img_id=1, ori_shape=(500, 500), pred_instances=found)])
        return metric, metric.evaluate(1)

    # Beside everything, and sure of nothing.
    _, useless = evaluate([[480.0, 480.0, 481.0, 481.0]], [0.001])
    metric, nothing = evaluate([], [])
    assert nothing == {} and set(useless.values()) <= {0.0, -1.0}
    assert running._of_no_detection(metric) == useless


def curve(tmp_path, metrics):
    found = running.Validations(tmp_path / 'metrics.json')
    found.values = dict(enumerate(metrics, 1))
    return found


def test_a_validation_set_without_objects_is_named(tmp_path):
    found = curve(tmp_path, [{'coco/bbox_mAP': -1.0}])
    with pytest.raises(ValueError, match='coco/bbox_mAP is -1 in the validation after 1: check'):
        found.headline()
    assert curve(tmp_path, [{'coco/bbox_mAP': 0.0}]).headline().name == 'coco/bbox_mAP'
    with pytest.raises(ValueError, match='no validation has taken place'):
        curve(tmp_path, []).headline()
    with pytest.raises(ValueError, match=r"gives \['level'\] and none of \['accuracy/top1', 'coco"):
        curve(tmp_path, [{'level': 1.0}]).headline()


def test_a_metric_that_counts_for_nothing_stops_at_the_first_validation(tmp_path):
    run = tiny_run(tmp_path, val_evaluator=dict(type='Level'))
    with pytest.raises(ValueError, match=r"gives \['level'\] and none of"):
        run_once(run)
    assert Path(Path(run.work_dir, 'last_checkpoint').read_text()).stem == 'epoch_1'


def test_numbers_of_every_kind_are_kept():
    assert all(map(running._is_number, (1, 1.5, np.float32(2), torch.tensor(3.0))))
    assert not any(map(running._is_number, ('1', [1], torch.zeros(2), None)))


def test_two_do_not_train_in_one_directory(tmp_path, monkeypatch):
    run = tiny_run(tmp_path)
    monkeypatch.setattr(running, 'LOCK_SECONDS', 0)
    said = pytest.raises(RunBusyError, match=r"/3' is in use: another process trains in it")
    with only_one(Path(run.work_dir)), said:
        run_once(run)
    result = run_once(run)
    # Who comes second finds the result that the first has left.
    monkeypatch.setattr(running, '_train', lambda *_: pytest.fail('trained again'))
    assert run_once(run) == result


def test_a_killed_process_leaves_its_directory_free(tmp_path, monkeypatch):
    monkeypatch.setattr(running, 'LOCK_SECONDS', 0)
    code = f"""
import fcntl, time
file = open({str(tmp_path / '.lock')!r}, 'a')
fcntl.flock(file, fcntl.LOCK_EX)
print('held', flush=True)
time.sleep(600)
"""
    with subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b'held\n'
        with pytest.raises(RunBusyError), only_one(tmp_path):
            pass
        os.kill(holder.pid, signal.SIGKILL)
    with only_one(tmp_path):
        assert (tmp_path / '.lock').exists()


def test_a_config_that_changes_between_the_asking_and_the_start_is_refused(tmp_path):
    run = tiny_run(tmp_path)
    with pytest.raises(RuntimeError, match=r'tiny.py. or a file that it names has changed since'):
        run_once(run, 'what it was')
    assert not Path(run.work_dir).exists()


def test_results_of_other_versions_are_kept_and_told(tmp_path, monkeypatch):
    run = tiny_run(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(running, 'versions', lambda: dict(results.versions(), torch='1.0', gone='3'))
        interrupt_at(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            run_once(run)
    torch_now = results.versions()['torch']
    result = run_once(run)
    # One part was trained with another version than the other.
    assert result.versions['torch'] == f'1.0, then {torch_now}'
    assert finished(run) == result
    assert other_versions(result) == [f'torch 1.0, then {torch_now}, now {torch_now}']


@pytest.mark.parametrize('broken', ['[', '3', '{}', '{"unknown": 1}'])
def test_a_broken_result_is_none(tmp_path, broken):
    run = tiny_run(tmp_path)
    Path(run.work_dir).mkdir(parents=True)
    (Path(run.work_dir) / 'result.json').write_text(broken)
    assert finished(run) is None
