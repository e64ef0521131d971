"""The claims of the README's tables, in a shorter form."""

import statistics

import pytest
from helpers import ROOT

from kd_plugins.experiments.repeat import run_all
from kd_plugins.experiments.results import Run


def train(folder, names, seeds):
    """Last accuracies of configs, by name."""
    runs = [
        Run(name, str(ROOT / 'configs' / name), seed, f'work_dirs/{name}/{seed}')
        for name in names
        for seed in seeds
    ]
    results = run_all(runs, 2, folder / 'output.log', lambda run, result: None)
    return {
        name: statistics.mean(result.last for run, result in results.items() if run.name == name)
        for name in names
    }


def train_teacher(folder, name):
    """Where the distillation configs look for it."""
    run = Run('teacher', str(ROOT / f'configs/vanilla/{name}.py'), 0, f'work_dirs/{name}')
    (result,) = run_all([run], 1, folder / 'output.log', lambda run, result: None).values()
    return result.last


@pytest.mark.long
def test_a_teacher_helps_where_labels_are_scarce(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    taught = train_teacher(tmp_path, 'digits_teacher')
    students = ('vanilla/digits_student.py', 'kd/kd_digits.py', 'dkd/dkd_digits.py')
    alone, kd, dkd = train(tmp_path, students, seeds=(0, 1, 2)).values()
    assert taught > 98.5
    assert taught > max(kd, dkd) > min(kd, dkd) > alone + 1
