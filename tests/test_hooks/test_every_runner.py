"""Each runner tells its own model of its training, whichever hooks a config has."""

import copy
import json
from types import SimpleNamespace

import pytest
import torch
from helpers import algorithm_cfg
from helpers.tiny_training import config
from helpers.vector_training import kd, runner_of
from mmengine.hooks import Hook
from mmengine.logging import MessageHub
from mmengine.registry import DATASETS, HOOKS, MODELS, init_default_scope
from mmengine.runner import IterBasedTrainLoop, Runner
from torch import nn
from torch.utils.data import BatchSampler, ConcatDataset, DataLoader, SequentialSampler

from kd_plugins.datasets import MultiSourceSampler
from kd_plugins.hooks import data_classes, every_runner
from kd_plugins.hooks.data_classes import check_categories, check_classes
from kd_plugins.hooks.every_runner import check_last_batch, check_layer_decay
from kd_plugins.structures import Progress

TWO_SOURCES = dict(type='kd_plugins.MultiSourceSampler', batch_size=8, source_ratio=[1, 3])


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


def coco(tmp_path, *names, wrap=None):
    """A dataset of mmdet over a file with categories a, b, c."""
    init_default_scope('mmdet')
    categories = [dict(id=i + 1, name=name) for i, name in enumerate('abc')]
    image = dict(id=1, file_name='1.jpg', height=10, width=10)
    box = dict(id=1, image_id=1, category_id=3, bbox=[0, 0, 5, 5], area=25, iscrowd=0)
    path = tmp_path / 'coco.json'
    path.write_text(json.dumps(dict(images=[image], annotations=[box], categories=categories)))
    of = dict(type='mmdet.CocoDataset', ann_file=str(path), metainfo=dict(classes=names))
    of.update(data_prefix=dict(img=''), pipeline=[])
    return DATASETS.build(of if wrap is None else wrap(of))


WRAPS = [
    None,
    lambda of: dict(type='RepeatDataset', dataset=of, times=2),
    lambda of: dict(type='ConcatDataset', datasets=[of, of]),
]


@pytest.mark.parametrize('wrap', WRAPS)
def test_a_class_that_the_annotations_lack_is_named(tmp_path, wrap):
    with pytest.raises(ValueError, match=r"has \['x'\], and the categories of .*\['a', 'b', 'c'\]"):
        check_categories(coco(tmp_path, 'a', 'x', 'c', wrap=wrap))
    # Upstream's silence: the box of class c, number 2, is number 1.
    shifted = coco(tmp_path, 'a', 'x', 'c')
    assert [box['bbox_label'] for box in shifted[0]['instances']] == [1]
    # A choice among the file's classes is none of that.
    check_categories(coco(tmp_path, 'a', 'c', wrap=wrap))
    check_categories(None)


def test_a_training_on_shifted_classes_does_not_begin(tmp_path):
    made = Runner.from_cfg(config(tmp_path / 'run', 1, model=algorithm_cfg()))
    made.val_loop.dataloader = SimpleNamespace(dataset=coco(tmp_path, 'a', 'x'))
    with pytest.raises(ValueError, match=r"has \['x'\]"):
        every_runner.before_train(made)


@pytest.mark.parametrize('wrap', WRAPS)
def test_the_teacher_is_held_to_the_labels_that_mmdet_makes(tmp_path, wrap):
    """mmdet numbers classes as the file's categories stand, not as metainfo.classes does."""
    dataset = coco(tmp_path, 'c', 'a', wrap=wrap)
    assert dataset[0]['instances'][0]['bbox_label'] == 1  # the box of c
    loader = SimpleNamespace(dataset=dataset)

    def check(classes, class_map=None):
        check_classes(loader, classes, class_map)

    check(('a', 'c'))
    with pytest.raises(
        ValueError, match=r"class 0 is 'a' in the data and 'c' of the.* of the file"
    ):
        check(('c', 'a'))
    # A teacher of these labels, whose checkpoint has the names of metainfo.classes.
    check(('c', 'a'), [0, 1])
    check(None)


def test_categories_are_found_without_the_rest_of_the_file(tmp_path):
    dataset = coco(tmp_path, 'c', 'a')
    whole = json.loads((tmp_path / 'coco.json').read_text())
    whole['info'] = dict(note='"categories": ["x"]', categories=[], more=dict(categories=[1]))
    (tmp_path / 'coco.json').write_text(json.dumps(dict(info=whole.pop('info'), **whole), indent=1))
    assert data_classes._categories(dataset) == whole['categories']


class Normalising(nn.Module):
    """A term with statistics of its batch."""

    def __init__(self, kind=nn.BatchNorm1d):
        super().__init__()
        self.norm = kind(4)

    def forward(self, preds_S, preds_T):
        return (self.norm(preds_S) - preds_T).square().mean()


@pytest.mark.parametrize(
    ('samples', 'batch_size', 'kind', 'changes', 'refused'),
    [
        (9, 4, nn.BatchNorm1d, {}, True),
        (1, 4, nn.BatchNorm1d, {}, True),
        (3, 1, nn.BatchNorm1d, {}, True),
        (10, 4, nn.BatchNorm1d, {}, False),
        (8, 4, nn.BatchNorm1d, {}, False),
        (9, 4, nn.LayerNorm, {}, False),
        (9, 4, nn.BatchNorm1d, dict(drop_last=True), False),
        (9, 4, nn.BatchNorm1d, dict(sampler=dict(type='InfiniteSampler')), False),
    ],
)
def test_a_last_batch_of_one_is_refused_beside_batch_statistics(
    samples, batch_size, kind, changes, refused
):
    loader = dict(
        batch_size=batch_size, dataset=dict(type='Vectors', size=samples),
        sampler=dict(type='DefaultSampler', shuffle=True),
    )  # fmt: skip
    loader.update(changes)
    model = MODELS.build(algorithm_cfg())
    model.distiller.distill_losses['loss_kd'] = Normalising(kind)
    built = Runner.build_dataloader(loader, seed=0)
    sizes = [len(batch['inputs']) for batch, _ in zip(built, range(4), strict=False)]
    assert refused == (1 in sizes and kind is nn.BatchNorm1d)
    if refused:
        with pytest.raises(ValueError, match=r'last batch of one .*loss_kd\.norm .*drop_last=True'):
            check_last_batch(built, model)
    else:
        check_last_batch(built, model)


@pytest.mark.parametrize(
    ('samples', 'drop_last', 'refused'), [(9, False, True), (9, True, False), (10, False, False)]
)
def test_batches_of_a_sampler_of_their_own_are_counted_as_well(samples, drop_last, refused):
    """As mmdet's AspectRatioBatchSampler makes them, of which the loader says nothing."""
    dataset = range(samples)
    batches = BatchSampler(SequentialSampler(dataset), 4, drop_last)
    loader = DataLoader(dataset, batch_sampler=batches)
    assert loader.batch_size is None and refused == (1 in map(len, batches))
    model = MODELS.build(algorithm_cfg())
    model.distiller.distill_losses['loss_kd'] = Normalising()
    if refused:
        with pytest.raises(ValueError, match=r'batch_size=4 leaves a last batch of one .*9 on'):
            check_last_batch(loader, model)
    else:
        check_last_batch(loader, model)


@pytest.mark.parametrize(('ratio', 'refused'), [([1, 3], True), ([3, 1], True), ([2, 2], False)])
def test_one_sample_of_a_dataset_is_refused_beside_batch_statistics(ratio, refused):
    """The student sees labelled and unlabelled ones apart."""
    both = SimpleNamespace(datasets=[range(6), range(9)])
    sampler = MultiSourceSampler(both, 4, ratio, seed=0)
    loader = DataLoader(range(15), 4, sampler=sampler)
    model = MODELS.build(algorithm_cfg())
    check_last_batch(loader, model)
    model.distiller.distill_losses['loss_kd'] = Normalising()
    if refused:
        with pytest.raises(ValueError, match=r'one sample of a dataset into .*loss_kd\.norm norm'):
            check_last_batch(loader, model)
    else:
        check_last_batch(loader, model)


def with_fusion(source, norm):
    """A distillation whose ReviewKD reads a layer of the student."""
    levels = dict(type='kd_plugins.Features', sources=[source])
    fusion = dict(type='kd_plugins.ReviewKDConnector', in_channels=[16], mid_channels=4)
    mapping = dict(preds_S=dict(recorder='levels', from_student=True, connector='fusion'),
                   preds_T=dict(recorder='levels', from_student=False))  # fmt: skip
    return MODELS.build(
        algorithm_cfg(
            distiller=dict(
                student_recorders=dict(levels=levels),
                teacher_recorders=dict(levels=levels),
                connectors=dict(fusion=dict(fusion, norm_cfg=dict(type=norm))),
                distill_losses=dict(loss_kd=dict(type='kd_plugins.ReviewKDLoss')),
                loss_forward_mappings=dict(loss_kd=mapping),
            )
        )
    )


@pytest.mark.parametrize(
    ('source', 'norm', 'refused'),
    [
        (dict(input_of='fc'), 'BN', True),
        (dict(input_of='body.1'), 'BN', False),
        (dict(input_of='fc'), 'SyncBN', False),
    ],
)
def test_norms_of_fused_vectors_need_two_samples(source, norm, refused):
    model = with_fusion(source, norm)
    loader = DataLoader(range(9), batch_size=4)
    if refused:
        with pytest.raises(ValueError, match=r'distiller\.connectors\.fusion\.levels\.0\..* norm'):
            check_last_batch(loader, model)
        with pytest.raises(ValueError, match='one value a channel'):
            model.distiller.connectors['fusion'].forward_train(torch.ones(1, 16))
    else:
        check_last_batch(loader, model)


@pytest.mark.parametrize(
    ('shape', 'samples', 'refused'),
    [((2, 16, 1, 1), 9, True), ((2, 16, 2, 1), 9, False), ((2, 16, 1, 1), 8, False)],
)
def test_norms_of_maps_of_one_position_are_refused_in_the_first_step(shape, samples, refused):
    """Not when the last batch of the first epoch comes."""
    model = with_fusion(dict(input_of='body.1'), 'BN').train()
    check_last_batch(DataLoader(range(samples), batch_size=4), model)
    fusion = model.distiller.connectors['fusion']
    if refused:
        with pytest.raises(ValueError, match=r'last batch of one .*fusion\.levels\.0\..*drop_last'):
            fusion.forward_train(torch.ones(shape))
    else:
        fusion.forward_train(torch.ones(shape))


def folders(tmp_path, names, classes=None):
    """A dataset of mmpretrain over folders of one file each."""
    init_default_scope('mmpretrain')
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / '1.png').touch()
    metainfo = None if classes is None else dict(classes=classes)
    return DATASETS.build(
        dict(type='CustomDataset', data_prefix=str(tmp_path), metainfo=metainfo, pipeline=[])
    )


def test_names_that_are_not_those_of_the_folders_are_refused(tmp_path):
    """mmpretrain compares their number only."""
    of = folders(tmp_path, 'abc', ('b', 'a', 'c'))
    labels = [(of[i]['img_path'][-7:-6], int(of[i]['gt_label'])) for i in range(3)]
    assert labels == [('a', 0), ('b', 1), ('c', 2)] and of.metainfo['classes'][0] == 'b'
    with pytest.raises(ValueError, match=r"class 0 'b', and its pictures .* the folder 'a'"):
        check_categories(of)


@pytest.mark.parametrize('classes', [None, ('a', 'b', 'c'), ('x', 'y', 'z')])
def test_names_of_folders_or_other_names_are_taken(tmp_path, classes):
    check_categories(folders(tmp_path, 'abc', classes))


def test_a_class_that_the_training_set_lacks_moves_none_of_the_teachers(tmp_path):
    """Both networks have four classes, and the pictures of b are missing on both sides."""
    loader = SimpleNamespace(dataset=folders(tmp_path, 'acd'))
    with pytest.raises(ValueError, match=r"class 1 is 'c' in the data and 'b' of the teacher"):
        check_classes(loader, ('a', 'b', 'c', 'd'), None, 4)
    # The last one moves nothing, and a student of fewer classes compares no logits.
    check_classes(loader, ('a', 'c', 'd', 'e'), None, 4)
    check_classes(loader, ('a', 'b', 'c', 'd'), None, 3)


def test_the_log_forgets_terms_that_stopped(tmp_path):
    """mmengine would repeat the last value of each in every later line."""
    cfg = config(tmp_path, 3, model=algorithm_cfg())
    cfg.custom_hooks.append(dict(type='mmrazor.StopDistillHook', stop_epoch=1))
    cfg.default_hooks.distillation_log = dict(type='kd_plugins.DistillationLogHook')
    cfg.default_hooks.logger = dict(type='LoggerHook', interval=1)
    Runner.from_cfg(cfg).train()
    (path,) = tmp_path.glob('*/vis_data/scalars.json')
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines = [line for line in lines if 'loss' in line]
    assert len(lines) == 9
    for i, line in enumerate(lines):
        names = {'distill.loss_kd', 'distill_loss', 'agreement', 'teacher_seconds'}
        assert names & set(line) == (names if i < 3 else set()), line
        assert 'student.loss' in line


def stopping(tmp_path, stop, **train_cfg):
    cfg = config(tmp_path, 2, model=algorithm_cfg())
    cfg.custom_hooks.append(dict(type='mmrazor.StopDistillHook', stop_epoch=stop))
    if train_cfg:
        cfg.train_cfg = train_cfg
        cfg.param_scheduler = None
    return Runner.from_cfg(cfg)


def test_a_loop_without_epochs_stops_no_distillation(tmp_path):
    """mmrazor's hook would wait for an epoch that never comes."""
    made = stopping(tmp_path, 1, by_epoch=False, max_iters=4)
    with pytest.raises(ValueError, match=r'StopDistillHook\.stop_epoch=1 counts epochs'):
        made.train()


@pytest.mark.parametrize(('stop', 'told'), [(1, False), (2, True)])
def test_a_distillation_that_never_stops_is_told(tmp_path, stop, told, monkeypatch):
    made = stopping(tmp_path, stop)
    said = []
    monkeypatch.setattr(made.logger, 'warning', lambda text, *_: said.append(str(text)))
    made.train()
    found = [text for text in said if 'so that the distillation never stops' in text]
    assert len(found) == told and made.model.distillation_stopped is not told


def test_what_unlabelled_pictures_and_gradients_said_of_terms_is_forgotten():
    hub = MessageHub.get_instance('what_terms_said')
    for name in ('unlabelled_kd', 'grad_cosine', 'loss', 'lr'):
        hub.update_scalar(f'train/{name}', 1.0)
    every_runner._forget_terms(hub)
    assert set(hub.log_scalars) == {'train/loss', 'train/lr'}


@pytest.mark.parametrize('sampler, ends, endless, instead', [
    (dict(type='DefaultSampler', shuffle=True), 5, dict(type='InfiniteSampler', shuffle=True),
     "give sampler=dict(type='InfiniteSampler', shuffle=True)"),
    (TWO_SOURCES, 20, dict(TWO_SOURCES, infinite=True), 'set its infinite=True'),
])  # fmt: skip
def test_a_loop_of_iterations_that_often_waits_for_mmengine_is_told(
    sampler, ends, endless, instead
):
    vectors = DATASETS.build(dict(type='FortyVectors'))
    dataset = ConcatDataset([vectors, vectors]) if sampler is TWO_SOURCES else vectors
    loader = dict(batch_size=8, dataset=dataset, collate_fn=dict(type='default_collate'))

    def told(sampler, max_iters):
        heard = []
        built = Runner.build_dataloader(dict(loader, sampler=sampler), seed=0)
        made = SimpleNamespace(train_dataloader=built, visualizer=SimpleNamespace())
        made.train_loop = IterBasedTrainLoop(made, built, max_iters=max_iters)
        made.logger = SimpleNamespace(warning=heard.append)
        every_runner.check_end(made)
        return heard

    # The loader is begun anew 30 times in one iteration more.
    assert told(sampler, 30 * ends) == told(endless, 10**6) == []
    (said,) = told(sampler, 30 * ends + 1)
    assert f'({sampler["type"].split(".")[-1]}) ends every {ends} iterations' in said
    assert f'waits 2 s, 1 minutes in the {30 * ends + 1:,} iterations' in said
    assert said.endswith(f'{instead}.')
