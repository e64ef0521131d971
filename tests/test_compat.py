"""Each thing that kd_plugins.compat does, in an interpreter of its own."""

import os
import subprocess
import sys

import pytest
from helpers.layouts import LAYOUTS


def python(code, *flags, **variables):
    """Run code in a fresh interpreter; return its output, fail on its errors."""
    reply = subprocess.run(
        [sys.executable, *flags, '-c', code],
        capture_output=True,
        text=True,
        env=dict(os.environ, **variables),
    )
    assert reply.returncode == 0, reply.stderr
    return reply.stdout, reply.stderr


def test_importing_the_package_is_light():
    heavy = "('mmdet', 'mmrazor', 'mmpretrain', 'sklearn', 'mmcv', 'torch')"
    out, _ = python(f'import sys, kd_plugins; print([m for m in {heavy} if m in sys.modules])')
    assert out.strip() == '[]'


def test_importing_the_registries_brings_no_other_package():
    heavy = "('mmdet', 'mmrazor', 'mmpretrain', 'sklearn')"
    code = f'import sys, kd_plugins.registry; print([m for m in {heavy} if m in sys.modules])'
    assert python(code)[0].strip() == '[]'


def test_mmrazor_is_imported_quietly():
    out, err = python('import kd_plugins, mmrazor.models, mmrazor.engine; print("imported")')
    assert out.splitlines()[-1] == 'imported'
    assert 'Traceback' not in err and 'UserWarning' not in err


def test_datasets_are_imported_without_a_word_on_the_standard_output():
    # The continuation's print there that OneDL is not installed.
    code = 'import kd_plugins, mmpretrain.datasets, mmdet.datasets.transforms'
    assert python(code)[0] == ''


def test_without_us_mmrazor_cannot_be_imported():
    # The day this fails, the stand-in can go.
    code = 'import mmrazor.models'
    reply = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert reply.returncode != 0


def test_a_scope_alone_finds_mmrazors_losses():
    code = (
        'import kd_plugins\nfrom mmengine.registry import MODELS\n'
        'print(type(MODELS.build(dict(_scope_="mmrazor", type="KLDivergence"))).__module__)'
    )
    assert python(code)[0].strip().splitlines()[-1] == 'mmrazor.models.losses.kl_divergence'


def test_our_types_are_found_without_importing_us():
    code = (
        'from mmengine.registry import MODELS\n'
        'print(MODELS.build(dict(type="kd_plugins.KDLoss")).__class__)'
    )
    assert 'kd_plugins.losses.kd.KDLoss' in python(code)[0]


@pytest.mark.parametrize('version', ('5.0.0', '5.24.0'))
def test_classifiers_are_found_beside_a_transformers_that_mmpretrain_does_not_know(
    version, tmp_path
):
    # What is declared to be installed is enough: mmpretrain reads the version, then finds no names.
    info = tmp_path / f'transformers-{version}.dist-info'
    info.mkdir()
    (info / 'METADATA').write_text(
        f'Metadata-Version: 2.1\nName: transformers\nVersion: {version}\n'
    )
    path = os.pathsep.join((str(tmp_path), os.environ.get('PYTHONPATH', os.getcwd())))
    code = (
        'import kd_plugins\nfrom mmengine.registry import MODELS\n'
        'print(type(MODELS.build(dict(type="mmpretrain.LinearClsHead", num_classes=2, '
        'in_channels=3))).__name__)'
    )
    assert python(code, PYTHONPATH=path)[0].split()[-1] == 'LinearClsHead'


def test_quantizing_says_why_it_cannot():
    code = (
        'import kd_plugins\nfrom mmrazor.structures.quantization import QConfigHandler\n'
        'try: QConfigHandler()\nexcept NotImplementedError as error: print(error)'
    )
    out, _ = python(code)
    assert 'stand-in' in out and 'torch 1.13' in out


def test_the_shown_mmcv_version_lasts_only_as_long_as_the_assertion():
    code = (
        'import kd_plugins, mmcv\nbefore = mmcv.__version__\nmmcv.__version__ = "9.9.9"\n'
        'import mmrazor\nprint(mmcv.__version__, mmrazor.mmcv_version[:3])'
    )
    assert python(code)[0].strip() == '9.9.9 (2, 1, 0)'


def test_where_mmrazor_needs_no_help_nothing_is_replaced():
    code = (
        'import sys\nfrom unittest import mock\nfrom kd_plugins.compat import mmrazor\n'
        'kind = mmrazor.QuantizationFinder\n'
        'sys.meta_path = [each for each in sys.meta_path if not isinstance(each, kind)]\n'
        'with mock.patch.object(mmrazor, "version", lambda name: "1.13.1"): mmrazor.install()\n'
        'print(any(isinstance(each, kind) for each in sys.meta_path))'
    )
    assert python(code)[0].strip() == 'False'


def test_installing_twice_adds_one_finder():
    code = (
        'import sys\nfrom kd_plugins.compat import mmrazor\nmmrazor.install()\n'
        'print(sum(isinstance(f, mmrazor.QuantizationFinder) for f in sys.meta_path))'
    )
    assert python(code)[0].strip() == '1'


@pytest.mark.parametrize('first', ('', 'import changed_module\n'))
def test_a_module_is_changed_once_whenever_it_is_imported(first, tmp_path):
    (tmp_path / 'changed_module.py').write_text('value = 1\n')
    code = (
        f'import sys\nsys.path.append({str(tmp_path)!r})\n{first}'
        'from kd_plugins.compat.loading import complete\n'
        'def double(module): module.value *= 2\n'
        'complete(dict(changed_module=double))\ncomplete(dict(changed_module=double))\n'
        'import changed_module\nprint(changed_module.value)\n'
        'try: complete(dict(changed_module=print))\nexcept ValueError as error: print(error)'
    )
    said = 'the import of changed_module is changed in two ways: make one of them.'
    assert python(code)[0].splitlines() == ['2', said]


def test_replaced_modules_keep_their_dunder_names_honest():
    code = (
        'import kd_plugins, mmrazor.structures.quantization as q\n'
        'print(hasattr(q, "__wrapped__"), q.Anything.__name__)'
    )
    assert python(code)[0].strip() == 'False _Inert'


@pytest.mark.parametrize('first', ['import kd_plugins', 'import mmcv, kd_plugins'])
def test_operators_read_maps_of_every_layout_alike(first):
    assert python(LAYOUTS.format(first=first, second=''))[0].splitlines()[-1] == 'alike'
