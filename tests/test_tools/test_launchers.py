"""The launchers, with a stand-in for Slurm, and processes that die."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import psutil
import pytest
import torch
from helpers import ROOT
from helpers.processes import free_port
from mmengine.config import Config

from kd_plugins import launch
from kd_plugins.files import reading

CONFIG = str(ROOT / 'configs/dkd/dkd_digits.py')
TINY = [
    'train_dataloader.dataset.indices=96', 'val_dataloader.dataset.indices=64',
    'test_dataloader.dataset.indices=64', 'train_cfg.max_epochs=2', 'train_cfg.val_interval=2',
    'default_hooks.checkpoint.interval=1',
    'model.teacher_ckpt=None', 'model.allow_random_teacher=True',
    'model.distiller.distill_losses.loss_kd.warmup=2',
]  # fmt: skip

SRUN = '''#!{python}
"""Keeps its command and runs the tasks on this machine, as Slurm would on its nodes."""
import json, os, subprocess, sys
options = {{}}
words = sys.argv[1:]
while words[0].startswith('-'):
    word = words.pop(0)
    key, _, value = word.partition('=')
    options[key] = value if value or key.startswith('--') else words.pop(0)
with open({kept!r}, 'a') as file:
    file.write(json.dumps(dict(options=options, command=words)) + '\\n')
tasks, per_node = int(options['--ntasks']), int(options['--ntasks-per-node'])
running = [
    subprocess.Popen(words, env=dict(
        os.environ, SLURM_PROCID=str(i), SLURM_LOCALID=str(i % per_node),
        SLURM_NTASKS=str(tasks), SLURM_NODELIST='node[1-2]',
    ))
    for i in range(tasks)
]
sys.exit(max(process.wait() for process in running))
'''
SCONTROL = (
    '#!/bin/sh\n[ "$1 $2 $3" = "show hostnames node[1-2]" ] && echo 127.0.0.1 && echo node2\n'
)


def environment(**more):
    path = os.path.dirname(sys.executable) + os.pathsep + os.environ['PATH']
    names = dict(OMP_NUM_THREADS='1', PYTHON=sys.executable, PORT=free_port(), PATH=path)
    names['PYTHONPATH'] = str(ROOT)
    return dict(os.environ, **names, **more)


def run(*command, cwd, env, ok=True):
    words = [str(word) for word in command]
    reply = subprocess.run(words, cwd=cwd, env=env, capture_output=True, text=True, timeout=300)
    assert (reply.returncode == 0) is ok, reply.stdout[-2000:] + reply.stderr[-3000:]
    return reply.stdout + reply.stderr


@pytest.fixture
def slurm(tmp_path):
    """An environment whose PATH begins with the stand-ins; and what they were asked."""
    kept = tmp_path / 'srun.jsonl'
    folder = tmp_path / 'bin'
    folder.mkdir()
    (folder / 'srun').write_text(SRUN.format(python=sys.executable, kept=str(kept)))
    (folder / 'scontrol').write_text(SCONTROL)
    for file in folder.iterdir():
        file.chmod(0o755)
    env = environment(MASTER_PORT=free_port())
    env['PATH'] = f'{folder}{os.pathsep}{env["PATH"]}'
    return env, lambda: [json.loads(line) for line in kept.read_text().splitlines()]


def weights(path):
    return reading.load(path)['state_dict']


def test_slurm_asks_for_what_upstreams_script_asks_for(tmp_path, slurm):
    env, asked = slurm
    (tmp_path / 'python').write_text('#!/bin/sh\nexit 0\n')
    (tmp_path / 'python').chmod(0o755)
    env.update(
        GPUS='16', GPUS_PER_NODE='8', CPUS_PER_TASK='3', SRUN_ARGS='--quotatype=auto --mem=1G',
        PYTHON=str(tmp_path / 'python'),
    )  # fmt: skip
    train, test = (ROOT / f'tools/slurm_{name}.sh' for name in ('train', 'test'))
    run(train, 'part', 'job', 'my cfg.py', 'work', '--amp', cwd=tmp_path, env=env)
    run(test, 'part', 'job', 'my cfg.py', 'a.pth', '--out', 'o.json', cwd=tmp_path, env=env)
    first, second = asked()
    assert first['options'] == {
        '-p': 'part', '--job-name': 'job', '--gres': 'gpu:8', '--ntasks': '16',
        '--ntasks-per-node': '8', '--cpus-per-task': '3', '--kill-on-bad-exit': '1',
        '--quotatype': 'auto', '--mem': '1G',
    }  # fmt: skip
    assert first['command'][1:] == [
        '-u', str(ROOT / 'tools/train.py'), 'my cfg.py', '--work-dir', 'work', '--launcher',
        'slurm', '--amp',
    ]  # fmt: skip
    assert second['options'] == first['options']
    assert second['command'][2:] == [
        str(ROOT / 'tools/test.py'), 'my cfg.py', 'a.pth', '--launcher', 'slurm', '--out', 'o.json',
    ]  # fmt: skip
    # Fewer than a node has, and none.
    env.update(GPUS='2')
    run(train, 'part', 'job', 'c.py', 'work', cwd=tmp_path, env=env)
    env.update(GPUS_PER_NODE='0')
    run(train, 'part', 'job', 'c.py', 'work', cwd=tmp_path, env=env)
    few, none = (one['options'] for one in asked()[2:])
    assert (few['--gres'], few['--ntasks-per-node']) == ('gpu:2', '2')
    assert '--gres' not in none and none['--ntasks-per-node'] == '2'


@pytest.mark.parametrize('script', ['slurm_train.sh', 'slurm_test.sh', 'dist_train.sh'])
def test_too_few_arguments_say_what_is_wanted(tmp_path, script):
    printed = run(ROOT / 'tools' / script, 'a', cwd=tmp_path, env=environment(), ok=False)
    assert 'usage:' in printed and 'CONFIG' in printed


def test_the_environment_of_slurm_becomes_torchs(monkeypatch, slurm):
    env, _ = slurm
    monkeypatch.setenv('PATH', env['PATH'])
    monkeypatch.delenv('MASTER_PORT', raising=False)
    for key, value in dict(PROCID='5', LOCALID='1', NTASKS='8', NODELIST='node[1-2]').items():
        monkeypatch.setenv(f'SLURM_{key}', value)
    expected = dict(
        MASTER_ADDR='127.0.0.1', MASTER_PORT='29500', WORLD_SIZE='8', RANK='5', LOCAL_RANK='1'
    )
    assert launch.slurm_environment() == expected
    monkeypatch.setenv('MASTER_ADDR', 'other')
    monkeypatch.setenv('MASTER_PORT', '4000')
    expected.update(MASTER_ADDR='other', MASTER_PORT='4000')
    assert launch.slurm_environment() == expected


#: The environment of the first start, and of the one after it.
AGAIN = {
    'a requeue': (
        dict(SLURM_JOB_ID='7'),
        dict(SLURM_JOB_ID='7', SLURM_RESTART_COUNT='1'),
    ),
    'a requeue of dist_train.sh': (
        dict(SLURM_JOB_ID='7', KD_PLUGINS_STARTED=-10),
        dict(SLURM_JOB_ID='7', SLURM_RESTART_COUNT='1', KD_PLUGINS_STARTED=+20),
    ),
    'a restart': (
        dict(TORCHELASTIC_RUN_ID='none', TORCHELASTIC_RESTART_COUNT='0'),
        dict(TORCHELASTIC_RUN_ID='none', TORCHELASTIC_RESTART_COUNT='1'),
    ),
    'a restart after a requeue': (
        dict(SLURM_JOB_ID='7', TORCHELASTIC_RUN_ID='a'),
        dict(SLURM_JOB_ID='7', SLURM_RESTART_COUNT='1', TORCHELASTIC_RUN_ID='b',
             TORCHELASTIC_RESTART_COUNT='2', KD_PLUGINS_STARTED=+20),
    ),
}  # fmt: skip
ALL = {name for pair in AGAIN.values() for env in pair for name in env}


def start(monkeypatch, folder, env):
    """Start with this environment; return whether it goes on from a checkpoint."""
    for name in ALL:
        monkeypatch.delenv(name, raising=False)
    for name, value in env.items():
        value = str(time.time() + value) if isinstance(value, int) else value
        monkeypatch.setenv(name, value)
    return launch.restarted_with_a_checkpoint(str(folder))


def checkpoint(folder, age):
    """Leave a checkpoint of some seconds ago, or to come."""
    pointer = folder / 'last_checkpoint'
    pointer.write_text('epoch_1.pth')
    os.utime(pointer, (time.time() - age,) * 2)


@pytest.mark.parametrize('kind', AGAIN)
def test_a_restart_resumes_what_its_first_start_has_written(tmp_path, monkeypatch, kind):
    first, again = AGAIN[kind]
    checkpoint(tmp_path, age=1000)  # another training's
    assert not start(monkeypatch, tmp_path, first)
    assert not start(monkeypatch, tmp_path, again)
    checkpoint(tmp_path, age=-1)
    assert start(monkeypatch, tmp_path, again)
    assert start(monkeypatch, tmp_path, again)
    (tmp_path / 'last_checkpoint').unlink()
    assert not start(monkeypatch, tmp_path, again)


def test_a_requeued_job_does_not_go_on_from_another_jobs_checkpoint(tmp_path, monkeypatch):
    assert not start(monkeypatch, tmp_path, dict(SLURM_JOB_ID='7'))
    checkpoint(tmp_path, age=-1)
    # Its first start died before it could note anything.
    other = dict(SLURM_JOB_ID='8', SLURM_RESTART_COUNT='1')
    assert not start(monkeypatch, tmp_path, other)
    os.utime(tmp_path / launch.START_NOTE, (time.time() + 10,) * 2)
    assert not start(monkeypatch, tmp_path, other)
    checkpoint(tmp_path, age=-20)
    assert start(monkeypatch, tmp_path, dict(other, SLURM_RESTART_COUNT='2'))


def test_a_restart_whose_first_start_died_at_once_does_not_go_on_from_an_older_one(
    tmp_path, monkeypatch
):
    assert not start(monkeypatch, tmp_path, dict(TORCHELASTIC_RESTART_COUNT='0'))
    checkpoint(tmp_path, age=0)
    again = dict(TORCHELASTIC_RESTART_COUNT='1', KD_PLUGINS_STARTED=+10)
    assert not start(monkeypatch, tmp_path, again)


@pytest.mark.parametrize(
    ('launcher', 'rank'),
    [('pytorch', 'RANK'), ('slurm', 'SLURM_PROCID'), ('mpi', 'OMPI_COMM_WORLD_RANK')],
)
def test_the_first_process_notes_the_start(tmp_path, monkeypatch, launcher, rank):
    monkeypatch.delenv('SLURM_RESTART_COUNT', raising=False)
    for value, notes in (('1', False), ('0', True)):
        monkeypatch.setenv(rank, value)
        launch.restarted_with_a_checkpoint(str(tmp_path / 'work'), launcher)
        assert (tmp_path / 'work' / launch.START_NOTE).is_file() is notes


@pytest.mark.parametrize(
    ('count', 'agents', 'renamed'),
    [('0', 'True', False), ('1', 'False', False), ('1', 'True', True), ('12', 'True', True)],
)
def test_restarted_processes_do_not_find_the_dead_ones(monkeypatch, count, agents, renamed):
    # The store of torchrun's agent, in which processes look for each other.
    store = torch.distributed.TCPStore('127.0.0.1', 0, is_master=True, wait_for_workers=False)
    names = dict(RANK='1', WORLD_SIZE='3', MASTER_ADDR='127.0.0.1', MASTER_PORT=str(store.port))
    names.update(TORCHELASTIC_RESTART_COUNT=count, TORCHELASTIC_USE_AGENT_STORE=agents)
    for name, value in names.items():
        monkeypatch.setenv(name, value)
    store.set('0', 'the address of a process that has died')
    again = launch.after_a_restart()
    if not renamed:
        assert again == {}
        return
    assert (again['rank'], again['world_size']) == (1, 3)
    again['store'].set('0', 'that of a living one')
    assert store.get('0') == b'the address of a process that has died'
    monkeypatch.setenv('TORCHELASTIC_RESTART_COUNT', '2')
    launch.after_a_restart()['store'].set('0', 'that of one restarted once more')
    assert again['store'].get('0') == b'that of a living one'


def test_mmengine_starts_restarted_processes_on_gpus(monkeypatch):
    started = []
    monkeypatch.setattr(launch, 'get_device', lambda: 'cuda')
    monkeypatch.setattr(launch, 'init_dist', lambda *args, **kw: started.append((args, kw)))
    cfg = Config(dict(launcher='pytorch', env_cfg=dict(dist_cfg=dict(backend='nccl', timeout=9))))
    for again in ({}, dict(store='store', rank=0, world_size=2)):
        monkeypatch.setattr(launch, 'after_a_restart', lambda again=again: again)
        launch.start_processes(cfg)
    # The first is left to the runner.
    assert started == [(('pytorch',), dict(backend='nccl', timeout=9, **again))]
    assert 'model_wrapper_cfg' not in cfg


def workers(agent):
    """The training processes that torchrun has started."""
    children = psutil.Process(agent.pid).children(recursive=True)
    return [c for c in children if 'train.py' in ' '.join(c.cmdline())]


def kill_one_after_a_checkpoint(tmp_path, **env):
    """Start two processes, kill the second once there is a checkpoint."""
    # More epochs than could be done meanwhile, or just enough for a restart to end.
    options = [*TINY, 'train_cfg.max_epochs=60', 'default_hooks.checkpoint.max_keep_ckpts=1']
    log = open(tmp_path / 'log', 'w')  # noqa: SIM115
    agent = subprocess.Popen(
        ['bash', str(ROOT / 'tools/dist_train.sh'), CONFIG, '2', '--work-dir', 'work',
         '--cfg-options', *options],
        cwd=tmp_path, env=environment(**env), stdout=log, stderr=log,
    )  # fmt: skip
    while not (tmp_path / 'work/last_checkpoint').is_file():
        assert agent.poll() is None, (tmp_path / 'log').read_text()[-3000:]
        time.sleep(0.05)
    running = workers(agent)
    assert len(running) == 2
    victim = next(p for p in running if p.environ()['RANK'] == '1')
    victim.send_signal(signal.SIGKILL)
    return agent, running


def test_when_a_rank_dies_the_others_end_too(tmp_path):
    agent, running = kill_one_after_a_checkpoint(tmp_path)
    assert agent.wait(timeout=90) != 0
    assert not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in running)
    assert 'Signal 9 (SIGKILL)' in (tmp_path / 'log').read_text()


@pytest.mark.long
def test_a_restart_by_torchrun_goes_on_from_the_checkpoint(tmp_path):
    agent, _ = kill_one_after_a_checkpoint(tmp_path, MAX_RESTARTS='2')
    assert agent.wait(timeout=280) == 0
    printed = (tmp_path / 'log').read_text()
    assert 'resumed epoch: ' in printed and 'resumed epoch: 0' not in printed
    assert (tmp_path / 'work/epoch_60.pth').is_file()


@pytest.mark.long
def test_two_nodes_are_two_agents(tmp_path):
    env = environment(NNODES='2')
    command = ['bash', str(ROOT / 'tools/dist_train.sh'), CONFIG, '1', '--work-dir', 'work']
    nodes = [
        subprocess.Popen(
            [*command, '--cfg-options', *TINY], cwd=tmp_path, env=dict(env, NODE_RANK=str(rank)),
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in (1, 0)
    ]  # fmt: skip
    printed = [node.communicate(timeout=280)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], printed
    # One training: 96 scans in batches of 32 on two processes, twice.
    saved = reading.load(tmp_path / 'work/epoch_2.pth')
    assert saved['meta']['iter'] == 4
    run('bash', ROOT / 'tools/dist_train.sh', CONFIG, 2, '--work-dir', 'one', '--cfg-options',
        *TINY, cwd=tmp_path, env=environment())  # fmt: skip
    one = weights(tmp_path / 'one/epoch_2.pth')
    assert all(torch.equal(value, one[key]) for key, value in saved['state_dict'].items())


@pytest.mark.long
def test_slurm_trains_and_tests_on_two_tasks(tmp_path, slurm):
    env, asked = slurm
    env.update(GPUS='2', GPUS_PER_NODE='0')
    run(ROOT / 'tools/slurm_train.sh', 'part', 'job', CONFIG, 'work', '--cfg-options', *TINY,
        cwd=tmp_path, env=env)  # fmt: skip
    assert reading.load(tmp_path / 'work/epoch_2.pth')['meta']['iter'] == 4
    printed = run(ROOT / 'tools/slurm_test.sh', 'part', 'job', CONFIG, 'work/epoch_2.pth',
                  '--cfg-options', *TINY, cwd=tmp_path, env=env)  # fmt: skip
    assert 'accuracy/top1' in printed


@pytest.mark.long
@pytest.mark.parametrize('launcher', ['pytorch', 'slurm'])
def test_mim_launches_two_processes(tmp_path, slurm, launcher):
    env, asked = slurm
    # onedl-mim asks the first package of the path where it is installed, and an
    # egg-info folder that building left in the repository answers wrongly.
    del env['PYTHONPATH']
    command = [sys.executable, '-m', 'mim', 'train', 'kd_plugins', CONFIG, '--gpus', 2,
               '--launcher', launcher, '--work-dir', 'work']  # fmt: skip
    if launcher == 'slurm':
        # openmim 0.3.9 with click 8.3 or later fails where --srun-args is left out.
        command += ['--gpus-per-node', 2, '--partition', 'part', '--srun-args=--mem=1G']
    run(*command, '--cfg-options', *TINY, cwd=tmp_path, env=env)
    assert reading.load(tmp_path / 'work/epoch_2.pth')['meta']['iter'] == 4
    if launcher == 'slurm':
        assert asked()[0]['options']['--gres'] == 'gpu:2'
    shutil.rmtree(tmp_path / 'work')
