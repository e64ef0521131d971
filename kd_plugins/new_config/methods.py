"""What each method adds to a student and a teacher, for configs that are written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Method:
    """What a method adds to two networks.

    Args:
        terms: The distillation terms: name -> config, as Python.
        hook: One more of the ``default_hooks``, as Python.
        extra: Further lines of the config, as Python.
        dense: Whether it is for dense detectors; else it is for classifiers.
        labels: Whether its terms need the labels.
    """

    terms: Mapping[str, str]
    hook: str = ''
    extra: str = ''
    dense: bool = False
    labels: bool = False


_KD = "dict(type='kd_plugins.KDLoss', tau={tau}, loss_weight=1.0)"
METHODS = {
    'alone': Method({}),
    'kd': Method(dict(loss_kd=_KD.format(tau=4.0))),
    'dkd': Method(
        dict(loss_dkd="dict(type='kd_plugins.DKDLoss', tau=4.0, alpha=1.0, beta=2.0)"), labels=True
    ),
    'ctkd': Method(
        dict(loss_kd=_KD.format(tau="dict(type='kd_plugins.GlobalTemperature')")),
        hook="    temperature=dict(type='kd_plugins.CurriculumTemperatureHook', length=10),\n",
    ),
    'dot': Method(
        dict(loss_kd=_KD.format(tau=4.0)),
        extra="optim_wrapper = dict(type='kd_plugins.DOTOptimWrapper', delta=0.075)\n",
    ),
    'bckd': Method(
        dict(
            loss_bckd_cls="dict(type='kd_plugins.BinaryClassificationKDLoss', loss_weight=1.0)",
            loss_bckd_loc="dict(\n                type='kd_plugins.IoULocalizationKDLoss',\n"
            "                loss_iou=dict(type='mmdet.GIoULoss'), loss_weight=4.0)",
        ),
        dense=True,
    ),
    'ld': Method(
        dict(
            loss_ld="dict(type='kd_plugins.LocalizationDistillationLoss', tau=10.0, "
            'loss_weight=0.25)'
        ),
        dense=True,
    ),
}
