"""Where a classifier has its logits, found by what flows in it."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.config import Config
from mmengine.model import BaseDataPreprocessor
from torch import Tensor, nn

from kd_plugins import checks
from kd_plugins.networks import channels_of

#: How many pictures flow.
PICTURES = 2


class NotTrainable(ValueError):
    """A network does not run as it trains."""


@dataclass(frozen=True)
class Logits:
    """Where the logits of a classifier are.

    Args:
        source: The module whose output they are.
        classes: How many there are.
        labels: The module that gets them and the labels, which are its second
            argument; None where no loss module does.
    """

    source: str
    classes: int
    labels: str | None


def find_logits(
    network: Any, size: tuple[int, int], who: str, option: str, chosen: str | None, trains: bool
) -> Logits:
    """Run a classifier on two made-up pictures and see where its answer comes from.

    It is the output of the first module that gives what the whole forward gives.
    The network's running statistics are others afterwards.

    Args:
        network: A network with mmengine's modes, and a head.
        size: Height and width of its pictures.
        who: What to call it in error messages.
        option: The option by which a user chooses the module.
        chosen: That module; None to look for the network's own answer.
        trains: Whether it has to train, as a student does.

    Raises:
        ValueError: If it gives no logits, or several, or trains on something
            else, or does not run.
    """
    if getattr(network, 'head', network) is None:
        raise ValueError(
            f'{who} has no head (head=None), so that it has no logits: give a config that adds one.'
        )
    data = _batch(network, size, who)
    network.eval()
    answer, outputs, _ = _run(network, data, 'tensor', who)
    source = _named(chosen, outputs, who, option) if chosen else _own(answer, outputs, who, option)
    logits, labels = outputs[source], None
    _give_scores(data['data_samples'], network, logits.shape[1])
    try:
        _, of_loss, heard = _run(network, data, 'loss', who)
        labels = _check_loss(source, logits, of_loss, heard, who, chosen)
        network.train()
        _run(network, data, 'loss', who)
    except NotTrainable as error:
        # What is only a teacher need not train.
        if trains:
            head = getattr(network, 'head', None)
            if getattr(head, 'distillation', False) or getattr(head, 'dist', False):
                raise NotTrainable(f'{error} (give head=dict(distillation=False)).') from error
            raise
    return Logits(source, logits.shape[1], labels)


def picture_size(cfg: Config) -> tuple[int, int] | None:
    """Return height and width of the pictures that a config trains on, None if it does not say."""
    pipelines = [
        (cfg.get(f'{split}_dataloader') or {}).get('dataset', {}).get('pipeline', ())
        for split in ('train', 'test')
    ]
    for pipeline in (*pipelines, cfg.get('test_pipeline') or ()):
        for step in reversed(pipeline):
            for key in ('crop_size', 'scale'):
                size = step.get(key)
                if isinstance(size, int):
                    return size, size
                if _is_pair(size):
                    # Scales are width first.
                    return tuple(size[::-1] if key == 'scale' else size)  # type: ignore[return-value]
    size = (cfg.model.get('backbone') or {}).get('img_size')
    return (size, size) if isinstance(size, int) else size and (size[0], size[1])


def _is_pair(size: Any) -> bool:
    return isinstance(size, Sequence) and len(size) == 2 and all(type(x) is int for x in size)


def _batch(network: Any, size: tuple[int, int], who: str) -> dict[str, Any]:
    """Return two preprocessed pictures of noise, mixed where the network mixes them."""
    from mmpretrain.structures import DataSample

    generator = torch.Generator().manual_seed(0)
    shape = (channels_of(network), *size)
    samples = [DataSample(metainfo=dict(img_shape=size)).set_gt_label(0) for _ in range(PICTURES)]
    pictures = [
        torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator) for _ in samples
    ]
    data = _tried(
        lambda: network.data_preprocessor(dict(inputs=pictures, data_samples=samples), True),
        who, size,
    )  # fmt: skip
    if type(network.data_preprocessor) is BaseDataPreprocessor:
        # It leaves a list, which a data loader would have put together.
        data['inputs'] = torch.stack(data['inputs']).float()
    if not isinstance(data['inputs'], Tensor):
        raise ValueError(
            f'{who} is a {type(network).__name__}, which takes several views of a picture and is '
            'no classifier: give a config that trains one.'
        )
    return data


def _give_scores(samples: Sequence[Any], network: nn.Module, classes: int) -> None:
    """Give the samples what heads for several classes a picture want."""
    head = getattr(network, 'head', None)
    if 'MultiLabelClsHead' in {kind.__name__ for kind in type(head).__mro__}:
        for sample in samples:
            sample.set_gt_score(nn.functional.one_hot(torch.tensor(0), classes))


Heard = list[tuple[str, Tensor]]


def _run(
    network: Any, data: Mapping[str, Any], mode: str, who: str
) -> tuple[Any, dict[str, Tensor], Heard]:
    """Run it; return its answer, what modules gave, and what loss modules were given.

    Of modules that are called several times there is nothing: what a recorder would
    have of them is one of several things.
    """
    outputs: dict[str, Tensor] = {}
    calls: dict[str, int] = {}
    heard: Heard = []

    def after(name: str) -> Callable[..., None]:
        def keep(module: nn.Module, args: tuple, output: Any) -> None:
            calls[name] = calls.get(name, 0) + 1
            if name.split('.')[-1] == 'loss_module' and args and isinstance(args[0], Tensor):
                heard.append((name, args[0]))
            elif _is_logits(output):
                outputs[name] = output

        return keep

    handles = [
        module.register_forward_hook(after(name))
        for name, module in network.named_modules()
        if name
    ]
    try:
        with torch.no_grad():
            answer = _tried(
                lambda: network(data['inputs'], data['data_samples'], mode=mode),
                who,
                tuple(data['inputs'].shape[-2:]),
                NotTrainable if mode == 'loss' else ValueError,
            )
    finally:
        for handle in handles:
            handle.remove()
    return answer, {name: out for name, out in outputs.items() if calls[name] == 1}, heard


def _tried(
    run: Callable[[], Any], who: str, size: tuple[int, ...], refusal: type[ValueError] = ValueError
) -> Any:
    try:
        return run()
    except Exception as error:  # a network's own code may refuse in any way
        raise refusal(
            f'{who} does not {"train" if refusal is NotTrainable else "run"} on two pictures of '
            f'{size[0]} x {size[1]} pixels: '
            f'{type(error).__name__}: {checks.said(error)}'
        ) from error


def _is_logits(output: Any) -> bool:
    return isinstance(output, Tensor) and output.dim() == 2 and len(output) == PICTURES


def _answers(answer: Any) -> Iterator[Tensor]:
    """Yield the logits in what a forward gives."""
    if _is_logits(answer):
        yield answer
    elif isinstance(answer, (tuple, list)):
        for each in answer:
            yield from _answers(each)


def _own(answer: Any, outputs: Mapping[str, Tensor], who: str, option: str) -> str:
    """Return the first module that gives the network's own answer."""
    found = [
        next((name for name, output in outputs.items() if output is each), None)
        for each in _answers(answer)
    ]
    names = [name for name in found if name is not None]
    if len(found) == 1 and names:
        return names[0]
    if names:
        raise ValueError(
            f'{who} has {len(found)} classifiers, and its forward gives the logits of each: choose '
            f'one with {option}: {" or ".join(names)}.'
        )
    raise ValueError(
        f'{who} gives no logits, one row a picture: give a config whose network has a classifier'
        + (f', or choose a module with {option}: {", ".join(outputs)}.' if outputs else '.')
    )


def _named(chosen: str, outputs: Mapping[str, Tensor], who: str, option: str) -> str:
    if chosen in outputs:
        return chosen
    close = difflib.get_close_matches(chosen, list(outputs), n=1)
    meant = f' (did you mean {close[0]!r}?)' if close else ''
    raise ValueError(
        f'{option} {chosen!r} is no module of {who} that gives one row a picture{meant}: those '
        f'that do are {", ".join(outputs)}.'
    )


def _check_loss(
    source: str, logits: Tensor, outputs: Mapping[str, Tensor], heard: Heard, who: str,
    chosen: str | None,
) -> str | None:  # fmt: skip
    """Refuse logits that the training computes its loss on something else than.

    Heads with margins (ArcFace) train on other numbers than they answer with.
    """
    trained = outputs.get(source)
    same = trained is not None and trained.shape == logits.shape
    if not same or not torch.allclose(trained, logits, rtol=1e-3, atol=1e-4):  # type: ignore[arg-type]
        raise ValueError(
            f'{who} gives {"other numbers" if same else "nothing"} at {source!r} in training than '
            'when it is asked: student and teacher cannot be compared there.'
        )
    if not heard:
        return None
    into = [name for name, x in heard if x is trained]
    if not into and chosen is None:
        raise ValueError(
            f'{who} computes its own loss on something else than what {source!r} gives, which it '
            'answers with: start from configs/kd and name a module in the recorders.'
        )
    return into[0] if into else heard[0][0]
