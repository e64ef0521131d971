"""Write CITATION.cff: this package, and the papers of its methods.

    python tools/dev/citation.py

``make format`` runs it. The papers are those that the README of a config folder
begins with: ``> Authors. [Title](address). Where and when.``
"""

import re
import runpy
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAPER = re.compile(
    r'^> (?P<authors>[^\[]+)\. \[(?P<title>[^\]]+)\]\((?P<url>\S+)\)\. '
    r'(?P<venue>.*?) ?(?P<year>\d{4})\.$',
    re.M,
)
HEAD = """cff-version: 1.2.0
message: >-
  If you use kd_plugins, please cite the papers of the methods that you use, and this
  package.
type: software
title: 'kd_plugins: knowledge distillation for OpenMMLab'
authors:
  - name: The authors of kd_plugins
license: Apache-2.0
version: {version}
references:
"""


def citation(configs: Path) -> str:
    """Return the text of the file, the papers in the order of their addresses."""
    papers = {}
    for readme in sorted(configs.glob('*/README.md')):
        for paper in PAPER.finditer(readme.read_text(encoding='utf-8')):
            papers[paper['url']] = paper
    version = runpy.run_path(str(ROOT / 'kd_plugins' / 'version.py'))['__version__']
    return HEAD.format(version=version) + ''.join(map(_entry, map(papers.get, sorted(papers))))


def _entry(paper: re.Match | None) -> str:
    assert paper is not None
    authors = ''.join(f'      - family-names: {name}\n' for name in paper['authors'].split(', '))
    lines = [
        f'  - type: {"conference-paper" if paper["venue"] else "article"}',
        f'    title: "{paper["title"]}"',
        f'    authors:\n{authors}'.rstrip('\n'),
        f'    year: {paper["year"]}',
    ]
    if paper['venue']:
        lines.append(f'    conference:\n      name: {paper["venue"]} {paper["year"]}')
    return '\n'.join([*lines, f'    url: {paper["url"]}\n'])


def main() -> None:
    """Write."""
    (ROOT / 'CITATION.cff').write_text(citation(ROOT / 'configs'), encoding='utf-8')


if __name__ == '__main__':
    main()
