"""What it does to BCKD and LD to store those anchors only that are sure of something.

    python tools/demo_detection.py --detectors gfl       # data, teacher, students
    python benchmarks/sparse_store.py [--student work_dirs/demo_detection/bckd_scenes/0/epoch_8.pth]

The teacher of the digit scenes looks at batches of the training set; what it says is stored
whole, and for each ``min_score`` in part, in float16. Each term is computed of both beside
the same student, as it begins or as its checkpoint has it, and their values and gradients by the
student's parameters are compared: the median over batches of ``|a - b| / |b|``.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner, load_checkpoint

import kd_plugins  # noqa: F401  (makes mmrazor importable)
from kd_plugins.structures import HeadOutputs
from kd_plugins.teachers.encoding import decode, encode
from kd_plugins.teachers.parts import sizes_of

CONFIGS = Path(__file__).resolve().parent.parent / 'configs'
SCORES = (0.3, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002)


def both_terms() -> Config:
    """Return the config of BCKD beside LD."""
    cfg = Config.fromfile(CONFIGS / 'bckd/bckd_scenes.py')
    ld = Config.fromfile(CONFIGS / 'ld/ld_scenes.py').model
    weight = ld.bbox_head.loss_ld.loss_weight if 'bbox_head' in ld else 0.25
    maps = {f'preds_{s}': dict(recorder='head', from_student=s == 'S') for s in 'ST'}
    cfg.model.distiller.distill_losses.loss_ld = dict(type='kd_plugins.LDLoss', loss_weight=weight)
    cfg.model.distiller.loss_forward_mappings.loss_ld = maps
    return cfg


def stored(said: HeadOutputs, sizes: Any, strides: Any, score: float | None) -> tuple[Any, int]:
    """Return what a store gives back, and its bytes."""
    named = dict(head=[said])
    of = dict(head=strides)
    layout, contents = encode(named, torch.float16, sizes, None, of, score)
    back = decode(layout, contents, ['head'], sizes.batch, torch.device('cpu'))
    return back['head'][0], sum(map(len, contents))


def main() -> None:
    """Print a line for every score."""
    parser = argparse.ArgumentParser(description=(__doc__ or '').splitlines()[0])
    parser.add_argument('--student', help='its checkpoint; without, it is as it begins')
    parser.add_argument('--batches', type=int, default=8)
    args = parser.parse_args()
    MMLogger.get_current_instance().setLevel('ERROR')
    cfg = both_terms()
    init_default_scope('mmdet')
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    model.init_weights()
    if args.student:
        load_checkpoint(model, args.student, map_location='cpu')
    model.train()
    distiller = model.distiller
    strides = distiller.teacher_recorders.get_recorder('head').spec.strides
    parameters = [p for p in model.parameters() if p.requires_grad]
    found: dict[tuple[float, str], list[tuple[float, float]]] = {}
    bytes_of: dict[float | None, int] = {}
    kept: dict[float, list[float]] = {}
    torch.manual_seed(0)
    for i, batch in enumerate(Runner.build_dataloader(cfg.train_dataloader, seed=0)):
        if i == args.batches:
            break
        data = model.data_preprocessor(batch, True)
        model.teacher.record(distiller.teacher_recorders, **data)
        with distiller.student_recorders:
            model.architecture(**data, mode='loss')
        preds_S, preds_T = (distiller.get_record('head', from_student=s) for s in (True, False))
        sizes = sizes_of(data['inputs'], [each.metainfo for each in data['data_samples']], 1)
        whole, size = stored(preds_T, sizes, strides, None)
        bytes_of[None] = bytes_of.get(None, 0) + size

        def step(term: Any, said: Any, preds_S: Any = preds_S) -> tuple[float, torch.Tensor]:
            loss = term(preds_S=preds_S, preds_T=said)
            grads = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
            return float(loss), torch.cat([g.flatten() for g in grads if g is not None])

        right = {name: step(term, whole) for name, term in distiller.distill_losses.items()}
        for score in SCORES:
            part, size = stored(preds_T, sizes, strides, score)
            bytes_of[score] = bytes_of.get(score, 0) + size
            kept.setdefault(score, []).append(float(part.known.float().mean()))
            for name, term in distiller.distill_losses.items():
                value, gradient = step(term, part)
                loss, wanted = right[name]
                moved = float((gradient - wanted).norm() / wanted.norm().clamp(min=1e-12))
                pair = abs(value - loss) / max(abs(loss), 1e-12), moved
                found.setdefault((score, name), []).append(pair)
    names = [*distiller.distill_losses]
    print('min_score', 'anchors', 'bytes', *(f'{n}: loss, gradient' for n in names), sep='  ')
    for score in SCORES:
        said = [f'{score:<9}', f'{statistics.mean(kept[score]):7.2%}',
                f'{bytes_of[score] / (bytes_of[None] or 1):7.2%}']  # fmt: skip
        for name in names:
            medians = [statistics.median(each) for each in zip(*found[score, name], strict=True)]
            said.append('  '.join(f'{m:9.3%}' for m in medians))
        print('  '.join(said), flush=True)


if __name__ == '__main__':
    main()
