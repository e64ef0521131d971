"""What it takes to train a method in every way: tests/test_strategies.py does.

The test file of a method may declare its own, and is found by that::

    STRATEGIES = {'NEW': Method(lambda: algorithm_cfg(distiller=distiller(NEW)), sgd())}
"""

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module

from helpers import ROOT, algorithm_cfg, distiller

KD = dict(type='kd_plugins.KDLoss', tau=2.0)
GLOBAL = dict(type='kd_plugins.GlobalTemperature')
CURRICULUM = dict(type='kd_plugins.CurriculumTemperatureHook', length=2)
PATCHES = dict(data='Pictures', part='backbone.layers.1')
STAGES = dict(data='Pictures', part='backbone.layer2')
VIEWS = dict(data='TwoViews', part='backbone.layer2')
BOXES = dict(data='Boxes', part='backbone.layer4')


def sgd(lr=0.1):
    return dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=lr, momentum=0.9))


def dot(lr=0.1):
    return dict(sgd(lr), type='kd_plugins.DOTOptimWrapper', delta=0.05)


@dataclass
class Method:
    """What a tiny training with a method is made of, and in which ways it does not train.

    Args:
        model: Makes the config of its algorithm.
        wrapper: Of its optimizer.
        hook: Of its curriculum, if it has one.
        data: The dataset that it learns from.
        part: A module of the student whose input takes a gradient.
        whole: Whether accumulated steps are those of the whole batch. A detector's never are:
            mmdet divides by the objects of a step.
        stored: Whether what its teacher says can be stored, of data that come in views.
        compiled: Whether compiled steps are the same steps.
        ranks: Whether the mean of two ranks' gradients is that of the joined batch.
    """

    model: Callable[[], dict]
    wrapper: dict
    hook: dict | None = None
    data: str = 'Vectors'
    part: str = 'fc'
    whole: bool = True
    stored: bool = False
    compiled: bool = True
    ranks: bool = True

    @property
    def dot(self):
        """Whether DOT trains it."""
        return self.wrapper['type'] == 'kd_plugins.DOTOptimWrapper'


def vectors(**changes):
    """An algorithm on the tiny classifiers, KD's loss with changes."""
    return lambda: algorithm_cfg(distiller=distiller(dict(KD, **changes)))


def declared():
    """Return the methods that test files declare."""
    found = {}
    for path in sorted((ROOT / 'tests').glob('test_*/test_*.py')):
        if re.search('^STRATEGIES = ', path.read_text(), re.MULTILINE):
            sys.path.append(str(path.parent))
            # A test file may quote such a line.
            found.update(getattr(import_module(path.stem), 'STRATEGIES', {}))
    return found
