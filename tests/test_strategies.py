"""Every method in every way of training: the cells of docs/strategies.md."""

import contextlib
import copy
import functools
import re
import tempfile
from pathlib import Path

import pytest
import torch
from helpers import (
    ROOT,
    SMALLEST,
    algorithm_cfg,
    distiller,
    eekd_cfg,
    reviewing,
    save_checkpoints,
)
from helpers.detection import images
from helpers.numbered import ctc_model
from helpers.stored import in_views
from helpers.strategies import (
    BOXES,
    CURRICULUM,
    GLOBAL,
    PATCHES,
    STAGES,
    VIEWS,
    Method,
    declared,
    dot,
    sgd,
    vectors,
)
from helpers.tiny_pictures import (
    beside_ctkd,
    boxes,
    half_labelled,
    necks,
    patches,
    recursive_mix,
    rois,
    wired,
    zipf,
)
from helpers.tiny_training import config, train
from helpers.two_views import two_views
from mmengine.config import Config
from mmengine.model import convert_sync_batchnorm
from mmengine.optim import OptimWrapper
from mmengine.registry import MODELS, OPTIM_WRAPPERS, init_default_scope
from mmengine.runner import Runner, save_checkpoint

from kd_plugins import launch
from kd_plugins.structures import Progress

LSKD = dict(type='kd_plugins.LSKDTemperature')
INSTANCE = dict(type='kd_plugins.InstanceTemperature', num_classes=4)


@functools.cache
def checkpoints():
    """Three teachers' files, for as long as the tests run."""
    folder = tempfile.TemporaryDirectory()
    return folder, save_checkpoints(Path(folder.name), 3)


def eekd(**changes):
    """An algorithm whose teacher is three checkpoints."""
    return lambda: algorithm_cfg(
        allow_random_teacher=False, **eekd_cfg(checkpoints()[1], **changes)
    )


CHANGE = dict(type='kd_plugins.CTCHook', stage_two_epoch=1)
# CTC reads what goes into the classifier. Its memories go on with every step.
NUMBERED = dict(data='NumberedVectors', part='body.1', whole=False)
#: Takes a list of pictures, as a data loader gives them.
PLAIN = dict(data_preprocessor=dict(type='kd_plugins.ClsDataPreprocessor'))
#: A method more says so in its own test file.
METHODS = {
    **declared(),
    'KD': Method(vectors(), sgd()),
    'DKD': Method(vectors(type='kd_plugins.DKDLoss', beta=2.0), sgd()),
    'CTKD': Method(vectors(tau=GLOBAL), sgd(), CURRICULUM),
    'CTKD by instance': Method(vectors(tau=INSTANCE), sgd(), CURRICULUM),
    'KD + DOT': Method(vectors(), dot()),
    'CTKD + DOT': Method(vectors(tau=GLOBAL), dot(), CURRICULUM),
    # Classes are compared over the pictures of a step.
    'DIST': Method(vectors(type='kd_plugins.DISTLoss'), sgd(0.02), whole=False),
    'WTTM': Method(
        lambda: algorithm_cfg(distiller=distiller(dict(type='kd_plugins.WTTMLoss'))), sgd()
    ),
    'LSKD': Method(vectors(tau=LSKD), sgd()),
    'LSKD + CTKD': Method(vectors(tau=dict(LSKD, tau=dict(GLOBAL, init=-2.0))), sgd(), CURRICULUM),
    'LSKD + DOT': Method(vectors(tau=LSKD), dot()),
    'EEKD': Method(eekd(), sgd()),
    'CheckpointKD': Method(
        eekd(mode='equal', mix='logits', tau=3.0, channels_S=None, channels_T=None), sgd()
    ),
    'EEKD + CTKD': Method(eekd(tau=GLOBAL), sgd(), CURRICULUM),
    'EEKD + DOT': Method(eekd(), dot(), compiled=False),
    'CTC': Method(ctc_model, sgd(), CHANGE, **NUMBERED),
    'CTC + DOT': Method(ctc_model, dot(), CHANGE, compiled=False, **NUMBERED),
    'ReviewKD': Method(lambda: algorithm_cfg(distiller=reviewing()), sgd(0.05)),
    'KD beside unlabelled': Method(
        half_labelled, sgd(), data='HalfLabelled', part='backbone.layer2'
    ),
    'KD beside unlabelled + DOT': Method(
        half_labelled, dot(), data='HalfLabelled', part='backbone.layer2'
    ),
    'CSKD': Method(patches, sgd(), stored=True, **PATCHES),
    'Zipf': Method(zipf, sgd(), **STAGES),
    'Zipf + CTKD + DOT': Method(lambda: beside_ctkd(zipf()), dot(), CURRICULUM, **STAGES),
    # Every pass pastes another batch.
    'RecursiveMix': Method(recursive_mix, sgd(), whole=False, **STAGES),
    'RecursiveMix + CTKD + DOT': Method(
        lambda: beside_ctkd(recursive_mix()), dot(), CURRICULUM, whole=False, **STAGES
    ),
    'FixMatch': Method(lambda: two_views('fixmatch'), sgd(0.01), **VIEWS),
    # k is of a step.
    'FullFlex': Method(two_views, sgd(0.01), whole=False, **VIEWS),
    'FullMatch + DOT': Method(lambda: two_views('fullmatch'), dot(0.01), whole=False, **VIEWS),
    'BCKD': Method(boxes, sgd(0.01), stored=True, **BOXES),
    'BCKD + DOT': Method(boxes, dot(0.01), stored=True, **BOXES),
    'CWD, PKD': Method(
        lambda: necks(CWD=dict(loss_weight=1.0), PKD=dict(loss_weight=0.1)),
        sgd(0.01),
        stored=True,
        **BOXES,
    ),
    'MGD, SL2': Method(
        lambda: necks(MGD=dict(loss_weight=1e-3), SL2={}), sgd(0.01), stored=True, **BOXES
    ),
    'CWD + DOT': Method(lambda: necks(CWD={}), dot(0.01), stored=True, **BOXES),
    'AutoDistiller': Method(lambda: wired() | PLAIN, sgd(), **STAGES),
    'RoI-DKD + CTKD + DOT + PKD': Method(
        lambda: rois(tau=GLOBAL, fpn=True), dot(0.01), CURRICULUM, compiled=False, **BOXES
    ),
}
each_method = pytest.mark.parametrize('method', METHODS)


@OPTIM_WRAPPERS.register_module(force=True)
class BFloat16OnCPU(OptimWrapper):
    """What AmpOptimWrapper does with dtype='bfloat16', which asserts an accelerator."""

    @contextlib.contextmanager
    def optim_context(self, model):
        with super().optim_context(model), torch.autocast('cpu', dtype=torch.bfloat16):
            yield


def of(name, work_dir, epochs=2, wrapper=None, **options):
    """Return the config of a tiny training with a method."""
    method = METHODS[name]
    cfg = config(work_dir, epochs, model=method.model())
    cfg.train_dataloader.dataset.type = method.data
    if method.data == 'NumberedVectors':
        cfg.train_dataloader.collate_fn.type = 'numbered_collate'
        cfg.param_scheduler = None
    elif method.data != 'Vectors':
        cfg.train_dataloader.collate_fn.type = 'pseudo_collate'
    cfg.optim_wrapper = dict(method.wrapper, **(wrapper or {}))
    cfg.default_hooks.checkpoint = None
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    cfg.default_hooks.guard = dict(type='kd_plugins.DistillationGuardHook', interval=1)
    if method.hook:
        cfg.default_hooks.curriculum = dict(method.hook)
    cfg.merge_from_dict(options)
    if method.data in ('HalfLabelled', 'TwoViews'):
        cfg.train_dataloader.sampler = dict(
            type='kd_plugins.MultiSourceSampler',
            batch_size=cfg.train_dataloader.batch_size,
            source_ratio=[1, 1],
        )
    return cfg


def difference(a, b):
    assert a.keys() == b.keys()
    return max(float((a[key].double() - b[key].double()).abs().max()) for key in a)


@pytest.fixture
def float32_operators(monkeypatch):
    """mmcv's operators of two-stage detectors take no bfloat16 on CPUs, distilled or not."""
    from mmcv.ops import RoIAlign
    from mmdet.models.dense_heads import rpn_head

    pool, nms = RoIAlign.forward, rpn_head.batched_nms
    monkeypatch.setattr(
        RoIAlign, 'forward', lambda self, x, rois: pool(self, x.float(), rois.float()).to(x.dtype)
    )
    monkeypatch.setattr(
        rpn_head, 'batched_nms', lambda boxes, scores, *a: nms(boxes.float(), scores.float(), *a)
    )


@each_method
@pytest.mark.usefixtures('float32_operators')
def test_bfloat16_autocast(tmp_path, method):
    half = dict(dtype='bfloat16') if METHODS[method].dot else dict(type='BFloat16OnCPU')
    # oneDNN leaves parts of a bfloat16 weight gradient as the memory was, where a strided
    # convolution sees padding only, as on a detector's coarsest levels here.
    with torch.backends.mkldnn.flags(enabled=False):
        full = train(of(method, tmp_path / 'a'))
        mixed = train(of(method, tmp_path / 'b', wrapper=half))
    assert not any(value.dtype in (torch.bfloat16, torch.float16) for value in mixed.values())
    assert 0 < difference(full, mixed) < 0.02


WHOLE = [name for name, method in METHODS.items() if method.whole and method.data != 'Boxes']


@pytest.mark.parametrize('method', WHOLE)
def test_accumulation_is_the_whole_batch(tmp_path, method):
    whole = train(of(method, tmp_path / 'a', **{'train_dataloader.batch_size': 12}))
    parts = train(of(method, tmp_path / 'b', wrapper=dict(accumulative_counts=3)))
    single = train(of(method, tmp_path / 'c'))
    assert difference(whole, parts) < 1e-5 < 1e-3 < difference(whole, single)


@each_method
def test_activation_checkpointing_changes_nothing(tmp_path, method):
    calls = []
    part = METHODS[method].part
    runner = Runner.from_cfg(of(method, tmp_path / 'b', activation_checkpointing=[part]))
    module = runner.model.architecture.get_submodule(part)
    forward = module.forward
    module.forward = lambda x: (calls.append(1), forward(x))[1]
    kept = runner.train().state_dict()
    plain = train(of(method, tmp_path / 'a'))
    # Where a part's input goes elsewhere too, gradients are added up in another order: some
    # steps of float32 (1e-7 at 1).
    assert difference(plain, kept) < 1e-6
    # Once more in each backward pass; DOT has two.
    each = 3 if METHODS[method].dot else 2
    if 'unlabelled' in method:
        # As often again, but the task's loss reaches no unlabelled picture.
        each += 2
    assert len(calls) == 6 * each


@each_method
def test_an_average_beside_it_changes_nothing(tmp_path, method):
    cfg = of(method, tmp_path / 'b')
    cfg.custom_hooks.append(dict(type='EMAHook', momentum=0.5))
    runner = Runner.from_cfg(cfg)
    averaged = runner.train().state_dict()
    assert difference(train(of(method, tmp_path / 'a')), averaged) == 0
    hook = next(hook for hook in runner.hooks if type(hook).__name__ == 'EMAHook')
    copies = hook.ema_model.module.state_dict()
    # Averages do not keep CTC's memories.
    assert difference(copies, {key: averaged[key] for key in copies}) > 1e-4
    assert hook.ema_model.module.teacher is runner.model.teacher


# Vectors say no view: those methods are in tests/test_teachers/test_stored_training.py. The
# others have no teacher, or one that no store can keep.
STORED = [name for name, method in METHODS.items() if method.stored]


@pytest.mark.parametrize('method', STORED)
def test_a_stored_teacher_trains_the_same(tmp_path, method):
    """In views, from a live teacher, from one that fills a store, and from the store alone."""
    network = MODELS.build(of(method, tmp_path).model).teacher.network
    save_checkpoint(dict(state_dict=network.state_dict(), meta={}), str(tmp_path / 'teacher.pth'))
    cache = dict(dir=str(tmp_path / 'store'), views=2, dtype='float32')
    weights = []
    for name, stored in (('live', None), ('filling', cache), ('reading', cache)):
        cfg = of(method, tmp_path / name)
        cfg.model.update(teacher_ckpt=str(tmp_path / 'teacher.pth'), allow_random_teacher=False)
        weights.append(train(in_views(cfg, 2, stored)))
        if stored:
            # From now on nobody can ask it.
            (tmp_path / 'teacher.pth').unlink(missing_ok=True)
    assert difference(weights[0], weights[1]) == 0 == difference(weights[0], weights[2])


def test_a_teacher_that_is_asked_about_features_of_the_student_is_not_stored(tmp_path):
    network = MODELS.build(of('CrossKD', tmp_path).model).teacher.network
    save_checkpoint(dict(state_dict=network.state_dict(), meta={}), str(tmp_path / 'teacher.pth'))
    cfg = of('CrossKD', tmp_path)
    cfg.model.update(teacher_ckpt=str(tmp_path / 'teacher.pth'), allow_random_teacher=False)
    cfg = in_views(cfg, 2, dict(dir=str(tmp_path / 'store')))
    with pytest.raises(ValueError, match=r"teacher_cache cannot store .* of type 'CrossHead'"):
        MODELS.build(cfg.model)


# mmengine compiles the optimizer's step too, and torch 2.1 cannot compile any momentum, nor
# what mmpretrain's and mmdet's preprocessors do with a list of pictures. Torch 2.12 fails in the
# backward pass that it compiles of the terms on RoIs and PKD.
NO_MOMENTUM = torch.__version__ < '2.2'
# A compiled backward pass gives zeros to what a loss does not reach, where DOT looks for None:
# the maps that only a term reaches get another momentum.
COMPILED = [
    name
    for name, method in METHODS.items()
    if method.compiled and (not NO_MOMENTUM or (not method.dot and method.data == 'Vectors'))
]


@pytest.mark.long
@pytest.mark.parametrize('method', COMPILED)
def test_compiled_steps_are_the_same_steps(tmp_path, method):
    torch._dynamo.reset()
    optimizer = {'optim_wrapper.optimizer.momentum': 0.0} if NO_MOMENTUM else {}
    torch._dynamo.utils.counters.clear()
    compiled = train(of(method, tmp_path / 'b', compile=dict(backend='aot_eager'), **optimizer))
    assert torch._dynamo.utils.counters['frames']['ok'] > 5
    plain = train(of(method, tmp_path / 'a', **optimizer))
    assert difference(plain, compiled) < 1e-5


each_config = pytest.mark.parametrize('path', SMALLEST, ids=lambda path: path.stem)


def build(path):
    cfg = Config.fromfile(path)
    init_default_scope(cfg.default_scope)
    cfg.model.update(teacher_ckpt=None, allow_random_teacher=True)
    cfg.model.setdefault('data_preprocessor', cfg.get('data_preprocessor'))
    return MODELS.build(cfg.model)


@each_config
def test_sync_batchnorm_is_the_students(path):
    model = convert_sync_batchnorm(build(path), 'torch')
    kinds = [type(m).__name__ for m in model.modules() if 'BatchNorm' in type(m).__name__]
    normalisations = [m for m in model.modules() if 'LayerNorm' in type(m).__name__]
    assert set(kinds) == {'SyncBatchNorm'} or (not kinds and normalisations)
    assert not any('Sync' in type(m).__name__ for m in teacher_modules(model))


@each_config
def test_channels_last_gives_the_same_losses(path):
    torch.manual_seed(1)
    model = build(path).train()
    model.distiller.eval()  # CTC's memories go on in training
    model.set_progress(Progress(iter=20, max_iters=300, epoch=2, max_epochs=30))
    data, dtype = batch_for(model, path)
    model.to(dtype)
    # What the parts remember is the same for both.
    model.loss(**data)
    remembered = [copy.copy(vars(part)) for part in model.batch_parts]
    before = model.loss(**data)
    for part, state in zip(model.batch_parts, remembered, strict=True):
        vars(part).update(state)
    model.to(memory_format=torch.channels_last)
    convolutions = [m for m in teacher_modules(model) if isinstance(m, torch.nn.Conv2d)]
    # A filter of one channel or of 1 x 1 pixels is in both formats at once.
    assert all(m.weight.is_contiguous(memory_format=torch.channels_last) for m in convolutions)
    for part in (data, data.get('unlabelled') or {}):
        for name in {'inputs', 'strong'} & part.keys():
            part[name] = part[name].contiguous(memory_format=torch.channels_last)
    after = model.loss(**data)
    assert before.keys() == after.keys()
    rtol, atol = (1e-9, 1e-9) if dtype == torch.float64 else (1e-3, 1e-5)
    for name in before:
        if 'loss' in name:
            torch.testing.assert_close(before[name], after[name], rtol=rtol, atol=atol)


def teacher_modules(model):
    """All modules of its teacher; none where it has none."""
    return list(model.teacher.network.modules()) if model.teacher else []


def batch_for(model, path):
    """Return a preprocessed batch, and the precision in which the losses can be computed."""
    if 'scenes' in path.stem:
        # mmdet computes targets in float32.
        return model.data_preprocessor(images(classes=10), True), torch.float32
    from mmpretrain.structures import DataSample

    samples = [DataSample(metainfo=dict(sample_idx=i)).set_gt_label(i) for i in range(4)]
    data = dict(inputs=torch.randn(4, 1, 8, 8, dtype=torch.float64), data_samples=samples)
    if path.parent.name == 'fullmatch':
        model.distiller.connectors.pseudo_labels.cutoff = 0.1
        strong = torch.randn(4, 1, 8, 8, dtype=torch.float64)
        data['unlabelled'] = dict(data, strong=strong)
    return data, torch.float64


@pytest.mark.parametrize('strategy', ['FSDPStrategy', 'DeepSpeedStrategy', 'ColossalAIStrategy'])
def test_sharded_students_are_refused_before_anything_starts(tmp_path, strategy):
    cfg = of('KD', tmp_path)
    cfg.update(launcher='none', runner_type='FlexibleRunner', strategy=dict(type=strategy))
    with pytest.raises(SystemExit, match=rf"strategy\.type='{strategy}' is not supported"):
        launch.build_runner(cfg)


def test_every_cell_of_the_table_is_a_test_or_says_why_not():
    text = (ROOT / 'docs/strategies.md').read_text()
    tables = re.findall(r'(?:^\|.*\n)+', text, re.MULTILINE)
    names = set(re.findall(r'def (test_\w+)', (ROOT / 'tests/test_strategies.py').read_text()))
    for path in (ROOT / 'tests').glob('*/test_*.py'):
        names |= set(re.findall(r'def (test_\w+)', path.read_text()))
    named = re.findall(r'`(test_\w+)`', text)
    assert named and [name for name in named if name not in names] == []
    for table in tables:
        rows = [line[1:-1].split('|') for line in table.splitlines()]
        assert len({len(row) for row in rows}) == 1
        assert all(cell.strip() for row in rows for cell in row)
    assert len(tables) == 2
