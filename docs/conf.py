"""Sphinx: ``make docs`` builds these pages, and every warning is an error.

Pages that exist elsewhere are not written a second time: the front page is the
repository's README, a method's page the README of its config folder. They are
copied to ``_generated`` with their links turned into links between pages; a link
to a config becomes a download, so that a file that is gone is a warning, too.
"""

import os
import re
import shutil
import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
sys.path.insert(0, str(ROOT))

import kd_plugins  # noqa: E402

project = 'kd_plugins'
author = 'the kd_plugins developers'
version = release = kd_plugins.__version__
extensions = ['myst_parser', 'sphinx.ext.autodoc', 'sphinx.ext.napoleon', 'sphinx.ext.viewcode']
exclude_patterns = ['_build']
html_theme = 'furo'
myst_heading_anchors = 3
autodoc_member_order = 'bysource'
autodoc_typehints = 'none'
napoleon_use_rtype = False
suppress_warnings = ['myst.header', 'config.cache']

#: Page -> the file that it is made from.
PAGES = {
    'getting_started': ROOT / 'README.md',
    'contributing': ROOT / 'CONTRIBUTING.md',
    'changelog': ROOT / 'CHANGELOG.md',
    **{f'methods/{path.parent.name}': path for path in sorted(ROOT.glob('configs/*/README.md'))},
}
GENERATED = DOCS / '_generated'


def copy_pages() -> None:
    """Write the pages that are made from other files anew."""
    shutil.rmtree(GENERATED, ignore_errors=True)
    for page, source in PAGES.items():
        target = GENERATED / f'{page}.md'
        target.parent.mkdir(parents=True, exist_ok=True)
        text = turn_links(source.read_text(encoding='utf-8'), source, target)
        target.write_text(text, encoding='utf-8')


def turn_links(text: str, source: Path, target: Path) -> str:
    """Turn the links of a text of the repository into those of a page."""
    return re.sub(r'\[([^\]]+)\]\(([^)\s:]+)\)', lambda match: link(match, source, target), text)


def link(match: re.Match, source: Path, target: Path) -> str:
    """Turn a link of the repository into one of the pages."""
    words, address = match.groups()
    path, _, anchor = address.partition('#')
    file = (source.parent / path).resolve()
    if not path or GENERATED in file.parents:
        return match.group()
    readme = file / 'README.md' if file.is_dir() else file
    anchor = f'#{anchor}' if anchor else ''
    for page, made_from in PAGES.items():
        if readme == made_from:
            return f'[{words}]({relative(GENERATED / page, target)}.md{anchor})'
    if file.suffix == '.md' and DOCS in file.parents:
        return f'[{words}]({relative(file, target)}{anchor})'
    if file.suffix == '.png':
        return f'[{words}]({relative(file, target)})'
    if file.is_dir():
        return words
    return f'{{download}}`{words.strip("`")} <{relative(file, target)}>`'


def relative(file: Path, target: Path) -> str:
    """Return a path as seen from a page."""
    return os.path.relpath(file, target.parent)


def read_page(app: object, name: str, text: list[str]) -> None:
    """Do the same for what lies here and links out of this folder."""
    if not name.startswith(GENERATED.name):
        page = DOCS / f'{name}.md'
        text[0] = turn_links(text[0], page, page)


def setup(app: object) -> None:
    """Register with Sphinx."""
    copy_pages()
    app.connect('source-read', read_page)  # type: ignore[attr-defined]
