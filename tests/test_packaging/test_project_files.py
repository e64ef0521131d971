"""The files that the web sites of public projects read."""

import re
import runpy

import yaml
from helpers import ROOT
from mmengine.fileio import load


def test_the_citation_has_the_paper_of_every_method():
    text = (ROOT / 'CITATION.cff').read_text(encoding='utf-8')
    citation = runpy.run_path(str(ROOT / 'tools/dev/citation.py'))['citation']
    assert citation(ROOT / 'configs') == text, 'run: make format'
    content = yaml.safe_load(text)
    assert content['cff-version'] == '1.2.0' and content['authors'] and content['title']
    found = {paper['url']: paper for paper in content['references']}
    for metafile in (ROOT / 'configs').glob('*/metafile.yml'):
        for collection in load(metafile)['Collections']:
            paper = collection.get('Paper')
            # SL2's is a page of documentation, which nobody cites.
            if paper and 'Table' in collection and 'docs.' not in paper['URL']:
                assert found[paper['URL']]['title'].lower() == paper['Title'].lower()
    # What the format asks of every reference.
    for paper in found.values():
        assert paper['type'] in ('conference-paper', 'article') and paper['title']
        assert all(author['family-names'] for author in paper['authors'])
        assert 2014 < paper['year'] < 2030


def test_the_workflow_runs_what_developers_run():
    workflow = yaml.safe_load((ROOT / '.github/workflows/test.yml').read_text())
    job = workflow['jobs']['test']
    stacks = {entry['stack'] for entry in job['strategy']['matrix']['include']}
    assert stacks == {'official', 'modern'}
    commands = [step['run'] for step in job['steps'] if 'run' in step]
    assert any(command.startswith('make test ') for command in commands)


def test_the_checks_before_a_commit_are_those_of_make_lint():
    hooks = yaml.safe_load((ROOT / '.pre-commit-config.yaml').read_text())['repos']
    (hook,) = [hook for repo in hooks for hook in repo['hooks']]
    assert hook['entry'] == 'make lint' and hook['language'] == 'system'
    assert re.search(r'^lint:', (ROOT / 'Makefile').read_text(), re.M)


def test_issues_ask_for_the_page_of_the_check():
    folder = ROOT / '.github/ISSUE_TEMPLATE'
    for name in ('wrong', 'no_gain'):
        form = yaml.safe_load((folder / f'{name}.yml').read_text())
        assert form['name'] and form['description']
        fields = {field.get('id'): field for field in form['body']}
        assert 'tools/check.py' in fields['check']['attributes']['label']
        assert fields['check']['validations']['required'] is True
    assert {path.stem for path in folder.glob('*.yml')} == {'wrong', 'no_gain', 'method', 'config'}


def test_the_image_is_made_of_files_that_exist():
    text = (ROOT / 'Dockerfile').read_text()
    for name in re.findall(r'requirements/([\w.-]+\.txt)', text):
        assert name == 'image.txt' or (ROOT / 'requirements' / name).is_file(), name
    for stack in ('official', 'modern'):
        assert (ROOT / f'requirements/make-{stack}.txt').is_file()
    assert 'neither built nor' in ' '.join(text.split())
