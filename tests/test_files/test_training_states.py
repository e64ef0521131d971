"""What upstream's trainings write is read back: no schedule and no data set stops a resume."""

import inspect

import mmdet.engine.schedulers  # noqa: F401
import mmpretrain.engine  # noqa: F401
import pytest
import torch
from helpers.tiny_training import Vectors, config, train
from mmdet.registry import PARAM_SCHEDULERS as MMDETS
from mmengine.config import ConfigDict
from mmengine.registry import DATASETS, OPTIMIZERS, PARAM_SCHEDULERS
from mmpretrain.registry import OPTIMIZERS as MMPRETRAINS
from mmpretrain.registry import PARAM_SCHEDULERS as MMPRETRAINS_SCHEDULERS

from kd_plugins.files import reading

SCHEDULERS = {
    name: cls
    for registry in (PARAM_SCHEDULERS, MMDETS, MMPRETRAINS_SCHEDULERS)
    for name, cls in registry.module_dict.items()
    if not name.endswith('ParamScheduler')
}
NEEDED = dict(
    step_size=2, milestones=[2], gamma=0.5, T_max=4, eta_max=0.5, total_steps=9, periods=[2, 9],
    restart_weights=[1, 0.5], monitor='level', eta_min=0.01, patience=0,
)  # fmt: skip
# Bases, one of gradients that are sparse, and one of several processes.
NOT_ALONE = {'Optimizer', 'SparseAdam', 'ZeroRedundancyOptimizer'}
ALL_OPTIMIZERS = {
    name: cls
    for registry in (OPTIMIZERS, MMPRETRAINS)
    for name, cls in registry.module_dict.items()
    if name not in NOT_ALONE and cls.__module__.split('.')[0] in ('torch', 'mmpretrain')
}


def arguments(cls):
    """The arguments of a scheduler, of those above that it takes."""
    taken = {
        key
        for base in cls.__mro__
        if '__init__' in vars(base)
        for key in inspect.signature(base.__init__).parameters
    }
    given = {key: value for key, value in NEEDED.items() if key in taken}
    return dict(given, end=6) if 'Quadratic' in cls.__name__ else given


def steps(scheduler, count):
    """The values that a scheduler gives its optimizer in so many steps."""
    values = []
    for _ in range(count):
        scheduler.optimizer.step()
        late = 'metrics' in inspect.signature(scheduler.step).parameters
        scheduler.step(dict(level=0.5)) if late else scheduler.step()
        values.append(scheduler.optimizer.param_groups[0][scheduler.param_name])
    return values


def scheduled(name):
    optimizer = torch.optim.SGD(
        [torch.nn.Parameter(torch.ones(2))], 0.1, momentum=0.9, weight_decay=0.1
    )
    return SCHEDULERS[name](optimizer, **arguments(SCHEDULERS[name]))


@pytest.mark.parametrize('protocol', [2, 4])
@pytest.mark.parametrize('name', sorted(SCHEDULERS))
def test_every_schedule_goes_on_from_what_was_read(name, protocol, tmp_path):
    undisturbed = steps(scheduled(name), 5)
    first, second = scheduled(name), scheduled(name)
    assert steps(first, 2) == undisturbed[:2]
    state = dict(optimizer=first.optimizer.state_dict(), schedule=first.state_dict())
    torch.save(state, tmp_path / 'a.pth', pickle_protocol=protocol)
    read = reading.load(tmp_path / 'a.pth')
    theirs = torch.load(tmp_path / 'a.pth', weights_only=False)
    assert repr(read) == repr(theirs)
    assert [type(value) for value in read['schedule'].values()] == [
        type(value) for value in theirs['schedule'].values()
    ]
    second.optimizer.load_state_dict(read['optimizer'])
    second.load_state_dict(read['schedule'])
    assert steps(second, 3) == undisturbed[2:]


@pytest.mark.parametrize('name', sorted(ALL_OPTIMIZERS))
def test_the_state_of_every_optimizer_is_read(name, tmp_path):
    torch.manual_seed(0)
    # Muon takes matrices only.
    layers = [torch.nn.Linear(3, size, bias=name != 'Muon') for size in (3, 2)]
    network = torch.nn.Sequential(*layers)
    optimizer = ALL_OPTIMIZERS[name](network.parameters(), lr=0.1)

    def loss():
        optimizer.zero_grad()
        value = network(torch.ones(4, 3)).square().sum()
        value.backward()
        return value

    for _ in range(2):
        loss()
        optimizer.step(loss) if name == 'LBFGS' else optimizer.step()
    torch.save(optimizer.state_dict(), tmp_path / 'a.pth')
    read = reading.load(tmp_path / 'a.pth')
    assert repr(read) == repr(torch.load(tmp_path / 'a.pth', weights_only=False))
    optimizer.load_state_dict(read)


@DATASETS.register_module(force=True)
class DescribedVectors(Vectors):
    """Vectors with what a config says of a data set, as mmengine's BaseDataset keeps it."""

    def __init__(self, metainfo):
        super().__init__()
        self.metainfo = dict(metainfo.items())


@pytest.mark.parametrize(
    'schedule',
    [
        dict(type='MultiStepLR', milestones=[1, 3], gamma=0.1),
        dict(type='OneCycleLR', eta_max=0.5, total_steps=4),
    ],
)
def test_a_training_with_a_schedule_and_a_described_data_set_resumes(schedule, tmp_path):
    dataset = dict(
        type='DescribedVectors',
        metainfo=dict(classes=('a', 'b'), groups=dict(animals=dict(first=['a']))),
    )

    def run(folder, **options):
        cfg = config(tmp_path / folder, epochs=4, **options)
        cfg.default_hooks.checkpoint.max_keep_ckpts = 4
        cfg.train_dataloader.dataset = dataset
        cfg.param_scheduler = dict(schedule)
        return train(cfg)

    whole = run('whole')
    path = tmp_path / 'whole' / 'epoch_2.pth'
    assert type(reading.load(path)['meta']['dataset_meta']['groups']) is ConfigDict
    resumed = run('parts', load_from=str(path), resume=True)
    assert whole.keys() == resumed.keys()
    for key, value in whole.items():
        assert torch.equal(resumed[key], value), key
