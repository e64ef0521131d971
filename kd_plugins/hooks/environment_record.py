"""A file in the work directory that says what the training ran on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mmengine.dist import get_world_size, master_only
from mmengine.hooks import Hook

from kd_plugins.experiments.environment import environment
from kd_plugins.files.writing import write_aside
from kd_plugins.registry import HOOKS


@HOOKS.register_module()
class EnvironmentHook(Hook):
    """Write ``environment.json``: versions, devices, commits, command, config.

    A list with an entry for every start, since a resumed run may go on with
    other versions. The config itself, with all that was inherited, is beside
    it: mmengine writes it there.
    """

    @master_only
    def before_train(self, runner: Any) -> None:
        """Append this start."""
        path = Path(runner.work_dir) / 'environment.json'
        try:
            starts = json.loads(path.read_text(encoding='utf-8'))
        except (FileNotFoundError, ValueError):
            starts = []
        config = getattr(runner.cfg, 'filename', None)
        starts.append(
            dict(
                environment(),
                config=config and str(config),
                seed=runner.seed,
                deterministic=bool(runner.deterministic),
                processes=get_world_size(),
                from_iteration=runner.iter,
            )
        )
        write_aside(json.dumps(starts, indent=1), path)
