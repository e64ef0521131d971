"""Configs of mmengine's new style, whose types are classes, train and check like classic ones."""

import re
from pathlib import Path

import pytest
import torch
from helpers import ROOT
from helpers.new_style import new_style
from helpers.short import shorten
from mmengine.config import Config
from mmengine.runner import Runner

from kd_plugins.inspect.check import check
from kd_plugins.new_config.request import Request
from kd_plugins.new_config.writing import write_config
from kd_plugins.registry import name_of
from kd_plugins.teachers import measure_teacher


@pytest.fixture(scope='module')
def both(tmp_path_factory):
    """The same short training in both styles, as files."""
    folder = tmp_path_factory.mktemp('styles')
    classic = shorten(Config.fromfile(ROOT / 'configs/dkd/dkd_digits.py'), 2)
    classic.model.update(teacher_ckpt=None, allow_random_teacher=True)
    classic.train_dataloader.dataset.indices = 96
    for name in ('student', 'teacher', 'distiller'):
        classic.pop(name)
    classic.dump(folder / 'classic.py')
    classic.pop('custom_imports')
    (folder / 'new.py').write_text(new_style(classic))
    return folder / 'classic.py', folder / 'new.py'


def load(path, work_dir, **options):
    cfg = Config.fromfile(path)
    cfg.work_dir, cfg.experiment_name = str(work_dir), work_dir.name
    cfg.log_level = 'WARNING'
    cfg.merge_from_dict(options)
    return cfg


def test_both_end_in_the_same_weights_and_the_written_config_goes_on(both, tmp_path):
    ends = []
    for path in both:
        runner = Runner.from_cfg(load(path, tmp_path / path.stem))
        ends.append(runner.train().state_dict())
    assert list(ends[0]) == list(ends[1])
    assert all(torch.equal(ends[1][key], value) for key, value in ends[0].items())
    # mmengine writes the paths of classes; that file is a config as well.
    written = tmp_path / 'new/new.py'
    assert 'ModuleOutputsRecorder' in written.read_text()
    again = load(written, tmp_path / 'again', load_from=str(tmp_path / 'new/epoch_2.pth'))
    runner = Runner.from_cfg(again)
    runner.test()
    assert all(torch.equal(runner.model.state_dict()[k], v) for k, v in ends[1].items())
    assert measure_teacher(runner)


def test_both_are_checked_alike(both):
    reports = [check(Config.fromfile(path), iterations=1, debug=True).to_dict() for path in both]
    for report in reports:
        report.pop('cost')
        report.pop('config')
        for term in report['terms']:
            # mmengine sorts what it writes.
            term['reads'].sort(key=lambda read: read['argument'])
    assert reports[0] == reports[1]


def test_a_new_style_student_cannot_be_inherited_and_says_so(both, tmp_path):
    said = re.escape(f'--student {str(both[1])!r} is a new-style config')
    with pytest.raises(ValueError, match=said + r'.*dump\(OTHER_FILE\)'):
        write_config(
            Request(str(both[1]), 'kd', Path(tmp_path / 'out.py'), str(both[0]), 'teacher.pth')
        )


def test_a_types_name_is_the_same_in_every_form():
    forms = ['EMAHook', 'mmengine.EMAHook', 'mmengine.hooks.ema_hook.EMAHook']
    from mmengine.hooks import EMAHook

    assert {name_of(form) for form in (*forms, EMAHook)} == {'EMAHook'} and name_of(None) == ''
