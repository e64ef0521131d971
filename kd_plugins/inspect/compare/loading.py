"""Loading a trained student beside its teacher, and pictures for both."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.runner import Runner

from kd_plugins import launch
from kd_plugins.algorithms import SingleTeacherDistill
from kd_plugins.files.weights import load_weights
from kd_plugins.inspect.quiet import quiet, silence
from kd_plugins.registry import name_of


def load(cfg: Config, checkpoint: str) -> Runner:
    """Build a distillation and load its student.

    Args:
        cfg: The config of the training; it is not changed.
        checkpoint: The student's checkpoint.

    Returns:
        The training's Runner, not started; its model is in eval mode.

    Raises:
        FileNotFoundError: If there is no such checkpoint.
        ValueError: If the config is no distillation or has no teacher, or the
            checkpoint is not this student's.
    """
    with tempfile.TemporaryDirectory() as folder, silence():
        cfg = quiet(cfg, folder)
        # A compiled network does not tell its layers' outputs.
        cfg.model.pop('teacher_compile', None)
        # The network itself is compared, on other pictures than those of a store.
        cfg.model.pop('teacher_cache', None)
        runner = launch.build_runner(cfg)
    model = runner.model
    if not isinstance(model, SingleTeacherDistill):
        raise ValueError(
            f'{cfg.filename!r} trains a {type(model).__name__}: give the config of a '
            'distillation (kd_plugins.SingleTeacherDistill).'
        )
    if not model.teacher:
        raise ValueError(
            f'{cfg.filename!r} has model.teacher={cfg.model.teacher!r}, so there is no teacher to '
            'compare the student with: give the config of a distillation with a teacher.'
        )
    load_weights(model.student, checkpoint, 'checkpoint', 'student')
    model.eval()
    return runner


def validation_batches(
    cfg: Config,
    samples: int,
    tell: Callable[[int, int, str], None] = lambda done, total, what: None,
) -> Iterator[dict[str, Any]]:
    """Yield so many samples of the validation set in batches, in random order.

    In the order of the files, the first samples are of one class. Before each batch,
    ``tell`` is called with how many are done, of how many, and what they are.
    """
    wanted = samples
    loader_cfg = copy.deepcopy(cfg.val_dataloader)
    loader_cfg.sampler = dict(type='DefaultSampler', shuffle=True)
    for batch in Runner.build_dataloader(loader_cfg, seed=0):
        tell(wanted - samples, wanted, 'validation pictures')
        yield {key: values[:samples] for key, values in batch.items()}
        samples -= len(batch['data_samples'])
        if samples <= 0:
            return


def validation_set(cfg: Config) -> Any:
    """Return the validation's dataset."""
    return Runner.build_dataloader(copy.deepcopy(cfg.val_dataloader), seed=0).dataset


def random_batch(cfg: Config, samples: int) -> dict[str, Any]:
    """Return one batch of so many pictures of the validation set, drawn at random."""
    batches = [*validation_batches(cfg, samples)]
    return {key: sum((list(b[key]) for b in batches), []) for key in batches[0]}


def batch_of(cfg: Config, images: Sequence[str | int]) -> dict[str, Any]:
    """Return one batch of pictures that the user names.

    Args:
        cfg: The config of the training.
        images: Files, which go through the validation's pipeline in the order of
            channels of its own pictures, and numbers of pictures of the validation set.

    Raises:
        ValueError: If one is neither.
    """
    pipeline, dataset, items = None, None, []
    for image in images:
        if Path(str(image)).is_file():
            pipeline = pipeline or _file_pipeline(cfg)
            items.append(pipeline(dict(img_path=str(image))))
            continue
        dataset = validation_set(cfg) if dataset is None else dataset
        if not str(image).isdigit() or int(image) >= len(dataset):
            raise ValueError(
                f'--images {image} is neither a file nor the number of a validation picture: give '
                f'paths of pictures, or numbers from 0 to {len(dataset) - 1}.'
            )
        items.append(dataset[int(image)])
    batch = pseudo_collate(items)
    return {key: list(batch[key]) for key in ('inputs', 'data_samples')}


def class_names(cfg: Config, classes: int) -> list[str]:
    """Return the validation set's names of the classes, or their numbers."""
    names = validation_set(cfg).metainfo.get('classes') or ()
    return list(map(str, names)) if len(names) == classes else [str(i) for i in range(classes)]


def reads_files(cfg: Config, split: str = 'val') -> bool:
    """Whether the validation or training set reads picture files, whose channels are BGR then."""
    dataset = cfg[f'{split}_dataloader'].dataset
    while not _loading(dataset.get('pipeline') or ()):
        if not isinstance(dataset.get('dataset'), dict):
            return False
        dataset = dataset.dataset
    return True


def _file_pipeline(cfg: Config) -> Compose:
    """Return the validation's pipeline for a picture file without annotations."""
    steps = cfg.val_dataloader.dataset.pipeline
    loading = _loading(steps)[:1]
    if not loading:
        # Data sets of arrays are RGB, or grey, and files are read as BGR.
        grey = len((cfg.get('data_preprocessor') or {}).get('mean') or ()) == 1
        kind = 'grayscale' if grey else 'color'
        loading = [dict(type='LoadImageFromFile', color_type=kind), _bgr_to_rgb]
    return Compose([*loading, *(s for s in steps if not _name(s).startswith('Load'))])


def _bgr_to_rgb(results: dict[str, Any]) -> dict[str, Any]:
    if results['img'].ndim == 3:
        results['img'] = results['img'][..., ::-1].copy()
    return results


def _loading(steps: Iterable[Any]) -> list[Any]:
    return [step for step in steps if _name(step) == 'LoadImageFromFile']


def _name(step: Any) -> str:
    return name_of(step.get('type'))
