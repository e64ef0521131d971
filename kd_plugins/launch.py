"""What the command-line tools share: arguments, configs, processes."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import os.path as osp
import subprocess
from typing import Any

import torch.distributed
from mmengine.config import Config, ConfigDict
from mmengine.device import get_device
from mmengine.dist import init_dist
from mmengine.registry import RUNNERS
from mmengine.runner import Runner
from torch.distributed.rendezvous import rendezvous

from kd_plugins import command_line
from kd_plugins.compat import chatter, operators
from kd_plugins.files.configs import read_config
from kd_plugins.files.writing import write_aside
from kd_plugins.registry import name_of

#: Where the first of several starts of a training notes who it is, in the work directory.
START_NOTE = '.started'
#: mmengine's strategies that cut a model into pieces.
SHARDING = ('FSDPStrategy', 'DeepSpeedStrategy', 'ColossalAIStrategy')


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that training and testing share, named as upstream's."""
    parser.add_argument('config', help='config file')
    parser.add_argument('--work-dir', help='where logs and checkpoints go')
    command_line.add_cfg_options(parser)
    parser.add_argument(
        '--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none', help='launcher'
    )
    # torch.distributed.launch passes it; torchrun sets LOCAL_RANK instead.
    parser.add_argument(
        '--local_rank', '--local-rank', type=int, default=0, help='given by the launcher'
    )
    chatter.add_argument(parser)


def load_config(args: argparse.Namespace) -> Config:
    """Read the config and apply the common arguments."""
    chatter.hush(unless=args.verbose)
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    try:
        cfg = read_config(args.config, args.cfg_options)
    except (ValueError, FileNotFoundError) as error:
        raise SystemExit(str(error)) from None
    scope = cfg.get('default_scope')
    if scope and importlib.util.find_spec(scope) is None:
        raise SystemExit(
            f'config {args.config!r} has default_scope={scope!r}, a package that is not installed: '
            f'install {scope}.'
        )
    cfg.launcher = args.launcher
    if args.work_dir is not None:
        cfg.work_dir = args.work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = osp.join('work_dirs', osp.splitext(osp.basename(args.config))[0])
    return cfg


def build_runner(cfg: Config) -> Runner:
    """Build the upstream runner, on several processes without a GPU as well.

    Raises:
        SystemExit: If mmengine would shard the student, or mmcv's operators do not load.
    """
    strategy = name_of((cfg.get('strategy') or {}).get('type'))
    if strategy in SHARDING and 'distiller' in cfg.model:
        raise SystemExit(
            f'strategy.type={strategy!r} is not supported for a distillation: recorders and terms '
            'read whole tensors of the student, and its checkpoints have its own keys; train with '
            "strategy=dict(type='DDPStrategy'), gradient checkpointing and accumulation, or "
            'without runner_type.'
        )
    start_processes(cfg)
    try:
        if 'runner_type' in cfg:
            return RUNNERS.build(cfg)
        return Runner.from_cfg(cfg)
    except ImportError as error:
        if error.name == operators.EXTENSION:
            raise SystemExit(str(error)) from None
        raise


def start_processes(cfg: Config) -> None:
    """Start torch's processes where mmengine's own start would fail.

    Without an accelerator it selects a CUDA device all the same, and its DDP
    wrapper names one; ``device_ids=None`` spares the second. After a restart by
    torchrun the processes need names of their own. The Runner leaves processes
    alone that have been started before it.
    """
    if cfg.launcher not in ('pytorch', 'slurm'):
        return
    again = {} if torch.distributed.is_initialized() else after_a_restart()
    if get_device() == 'cuda' and again:
        init_dist(cfg.launcher, **cfg.get('env_cfg', {}).get('dist_cfg', {}), **again)
    if get_device() != 'cpu':
        return
    if cfg.launcher == 'slurm':
        os.environ.update(slurm_environment())
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group('gloo', **again)
    wrapper = cfg.get('model_wrapper_cfg') or ConfigDict(
        type='MMDistributedDataParallel',
        broadcast_buffers=False,
        find_unused_parameters=cfg.get('find_unused_parameters', False),
    )
    wrapper['device_ids'] = None
    cfg.model_wrapper_cfg = wrapper


def after_a_restart() -> dict[str, Any]:
    """Return what ``init_process_group`` needs after torchrun has restarted this process.

    The store of torchrun's agent outlives its processes. Those of torch 2.1 put the
    number of the restart before their names in it; since pytorch's pull request
    135957, made for its dynamic rendezvous, they do not, and look for each other
    where the dead ones were: gloo fails or hangs.
    """
    count = os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')
    if count == '0' or os.environ.get('TORCHELASTIC_USE_AGENT_STORE') != 'True':
        return {}
    store, rank, world_size = next(rendezvous('env://'))
    store = torch.distributed.PrefixStore(f'restart_{count}', store)
    return dict(store=store, rank=rank, world_size=world_size)


def slurm_environment() -> dict[str, str]:
    """Return what torch asks the environment for, from what Slurm tells its tasks.

    As mmengine does for GPUs: ``MASTER_ADDR`` and ``MASTER_PORT`` are kept if set.
    """
    nodes = os.environ.get('SLURM_NODELIST', '127.0.0.1')
    address = os.environ.get('MASTER_ADDR')
    if address is None:
        show = ['scontrol', 'show', 'hostnames', nodes]
        address = subprocess.run(show, capture_output=True, text=True, check=True).stdout.split()[0]
    return dict(
        MASTER_ADDR=address,
        MASTER_PORT=os.environ.get('MASTER_PORT', '29500'),
        WORLD_SIZE=os.environ['SLURM_NTASKS'],
        RANK=os.environ['SLURM_PROCID'],
        LOCAL_RANK=os.environ.get('SLURM_LOCALID', '0'),
    )


def restarted_with_a_checkpoint(work_dir: str, launcher: str = 'none') -> bool:
    """Whether a launcher has started this again, with a checkpoint of its own to go on from.

    torchrun counts its restarts, Slurm its requeues. The first start notes in the
    work directory who it is. Later ones go on from a checkpoint only if the note is
    theirs and the checkpoint is younger: an older one is that of another start.

    Args:
        work_dir: The work directory.
        launcher: The runner's, which says who writes the note.
    """
    env = os.environ
    requeues, restarts = (
        int(env.get(f'{who}_RESTART_COUNT', '0')) for who in ('SLURM', 'TORCHELASTIC')
    )
    # What stays the same in all starts and on all nodes; torchrun has a name if it is given one.
    here = dict(slurm=env.get('SLURM_JOB_ID', ''), torchrun=env.get('TORCHELASTIC_RUN_ID', ''))
    note, pointer = (osp.join(work_dir, name) for name in (START_NOTE, 'last_checkpoint'))
    noted = _read_json(note)
    requeued = requeues > 0 and noted.get('slurm') == here['slurm']
    restarted = restarts > 0 and noted.get('torchrun') == here['torchrun']
    if requeued or restarted:
        if not osp.isfile(pointer):
            return False
        written = osp.getmtime(pointer)
        # dist_train.sh tells when it began, should that start have died before its note.
        began = 0.0 if requeued else float(env.get('KD_PLUGINS_STARTED', 0))
        return written >= max(osp.getmtime(note), began)
    if _is_first_process(launcher):
        write_aside(json.dumps(here).encode(), note)
    return False


def _is_first_process(launcher: str) -> bool:
    rank = dict(pytorch='RANK', slurm='SLURM_PROCID', mpi='OMPI_COMM_WORLD_RANK').get(launcher)
    return rank is None or os.environ.get(rank, '0') == '0'


def _read_json(path: str) -> dict[str, Any]:
    try:
        with open(path, encoding='utf-8') as file:
            return dict(json.load(file))
    except (OSError, ValueError):
        return {}


def enable_amp(cfg: Config) -> None:
    """Switch the optimizer wrapper to mixed precision, or say why it cannot.

    Raises:
        SystemExit: Without an accelerator, or with a wrapper that ``--amp``
            would silently replace. DOT's has a precision of its own.
    """
    if get_device() == 'cpu':
        raise SystemExit(
            '--amp needs an accelerator (optim_wrapper.type=AmpOptimWrapper runs on none but '
            'CUDA, NPU, MLU and MUSA devices): leave it out on this machine.'
        )
    kind = name_of(cfg.optim_wrapper.get('type', 'OptimWrapper'))
    if kind == 'DOTOptimWrapper':
        cfg.optim_wrapper.dtype = cfg.optim_wrapper.get('dtype') or 'float16'
        return
    if kind not in ('OptimWrapper', 'AmpOptimWrapper'):
        raise SystemExit(
            f'--amp would replace optim_wrapper.type={kind!r}: set its precision in the config.'
        )
    cfg.optim_wrapper.type = 'AmpOptimWrapper'
    cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')


def write_json(path: str, values: dict) -> None:
    """Write values to a JSON file, making its folder; see :func:`write_aside`."""
    write_aside((json.dumps(values, indent=2) + '\n').encode(), path)
