import pytest
from helpers.processes import FORKS

from kd_plugins.experiments import repeat


@pytest.fixture(autouse=True)
def _runs_import_nothing_again(monkeypatch):
    """A killed repeat, which is a script of its own, starts new interpreters."""
    monkeypatch.setattr(repeat, 'CONTEXT', FORKS)
