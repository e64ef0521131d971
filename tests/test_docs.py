import shutil

from helpers import ROOT
from helpers.processes import run_script


def build(root, out, builder='html'):
    script = root / 'sphinx_build.py'
    script.write_text('from sphinx.cmd.build import main\nraise SystemExit(main())\n')
    line = ['-W', '--keep-going', '-q', '-b', builder, '-d', root / 'doctrees']
    return run_script(script, *line, root / 'docs', out)


def copy(root):
    for name in ('docs', 'configs', 'kd_plugins', 'requirements'):
        shutil.copytree(
            ROOT / name, root / name, ignore=shutil.ignore_patterns('_*d', '__pycache__', '.mim')
        )
    for file in ROOT.glob('*.md'):
        shutil.copy2(file, root)
    return root


def test_builds_without_warnings_and_links_between_pages(tmp_path):
    root = copy(tmp_path / 'repository')
    reply = build(root, tmp_path / 'html')
    assert reply.returncode == 0, reply.stderr
    assert reply.stderr == ''
    page = (tmp_path / 'html/_generated/getting_started.html').read_text()
    assert 'href="methods/dot.html"' in page and 'href="../results.html#the-digits"' in page
    assert (tmp_path / 'html/_images/curves.png').is_file()
    results = (tmp_path / 'html/results.html').read_text()
    assert 'href="_generated/methods/dot.html#on-the-digits"' in results
    assert 'dkd_digits.py' in (tmp_path / 'html/_generated/methods/dkd.html').read_text()
    assert len(list((tmp_path / 'html/_downloads').glob('*/dkd_digits.py'))) == 1
    api = (tmp_path / 'html/api.html').read_text()
    for name in ('SingleTeacherDistill', 'DKDLoss', 'DOTOptimWrapper', 'DistillationLogHook'):
        assert f'class="sig-name descname"><span class="pre">{name}<' in api
    # A link that leads nowhere is an error.
    (root / 'configs/dkd/dkd_digits.py').unlink()
    source = root / 'docs/results.md'
    source.write_text(source.read_text() + '\n[gone](../configs/dot#no-such-heading)\n')
    reply = build(root, tmp_path / 'none', 'dummy')
    assert reply.returncode != 0
    assert 'dkd_digits.py' in reply.stderr and 'no-such-heading' in reply.stderr
