"""One guess finds a method: its folder of configs, its code, its tests."""

import ast
import re
from importlib import import_module

import pytest
from helpers import ROOT
from mmengine.registry import MODELS, TASK_UTILS

import kd_plugins.losses as losses

METHODS = [
    path.name for path in sorted((ROOT / 'configs').iterdir())
    if path.is_dir() and path.name not in ('_base_', 'vanilla')
]  # fmt: skip


@pytest.mark.parametrize('method', METHODS)
def test_a_methods_name_finds_it(method):
    def says(path):
        head = ast.get_docstring(ast.parse(path.read_text())) or ''
        return re.search(rf'\b{method}\b', head.split('\n')[0], re.IGNORECASE)

    code = [*(ROOT / 'kd_plugins').rglob('*.py')]
    assert any(path.stem == method or says(path) for path in code)
    assert any((ROOT / 'tests').rglob(f'test_{method}*.py'))


@pytest.mark.parametrize(
    ('name', 'first'),
    [
        ('LDLoss', 'LocalizationDistillationLoss'),
        ('BCKDClassificationLoss', 'BinaryClassificationKDLoss'),
        ('BCKDLocalizationLoss', 'IoULocalizationKDLoss'),
    ],
)
def test_names_of_earlier_configs_are_kept(name, first):
    kinds = [MODELS.get(f'kd_plugins.{each}') for each in (name, first)]
    assert kinds[0] is kinds[1] is getattr(losses, name) is getattr(losses, first)
    assert kinds[0].__name__ == name


def test_the_recorder_of_earlier_configs_is_kept():
    kinds = [TASK_UTILS.get(f'kd_plugins.{each}HeadRecorder') for each in ('Detection', 'Dense')]
    assert kinds[0] is kinds[1] is not None


@pytest.mark.parametrize('package', ['losses', 'connectors', 'recorders', 'batch_parts'])
def test_what_a_file_registers_can_be_imported_from_its_package(package):
    registered = {
        node.name
        for path in (ROOT / 'kd_plugins' / package).glob('*.py')
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.ClassDef)
        and any('register_module' in ast.unparse(each) for each in node.decorator_list)
    }
    assert registered
    assert registered <= {*import_module(f'kd_plugins.{package}').__all__}
