"""What of a config can be stored: settings, recorders, terms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kd_plugins import checks
from kd_plugins.registry import name_of
from kd_plugins.teachers.identity import plain
from kd_plugins.views import check_no_batch_augments

KEY = 'model.teacher_cache'
#: Recorders whose records are tensors of the batch, or the outputs of a head.
STORABLE = ('ModuleOutputs', 'ModuleInputs', 'DenseLogits', 'EveryCheckpoint', 'Features',
            'DetectionHead', 'DenseHead')  # fmt: skip
#: Bytes of the levels at strides 4 to 64 of a pyramid with 256 channels.
PYRAMID = sum(-(-800 // s) * -(-1333 // s) for s in (4, 8, 16, 32, 64)) * 256 * 2


def settings_of(cache: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``model.teacher_cache`` with its defaults, or refuse it."""
    known = dict(
        dir=None, views=None, dtype='float16', max_mb=2.0, top_k=None, taus=(), min_score=None,
        write=True,
    )  # fmt: skip
    for name in cache:
        if name not in known:
            raise checks.refuse(f'{KEY}.{name}', cache[name], f'one of {", ".join(known)} only')
    settings = {**known, **cache}
    if not isinstance(settings['dir'], str) or not settings['dir']:
        raise checks.refuse(f'{KEY}.dir', settings['dir'], 'a folder')
    checks.whole_number(f'{KEY}.views', settings['views'])
    checks.one_of(f'{KEY}.dtype', settings['dtype'], ('float16', 'float32'))
    checks.number(f'{KEY}.max_mb', settings['max_mb'], 'a number of MB above 0', above=0)
    checks.flag(f'{KEY}.write', settings['write'])
    score = settings['min_score']
    if score is not None and not (checks.is_number(score) and 0 < score < 1):
        raise checks.refuse(f'{KEY}.min_score', score, 'a probability between 0 and 1')
    taus = settings['taus']
    if settings['top_k'] is not None:
        checks.whole_number(f'{KEY}.top_k', settings['top_k'])
        if not isinstance(taus, (list, tuple)) or not taus:
            raise checks.refuse(f'{KEY}.taus', taus, 'the temperatures of the terms beside top_k')
        for tau in taus:
            checks.number(f'{KEY}.taus', tau, 'temperatures above 0', above=0)
    elif taus:
        raise ValueError(f'{KEY}.taus={taus!r} belongs to top_k: give both, or leave it out.')
    return settings


def check_pictures(teacher: Any, preprocessor: Any, batch_parts: Sequence[Any]) -> None:
    """Refuse a teacher that changes, and pictures that change after they are loaded.

    Args:
        teacher: ``model.teacher``.
        preprocessor: The student's.
        batch_parts: ``model.batch_parts``.
    """
    if teacher is None or isinstance(teacher, str):
        raise ValueError(
            f'{KEY} is of a teacher that stays as it is, and model.teacher={teacher!r}: leave it '
            'out.'
        )
    check_no_batch_augments(preprocessor, KEY)
    if batch_parts:
        raise ValueError(
            f'{KEY} cannot stand beside model.batch_parts='
            f'{[name_of(each.get("type")) for each in batch_parts]}, which change pictures after '
            'they are loaded, in another way in every batch: leave one of them out.'
        )


def record_names(distiller: Mapping[str, Any]) -> dict[str, str]:
    """Return by the name of a recorder of the teacher what it records, whatever its name.

    Raises:
        ValueError: If there is nothing to store, or something that no store can keep.
    """
    recorders = distiller.get('teacher_recorders') or {}
    if not recorders:
        raise ValueError(
            f'{KEY} would store nothing: model.distiller has no teacher_recorders; leave it out.'
        )
    if distiller.get('distill_deliveries'):
        raise ValueError(
            f'{KEY} cannot stand beside model.distiller.distill_deliveries, which carry values of '
            'one network into the forward of the other: leave one of them out.'
        )
    names = {}
    for name, cfg in recorders.items():
        kind = name_of(cfg.get('type')).removesuffix('Recorder')
        if kind == 'RoIHead':
            raise ValueError(
                f'{KEY} cannot store model.distiller.teacher_recorders.{name}: a box head is asked '
                "about the student's boxes, and what it pools of a picture of 800 x 1333 pixels "
                f'takes {PYRAMID / 1e6:.0f} MB in float16 ({PYRAMID * 118287 / 1e12:.1f} TB for '
                "COCO): take a live teacher, with model.teacher_dtype='bfloat16' for a fast one."
            )
        if kind not in STORABLE:
            right = ', '.join(each for each in STORABLE if each != 'DenseHead')
            raise ValueError(
                f'{KEY} cannot store model.distiller.teacher_recorders.{name} of type '
                f'{kind!r}: it stores what {right} record; take a live teacher, '
                "model.teacher_dtype='bfloat16' for a fast one."
            )
        kind = 'DetectionHead' if kind == 'DenseHead' else kind
        rest = {key: value for key, value in cfg.items() if key != 'type'}
        said = ', '.join(f'{key}={plain(value)!r}' for key, value in sorted(rest.items()))
        names[name] = f'{kind}({said})'
    return names


def check_terms(
    distiller: Any, names: Mapping[str, str], taus: Sequence[float], sparse: bool
) -> None:
    """Refuse terms that cannot do with a part of what they read.

    Args:
        distiller: The distiller.
        names: Of the records, see :func:`record_names`.
        taus: The temperatures of the largest logits; none where all are kept.
        sparse: Whether of heads some anchors are kept only.
    """
    of_heads = {name for name, kind in names.items() if kind.startswith('DetectionHead(')}
    if sparse and not of_heads:
        raise ValueError(
            f'{KEY}.min_score is of detection heads, and none of model.distiller.teacher_recorders '
            'reads one: leave it out.'
        )
    for name, loss in distiller.distill_losses.items():
        for argument, record in distiller.loss_forward_mappings[name].items():
            if record['from_student'] or record['recorder'] not in names:
                continue
            key = f'model.distiller.distill_losses.{name}'
            if sparse and record['recorder'] in of_heads:
                _check_argument(loss, 'sparse_heads', argument, record, key, 'min_score')
            if not taus:
                continue
            _check_argument(loss, 'top_logits', argument, record, key, 'top_k')
            tau = getattr(loss.tau, 'value', None)
            if tau not in taus:
                raise ValueError(
                    f'{KEY}.taus={list(taus)} lacks the temperature of {key}, which is '
                    f'{"no fixed number" if tau is None else tau}: give the one that the term has, '
                    'or leave out top_k.'
                )


def _check_argument(
    loss: Any, declares: str, argument: str, record: Mapping[str, Any], key: str, setting: str
) -> None:
    """Refuse a term that does not declare that a part of an argument is enough for it."""
    if argument not in getattr(loss, declares, ()) or record.get('connector'):
        what = dict(top_k='logits', min_score='anchors')[setting]
        raise ValueError(
            f'{KEY}.{setting} keeps a part of the {what}, and {key} ({type(loss).__name__}) '
            f'needs all of {argument}: leave out {setting}.'
        )
