"""Both model zoos against docs/zoo.md, which says what of them can be distilled."""

from importlib.util import find_spec
from pathlib import Path

import pytest
from helpers import ROOT, zoo, zoo_page
from helpers.stock_detectors import NO_DETECTORS

PAGE = (ROOT / 'docs/zoo.md').read_text(encoding='utf-8')
ROWS = zoo_page.read(PAGE)


@pytest.mark.parametrize(
    ('package', 'looked_at', 'others'),
    [
        ('mmpretrain', {*zoo.CLASSIFIERS}, {*zoo.NO_CLASSIFIERS}),
        ('mmdet', {*zoo.DETECTORS}, {*NO_DETECTORS}),
    ],
)
def test_every_folder_is_looked_at_or_said_to_have_no_such_network(package, looked_at, others):
    configs = Path(find_spec(package).origin).parent / '.mim/configs'
    there = {path.name for path in configs.iterdir() if any(path.glob('**/*.py'))}
    # Some of the others are of newer versions only.
    assert looked_at - there == set() and there - looked_at - others == {'_base_'}


def test_the_page_is_what_its_rows_say():
    assert zoo_page.page(ROWS) == PAGE
    for (package, folder), row in ROWS.items():
        known = zoo.CLASSIFIERS if package == 'mmpretrain' else zoo.DETECTORS
        assert folder in known and row['config']


def test_a_refusal_is_one_sentence_without_a_traceback():
    for row in ROWS.values():
        for said in row.values():
            assert '\n' not in said and 'Traceback' not in said and ' at 0x' not in said


@pytest.mark.long
@pytest.mark.parametrize(('package', 'folder'), ROWS)
def test_what_works_and_what_is_refused_is_as_the_page_says(package, folder):
    row = (zoo.classifier_row if package == 'mmpretrain' else zoo.detector_row)(folder)
    # "?" has not been run yet.
    known = {key: said for key, said in ROWS[package, folder].items() if said != '?'}
    assert {key: said for key, said in zoo_page.cells(row).items() if key in known} == known
