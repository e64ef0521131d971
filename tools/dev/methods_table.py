"""Write the tables that list the methods from the metafiles of the config folders.

    python tools/dev/methods_table.py

``make format`` runs it. A folder has a row in README.md if its ``metafile.yml`` has a ``Table``,
and one in docs/strategies.md for each of its ``Ways of Training``.
"""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from mmengine.fileio import load

ROOT = Path(__file__).resolve().parents[2]
METHODS = "| method | paper | configs | ours | the paper's |\n| --- | --- | --- | --- | --- |\n"
WAYS = '| way of training | what shows it |\n| --- | --- |\n'
EXCEPTIONS = '| method | way of training | what is different |\n| --- | --- | --- |\n'


def collections(configs: Path) -> list[tuple[str, dict[str, Any]]]:
    """Return each method's folder and what its metafile says, by the addresses of the papers.

    On arXiv that is the order of time.
    """
    found = [
        (path.parent.name, collection)
        for path in configs.glob('*/metafile.yml')
        for collection in load(path)['Collections']
    ]
    return sorted(found, key=lambda each: (each[1].get('Paper', {}).get('URL', ''), each[0]))


def methods(configs: Path) -> Iterator[tuple[str, ...]]:
    """Return the rows of README.md's table."""
    for name, collection in collections(configs):
        if 'Table' in collection:
            row, folder = collection['Table'], f'configs/{name}'
            paper = f'[{row["Paper"]}]({collection["Paper"]["URL"]})'
            yield collection['Name'], paper, f'[{folder}]({folder})', row['Ours'], row['Theirs']


def exceptions(configs: Path, known: set[str]) -> Iterator[tuple[str, ...]]:
    """Return the rows of docs/strategies.md's table of what is different for a method.

    Raises:
        ValueError: If a metafile names a way that is not known.
    """
    for folder, collection in collections(configs):
        if 'Ways of Training' not in collection:
            continue
        ways = dict(collection['Ways of Training'] or {})
        name = ways.pop('Of', collection['Name'])
        if not ways:
            yield name, 'all', 'nothing'
        for way, said in ways.items():
            if way not in known:
                raise ValueError(f'{folder}/metafile.yml: {way!r} is not one of {sorted(known)}')
            yield name, way, said


def with_rows(text: str, head: str, rows: Iterable[tuple[str, ...]]) -> str:
    """Return a text with these rows in the place of those that follow a table's head."""
    start = text.index(head)
    table = ''.join(f'| {" | ".join(map(str, row))} |\n' for row in rows)
    return text[:start] + head + table + text[text.index('\n\n', start) + 1 :]


def with_methods(readme: str, configs: Path) -> str:
    """Return the README with the table of these folders in the place of its own."""
    return with_rows(readme, METHODS, methods(configs))


def with_exceptions(page: str, configs: Path) -> str:
    """Return docs/strategies.md with the exceptions of these folders in the place of its own."""
    start = page.index(WAYS) + len(WAYS)
    lines = page[start : page.index('\n\n', start)].splitlines()
    plain = re.sub(r'`|\[|\]\(\S+\)', '', '\n'.join(line.split(' | ')[0][2:] for line in lines))
    return with_rows(page, EXCEPTIONS, exceptions(configs, set(plain.splitlines())))


def main() -> None:
    """Rewrite."""
    for name, rewrite in (('README.md', with_methods), ('docs/strategies.md', with_exceptions)):
        path = ROOT / name
        path.write_text(rewrite(path.read_text(encoding='utf-8'), ROOT / 'configs'), 'utf-8')


if __name__ == '__main__':
    main()
