"""Processes of their own that need not import upstream's packages again.

A new interpreter takes five seconds to import them. multiprocessing's fork server has done it
once, and has imported nothing of the tests, and of ours what `import kd_plugins` does. What runs
here starts from that, with streams, registries and an environment of its own. That a tool or a
launcher starts in a new interpreter is for a test or two of each.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import runpy
import socket
import sys
import tempfile
from pathlib import Path
from subprocess import CompletedProcess

FORKS = multiprocessing.get_context('forkserver')
FORKS.set_forkserver_preload(
    ['kd_plugins', 'mmpretrain.models', 'mmpretrain.datasets', 'mmpretrain.evaluation',
     'mmpretrain.visualization', 'mmdet.models', 'mmdet.datasets', 'mmdet.evaluation',
     'mmdet.visualization', 'mmrazor.models', 'pytest']
)  # fmt: skip
#: Seconds after which a process hangs.
PATIENCE = 300.0


def free_port():
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return str(probe.getsockname()[1])


def run_script(script, *arguments, cwd=None, env=None):
    """Run a script as `python SCRIPT ARGUMENTS` would; return its code and both its streams."""
    (reply,) = _run([script, *arguments], cwd, [dict(env or os.environ)])
    return reply


def run_on_two_ranks(script, *arguments, cwd=None, env=None, ok=True):
    """Run it on two processes that are told what torchrun tells; return what both print."""
    shared = dict(env or os.environ, MASTER_ADDR='127.0.0.1', MASTER_PORT=free_port())
    shared.update(WORLD_SIZE='2', LOCAL_WORLD_SIZE='2')
    ranks = [dict(shared, RANK=rank, LOCAL_RANK=rank) for rank in '01']
    replies = _run([script, *arguments], cwd, ranks)
    for reply in replies:
        assert (reply.returncode == 0) is ok, reply.stdout[-2000:] + reply.stderr[-3000:]
    return ''.join(reply.stdout + reply.stderr for reply in replies)


def _run(command, cwd, environments):
    words = [str(word) for word in command]
    with tempfile.TemporaryDirectory() as folder:
        streams = [
            (Path(folder, f'out{i}'), Path(folder, f'err{i}')) for i in range(len(environments))
        ]
        processes = [
            FORKS.Process(target=_begin, args=(words, str(cwd or Path.cwd()), env, *files))
            for env, files in zip(environments, streams, strict=True)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join(PATIENCE)
            process.kill()
            process.join()
        return [
            CompletedProcess(words, process.exitcode, *(file.read_text() for file in files))
            for process, files in zip(processes, streams, strict=True)
        ]


def _begin(words, cwd, env, *files):
    gc.freeze()  # every dataset of mmengine collects garbage
    for stream, file in enumerate(files, start=1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    sys.argv = words
    sys.path.insert(0, str(Path(words[0]).resolve().parent))
    runpy.run_path(words[0], run_name='__main__')
