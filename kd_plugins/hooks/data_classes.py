"""Whether the classes of the data are those of the teacher, and numbered in one way."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from mmengine.fileio import get_text

from kd_plugins.datasets.unlabelled import WithUnlabelled
from kd_plugins.teachers.classes import difference
from kd_plugins.views.dataset import without_views


def check_classes(
    loader: Any,
    teacher: Sequence[str] | None,
    class_map: Sequence[int | str] | None = None,
    count: int | None = None,
) -> None:
    """Compare the names of the teacher's classes with those of the training set.

    Args:
        loader: The training's.
        teacher: The names of the teacher's classes, after the ``class_map``.
        class_map: The ``teacher_class_map``, if there is one.
        count: The student's classes. Where they are as many as the teacher's, and the
            training set lacks some, those that it has must have their numbers.

    Raises:
        ValueError: If the same number stands for another class.
    """
    if teacher is None:
        return
    for dataset in joined_datasets(getattr(loader, 'dataset', None)):
        names = _names_of_labels(dataset)
        if names is not None and len(names) < len(teacher) == count:
            # What is lacking at the end moves nothing.
            names = [*names, *teacher[len(names) :]]
        found = difference(teacher, names, class_map)
        if found is not None:
            raise ValueError(
                f"the classes in the teacher's checkpoint are not those of the training set: "
                f"{found}. Set model.teacher_class_map to the teacher's class, by name or index, "
                'for every class of the training set (by index if it has another name there: '
                '[0, 1, 2, ...] where all have), or give a teacher that was trained on these '
                "classes. (Of a COCO file mmdet numbers the classes in the order of the file's "
                'categories, whatever the order of metainfo.classes.)'
            )


def check_measured_classes(train: Any, val: Any) -> None:
    """Refuse a validation set in which the number of a class stands for another one.

    mmpretrain numbers the folders that it finds, so that one that is missing on one side, as a
    class without any labelled picture is, moves all later ones.

    Raises:
        ValueError: Naming the class and both numbers.
    """
    labelled = without_views(getattr(train, 'dataset', None))
    if isinstance(labelled, WithUnlabelled):
        labelled = labelled.datasets[0]
    for learnt, names in _numbered_classes(labelled):
        for measured, others in _numbered_classes(getattr(val, 'dataset', None)):
            for i, name in enumerate(others):
                if name in names[i : i + 1] or name not in names:
                    continue
                raise ValueError(
                    f'the class {name!r} has the number {i} in the validation set '
                    f'({type(measured).__name__}) and {names.index(name)} in the training '
                    f'set ({type(learnt).__name__}): give both the same classes in one order (a '
                    'class without pictures keeps its number by an empty folder).'
                )


def _numbered_classes(dataset: Any) -> Iterator[tuple[Any, list[Any]]]:
    """Yield datasets with the names of their classes, but for COCO files, long to read."""
    for each in joined_datasets(dataset):
        if not hasattr(each, 'cat_ids'):
            yield each, list(_names_of_labels(each) or ())


def with_names(train: Any, val: Any) -> Any:
    """Return the loader of the training, or the validation's where only that names classes.

    Pictures without labels name none, and the student learns the teacher's order of them.
    """
    datasets = joined_datasets(getattr(train, 'dataset', None))
    return train if any(_names_of_labels(each) is not None for each in datasets) else val


def check_categories(dataset: Any) -> None:
    """Refuse names of classes that are not those of the labels.

    Of a class that a COCO file lacks mmdet numbers all later ones anew, so that every
    label after it is that of another class. mmpretrain numbers folders by their names.

    Raises:
        ValueError: Naming the classes, and the categories of the file or the folder.
    """
    for inner in joined_datasets(dataset):
        categories = getattr(inner, 'cat_ids', None)
        classes = (getattr(inner, 'metainfo', None) or {}).get('classes')
        _check_folders(inner, classes)
        if categories is None or classes is None or len(categories) == len(classes):
            continue
        known = [category['name'] for category in _categories(inner)]
        missing = [name for name in classes if name not in known]
        raise ValueError(
            f'metainfo.classes of {type(inner).__name__} has {missing or [*classes]}, and the '
            f'categories of {str(inner.ann_file)!r} are {known}: mmdet would leave them out and '
            'number every later class anew. Give the names as the file has them.'
        )


def _check_folders(dataset: Any, classes: Sequence[Any] | None) -> None:
    """Refuse names in another order than mmpretrain numbers the folders that it finds."""
    numbers = {} if getattr(dataset, 'ann_file', None) else getattr(dataset, 'folder_to_idx', {})
    folders = sorted(numbers, key=numbers.__getitem__)
    if classes is None or sorted(map(str, classes)) != sorted(folders):
        return  # ImageNet's folders have names of their own
    for i, (name, folder) in enumerate(zip(classes, folders, strict=True)):
        if name != folder:
            raise ValueError(
                f'metainfo.classes of {type(dataset).__name__} calls class {i} {name!r}, and its '
                f'pictures are those of the folder {folder!r}: mmpretrain numbers folders in the '
                'order of their names, whatever the order of metainfo.classes. Leave '
                'metainfo.classes out, or give it in that order.'
            )


def joined_datasets(dataset: Any) -> Iterator[Any]:
    """Yield a dataset of OpenMMLab, or those that it wraps or joins."""
    inner = _next(dataset)
    for each in inner:
        yield from joined_datasets(each)
    if not inner and dataset is not None:
        yield dataset


def datasets_inside(dataset: Any) -> Iterator[Any]:
    """Yield all datasets that one wraps or joins, at any depth."""
    for each in _next(dataset):
        yield each
        yield from datasets_inside(each)


def _next(dataset: Any) -> list[Any]:
    inner = [*(getattr(dataset, 'datasets', None) or ()), getattr(dataset, 'dataset', None)]
    return [each for each in inner if hasattr(each, 'metainfo')]


def _names_of_labels(dataset: Any) -> Sequence[Any] | None:
    """Return the names of classes in the order of a dataset's labels; None if it says none."""
    meta = getattr(dataset, 'metainfo', None) or {}
    names = meta.get('classes', meta.get('CLASSES'))
    ids = getattr(dataset, 'cat_ids', None)
    if names is None or ids is None:
        return names
    name_of = {category['id']: category['name'] for category in _categories(dataset)}
    return [name_of[i] for i in ids] if name_of else names


def _categories(dataset: Any) -> list[dict[str, Any]]:
    """Return the categories of a dataset's COCO file.

    Only their part of it is parsed: all of it takes long and much memory.
    """
    text = get_text(dataset.ann_file, backend_args=getattr(dataset, 'backend_args', None))
    for found in re.finditer(r'"categories"\s*:\s*(?=\[)', text):
        categories, _ = json.JSONDecoder().raw_decode(text, found.end())
        of_file = [each for each in categories if isinstance(each, dict) and 'name' in each]
        if of_file:
            return of_file
    return []
