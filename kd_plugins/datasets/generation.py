"""DM-KD: drawing pictures of every class with a diffusion model."""

from __future__ import annotations

import inspect
import io
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from kd_plugins import checks
from kd_plugins.datasets.dmkd import NAME
from kd_plugins.files.records import Lock
from kd_plugins.files.writing import write_aside

#: Where the settings stand that a folder was drawn with.
SETTINGS = 'generation.json'
#: Which of them make other pictures under the same names.
KEPT = ('pipeline', 'guidance', 'steps', 'scheduler')
#: The published pictures take 20 GB for 200,000 of 256 x 256 pixels.
BYTES_PER_PIXEL = 20e9 / 200_000 / 256**2


@dataclass(frozen=True)
class Generation:
    """What is drawn, and by what. The defaults are the published ones.

    Args:
        pipeline: Of diffusers: a folder, or a name on its hub.
        classes: The classes, by the index that the teacher has for them.
        seeds: The seeds; every class begins with the noise of each of them.
        per_seed: Pictures of a class and seed, drawn in one call.
        guidance: The scale of the classifier-free guidance.
        steps: Of the sampler.
        prompts: For pipelines that draw what a text says: the text of every class,
            counted from class 0.
        scheduler: The name of a scheduler of diffusers; empty for the pipeline's own.

    Raises:
        ValueError: On values out of range, or a class without a prompt.
    """

    pipeline: str
    classes: Sequence[int]
    seeds: Sequence[int]
    per_seed: int = 10
    guidance: float = 2.0
    steps: int = 100
    prompts: Sequence[str] | None = None
    scheduler: str = ''

    def __post_init__(self) -> None:
        checks.whole_number('--per-seed', self.per_seed)
        checks.whole_number('--steps', self.steps)
        checks.number('--guidance', self.guidance, 'a scale, 0 or above', least=0)
        for key, values in (('--classes', self.classes), ('--seeds', self.seeds)):
            if not values or min(values) < 0:
                raise checks.refuse(key, list(values), 'whole numbers, such as 0-999')
        if self.prompts is not None and max(self.classes) >= len(self.prompts):
            raise ValueError(
                f'--prompts has {len(self.prompts)} lines, and --classes has '
                f'{max(self.classes)}: give a line for every class, that of class 0 first.'
            )

    @property
    def count(self) -> int:
        """How many pictures there are in all."""
        return len(self.classes) * len(self.seeds) * self.per_seed

    @property
    def index(self) -> str:
        """The name of the index file, ``s2_st100_200k.txt``."""
        amount = f'{self.count // 1000}k' if self.count % 1000 == 0 else str(self.count)
        return f's{self.guidance:g}_st{self.steps}_{amount}.txt'

    def calls(self) -> Iterator[tuple[int, int]]:
        """Yield the class and the seed of every call, seed by seed.

        An interrupted run then has drawn some of every class.
        """
        for seed in self.seeds:
            for label in self.classes:
                yield label, seed

    def names(self, label: int, seed: int) -> list[str]:
        """Return the names of the pictures of a call."""
        return [NAME.format(label=label, seed=seed, number=i) for i in range(self.per_seed)]

    def all_names(self) -> Iterator[str]:
        """Yield the names of all pictures, class by class."""
        for label in self.classes:
            for seed in self.seeds:
                yield from self.names(label, seed)


def missing(out: Path, what: Generation) -> list[tuple[int, int]]:
    """Return the calls of which a picture is not there yet."""
    there = {path.name for path in out.glob('class_*.png')}
    return [call for call in what.calls() if not there.issuperset(what.names(*call))]


def begin(out: Path, what: Generation) -> None:
    """Make the folder, and keep what it is drawn with, one process after the other.

    Raises:
        ValueError: If it was drawn with other settings: the pictures would be mixed; or if its
            index of that name has other pictures.
    """
    out.mkdir(parents=True, exist_ok=True)
    lock = Lock(out)
    try:
        _agree(out, what)
    finally:
        lock.release()
    _check_index(out, what)


def _agree(out: Path, what: Generation) -> None:
    """Write the settings, or compare them with those that are there."""
    # More classes, seeds and pictures may be added later.
    settings: dict[str, Any] = {key: getattr(what, key) for key in KEPT}
    if what.prompts is not None:
        settings['prompts'] = {str(i): what.prompts[i] for i in what.classes}
    path = out / SETTINGS
    if not path.exists():
        write_aside(json.dumps(settings, indent=1), path)
        return
    before = json.loads(path.read_text())
    texts = before.get('prompts', {})
    differs = [k for k in KEPT if before.get(k) != settings[k]]
    changed = [i for i, text in settings.get('prompts', {}).items() if texts.get(i, text) != text]
    if differs or changed or ('prompts' in before) != ('prompts' in settings):
        said = ', '.join(f'{k}={before.get(k)} (not {settings[k]})' for k in differs)
        raise ValueError(
            f'{str(out)!r} holds pictures of {said or "other prompts"}: give another --out, or the '
            'settings of these.'
        )
    if not settings.get('prompts', {}).items() <= texts.items():
        settings['prompts'] = {**texts, **settings['prompts']}
        write_aside(json.dumps(settings, indent=1), path)


def _check_index(out: Path, what: Generation) -> None:
    """Refuse to write over the index of as many other pictures."""
    path = out / what.index
    if path.exists() and {*path.read_text().split()} != {*what.all_names()}:
        raise ValueError(
            f'{str(path)!r} names as many pictures of other classes or seeds, and would be '
            'overwritten: give it another name, or draw all of them with one command.'
        )


def check_room(out: Path, pictures: int, pixels: int) -> float:
    """Return how many bytes pictures will take, about.

    Args:
        out: The folder.
        pictures: How many there are to draw.
        pixels: Of each.

    Raises:
        ValueError: If the disk has no room for them.
    """
    needed = pictures * pixels * BYTES_PER_PIXEL
    folder = next(path for path in (out, *out.absolute().parents) if path.exists())
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise ValueError(
            f'{pictures:,} pictures take about {needed / 1e9:.3g} GB, and the disk of '
            f'{str(out)!r} has {free / 1e9:.3g} GB: make room, or draw fewer.'
        )
    return needed


def load_pipeline(what: Generation, device: str, dtype: str = 'float32') -> Any:
    """Load a pipeline of diffusers, which is imported here only.

    Args:
        what: Names the pipeline, and a scheduler that gets the settings of its own.
        device: Where it draws.
        dtype: What it computes in.

    Raises:
        ValueError: If diffusers is not installed, or has no such scheduler.
    """
    try:
        import diffusers
    except ImportError as error:
        raise ValueError(
            f'drawing pictures takes the package diffusers ({error}): pip install diffusers, in an '
            'environment of its own if you like, beside kd_plugins.'
        ) from error
    load = diffusers.DiffusionPipeline.from_pretrained
    pipeline = load(what.pipeline, torch_dtype=getattr(torch, dtype))
    if what.scheduler:
        kind = getattr(diffusers, what.scheduler, None)
        if kind is None:
            raise checks.refuse('--scheduler', what.scheduler, 'a scheduler of diffusers')
        pipeline.scheduler = kind.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device)


def drawing(pipeline: Any, what: Generation, device: str = 'cpu') -> Callable[[int, int], list]:
    """Return what draws the pictures of a class and a seed, with a pipeline.

    The pipeline is called with ``class_labels`` or, if it takes none, with ``prompt``;
    and with ``num_inference_steps``, ``guidance_scale`` and ``generator``.

    Args:
        pipeline: A pipeline of diffusers, or what is called as one is.
        what: What to draw.
        device: Where its noise is drawn.

    Raises:
        ValueError: If it takes neither classes nor texts, or there are no prompts.
    """
    takes = inspect.signature(inspect.unwrap(type(pipeline).__call__)).parameters
    if 'class_labels' in takes:
        if what.prompts is not None:
            raise ValueError(
                f'--prompts has no effect with {type(pipeline).__name__}, which draws classes by '
                'number: leave it out.'
            )
    elif 'prompt' not in takes:
        raise ValueError(
            f'--pipeline {what.pipeline!r} is a {type(pipeline).__name__}, which draws neither '
            'classes (class_labels) nor texts (prompt): give one that does.'
        )
    elif what.prompts is None:
        raise ValueError(
            f'--pipeline {what.pipeline!r} ({type(pipeline).__name__}) draws what a text says: '
            'give --prompts, a file with a line for every class.'
        )

    def draw(label: int, seed: int) -> list:
        asked: dict[str, Any] = dict(class_labels=[label] * what.per_seed)
        if what.prompts is not None:
            asked = dict(prompt=[what.prompts[label]] * what.per_seed)
        return pipeline(
            **asked,
            guidance_scale=what.guidance,
            num_inference_steps=what.steps,
            # The same noise for every class.
            generator=torch.Generator(device).manual_seed(seed),
        ).images

    return draw


def generate(
    out: Path,
    what: Generation,
    draw: Callable[[int, int], list],
    process: tuple[int, int] = (0, 1),
    tell: Callable[[int, int], None] = lambda done, total: None,
) -> Path | None:
    """Draw what is missing, and write the index once nothing is.

    A picture appears when it is whole. A call some of whose pictures are there is
    made again, and only the others are written.

    Args:
        out: The folder.
        what: What to draw.
        draw: Draws the pictures of a class and a seed.
        process: The number of this process, from 0, and how many share the work.
        tell: Called after every call with the calls made and all calls.

    Returns:
        The index; None while other processes have something to draw.
    """
    # Divided before what is there is left out: processes see it at different times.
    mine = set([*what.calls()][process[0] :: process[1]])
    todo = [call for call in missing(out, what) if call in mine]
    for done, (label, seed) in enumerate(todo, 1):
        pictures = draw(label, seed)
        if len(pictures) != what.per_seed:
            raise ValueError(
                f'the pipeline drew {len(pictures)} pictures where {what.per_seed} were asked for '
                '(--per-seed): give one that draws one for each class or text.'
            )
        for picture, name in zip(pictures, what.names(label, seed), strict=True):
            if not (out / name).exists():
                content = io.BytesIO()
                picture.save(content, format='PNG')
                write_aside(content.getvalue(), out / name, shared=True)
        tell(done, len(todo))
    if missing(out, what):
        return None
    _check_index(out, what)
    index = out / what.index
    write_aside(''.join(f'{name}\n' for name in what.all_names()), index, shared=True)
    return index
