"""Write docs/zoo.md: what of mmpretrain's and mmdet's configs can be distilled, and what not.

    python tools/dev/zoo_table.py                    # all folders; an hour on two cores
    python tools/dev/zoo_table.py convnext yolox     # these anew, the others as they are

One config of each folder runs as student and as teacher, through ``tools/new_config.py``'s
code, the check and one training step; see tests/helpers/zoo.py.
"""

import logging
import sys
import warnings
from pathlib import Path

import kd_plugins  # noqa: F401  (makes mmrazor importable)

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / 'tests'))


def main() -> None:
    """Run and write, folder by folder."""
    from helpers import zoo, zoo_page
    from helpers.indices import read_once

    warnings.simplefilter('ignore')
    logging.disable(logging.WARNING)
    path, only = ROOT / 'docs/zoo.md', sys.argv[1:]
    rows = zoo_page.read(path.read_text(encoding='utf-8')) if path.is_file() else {}
    runs = {
        'mmpretrain': (zoo.CLASSIFIERS, zoo.classifier_row),
        'mmdet': (zoo.DETECTORS, zoo.detector_row),
    }
    unknown = set(only) - {*zoo.CLASSIFIERS, *zoo.DETECTORS}
    if unknown:
        sys.exit(f'{", ".join(sorted(unknown))}: no folder of either zoo that has a config here')
    with read_once():
        for package, (folders, run) in runs.items():
            for folder in folders:
                if only and folder not in only:
                    continue
                rows[package, folder] = zoo_page.cells(run(folder))
                print(package, folder, rows[package, folder], flush=True)
                path.write_text(zoo_page.page(rows), encoding='utf-8')


if __name__ == '__main__':
    main()
