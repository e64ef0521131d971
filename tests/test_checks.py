"""Checks of single settings."""

import ast
import inspect
import math
import re
import sys
from pathlib import Path

import mmcv.transforms
import pytest
from torch.utils.data import DataLoader, Dataset

from kd_plugins import checks
from kd_plugins.algorithms.pseudo_boxes import PseudoBoxes
from kd_plugins.datasets.pictures import LoadImageFromFile


@pytest.mark.parametrize('value', [1, 5, 10**20])
def test_whole_numbers(value):
    assert checks.whole_number('key', value) == value


@pytest.mark.parametrize('value', [0, -3, 1.0, True, '2', None, math.inf])
def test_what_is_no_whole_number_above_0(value):
    with pytest.raises(ValueError) as error:
        checks.whole_number('Loss.width', value)
    assert str(error.value) == f'Loss.width={value!r} is wrong: give a whole number, at least 1.'


def test_the_least_whole_number():
    assert checks.whole_number('key', 2, least=2) == 2
    with pytest.raises(ValueError, match='key=1 is wrong: give a whole number, at least 2'):
        checks.whole_number('key', 1, least=2)


@pytest.mark.parametrize('value', [True, False, '1', None, [1.0], 1j, math.nan, math.inf])
def test_what_is_no_finite_number(value):
    assert not checks.is_number(value)
    with pytest.raises(ValueError) as error:
        checks.number('Loss.tau', value, 'a temperature')
    assert str(error.value) == f'Loss.tau={value!r} is wrong: give a temperature.'


def test_bounds_of_numbers():
    value = checks.number('key', 3)
    assert value == 3.0 and type(value) is float
    assert checks.number('key', 0, least=0) == 0.0 and checks.number('key', 1e-9, above=0) == 1e-9
    for bounds in (dict(above=0), dict(least=0.5)):
        with pytest.raises(ValueError, match='key=0 is wrong'):
            checks.number('key', 0, **bounds)


def test_one_of():
    assert checks.one_of('key', 'b', dict(a=1, b=2)) == 'b'
    for value in ('c', None, ['a']):
        with pytest.raises(ValueError) as error:
            checks.one_of('key', value, dict(a=1, b=2), 'or nothing')
        assert str(error.value) == f"key={value!r} is wrong: give 'a' or 'b', or nothing."


def test_it_imports_nothing_but_the_standard_library():
    """Losses rest on it, and import nothing beside torch."""
    for node in ast.walk(ast.parse(inspect.getsource(checks))):
        names = [alias.name for alias in getattr(node, 'names', [])]
        if isinstance(node, ast.ImportFrom):
            names = [node.module]
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            assert {name.split('.')[0] for name in names} <= sys.stdlib_module_names


class Failing(Dataset):
    """One sample, which does not come."""

    def __init__(self, fail):
        self.fail = fail

    def __len__(self):
        return 1

    def __getitem__(self, index):
        self.fail()


def ours():
    LoadImageFromFile().transform(dict(img_path='gone.png'))


def of_the_system():
    Path('/gone/x.json').read_text(encoding='utf-8')


def upstreams():
    mmcv.transforms.LoadImageFromFile().transform(dict(img_path=__file__))


def somebodys():
    raise ValueError('a bug.')


def ours_by_accident():
    PseudoBoxes().give([], [None])  # zip(strict=True) raises a ValueError in a line of ours


@pytest.mark.parametrize('workers', [0, 1])
@pytest.mark.parametrize(
    'fail, said',
    [
        (ours, r"the picture 'gone.png' cannot be read \(.*out of the dataset\."),
        (of_the_system, r"\[Errno 2\] No such file or directory: '/gone/x.json'"),
        (upstreams, r"the picture '.*test_checks.py' cannot be read: .*out of the data\."),
        (somebodys, None),
        (ours_by_accident, None),
    ],
)
def test_only_what_we_or_the_system_say_is_all_that_a_user_needs(fail, said, workers):
    with pytest.raises(Exception) as left:
        next(iter(DataLoader(Failing(fail), num_workers=workers)))
    found = checks.sentence_of(left.value)
    assert found == said or re.fullmatch(said, found)


def test_a_number_that_is_refused_in_a_call_is_a_sentence():
    with pytest.raises(ValueError) as left:
        checks.whole_number('key', 0)
    assert checks.sentence_of(left.value) == str(left.value)
    assert checks.sentence_of(ValueError('key=0 is wrong.')) is None


def test_whose_peer_has_ended_leaves_it_to_that_one_to_say_why():
    gloo = '[../third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [::1]:3'
    assert 'another process' in checks.sentence_of(RuntimeError(gloo))
    assert checks.sentence_of(RuntimeError('[gloo/pair.cc:1] Read error')) is None
