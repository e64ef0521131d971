"""The claim of the README's table, in a shorter form."""

import statistics

import pytest
from helpers import ROOT

from kd_plugins.experiments import Run, run_all


@pytest.mark.long
def test_a_teacher_helps_where_labels_are_scarce(tmp_path, monkeypatch):
    # The distillation configs look for the teacher where its own config leaves it.
    monkeypatch.chdir(tmp_path)

    def train(names, seeds):
        runs = [
            Run(name, str(ROOT / 'configs' / name), seed, f'work_dirs/{name}/{seed}')
            for name in names
            for seed in seeds
        ]
        return run_all(runs, 2, tmp_path / 'output.log', lambda run, result: None)

    teacher = Run(
        'teacher', str(ROOT / 'configs/vanilla/digits_teacher.py'), 0, 'work_dirs/digits_teacher'
    )
    (taught,) = run_all([teacher], 1, tmp_path / 'output.log', lambda run, result: None).values()
    students = ('vanilla/digits_student.py', 'kd/kd_digits.py', 'dkd/dkd_digits.py')
    results = train(students, seeds=(0, 1, 2))
    alone, kd, dkd = (
        statistics.mean(result.last for run, result in results.items() if run.name == name)
        for name in students
    )
    assert taught.last > 98.5
    assert taught.last > max(kd, dkd) > min(kd, dkd) > alone + 1
