"""docs/zoo.md: a table of rows, and the sentences with which the rest is refused."""

import re

HEAD = """# What of both model zoos can be distilled

One config of each folder of mmpretrain 1.2.0 and mmdet 3.3.0, a small one, as student and as
teacher: written by `tools/new_config.py`, checked, and trained for one step with random weights, on
a CPU. `python tools/dev/zoo_table.py` writes this page and `make test-long` compares it. A "no" has
its sentence below the table, of upstream where it raised the error; "-" is not for that kind of
network.

"""
INTRODUCTIONS = dict(
    mmpretrain="""## mmpretrain

Student and teacher: KD of logits, with a ResNet on the other side. Maps: CWD as `AutoDistiller`
wires it, a ResNet-18 teaching; how many, and of which modules of both. Dense logits are what CSKD
and Zipf read. DOT takes apart the momentum of SGD; of other recipes the optimizer is named.

""",
    mmdet="""## mmdet

Each beside a teacher of its own kind. Dense heads: BCKD's two terms. RoIs: RoI-DKD
(`configs/_base_/distill/dkd_rois.py`). Features: CWD as `AutoDistiller` wires it; how many
maps, and of which modules.

""",
)
COLUMNS = dict(
    mmpretrain=dict(
        network='backbone',
        student='student',
        teacher='teacher',
        maps='maps',
        dense='dense logits',
        dot='DOT',
    ),
    mmdet=dict(
        network='detector', head='head', bckd='dense heads', rois='RoIs', features='features'
    ),
)
#: The columns of what was run.
RUN = ('student', 'teacher', 'maps', 'dense', 'bckd', 'rois', 'features')
_UNREADABLE = re.compile(r'the head (\w+) is not one that can be read')


def cells(row):
    """Return the row with cells that begin with what the table shows, sentences after ': '."""
    found = {}
    for key, said in row.items():
        if said.startswith('--method bckd is for two dense detectors'):
            said = '-'
        unreadable = _UNREADABLE.search(said)
        if unreadable:
            said = f'no: the head {unreadable[1]} cannot be read'
        elif key in RUN and said not in ('-', '?') and not said.startswith('yes'):
            said = f'no: {said}'
        found[key] = said.replace('|', '/')
    return found


def page(rows):
    """Return the page of rows by package and folder."""
    text = HEAD
    for package, columns in COLUMNS.items():
        mine = {folder: row for (of, folder), row in sorted(rows.items()) if of == package}
        text += INTRODUCTIONS[package]
        text += f'| folder | config | {" | ".join(columns.values())} |\n'
        text += '| --- ' * (len(columns) + 2) + '|\n'
        refused = []
        for folder, row in mine.items():
            shown = [folder, f'`{row["config"]}`']
            for key in columns:
                said = row[key]
                if said.startswith('no: '):
                    refused.append(f'- {folder}, {columns[key]}: {said.removeprefix("no: ")}')
                    said = 'no'
                shown.append(said)
            text += f'| {" | ".join(shown)} |\n'
        text += '\n' + ''.join(f'{line}\n' for line in refused) + '\n'
    return text.rstrip() + '\n'


def read(text):
    """Return the rows of a page."""
    rows, package = {}, None
    for line in text.splitlines():
        if line.startswith('## '):
            package = line[3:]
        elif package and line.startswith('| ') and not line.startswith(('| folder', '| ---')):
            folder, config, *values = [cell.strip() for cell in line.strip('|').split(' | ')]
            row = dict(zip(COLUMNS[package], values, strict=True))
            rows[package, folder] = dict(row, config=config.strip('`'))
        elif package and line.startswith('- '):
            place, said = line[2:].split(': ', 1)
            folder, column = place.split(', ', 1)
            keys = {title: key for key, title in COLUMNS[package].items()}
            rows[package, folder][keys[column]] = f'no: {said}'
    return rows
