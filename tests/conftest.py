import gc
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import kd_plugins  # noqa: F401  (first, so that mmrazor can be imported)

ROOT = Path(__file__).resolve().parents[1]
# Helpers are imported as `from helpers import ...`, wherever a test lies.
sys.path.insert(0, str(Path(__file__).resolve().parent))


@pytest.fixture(autouse=True, scope='session')
def _upstream_indices_are_read_once():
    """Keep mmengine from reading all of a package's metafiles for every config of it."""
    from helpers.indices import read_once

    with read_once():
        yield


@pytest.fixture(autouse=True, scope='session')
def _loops_do_not_wait():
    """Keep mmengine from waiting two seconds between passes over the data."""
    from mmengine.runner import loops

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loops, 'time', SimpleNamespace(sleep=lambda seconds: None))
        yield


@pytest.fixture(autouse=True, scope='module')
def _garbage_is_that_of_a_tests_own():
    """Keep what is imported out of the collections that every dataset of mmengine asks for."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _fresh_upstream_state():
    """Keep mmengine's globals and torch's threads from leaking between tests."""
    from mmengine.logging import MessageHub
    from mmengine.registry import DefaultScope

    torch.manual_seed(0)
    MessageHub._instance_dict.clear()
    DefaultScope._instance_dict.clear()
    yield
    MessageHub._instance_dict.clear()
    DefaultScope._instance_dict.clear()
