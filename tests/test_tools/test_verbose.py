"""Tools keep back what upstream says of its own deprecated calls, unless they are asked not to."""

import subprocess
import sys

import pytest
from helpers import ROOT

SAYING = """
import sys, warnings
from kd_plugins.compat import chatter
chatter.hush(unless=bool(int(sys.argv[1])))
from mmengine.logging import MMLogger, print_log
warnings.warn('DeprecationWarning: `num_anchors` is deprecated')
warnings.warn('twice', DeprecationWarning)
warnings.warn('a warning')
logger = MMLogger.get_instance('a run')
logger.warning('"FileClient" will be deprecated in future')
logger.warning('a record')
print_log('Could not import OneDL. Skipping OneDL datasets.')
print_log('a line')
print_log('"HardDiskBackend" is the alias of "LocalBackend"', 'current')
print_log('another record', 'current')
logger.info('resumed from work_dirs/deprecation/deprecated_teacher.pth')
logger.warning('%d pictures', 'no number of')
"""
CHATTER = ('num_anchors', 'twice', 'FileClient', 'OneDL', 'HardDiskBackend')
NEWS = ('a warning', 'a record', 'a line', 'another record', 'resumed from', 'no number of')


def run(*arguments):
    reply = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert reply.returncode == 0, reply.stderr
    return reply.stdout + reply.stderr


@pytest.mark.parametrize('verbose', (False, True))
def test_only_what_upstream_says_of_itself_is_kept_back(verbose):
    said = run('-W', 'default', '-c', SAYING, str(int(verbose)))
    assert all(text in said for text in NEWS)
    assert all((text in said) == verbose for text in CHATTER), said


@pytest.mark.parametrize('verbose', (False, True))
def test_a_tool_that_builds_a_detector(verbose, tmp_path):
    said = run(
        'tools/new_config.py',
        *('--student', 'mmdet::gfl/gfl_r50_fpn_1x_coco.py', '--method', 'alone'),
        *('--out', str(tmp_path / 'alone.py'), *['--verbose'] * verbose),
    )
    assert 'wrote' in said
    assert ('deprecated' in said) == verbose


@pytest.mark.parametrize(
    'tool', ('train', 'test', 'check', 'compare', 'export_student', 'new_config', 'demo_detection')
)
def test_every_tool_that_runs_upstream_code_can_be_asked(tool, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(ROOT / 'tools'))
    monkeypatch.setattr(sys, 'argv', [tool, '--help'])
    monkeypatch.delitem(sys.modules, tool, raising=False)
    with pytest.raises(SystemExit):
        __import__(tool).parse_args()
    monkeypatch.delitem(sys.modules, tool, raising=False)
    assert '--verbose' in capsys.readouterr().out


def test_silence_lets_through_to_the_errors_what_was_asked_for(monkeypatch, capsys):
    from kd_plugins.compat import chatter
    from kd_plugins.inspect.quiet import silence

    with silence():
        print('kept back')
    monkeypatch.setattr(chatter, 'verbose', True)
    with silence():
        print('wanted')
    said = capsys.readouterr()
    assert said.out == '' and said.err == 'wanted\n'
