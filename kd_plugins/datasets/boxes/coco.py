"""COCO: one JSON file for each part."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from kd_plugins.datasets.boxes.reading import HELD_OUT, AnnotationError, Boxes, Split

#: Files of the same pictures that are about something else than boxes.
_OTHERS = ('caption', 'keypoint', 'panoptic', 'stuff', 'image_info')
#: What a value has to be, and how to say it; an id if it is not here.
_KINDS = dict(
    width=((int, float), 'number'), height=((int, float), 'number'), area=((int, float), 'number'),
    name=((str,), 'text'), file_name=((str,), 'text'),
)  # fmt: skip
_IDS = ((int, str), 'number or text')


def read(data: Path) -> Boxes | None:
    """Read a COCO folder; None if it is none.

    Raises:
        AnnotationError: If a file does not parse.
        ValueError: If a part is missing, or both have other categories.
    """
    files = {name: _files(data, name) for name in ('train', *HELD_OUT)}
    of_train = files.pop('train')
    of_held = next((paths for paths in files.values() if paths), [])
    train, held = (next(iter(paths), None) for paths in (of_train, of_held))
    if train is None and held is None:
        return None
    if train is None or held is None:
        missing = 'training' if train is None else 'validation'
        raise ValueError(
            f'--data {str(data)!r} has {train or held} and no {missing} part beside it: split the '
            'data, and give both files.'
        )
    parts = [Split(content := parse(path), _pictures(data, path, content), path)
             for path in (train, held)]  # fmt: skip
    names = [[each['name'] for each in part.content['categories']] for part in parts]
    if not names[0]:
        raise AnnotationError(train, None, 'categories is empty, so there is nothing to learn')
    if names[0] != names[1]:
        raise ValueError(
            f'the categories of {train} are {names[0]} and those of {held} are {names[1]}: mmdet '
            'numbers classes in the order of each file, so the same number would stand for two '
            'classes; bring both into one order.'
        )
    notes = [
        f'{paths[0].name} was taken, and not {", ".join(path.name for path in paths[1:])}'
        for paths in (of_train, of_held)
        if len(paths) > 1
    ]
    return Boxes('COCO', names[0], parts[0], parts[1], notes)


def parse(path: Path) -> dict[str, Any]:
    """Read a COCO file.

    Raises:
        AnnotationError: If it is no JSON, or not made as COCO's; it names the line, or
            the annotation.
    """
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
    except json.JSONDecodeError as error:
        raise AnnotationError(path, error.lineno, f'is no JSON: {error.msg}') from None
    except (OSError, UnicodeDecodeError) as error:
        raise AnnotationError(path, None, f'cannot be read as text ({error})') from None
    if not isinstance(content, dict):
        raise AnnotationError(path, None, f'holds a {type(content).__name__}, not what COCO keeps')
    needs = dict(
        images=('id', 'file_name', 'width', 'height'),
        annotations=('id', 'image_id', 'category_id', 'bbox', 'area'),
        categories=('id', 'name'),
    )
    for part, keys in needs.items():
        rows = content.get(part)
        if not isinstance(rows, list):
            raise AnnotationError(path, None, f'has no list of {part}')
        for i, row in enumerate(rows):
            lacks = [key for key in keys if not isinstance(row, dict) or key not in row]
            if lacks:
                raise AnnotationError(path, None, f'{part}[{i}] has no {lacks[0]!r}')
            for key in keys:
                kinds, said = _KINDS.get(key, _IDS)
                if key != 'bbox' and type(row[key]) not in kinds:
                    raise AnnotationError(
                        path, None, f'{part}[{i}] has the {key} {row[key]!r}, which is no {said}'
                    )
            box = row.get('bbox', (0, 0, 0, 0))
            numbers = isinstance(box, (list, tuple)) and all(type(v) in (int, float) for v in box)
            if not numbers or len(box) != 4:
                raise AnnotationError(
                    path, None, f'{part}[{i}] (id {row["id"]}) has the bbox {box!r}, which are not '
                    'four numbers'
                )  # fmt: skip
    return content


def _files(data: Path, split: str) -> list[Path]:
    """Return the files that may be of a part, the one to take first."""
    for folder in (data / 'annotations', data):
        found = sorted(
            path
            for path in folder.glob(f'*{split}*.json')
            if not any(word in path.name for word in _OTHERS)
            # `trainval` is for training.
            and (split == 'train' or 'train' not in path.stem)
        )
        if found:
            # `instances_train2017.json` before what else has the name in it.
            return sorted(
                found, key=lambda path: (not path.name.startswith('instances'), path.name)
            )
    beside = data / split / '_annotations.coco.json'
    return [beside] if beside.is_file() else []


def _pictures(data: Path, ann_file: Path, content: dict[str, Any]) -> Path:
    """Return the folder from which the names of the images count."""
    if not content['images']:
        raise AnnotationError(ann_file, None, 'images is empty')
    year = ann_file.stem.removeprefix('instances_')
    names = [name for name in ('train', *HELD_OUT) if name in ann_file.stem]
    folders = [ann_file.parent] if ann_file.name == '_annotations.coco.json' else []
    for name in dict.fromkeys([year, *names]):
        folders += [data / name, data / 'images' / name]
    folders += [data / 'images', data]
    first = content['images'][0]['file_name']
    for folder in folders:
        if first and (folder / first).is_file():
            return folder
    raise ValueError(
        f'{ann_file} names the picture {first!r}, which is in none of '
        f'{", ".join(str(folder) for folder in folders)}: put the pictures into one of these.'
    )
