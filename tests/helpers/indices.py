"""The metafiles of upstream packages."""

import contextlib
import functools

import pytest


@contextlib.contextmanager
def read_once():
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
