"""PASCAL VOC: one XML file for each picture."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path

from kd_plugins.datasets.boxes.reading import (
    HELD_OUT,
    AnnotationError,
    Boxes,
    Builder,
    Split,
    files_of,
    held_out,
    lines_of,
    pictures_in,
    size_of,
)

_CORNERS = ('xmin', 'ymin', 'xmax', 'ymax')


@dataclass
class _Object:
    name: str
    corners: tuple[float, ...]
    difficult: bool


@dataclass
class _Picture:
    path: Path
    size: tuple[int, int]
    objects: list[_Object]


def read(data: Path) -> Boxes | None:
    """Read a VOC folder; None if it is none.

    Classes are in the order of the alphabet. Coordinates count from 1, as VOC's do,
    unless a box begins at 0: many tools count from there.

    Raises:
        AnnotationError: If a file does not parse.
        ValueError: If a part is missing.
    """
    found = _files(data)
    if found is None:
        return None
    parts = {split: [_picture(*pair) for pair in pairs] for split, pairs in found.items()}
    objects = [thing for part in parts.values() for each in part for thing in each.objects]
    classes = sorted({thing.name for thing in objects})
    if not classes:
        raise ValueError(f'--data {str(data)!r}: no XML file names an object.')
    first = 0 if any(min(thing.corners[:2]) < 1 for thing in objects) else 1
    splits = []
    for part in parts.values():
        builder = Builder(classes, data)
        for each in part:
            builder.picture(each.path, *each.size)
            for thing in each.objects:
                x1, y1, x2, y2 = (corner - first for corner in thing.corners)
                builder.box(classes.index(thing.name), x1, y1, x2 - x1, y2 - y1)
                builder.content['annotations'][-1]['iscrowd'] = int(thing.difficult)
        splits.append(Split(builder.content, data))
    train, val = splits
    return Boxes('VOC', classes, train, val, [f'coordinates were taken to count from {first}'])


def _files(data: Path) -> dict[str, list[tuple[Path, Path | None]]] | None:
    """Return the XML files and pictures of the training and the validation part."""
    if not (data / 'Annotations').is_dir():
        years = sorted(data.glob('VOC*/Annotations')) + sorted(
            data.glob('VOCdevkit/VOC*/Annotations')
        )
        if years:
            raise ValueError(
                f'--data {str(data)!r} holds {", ".join(str(y.parent) for y in years)}: give one.'
            )
        return _beside(data)
    pictures = pictures_in(data / 'JPEGImages')
    lists = {path.stem: path for path in (data / 'ImageSets' / 'Main').glob('*.txt')}
    train = 'train' if 'train' in lists else 'trainval'
    val = held_out(list(lists))
    if train not in lists or val is None or (train == 'trainval' and val != 'test'):
        raise ValueError(
            f'--data {str(data)!r} has Annotations and the lists {sorted(lists)} in '
            'ImageSets/Main, but needs train.txt and val.txt there, a name of a picture on each '
            'line.'
        )
    found = {}
    for split in (train, val):
        pairs = []
        for number, line in lines_of(lists[split]):
            # Lists of one class have a -1 or 1 after the name; names may have blanks.
            name = line if (data / 'Annotations' / f'{line}.xml').is_file() else line.split()[0]
            xml = data / 'Annotations' / f'{name}.xml'
            if not xml.is_file():
                raise AnnotationError(lists[split], number, f'names {name!r}, and {xml} is no file')
            pairs.append((xml, pictures.get(name)))
        found[split] = pairs
    return found


def _beside(data: Path) -> dict[str, list[tuple[Path, Path | None]]] | None:
    """Return them where the XML files lie beside the pictures, in a folder for each part."""
    folders = {name: data / name for name in ('train', *HELD_OUT)
               if any((data / name).glob('*.xml'))}  # fmt: skip
    val = held_out(list(folders))
    if 'train' not in folders or val is None:
        return None
    found = {}
    for split in ('train', val):
        pictures = pictures_in(folders[split])
        files = files_of(folders[split].glob('*.xml'))
        found[split] = [(xml, pictures.get(xml.stem)) for xml in files]
    return found


def _picture(xml: Path, path: Path | None) -> _Picture:
    try:
        root = ET.parse(xml).getroot()
    except ET.ParseError as error:
        raise AnnotationError(xml, error.position[0], f'is no XML: {error.msg}') from None
    if path is None:
        raise AnnotationError(xml, None, f'there is no picture called {xml.stem!r} for it')
    objects = []
    for number, thing in enumerate(root.findall('object')):
        name, box = (thing.findtext('name') or '').strip(), thing.find('bndbox')
        try:
            corners = tuple(float(box.findtext(corner)) for corner in _CORNERS)  # type: ignore[union-attr, arg-type]
        except (AttributeError, TypeError, ValueError):
            corners = ()
        if not name or not corners:
            lacks = 'a name' if not name else 'xmin, ymin, xmax and ymax as numbers in a bndbox'
            raise AnnotationError(xml, _line(xml, number), f'this object has not {lacks}')
        difficult = (thing.findtext('difficult') or '').strip().lower() in ('1', 'true')
        objects.append(_Object(name, corners, difficult))
    width, height = (root.findtext(f'size/{side}') or '' for side in ('width', 'height'))
    known = width.isdigit() and height.isdigit() and int(width) > 0 < int(height)
    return _Picture(path, (int(width), int(height)) if known else size_of(path), objects)


def _line(xml: Path, number: int) -> int | None:
    """Return the line on which the object of this number begins."""
    text = xml.read_text(encoding='utf-8', errors='replace')
    starts = [found.start() for found in re.finditer(r'<object\b', text)]
    return text.count('\n', 0, starts[number]) + 1 if number < len(starts) else None
