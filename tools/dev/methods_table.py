"""Write README.md's table of methods from the metafiles of the config folders.

    python tools/dev/methods_table.py

``make format`` runs it. A folder has a row if its ``metafile.yml`` has a ``Table``.
"""

from pathlib import Path

from mmengine.fileio import load

ROOT = Path(__file__).resolve().parents[2]
HEAD = "| method | paper | configs | ours | the paper's |\n| --- | --- | --- | --- | --- |\n"


def table(configs: Path) -> str:
    """Return the table, in the order of the papers' addresses: on arXiv that is time."""
    rows = []
    for path in configs.glob('*/metafile.yml'):
        for collection in load(path)['Collections']:
            if 'Table' not in collection:
                continue
            row, url = collection['Table'], collection['Paper']['URL']
            folder = f'configs/{path.parent.name}'
            text = (
                f'| {collection["Name"]} | [{row["Paper"]}]({url}) | [{folder}]({folder}) '
                f'| {row["Ours"]} | {row["Theirs"]} |\n'
            )
            rows.append((url, text))
    return HEAD + ''.join(text for _, text in sorted(rows))


def with_table(readme: str, configs: Path) -> str:
    """Return the README with that table in the place of its own."""
    start = readme.index(HEAD)
    return readme[:start] + table(configs) + readme[readme.index('\n\n', start) + 1 :]


def main() -> None:
    """Rewrite."""
    path = ROOT / 'README.md'
    path.write_text(with_table(path.read_text(encoding='utf-8'), ROOT / 'configs'), 'utf-8')


if __name__ == '__main__':
    main()
