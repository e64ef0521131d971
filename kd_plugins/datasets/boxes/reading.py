"""What the forms of annotations share."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mmcv
from PIL import Image

#: What pictures are called.
PICTURES = ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp')
#: What the part to measure on is called, the first that is there.
HELD_OUT = ('val', 'valid', 'validation', 'test')
#: EXIF's tag of how a camera was held; from here on width and height change places.
_ORIENTATION, _TURNED = 0x0112, 5


class AnnotationError(ValueError):
    """An annotation that does not parse, with its file and line.

    Args:
        file: The file.
        line: The line, from 1; None where it cannot be told.
        what: What is wrong with it.
    """

    def __init__(self, file: Path, line: int | None, what: str) -> None:
        super().__init__(f'{file}{"" if line is None else f", line {line}"}: {what}')


@dataclass
class Split:
    """The training or the validation part.

    Args:
        content: Images, annotations and categories, as a COCO file has them.
        pictures: The folder from which the images' ``file_name`` counts.
        ann_file: The COCO file that it was read from; None where it was another form.
    """

    content: dict[str, Any]
    pictures: Path
    ann_file: Path | None = None


@dataclass
class Boxes:
    """Both parts of a data set.

    Args:
        form: ``'COCO'``, ``'VOC'`` or ``'YOLO'``.
        classes: In the order of the labels, which is that of the categories.
        train, val: The parts.
        notes: What had to be guessed.
    """

    form: str
    classes: list[str]
    train: Split
    val: Split
    notes: Sequence[str] = ()


def pictures_in(folder: Path) -> dict[str, Path]:
    """Return the pictures below a folder, by their path from there without its ending.

    Raises:
        AnnotationError: If two of them are called the same.
    """
    found: dict[str, Path] = {}
    for path in files_below(folder):
        if path.suffix.lower() in PICTURES:
            name = str(path.relative_to(folder).with_suffix(''))
            if name in found:
                raise AnnotationError(
                    path, None, f'{found[name].name} is called the same, so whose the annotation '
                    f'of {name!r} is cannot be told'
                )  # fmt: skip
            found[name] = path
    return found


def files_below(folder: Path, above: tuple[str, ...] = ()) -> list[Path]:
    """Return the files below a folder, those behind links to folders too, in their order.

    Args:
        folder: The folder; one that is not there has none.
        above: Where it was come from: a link that leads back has no end.
    """
    here = os.path.realpath(folder)
    if here in above or not folder.is_dir():
        return []
    found: list[Path] = []
    for path in folder.iterdir():
        found += files_below(path, (*above, here)) if path.is_dir() else [path]
    return files_of(found)


def files_of(paths: Iterable[Path]) -> list[Path]:
    """Return paths in their order, without hidden ones, such as the ``._*`` of a Mac."""
    return sorted(path for path in paths if not path.name.startswith('.'))


def size_of(path: Path) -> tuple[int, int]:
    """Return width and height of a picture as upstream's loader turns it.

    Raises:
        AnnotationError: If it is no picture.
    """
    size, orientation = _header(path)
    if orientation >= _TURNED:
        # Of which formats OpenCV follows the tag depends on its version, and Pillow's size has
        # followed it already in some: only what is loaded tells.
        loaded = mmcv.imread(str(path))
        if loaded is not None:
            return loaded.shape[1], loaded.shape[0]
    return size


def is_turned_unseen(path: Path) -> bool:
    """Whether a picture has an EXIF orientation that leaves its width and height as they are.

    Raises:
        AnnotationError: If it is no picture.
    """
    (width, height), orientation = _header(path)
    return orientation > 1 and (orientation < _TURNED or width == height)


def _header(path: Path) -> tuple[tuple[int, int], int]:
    """Return the size of a picture in its file, and how the camera was held."""
    # No pixel of most is decoded here, so pictures from the air may be as large as they are.
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        with Image.open(path) as picture:
            return picture.size, picture.getexif().get(_ORIENTATION, 1)
    except OSError as error:
        raise AnnotationError(path, None, f'is no picture that can be read ({error})') from None
    finally:
        Image.MAX_IMAGE_PIXELS = limit


class Builder:
    """Collects images and boxes as a COCO file has them.

    Args:
        classes: Their names, in the order of the labels.
        root: The folder from which the images' names count.
    """

    def __init__(self, classes: Sequence[str], root: Path) -> None:
        self.root = root
        self.content: dict[str, Any] = dict(
            images=[],
            annotations=[],
            categories=[dict(id=i + 1, name=name) for i, name in enumerate(classes)],
        )

    def picture(self, path: Path, width: int, height: int) -> None:
        """Add a picture, to which the boxes that follow belong."""
        images = self.content['images']
        name = path.relative_to(self.root).as_posix()
        images.append(dict(id=len(images) + 1, file_name=name, width=width, height=height))

    def box(self, label: int, x: float, y: float, width: float, height: float, **more: Any) -> None:
        """Add a box in pixels, its corner first, to the last picture."""
        annotations = self.content['annotations']
        annotations.append(
            dict(
                id=len(annotations) + 1,
                image_id=len(self.content['images']),
                category_id=label + 1,
                bbox=[x, y, width, height],
                area=width * height,
                iscrowd=0,
                **more,
            )
        )


def held_out(names: Sequence[str]) -> str | None:
    """Return which of these names is the part to measure on."""
    return next((name for name in HELD_OUT if name in names), None)


def lines_of(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines of a text file that are not empty, with their numbers from 1.

    Raises:
        AnnotationError: If it is no text.
    """
    try:
        text = path.read_text(encoding='utf-8-sig')
    except (OSError, UnicodeDecodeError) as error:
        raise AnnotationError(path, None, f'cannot be read as text ({error})') from None
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            yield number, line.strip()
