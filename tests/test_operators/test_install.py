"""Which operators ``mmcv.ops`` gets, in interpreters of their own."""

import importlib.machinery
import subprocess
import sys
import textwrap

import pytest

#: Lets mmcv be one without compiled operators.
LIGHT = """
    import importlib.machinery
    find = importlib.machinery.PathFinder.find_spec
    def find_spec(name, *args):
        return None if name == 'mmcv._ext' else find(name, *args)
    importlib.machinery.PathFinder.find_spec = find_spec
"""


def python(code, *flags):
    code = '\n'.join(textwrap.dedent(part) for part in code)
    return subprocess.run([sys.executable, *flags, '-c', code], capture_output=True, text=True)


def said(*code):
    reply = python(code)
    assert reply.returncode == 0, reply.stderr
    return reply.stdout.strip().splitlines()


def test_without_compiled_operators_mmcv_has_ours_and_nothing_is_said_of_it():
    code = """
        import kd_plugins
        from kd_plugins.compat import operators
        print(operators.in_use())
        import torch, mmcv.ops, mmcv.cnn
        boxes = torch.tensor([[0., 0, 9, 9], [0, 0, 9, 8]])
        print(mmcv.ops.nms(boxes, torch.tensor([.2, .8]), 0.5)[1].tolist())
        print(operators.in_use(), '|', mmcv.ops.get_compiler_version())
    """
    reply = python([LIGHT, code], '-W', 'error::UserWarning:mmcv')
    assert reply.returncode == 0, reply.stderr
    assert reply.stdout.strip().splitlines() == [
        'None',
        '[1]',
        "kd_plugins' stand-ins | none, operators of kd_plugins",
    ]
    assert 'mmcv' not in reply.stderr


def test_mmdet_and_mmengine_take_them_for_operators():
    code = """
        import kd_plugins, mmdet.models
        from mmengine.utils.dl_utils import mmcv_full_available
        print(mmcv_full_available())
    """
    assert said(LIGHT, code)[-1] == 'True'


def test_an_operator_without_a_stand_in_says_so_when_it_is_called():
    code = """
        import kd_plugins, torch, mmcv.ops
        boxes = torch.rand(2, 5)
        try:
            mmcv.ops.nms_rotated(boxes, torch.rand(2), 0.5)
        except NotImplementedError as error:
            print(error)
    """
    (line,) = said(LIGHT, code)
    assert line.startswith("mmcv's operator 'nms_rotated' has no stand-in in kd_plugins: ")
    assert '`make setup OPS=compiled`' in line and '`pip install' in line


@pytest.mark.parametrize('early', (True, False), ids=('before mmcv', 'after mmcv'))
def test_operators_that_mmcv_has_stay_in_use(early, tmp_path):
    (tmp_path / '_ext.py').write_text('def __getattr__(name): return lambda *args, **kw: name\n')
    imports = ['import kd_plugins', 'import mmcv']
    code = f"""
        mmcv.__path__.insert(0, {str(tmp_path)!r})
        import mmcv.ops
        from kd_plugins.compat import operators
        print(operators.in_use(), mmcv.ops.get_compiler_version())
    """
    assert said(*(imports if early else imports[::-1]), code) == ['compiled get_compiler_version']


@pytest.fixture
def broken(tmp_path):
    """Code that gives mmcv an extension that does not load."""
    suffix = importlib.machinery.EXTENSION_SUFFIXES[0]
    (tmp_path / f'_ext{suffix}').write_bytes(b'compiled for something else')
    return f'import kd_plugins, mmcv\nmmcv.__path__.insert(0, {str(tmp_path)!r})'


def test_operators_that_do_not_load_say_in_one_sentence_what_to_install(broken):
    code = """
        try:
            import mmcv.ops
        except ImportError as error:
            print(error)
    """
    (line,) = [line for line in said(broken, code) if 'operators' in line]
    assert line.startswith('the compiled operators of ') and 'do not load with torch ' in line
    assert 'for another torch or Python' in line and 'pip install' in line and '_ext' in line


def test_a_training_with_such_operators_ends_in_that_sentence_alone(broken, tmp_path):
    code = f"""
        from mmengine.config import Config
        from kd_plugins import launch
        cfg = Config(dict(default_scope='mmdet', launcher='none', work_dir={str(tmp_path)!r},
            model=dict(type='DetectionHubOfNothing')))
        launch.build_runner(cfg)
    """
    reply = python([broken, code])
    assert reply.returncode == 1
    assert reply.stderr.splitlines()[-1].startswith('the compiled operators of ')
    assert 'Traceback' not in reply.stderr


def test_classification_does_not_need_operators_that_load(broken):
    code = """
        import mmpretrain.models, kd_plugins.algorithms
        print('imported')
    """
    reply = python([broken, code])
    assert reply.returncode == 0, reply.stderr
    assert reply.stdout.strip().endswith('imported') and 'Fail to import' not in reply.stderr


def test_installing_twice_adds_one_finder():
    code = """
        import sys, kd_plugins
        from kd_plugins.compat import operators
        operators.install()
        print(sum(isinstance(f, operators.OperatorsFinder) for f in sys.meta_path))
    """
    assert said(code) == ['1']
