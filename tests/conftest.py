import functools
import sys
from pathlib import Path

import pytest
import torch

import kd_plugins  # noqa: F401  (first, so that mmrazor can be imported)

ROOT = Path(__file__).resolve().parents[1]
# Helpers are imported as `from helpers import ...`, wherever a test lies.
sys.path.insert(0, str(Path(__file__).resolve().parent))


@pytest.fixture(autouse=True, scope='session')
def _upstream_indices_are_read_once():
    """Keep mmengine from reading all of a package's metafiles for every config of it."""
    from mmengine.config import utils
    from mmengine.hub import hub

    with pytest.MonkeyPatch.context() as patch:
        read = utils._get_cfg_metainfo

        @functools.cache
        def look_up(*where):
            try:
                return read(*where), None
            except ValueError as error:  # not listed, as base configs are not
                # Not the error itself: its frames would keep the tests' networks.
                return None, str(error)

        def once(*where):
            found, error = look_up(*where)
            if error is not None:
                raise ValueError(error)
            return found

        for module in (utils, hub):
            patch.setattr(module, '_get_cfg_metainfo', once)
        yield


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
