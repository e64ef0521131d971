"""What is wrong with annotations that parse."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kd_plugins.datasets.boxes.reading import AnnotationError, is_turned_unseen, size_of

#: By how many pixels a box may be outside: what rounding does.
OUTSIDE = 1.0
#: Of how many pictures the size is compared with what the file says.
LOOKED_AT = 100


@dataclass(frozen=True)
class Fault:
    """Something that is wrong with a data set.

    Args:
        level: ``'error'`` where a training would learn something wrong or stop,
            ``'warning'`` where part of the data is lost, ``'note'`` otherwise.
        what: What was seen.
        change: What to change.
    """

    level: str
    what: str
    change: str = ''


def faults_of(content: dict[str, Any], pictures: Path | None, name: str) -> list[Fault]:
    """Return what is wrong with one part of a data set.

    Args:
        content: What a COCO file holds.
        pictures: The folder of the pictures; None not to look at them.
        name: What to call the part, ``'train'`` for example.
    """
    found = [*_ids(content, name), *_references(content, name), *_boxes(content, name)]
    # Crowds, and what is difficult, teach nothing and are not measured.
    counts = Counter(t['category_id'] for t in content['annotations'] if not t.get('iscrowd'))
    empty = [each['name'] for each in content['categories'] if not counts[each['id']]]
    if empty:
        found.append(
            Fault(
                'warning' if name == 'train' else 'note',
                f'{name}: no object is a {_some(empty)}.',
                'leave these classes out, or add pictures of them.'
                if name == 'train'
                else 'their AP cannot be measured and is left out of the mean.',
            )
        )
    with_objects = {thing['image_id'] for thing in content['annotations']}
    without = sum(image['id'] not in with_objects for image in content['images'])
    if without:
        found.append(
            Fault(
                'note',
                f'{name}: {without} of {len(content["images"])} pictures have no object; where '
                'filter_cfg.filter_empty_gt is set, no training sees them.',
            )
        )
    return found + (_pictures(content, pictures, name) if pictures is not None else [])


def faults_between(train: dict[str, Any], val: dict[str, Any], same_folder: bool) -> list[Fault]:
    """Return what is wrong with both parts together.

    Args:
        train, val: What their COCO files hold.
        same_folder: Whether the pictures' names count from the same folder.
    """
    found = []
    names = [[each['name'] for each in part['categories']] for part in (train, val)]
    if names[0] != names[1]:
        moved = [pair for pair in zip(*names, strict=False) if pair[0] != pair[1]]
        said = f'the first is {moved[0][0]!r} and {moved[0][1]!r}' if moved else 'one has more'
        found.append(
            Fault(
                'error',
                f'train and val have their categories in another order ({said}): mmdet numbers '
                'classes in the order of each file.',
                'bring both files into one order.',
            )
        )
    if same_folder:
        files = [{image['file_name'] for image in part['images']} for part in (train, val)]
        both = sorted(files[0] & files[1])
        if both:
            found.append(
                Fault(
                    'warning',
                    f'{len(both)} pictures are in train and in val (first: {both[0]}).',
                    'take them out of one, or the validation measures what was learnt by heart.',
                )
            )
    return found


def _ids(content: dict[str, Any], name: str) -> Iterable[Fault]:
    kinds = (('images', 'id', 'error'), ('annotations', 'id', 'error'),
             ('categories', 'id', 'error'), ('categories', 'name', 'error'),
             ('images', 'file_name', 'warning'))  # fmt: skip
    for part, key, level in kinds:
        twice = [v for v, n in Counter(row[key] for row in content[part]).items() if n > 1]
        if twice:
            yield Fault(
                level,
                f'{name}: {len(twice)} {key}s of {part} are there twice (first: {twice[0]!r}): '
                'of these only one is seen, or mmdet stops.',
                'give each its own.',
            )
    if name == 'train':
        return
    things = content['annotations']
    if any(thing['id'] == 0 for thing in things):
        yield Fault(
            'warning',
            f"{name}: an annotation has the id 0, which COCO's evaluation takes for none: its "
            f'object counts as missed ({len(things)} there are), and what finds it as wrong.',
            'number the annotations from 1.',
        )
    lacks = [thing['id'] for thing in things if 'iscrowd' not in thing]
    if lacks:
        yield Fault(
            'error',
            f"{name}: {len(lacks)} annotations have no iscrowd (first: {lacks[0]!r}): COCO's "
            'evaluation stops there, after an epoch of training.',
            'add iscrowd, 0 for a single object.',
        )


def _references(content: dict[str, Any], name: str) -> Iterable[Fault]:
    for key, part in (('image_id', 'images'), ('category_id', 'categories')):
        known = {row['id'] for row in content[part]}
        lost = [thing for thing in content['annotations'] if thing[key] not in known]
        if lost:
            yield Fault(
                'warning',
                f'{name}: {len(lost)} annotations have a {key} that no one of {part} has (first: '
                f'annotation {lost[0]["id"]}, {key} {lost[0][key]!r}); mmdet passes over them.',
                f'add these {part}, or take the annotations out.',
            )


def _boxes(content: dict[str, Any], name: str) -> Iterable[Fault]:
    sizes = {image['id']: (image['width'], image['height']) for image in content['images']}
    files = {image['id']: image['file_name'] for image in content['images']}
    bad: dict[str, list[Any]] = dict(flat=[], outside=[], empty=[], ignored=[], partly=[])
    for thing in content['annotations']:
        x, y, w, h = thing['bbox']
        width, height = sizes.get(thing['image_id'], (math.inf, math.inf))
        if not all(map(math.isfinite, (x, y, w, h))) or w < 1 or h < 1:
            bad['flat'].append(thing)
        elif min(x + w, width) <= max(x, 0) or min(y + h, height) <= max(y, 0):
            bad['outside'].append(thing)
        elif thing['area'] <= 0:
            bad['empty'].append(thing)
        elif thing.get('ignore'):
            bad['ignored'].append(thing)
        elif min(x, y) < -OUTSIDE or x + w > width + OUTSIDE or y + h > height + OUTSIDE:
            bad['partly'].append(thing)
    # The evaluation reads the file, from which nothing is left out.
    lost = (
        'mmdet passes over them' if name == 'train' else "COCO's evaluation counts them as missed"
    )
    says = dict(
        flat=f'are thinner than a pixel, or no numbers: {lost}',
        outside=f'lie outside of their picture: {lost}',
        empty=f'have an area of 0 in the file: {lost}',
        ignored='are marked by ignore: mmdet learns them as background, and misses them when it '
        'measures',
        partly='reach out of their picture by more than a pixel',
    )
    for kind, things in bad.items():
        if things:
            first, count = things[0], len(content['annotations'])
            yield Fault(
                'error' if len(things) == count and kind != 'partly' else 'warning',
                f'{name}: {len(things)} of {count} boxes {says[kind]} (first: '
                f'annotation {first["id"]} of {files.get(first["image_id"], "no picture")}, '
                f'{[round(v, 1) for v in first["bbox"]]}).',
                dict(
                    empty='write width times height as the area.',
                    ignored='set iscrowd in the place of ignore, or take these out.',
                ).get(
                    kind,
                    'look whether coordinates are [x, y, width, height] in pixels of the picture '
                    'as it is loaded.',
                ),
            )


def _pictures(content: dict[str, Any], pictures: Path, name: str) -> list[Fault]:
    found, images = [], content['images']
    missing = [i['file_name'] for i in images if not (pictures / i['file_name']).is_file()]
    if missing:
        found.append(
            Fault(
                'error',
                f'{name}: {len(missing)} of {len(images)} pictures are not there (first: '
                f'{pictures / missing[0]}).',
                'add them, or take them out of the file.',
            )
        )
    lost, unlike, unsure = set(missing), [], []
    step = max(1, len(images) // LOOKED_AT)
    for image in images[::step][:LOOKED_AT]:
        if image['file_name'] in lost:
            continue
        said = (image['width'], image['height'])
        try:
            seen = size_of(pictures / image['file_name'])
        except AnnotationError as error:
            found.append(Fault('error', f'{name}: {error}.', 'give a whole picture.'))
            continue
        if seen != said:
            unlike.append((image['file_name'], said, seen))
        elif is_turned_unseen(pictures / image['file_name']):
            unsure.append(image['file_name'])
    if unsure:
        found.append(
            Fault(
                'note',
                f'{name}: {len(unsure)} of {min(len(images), LOOKED_AT)} pictures that were looked '
                f'at are turned or mirrored when they are loaded (EXIF; first: {unsure[0]}), and '
                'their size does not tell whether their boxes were drawn so.',
                'look at the page of tools/check.py --pictures.',
            )
        )
    if unlike:
        file, said, seen = unlike[0]
        found.append(
            Fault(
                'error',
                f'{name}: {len(unlike)} of {min(len(images), LOOKED_AT)} pictures that were looked '
                f'at have another size than the file says (first: {file}, {said[0]} x {said[1]}, '
                f'and it is loaded as {seen[0]} x {seen[1]}): its boxes are elsewhere.',
                'correct width and height, and the boxes with them.',
            )
        )
    return found


def _some(names: list[str]) -> str:
    shown = ', '.join(names[:5])
    return shown if len(names) <= 5 else f'{shown} or any of {len(names) - 5} more'
