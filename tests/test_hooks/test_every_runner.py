"""Each runner tells its own model of its training, whichever hooks a config has."""

import copy

import pytest
from helpers import algorithm_cfg
from helpers.tiny_training import config
from helpers.vector_training import kd, runner_of
from mmengine.hooks import Hook
from mmengine.logging import MessageHub
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import nn

from kd_plugins.hooks.every_runner import check_layer_decay
from kd_plugins.structures import Progress


@HOOKS.register_module(force=True)
class Follows(Hook):
    """Keeps the progress that the term has in every step; trains another one in between."""

    def __init__(self, meanwhile=None):
        self.seen, self.meanwhile = [], meanwhile

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.seen.append(runner.model.distiller.distill_losses['loss_kd'].progress)

    def after_train_epoch(self, runner):
        if self.meanwhile is not None:
            self.meanwhile, other = None, self.meanwhile
            other.train()


WARM = dict(kd(4.0), type='kd_plugins.DKDLoss', warmup=2)


def runner(folder, max_epochs, **changes):
    made = runner_of(folder, None, max_epochs=max_epochs, losses=dict(loss_kd=WARM), **changes)
    hook = Follows()
    made.register_hook(hook)
    return made, hook


def expected(max_epochs):
    return [Progress(i, 5 * max_epochs, i // 5, max_epochs) for i in range(5 * max_epochs)]


def test_two_runners_that_take_turns_follow_their_own_progress(tmp_path):
    (tmp_path / 'a').mkdir()
    first, seen_first = runner(tmp_path / 'a', 3)
    second, seen_second = runner(tmp_path / 'b', 4)
    seen_first.meanwhile = second
    first.train()
    assert seen_second.seen == expected(4)
    assert seen_first.seen == expected(3)


def test_the_runner_that_was_built_first_follows_its_own_progress(tmp_path):
    first, seen = runner(tmp_path / 'a', 2)
    runner(tmp_path / 'b', 4)
    assert MessageHub.get_current_instance() is not first.message_hub
    first.train()
    assert seen.seen == expected(2)


def test_loops_without_epochs_are_followed(tmp_path):
    warm = dict(WARM, warmup=dict(length=2, by_epoch=False))
    made = runner_of(tmp_path, None, max_epochs=2, losses=dict(loss_kd=warm), by_epoch=False)
    hook = Follows()
    made.register_hook(hook)
    made.train()
    assert hook.seen == [Progress(i, 10, 0, 1) for i in range(10)]


def test_the_optimizer_wrapper_logs_into_its_runners_hub(tmp_path):
    wrapper = dict(optimizer=dict(type='SGD', lr=0.1), clip_grad=dict(max_norm=1.0))
    first, _ = runner(tmp_path / 'a', 2, optim_wrapper=wrapper)
    second, _ = runner(tmp_path / 'b', 2, optim_wrapper=copy.deepcopy(wrapper))
    first.train()
    assert 'train/grad_norm' in first.message_hub.log_scalars
    assert 'train/grad_norm' not in second.message_hub.log_scalars


def with_key(folder, key):
    cfg = config(folder, epochs=1, model=algorithm_cfg(data_preprocessor=None))
    cfg.optim_wrapper.paramwise_cfg = dict(custom_keys={key: dict(lr_mult=0.5)})
    return Runner.from_cfg(cfg)


@pytest.mark.parametrize(
    ('key', 'instead'),
    [('architecture.fc', "write 'fc'"), ('architecture', 'set it for the whole optimizer')],
)
def test_mmrazors_names_in_paramwise_cfg_are_refused_before_training(tmp_path, key, instead):
    made = with_key(tmp_path, key)
    with pytest.raises(ValueError, match=rf"custom_keys\['{key}'\].*{instead}") as error:
        made.train()
    assert len(str(error.value).splitlines()) == 1 and made.iter == 0


def test_the_students_names_in_paramwise_cfg_are_taken(tmp_path):
    made = with_key(tmp_path, 'fc')
    made.train()
    rates = [group['lr'] for group in made.optim_wrapper.optimizer.param_groups]
    assert len(rates) == 4 and rates[0] == rates[1] == 2 * rates[2] == 2 * rates[3]


@pytest.mark.parametrize(
    'constructor, settings, refused',
    [
        ('mmpretrain.LearningRateDecayOptimWrapperConstructor', dict(lr_mult=0.1), True),
        ('LearningRateDecayOptimWrapperConstructor', dict(decay_mult=0.0), False),
        ('LearningRateDecayOptimizerConstructor', dict(decay_mult=0.0), True),
        ('DefaultOptimWrapperConstructor', dict(lr_mult=0.1), False),
        (None, dict(lr_mult=0.1), False),
    ],
)
@pytest.mark.parametrize('key', ['distiller', 'connectors.join', 'body'])
def test_rates_of_terms_that_layer_decay_passes_over_are_refused(
    constructor, settings, refused, key
):
    model = nn.ModuleDict(dict(body=nn.Linear(1, 1), distiller=nn.ModuleDict()))
    model['distiller']['connectors'] = nn.ModuleDict(dict(join=nn.Linear(1, 1)))
    wrapper = dict(paramwise_cfg=dict(custom_keys={key: settings}))
    wrapper |= dict(constructor=constructor) if constructor else {}
    if refused and key != 'body':
        with pytest.raises(ValueError, match=rf"custom_keys\['{key}'\]=.* has no effect"):
            check_layer_decay(wrapper, model)
    else:
        check_layer_decay(wrapper, model)
