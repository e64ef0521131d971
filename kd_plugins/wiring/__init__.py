"""Features wired by themselves: which maps of two networks a term compares, and by what layers.

Both networks run once on a blank picture. Their maps are matched by stride, and what follows
is a plain :class:`Wiring`, of which ``kd_plugins.AutoDistiller`` builds and
``tools/new_config.py`` writes.
"""

from kd_plugins.wiring.terms import TERMS
from kd_plugins.wiring.wire import WHERE, Side, Wiring, wire

__all__ = ['TERMS', 'WHERE', 'Side', 'Wiring', 'wire']
