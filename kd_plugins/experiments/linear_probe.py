"""A linear probe: what a network's features are worth for other classes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from torch import Tensor, nn

from kd_plugins import checks
from kd_plugins.files.export_student import build_student
from kd_plugins.files.weights import load_weights
from kd_plugins.networks import channels_of, classifier

#: What the folder to measure on may be called.
HELD_OUT = ('val', 'valid', 'test')


@dataclass
class Probe:
    """What a probe found.

    Args:
        classes: How many classes the folder has.
        train, test: How many pictures.
        last, best: Top-1 in percent after the last epoch, and the best.
    """

    classes: int
    train: int
    test: int
    last: float
    best: float


def linear_probe(
    cfg: Config,
    checkpoint: str,
    data: str,
    size: int | None = None,
    epochs: int = 30,
    lr: float = 0.4,
    weight_decay: float = 5e-4,
    batch_size: int = 512,
    seed: int = 0,
    tell: Callable[[int, int, str], None] = lambda done, total, what: None,
) -> Probe:
    """Train a linear classifier on the fixed features of a trained student.

    The features are what goes into the student's classifier, in eval mode, without
    augmentation. The classifier learns by SGD with a momentum of 0.9 and a cosine from
    epoch to epoch.

    Args:
        cfg: The config that the student was trained with.
        checkpoint: The student's checkpoint.
        data: A folder with ``train`` and ``val`` (or ``valid``, ``test``), and in each
            a folder of pictures for every class.
        size: Height and width to bring the pictures to, instead of what the
            validation of ``cfg`` does with its own, which is the default.
        epochs, lr, weight_decay, batch_size: Of the classifier.
        seed: Of its start and of the order of the pictures.
        tell: Called with how many pictures have been looked at, of how many.

    Raises:
        ValueError: If a setting is out of range, the folders have other classes, or
            the student is no classifier.
        FileNotFoundError: If there is no such folder or checkpoint.

    Source: the transfer evaluation of arXiv 2203.03871; github.com/DTennant/dt-tradeoff,
    transfer.py, whose defaults these are. It leaves the network in train mode, so that
    batch statistics of the new pictures change its features.
    """
    for key, value in (('epochs', epochs), ('batch_size', batch_size)):
        checks.whole_number(f'--{key.replace("_", "-")}', value)
    if size is not None:
        checks.whole_number('--size', size)
    checks.number('--lr', lr, 'a learning rate above 0', above=0)
    init_default_scope(cfg.get('default_scope', 'mmpretrain'))
    device = get_device()
    network = _student(cfg, checkpoint).to(device).eval()
    root = Path(data)
    held_out = next((name for name in HELD_OUT if (root / name).is_dir()), None)
    if held_out is None or not (root / 'train').is_dir():
        raise FileNotFoundError(
            f'--data {data!r} has not the folders train and one of {", ".join(HELD_OUT)}: give a '
            'folder that has both, with a folder of pictures for every class in each.'
        )
    channels = channels_of(network)
    sets = [_loader(cfg, root / name, size, batch_size, channels) for name in ('train', held_out)]
    names = [each.dataset.metainfo['classes'] for each in sets]
    if names[0] != names[1] or len(names[0]) < 2:
        raise ValueError(
            f'--data {data!r}: train has the classes {list(names[0])} and {held_out} has '
            f'{list(names[1])}: give the same two or more in both.'
        )
    found = []
    for loader, of in zip(sets, ('train', held_out), strict=True):

        def note(done: int, loader: Any = loader, of: str = of) -> None:
            tell(done, len(loader.dataset), f'pictures of {of}')

        found.append(features(network, loader, note))
    (x, y), (x_test, y_test) = found
    last, best = fit(
        x, y, x_test, y_test, len(names[0]), epochs, lr, weight_decay, batch_size, seed
    )
    return Probe(len(names[0]), len(x), len(x_test), last, best)


@torch.no_grad()
def features(
    network: Any, loader: Iterable[Any], tell: Callable[[int], None] = lambda done: None
) -> tuple[Tensor, Tensor]:
    """Return what goes into a network's classifier, (N, D), and the classes, (N,)."""
    heard: list[Tensor] = []
    linear = network.get_submodule(classifier(network, 'the student').name)
    handle = linear.register_forward_pre_hook(lambda _, args: heard.append(args[0].float()))
    labels = []
    try:
        for batch in loader:
            data = network.data_preprocessor(batch, False)
            network(data['inputs'], data['data_samples'], mode='tensor')
            labels += [int(sample.gt_label) for sample in data['data_samples']]
            tell(len(labels))
    finally:
        handle.remove()
    found = torch.cat(heard)
    return found, torch.tensor(labels, device=found.device)


def fit(
    x: Tensor, y: Tensor, x_test: Tensor, y_test: Tensor, classes: int, epochs: int, lr: float,
    weight_decay: float, batch_size: int, seed: int,
) -> tuple[float, float]:  # fmt: skip
    """Train a linear classifier on features; return its last and best top-1 in percent."""
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        linear = nn.Linear(x.shape[1], classes).to(x.device)
    sgd = torch.optim.SGD(linear.parameters(), lr=lr, momentum=0.9, weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(sgd, epochs)
    best = last = 0.0
    for _ in range(epochs):
        for chosen in torch.randperm(len(x), generator=generator).split(batch_size):
            chosen = chosen.to(x.device)
            sgd.zero_grad()
            F.cross_entropy(linear(x[chosen]), y[chosen]).backward()
            sgd.step()
        schedule.step()
        with torch.no_grad():
            last = 100 * float((linear(x_test).argmax(dim=1) == y_test).float().mean())
        best = max(best, last)
    return last, best


def _student(cfg: Config, checkpoint: str) -> Any:
    network: Any = build_student(cfg)
    load_weights(network, checkpoint, 'checkpoint', 'student')
    if not _reads_files(cfg):
        # mmpretrain's data sets of arrays are RGB, and files are read as BGR.
        network.data_preprocessor.to_rgb = not network.data_preprocessor.to_rgb
    return network


def _loader(cfg: Config, folder: Path, size: int | None, batch_size: int, channels: int) -> Any:
    steps = [dict(step) for step in cfg.val_dataloader.dataset.pipeline]
    if not _reads_files(cfg):
        kind = 'grayscale' if channels == 1 else 'color'
        steps.insert(0, dict(type='LoadImageFromFile', color_type=kind))
    if size is not None:
        # Instead of the validation's own sizes, which would come after it.
        steps = [steps[0], dict(type='Resize', scale=(size, size)), steps[-1]]
    return Runner.build_dataloader(
        dict(
            batch_size=batch_size,
            num_workers=cfg.val_dataloader.get('num_workers', 0),
            dataset=dict(type='CustomDataset', data_root=str(folder), pipeline=steps),
            sampler=dict(type='DefaultSampler', shuffle=False),
            collate_fn=dict(type='pseudo_collate'),
        ),
        seed=0,
    )


def _reads_files(cfg: Config) -> bool:
    steps = cfg.val_dataloader.dataset.get('pipeline') or ()
    return any(str(step.get('type')).split('.')[-1] == 'LoadImageFromFile' for step in steps)
