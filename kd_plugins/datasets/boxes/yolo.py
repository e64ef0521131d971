"""YOLO: a text file for each picture, a line for each object."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from kd_plugins.datasets.boxes.reading import (
    HELD_OUT,
    AnnotationError,
    Boxes,
    Builder,
    Split,
    files_below,
    files_of,
    held_out,
    lines_of,
    pictures_in,
    size_of,
)

#: Files that hold one name on each line.
_NAMES = ('classes.txt', 'obj.names', 'labels/classes.txt', 'names.txt')


def read(data: Path) -> Boxes | None:
    """Read a YOLO folder; None if it is none.

    A line is ``class x y width height`` (the centre first, in parts of the picture), or
    ``class x1 y1 x2 y2 x3 y3 ...``, a polygon, of which the box is taken. Where the YAML
    file has a ``kpt_shape``, points follow the box, and are passed over.

    Raises:
        AnnotationError: If a file does not parse.
        ValueError: If a part, or the names of the classes, are missing.
    """
    folders = {name: pair for name in ('train', *HELD_OUT) if (pair := _folders(data, name))}
    if not folders:
        return None
    val = held_out(list(folders))
    if 'train' not in folders or val is None:
        raise ValueError(
            f'--data {str(data)!r} has labels for {", ".join(folders)} only: give a training and a '
            'validation part, as images/train and images/val.'
        )
    settings = _settings(data)
    classes, points = _names(data, settings), any('kpt_shape' in each for each in settings.values())
    train, held = (_split(data, *folders[name], classes, points) for name in ('train', val))
    notes = [*_other_folders(data, settings, dict(train=folders['train'], val=folders[val]))]
    return Boxes('YOLO', classes, train, held, notes)


def _other_folders(
    data: Path, settings: dict[Path, dict[str, Any]], taken: dict[str, tuple[Path, Path]]
) -> Iterator[str]:
    """Say where a YAML file names other pictures than those that were found.

    Its paths may begin anywhere, so only their ends are compared.
    """
    for path, content in settings.items():
        for name, (pictures, _) in taken.items():
            said, found = content.get(name), pictures.relative_to(data)
            end = PurePosixPath(said).parts[-2:] if isinstance(said, str) else ()
            if said and (not end or found.parts[-len(end) :] != end):
                yield f'{path.name} names {said!r} as {name}, and {found} was taken'


def _folders(data: Path, name: str) -> tuple[Path, Path] | None:
    """Return the folders of pictures and of labels of a part."""
    for pictures, labels in (
        (f'images/{name}', f'labels/{name}'),
        (f'{name}/images', f'{name}/labels'),
    ):
        if (data / pictures).is_dir() and (data / labels).is_dir():
            return data / pictures, data / labels
    return None


def _settings(data: Path) -> dict[Path, dict[str, Any]]:
    """Return what the YAML files of a folder hold."""
    found = {}
    for path in files_of([*data.glob('*.yaml'), *data.glob('*.yml')]):
        try:
            # All as text: a class may be called no, 07 or 1.0.
            content = yaml.load(path.read_text(encoding='utf-8'), yaml.BaseLoader)
        except yaml.YAMLError as error:
            mark = getattr(error, 'problem_mark', None)
            raise AnnotationError(path, mark and mark.line + 1, f'is no YAML: {error}') from None
        except (OSError, UnicodeDecodeError) as error:
            raise AnnotationError(path, None, f'cannot be read as text ({error})') from None
        found[path] = content if isinstance(content, dict) else {}
    return found


def _names(data: Path, settings: dict[Path, dict[str, Any]]) -> list[str]:
    found: dict[Path, list[str]] = {}
    for path, content in settings.items():
        names: Any = content.get('names')
        if isinstance(names, dict):
            if set(names) != set(map(str, range(len(names)))):
                raise AnnotationError(path, None, f'names has the numbers {sorted(names)}, not all '
                                      'from 0 on')  # fmt: skip
            names = [names[str(i)] for i in range(len(names))]
        if isinstance(names, list) and names:
            found[path] = [str(name) for name in names]
            count = content.get('nc')
            if count is not None and count != str(len(names)):
                raise AnnotationError(path, None, f'nc is {count}, and names has {len(names)}')
    for path, names in found.items():
        first, others = next(iter(found.items()))
        if names != others:
            raise AnnotationError(
                path, None, f'its names are {names}, and those of {first} are {others}: leave one'
            )
    if found:
        return next(iter(found.values()))
    for name in _NAMES:
        if (data / name).is_file():
            return [line for _, line in lines_of(data / name)]
    raise ValueError(
        f'--data {str(data)!r} has YOLO labels, and nothing that names the classes: give a '
        'data.yaml with names, or a classes.txt.'
    )


def _split(data: Path, pictures: Path, labels: Path, classes: list[str], points: bool) -> Split:
    builder, found = Builder(classes, data), pictures_in(pictures)
    for path in files_below(labels):
        if path.suffix != '.txt':
            continue
        name = str(path.relative_to(labels).with_suffix(''))
        if name not in found and path.name != 'classes.txt':
            raise AnnotationError(path, None, f'there is no picture called {name!r} for it')
    for name, path in found.items():
        width, height = size_of(path)
        builder.picture(path, width, height)
        file = labels / f'{name}.txt'
        # A picture without a file has no object.
        for number, line in lines_of(file) if file.is_file() else ():
            label, box = _parse(file, number, line, len(classes), points)
            x, y, w, h = box
            builder.box(label, x * width, y * height, w * width, h * height)
    return Split(builder.content, data)


def _parse(
    file: Path, number: int, line: str, classes: int, points: bool
) -> tuple[int, tuple[float, float, float, float]]:
    """Return the class of a line, and its box: its corner, width and height."""
    try:
        values = [float(part) for part in line.split()]
    except ValueError:
        raise AnnotationError(file, number, f'{line!r} are not all numbers') from None
    if points and len(values) > 5:
        del values[5:]
    polygon = len(values) >= 7 and len(values) % 2 == 1
    if len(values) != 5 and not polygon:
        raise AnnotationError(
            file, number, f'{line!r} has {len(values)} numbers, and not a class and a box of four'
        )
    label, place = values[0], values[1:]
    if label not in range(classes):
        raise AnnotationError(
            file, number, f'the class {label:g} is none of the {classes} that are named, 0 to '
            f'{classes - 1}'
        )  # fmt: skip
    if not all(-1 <= value <= 2 for value in place):
        raise AnnotationError(
            file, number, f'{line!r} is in pixels: YOLO counts in parts of the picture, 0 to 1'
        )
    if polygon:
        xs, ys = place[::2], place[1::2]
        return int(label), (min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys))
    x, y, width, height = place
    return int(label), (x - width / 2, y - height / 2, width, height)
