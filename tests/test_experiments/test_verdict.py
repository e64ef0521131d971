"""The verdict: from results to a page, with trainings in their place and one that trains."""

import json
import re
import statistics
import sys
from pathlib import Path

import pytest
from helpers import CONFIGS, ROOT
from scipy import stats

from kd_plugins.experiments import progress, verdict_plan
from kd_plugins.experiments.environment import hardware, versions
from kd_plugins.experiments.inspected import Inspected, inspect_config
from kd_plugins.experiments.logs import Training, average
from kd_plugins.experiments.repeat import RunsFailedError
from kd_plugins.experiments.results import Failure, Result, load_config
from kd_plugins.experiments.verdict import Side, conclude, validation_error
from kd_plugins.experiments.verdict_plan import plan

KD, DKD = CONFIGS / 'kd/kd_digits.py', CONFIGS / 'dkd/dkd_digits.py'
STUDENT = CONFIGS / 'vanilla/digits_student.py'


def result(last, best=None, predictions=(), seconds=1.0, **more):
    return Result('hash', [1, 2], [best or last, last], list(predictions), 7, seconds, **more)


def sides(*lasts, **more):
    """The student alone and distillations, whose last accuracies these are."""
    names = ['alone', *(f'kd{i}' for i in range(1, len(lasts)))]
    return [
        Side(name, f'{name}.py', results={seed: result(v) for seed, v in enumerate(values)}, **more)
        for name, values in zip(names, lasts, strict=True)
    ]


def test_pairs_are_those_of_one_seed():
    alone, kd = sides([60.0, 62.0, 58.0, 61.0], [63.0, 64.5, 62.0])
    # The third has no result alone, and another order.
    alone.results = {seed: alone.results[seed] for seed in (3, 1, 0)}
    kd.results = {seed: kd.results[seed] for seed in (2, 1, 0)}
    said = conclude(alone, [kd])
    (one,) = said['configs']
    assert [(p['seed'], p['difference']) for p in one['pairs']] == [(1, 2.5), (0, 3.0)]
    oracle = stats.ttest_rel([64.5, 63.0], [62.0, 60.0])
    assert one['mean'] == 2.75 and one['p'] == pytest.approx(oracle.pvalue)
    assert one['interval'] == pytest.approx(list(oracle.confidence_interval(0.95)))
    assert said['alone']['seeds'] == [3, 1, 0] and one['seeds'] == [1, 0]


def test_a_pairing_tells_what_two_means_would_not():
    """Seeds differ by ten points, the gain is one in each."""
    alone = [50.0, 60.0, 70.0, 55.0]
    gains = [1.0, 1.2, 0.9, 1.1]
    kd = [a + g for a, g in zip(alone, gains, strict=True)]
    (one,) = conclude(*_two(alone, kd))['configs']
    assert one['decision'] == 'GO' and stats.ttest_ind(kd, alone).pvalue > 0.5
    assert one['more_seeds'] == one['more_seeds_at_most'] == 0
    (other,) = conclude(*_two(kd, alone))['configs']
    assert other['decision'] == 'NO-GO' and other['says'] == 'The gain is below 0.'
    (dear,) = conclude(*_two(alone, kd), worth=2.0)['configs']
    assert dear['decision'] == 'NO-GO' and '2 points' in dear['says']
    (near,) = conclude(*_two(alone, kd), worth=1.0)['configs']
    assert near['decision'] == 'INCONCLUSIVE' and near['more_seeds'] > 0


def _two(alone, kd):
    first, second = sides(alone, kd)
    return first, [second]


def test_several_configs_are_corrected():
    alone, gains = [60.0, 61.0, 62.0, 60.5], [1.0, 2.6, 1.5, 0.6]
    kd = [a + g for a, g in zip(alone, gains, strict=True)]
    (one,) = conclude(*_two(alone, kd))['configs']
    assert one['decision'] == 'GO' and 0.025 < one['p'] < 0.05 and one['p_adjusted'] == one['p']
    first, *others = sides(alone, kd, [a + d for a, d in zip(alone, [1, -1, 2, -2], strict=True)])
    said = conclude(first, others)
    assert said['configs'][0]['p_adjusted'] == pytest.approx(2 * one['p'])
    assert [each['decision'] for each in said['configs']] == ['INCONCLUSIVE'] * 2
    assert said['configs'][0]['interval'] == one['interval']
    # At the level that Holm leaves to each of two, more pairs are needed.
    assert 'Holm' in said['rule'] and said['configs'][0]['more_seeds'] >= 1


def test_one_pair_and_equal_ones_decide_nothing():
    (one,) = conclude(*_two([60.0], [70.0]))['configs']
    assert one['decision'] == 'INCONCLUSIVE' and one['interval'] is None and one['mean'] == 10
    assert one['deviation'] is None and 'no interval' in one['says']
    (same,) = conclude(*_two([60.0, 61.0], [61.0, 62.0]))['configs']
    assert same['decision'] == 'INCONCLUSIVE' and same['interval'] is None
    assert 'no spread to judge by' in same['says']
    json.dumps([one, same], allow_nan=False)


def test_a_side_without_results_is_said_and_all_of_them_are_an_error():
    alone, kd = sides([60.0, 61.0], [])
    with pytest.raises(ValueError, match='no seed is finished both'):
        conclude(alone, [kd])
    kd.failed = {0: 'RuntimeError: no', 1: 'x'}
    _, other = sides([60.0, 61.0], [62.0, 64.0])
    said = conclude(alone, [other, kd])
    assert said['configs'][1]['decision'] == 'INCONCLUSIVE'
    assert said['configs'][1]['failed'][0] == dict(seed=0, reason='RuntimeError: no')
    assert 'mean' not in said['configs'][1]
    # It counts among the comparisons that were meant.
    assert said['configs'][0]['p_adjusted'] == pytest.approx(2 * said['configs'][0]['p'])


def test_a_verdict_on_the_seeds_that_survived_says_so():
    alone, kd = sides([60.0, 61.0, 62.0, 63.0], [62.0, 63.1, 63.9])
    (whole,) = conclude(alone, [kd])['configs']
    assert whole['decision'] == 'GO' and whole['says'] == 'The gain is above 0.'
    kd.failed = {3: 'FloatingPointError: distill.loss_kd is nan'}
    (left,) = conclude(alone, [kd])['configs']
    assert left['says'].startswith('The gain is above 0. Left out are seeds that failed (3 dist')
    alone.failed, kd.failed = {4: 'x', 5: 'y'}, {}
    (other,) = conclude(alone, [kd])['configs']
    assert '(4, 5 alone)' in other['says']


def test_results_of_other_data_are_not_compared():
    alone, kd = sides([60.0, 62.0], [63.0, 64.5])
    for side, data in ((alone, 'a'), (kd, 'b')):
        side.results = {s: result(60.0 + s, data=dict(val=data)) for s in (0, 1)}
    with pytest.raises(ValueError, match='seed 0 of alone and seed 0 of kd1 are of other data'):
        conclude(alone, [kd])


def test_pairs_that_did_not_train_as_long_are_said():
    alone, kd = sides([60.0, 62.0], [63.0, 64.5])
    kd.results = {**kd.results, 1: Result('hash', [1, 2, 3], [1.0, 2.0, 64.5], [], 7, 1.0)}
    (one,) = conclude(alone, [kd])['configs']
    assert one['notes'] == [
        'Not all pairs ended after as many steps: seed 1 after 2 alone and 3 distilled'
    ]


def test_what_a_validation_set_leaves_unsure():
    """One standard error of a paired difference, from simulated sets of pictures."""
    import numpy as np

    rng = np.random.default_rng(0)
    n, differences, errors = 400, [], []
    for _ in range(600):
        labels = rng.integers(10, size=n)
        alone = np.where(rng.random(n) < 0.6, labels, rng.integers(10, size=n))
        kd = np.where(rng.random(n) < 0.2, labels, alone)
        pair = [result(100 * (p == labels).mean(), predictions=p.tolist()) for p in (alone, kd)]
        differences.append(pair[1].last - pair[0].last)
        errors.append(validation_error([tuple(pair)]))
    # An upper bound, and here, where every change is to a right answer, no loose one.
    assert 2 * np.std(differences) <= np.mean(errors) * 1.1
    assert np.mean(errors) < 3 * np.std(differences)
    assert validation_error([(result(50.0), result(50.0))]) is None


def logged(name, seeds=2, **curves):
    return {
        seed: Training(name, {k: {10 * (i + 1): v for i, v in enumerate(values)}
                              for k, values in curves.items()})
        for seed in range(seeds)
    }  # fmt: skip


def test_costs_and_reasons_come_with_it():
    alone, kd = sides([60.0, 61.0], [60.5, 61.2])
    alone.results = {s: result(60.0 + s, seconds=10.0, memory_mib=100) for s in (0, 1)}
    kd.results = {s: result(60.5 + s / 2, seconds=20.0 + s, memory_mib=90) for s in (0, 1)}
    kd.trainings = logged(
        'kd1', task_loss=[1.0, 0.5, 0.5, 0.8, 0.9, 1.0, 1.0, 1.1], agreement=[50.0] * 8,
        time=[0.5] * 8, teacher_seconds=[0.1] * 8, memory=[150.0, 130.0] * 4,
    )  # fmt: skip
    kd.ratios = {'loss_kd': 5000.0}
    kd.teacher = {'accuracy/top1': 60.0, 'own/accuracy/top1': 70.0}
    (one,) = conclude(alone, [kd])['configs']
    assert [reason['of'] for reason in one['reasons']] == [
        'teacher', 'input', 'gradient', 'agreement', 'task loss'
    ]  # fmt: skip
    assert one['cost'] == dict(
        seconds_alone=10.0, seconds=20.5, times=2.05, memory_alone_mib=100, memory_mib=150.0,
        teacher_share=pytest.approx(0.2),
    )  # fmt: skip


def test_the_average_of_seeds_has_the_band_of_their_range():
    one = Training('a', {'lr': {1: 1.0, 2: 2.0, 3: 9.0}, 'tau_min': {1: 0.5}}, {'m': {1: 5.0}})
    two = Training(
        'b', {'lr': {1: 3.0, 2: 2.0}, 'tau_min': {1: 1.5}, 'x': {1: 1.0}}, {'m': {1: 7.0}}
    )
    mean = average([one, two], 'kd')
    assert mean.name == 'kd' and mean.train['lr'] == {1: 2.0, 2: 2.0}
    assert mean.train['lr_min'] == {1: 1.0, 2: 2.0} and mean.train['lr_max'] == {1: 3.0, 2: 2.0}
    assert mean.train['tau_min'] == {1: 1.0} and 'x' not in mean.train
    assert mean.val['m'] == {1: 6.0} and average([one], 'a').train['lr'] == one.train['lr']
    assert 'lr_min' not in average([one], 'a').train


# ---------------------------------------------------------------- what can be compared


def test_the_plan_has_whole_pairs_first_and_one_student(tmp_path):
    whole = plan([KD, DKD], [4, 2], tmp_path)
    assert [(run.name.split('-')[0], run.seed) for run in whole.runs] == [
        ('alone', 4), ('kd_digits', 4), ('dkd_digits', 4),
        ('alone', 2), ('kd_digits', 2), ('dkd_digits', 2),
    ]  # fmt: skip
    assert whole.made and Path(whole.alone.runs[0].config).is_file()
    assert load_config(whole.alone.runs[0]).model.type == 'ImageClassifier'
    assert load_config(whole.runs[1]).randomness.seed == 4
    # The same student for whichever seeds and configs, in the same place; overrides reach it.
    again = plan([DKD], [0], tmp_path)
    assert again.alone.runs[0].config == whole.alone.runs[0].config
    other = plan([DKD], [0], tmp_path, options={'train_cfg.max_epochs': 3})
    assert other.alone.runs[0].config != again.alone.runs[0].config
    assert load_config(other.alone.runs[0]).train_cfg.max_epochs == 3
    assert other.identity != again.identity == plan([DKD], [7], tmp_path).identity


def test_the_config_of_a_student_alone_is_read_as_it_was_made(tmp_path, monkeypatch):
    """Numbers that are not finite, and another verdict that writes its own at that moment."""
    more = "optim_wrapper = dict(clip_grad=dict(max_norm=1.0, norm_type=float('inf')))\n"
    config = tiny(tmp_path, more=more)
    hashed = verdict_plan.hash_of_all_seeds

    def meanwhile(run):
        if Path(run.config).stem.startswith('alone'):
            monkeypatch.setattr(verdict_plan, 'hash_of_all_seeds', hashed)
            plan([DKD], [0], tmp_path)
        return hashed(run)

    monkeypatch.setattr(verdict_plan, 'hash_of_all_seeds', meanwhile)
    cfg = plan([config], [0], tmp_path).alone.cfg
    assert cfg.optim_wrapper.clip_grad == dict(max_norm=1.0, norm_type=float('inf'))
    assert cfg.train_cfg.max_epochs == 2
    assert len([*tmp_path.glob('alone*')]) == 2


def test_a_student_that_is_given_is_taken(tmp_path):
    options = {'model.teacher_ckpt': 'x.pth', 'train_cfg.max_epochs': 3}
    whole = plan([KD], [0], tmp_path, STUDENT, options)
    assert whole.alone.name == 'digits_student' and not whole.made
    cfg = load_config(whole.alone.runs[0])
    assert cfg.train_cfg.max_epochs == 3 and 'teacher_ckpt' not in cfg.model
    assert load_config(whole.distilled[0].runs[0]).model.teacher_ckpt == 'x.pth'


def test_what_a_method_has_of_its_own_is_noted(tmp_path):
    dot = CONFIGS / 'dot/dot_kd_digits.py'
    whole = plan([dot], [0], tmp_path, STUDENT)
    assert any('optim_wrapper' in note for note in whole.distilled[0].notes)
    with pytest.raises(
        ValueError, match=r'not the same: optim_wrapper.*lr is 0.1 and 0.05.*--alone'
    ):
        plan([KD, dot], [0], tmp_path)
    assert len(plan([KD, dot], [0], tmp_path, STUDENT).distilled) == 2
    # One whose schedule is its own can only be compared with a student that is given.
    ctc = CONFIGS / 'ctc/ctc_digits.py'
    assert plan([ctc], [0], tmp_path, STUDENT).distilled[0].notes


SEEDED = "dict(type='kd_plugins.SeedByProgressHook')"


@pytest.mark.parametrize('alone, own, said', [
    (f"custom_hooks = [{SEEDED}, dict(type='EMAHook', momentum=0.1)]",
     f"custom_hooks = [{SEEDED}, dict(type='EMAHook', momentum=0.2)]",
     'hooks.EMAHook.momentum is 0.1 and 0.2'),
    (f"custom_hooks = [{SEEDED}, dict(type='mmpretrain.EMAHook', momentum=0.1)]",
     "default_hooks = dict(ema=dict(type='EMAHook', momentum=0.1))", ''),
    ('', "default_hooks = dict(ema=dict(type='EMAHook'))", "hooks.EMAHook is None and {'type'"),
    ('', "default_hooks = dict(stop=dict(type='EarlyStoppingHook', monitor='accuracy/top1'))",
     'hooks.EarlyStoppingHook is None and'),
    ('val_cfg = dict(fp16=True)', '', 'val_cfg.fp16 is True and False'),
    ("train_dataloader = dict(collate_fn=dict(type='default_collate'))", '', 'collate_fn is {'),
    # What changes no figure.
    ('train_dataloader = dict(drop_last=False, num_workers=1)',
     'default_hooks = dict(logger=dict(interval=3), checkpoint=dict(interval=2), guard=None)', ''),
])  # fmt: skip
def test_what_trains_or_measures_otherwise_is_noted(tmp_path, alone, own, said):
    given, kd = write(tmp_path, 'given', STUDENT, alone), write(tmp_path, 'own', KD, own)
    notes = plan([kd], [0], tmp_path, given).distilled[0].notes
    assert len(notes) == bool(said) and all(said in note for note in notes)


def test_a_student_that_is_another_network_is_noted(tmp_path):
    deeper = write(tmp_path, 'deeper', STUDENT, 'model = dict(backbone=dict(depth=14))')
    notes = plan([KD], [0], tmp_path, deeper).distilled[0].notes
    assert [n for n in notes if 'model.backbone.depth is 14 and 18' in n]
    assert not any(
        'network' in note for note in plan([KD], [0], tmp_path, STUDENT).distilled[0].notes
    )
    started = write(
        tmp_path, 'a', STUDENT, "model = dict(init_cfg=dict(type='Pretrained', checkpoint='x'))"
    )
    assert any('init_cfg' in note for note in plan([KD], [0], tmp_path, started).distilled[0].notes)


def test_an_override_that_fits_one_side_only_is_a_sentence(tmp_path):
    with pytest.raises(
        ValueError, match=r'--cfg-options custom_hooks.3.x does not fit .*kd_digits'
    ):
        plan([KD], [0], tmp_path, STUDENT, {'custom_hooks.3.x': 1})


def write(tmp_path, name, base, text):
    path = tmp_path / f'{name}.py'
    path.write_text(f"_base_ = ['{base}']\n{text}\n")
    return path


@pytest.mark.parametrize('text, said', [
    ("train_cfg = dict(max_epochs=7)", r'differ in their steps.*train_cfg.max_epochs is 100 and 7'),
    ('train_dataloader = dict(batch_size=4)', r'in their steps.*batch_size is 32 and 4'),
    ('train_dataloader = dict(dataset=dict(indices=50))', r'in their data.*indices is .* and 50'),
    ("val_dataloader = dict(dataset=dict(split='train'))", r"in their data.*'test' and 'train'"),
    ('train_dataloader = dict(num_batch_per_epoch=3)', r'steps.*num_batch_per_epoch is None and 3'),
    ('train_dataloader = dict(drop_last=True)', r'steps.*drop_last is False and True'),
    ('val_dataloader = dict(num_batch_per_epoch=3)', r'data.*num_batch_per_epoch is None and 3'),
    ('val_dataloader = dict(drop_last=True)', r'data.*val_dataloader.drop_last is False and True'),
])  # fmt: skip
def test_configs_that_differ_in_data_or_steps_are_refused(tmp_path, text, said):
    other = write(tmp_path, 'other', DKD, text)
    for arguments in (([DKD, other], [0], tmp_path), ([other], [0], tmp_path, STUDENT)):
        with pytest.raises(ValueError, match=said):
            plan(*arguments)


def test_other_students_are_refused(tmp_path):
    other = write(tmp_path, 'o', DKD, 'model = dict(architecture=dict(backbone=dict(depth=14)))')
    with pytest.raises(ValueError, match=r'students alone of dkd_digits and o are not the same'):
        plan([DKD, other], [0], tmp_path)
    with pytest.raises(ValueError, match='two configs have one name'):
        plan([DKD, DKD], [0], tmp_path)
    # They would train in one directory, each over the other.
    same = write(tmp_path, 'dkd_digits', STUDENT, '')
    with pytest.raises(ValueError, match='two configs have one name'):
        plan([DKD], [0], tmp_path, same)
    with pytest.raises(ValueError, match='is a distillation itself'):
        plan([DKD], [0], tmp_path, KD)


def tiny(tmp_path, base=KD, name='tiny', more=''):
    return write(
        tmp_path, name, base,
        "train_cfg = dict(max_epochs=2, val_interval=1)\nlog_level = 'WARNING'\n"
        'train_dataloader = dict(dataset=dict(indices=96))\n'
        'val_dataloader = dict(dataset=dict(indices=60))\n'
        'default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval=1))\n'
        'model = dict(teacher_ckpt=None, allow_random_teacher=True)\n' + more,
    )  # fmt: skip


def test_a_part_that_only_the_distillation_teaches_is_refused(tmp_path):
    config = tiny(tmp_path, CONFIGS / 'cskd/cskd_digits.py')
    with pytest.raises(ValueError, match=r'head.layers.head_dist.\w+ learns from the distillation'):
        verdict_plan.inspect_all(plan([config], [0], tmp_path))


def test_a_config_that_cannot_train_is_refused_before_anything_trains(tmp_path):
    config = tiny(tmp_path, more='del model\nmodel = dict(teacher_ckpt="absent.pth")')
    with pytest.raises(ValueError, match=r'^tiny: .*absent.pth'):
        verdict_plan.inspect_all(plan([config], [0], tmp_path))


@pytest.mark.parametrize(
    'more, said',
    [
        ('val_cfg = None', 'val_cfg=None leaves nothing'),
        ('train_cfg = dict(val_begin=1000)', 'val_begin=1000 is after the end'),
        ('val_evaluator = dict(topk=(5,))', 'gives neither top-1 nor'),
        ("val_evaluator = dict(_delete_=True, type='SingleLabelMetric')", 'gives neither top-1'),
    ],
)
def test_a_training_that_would_give_no_result_is_refused_by_the_plan(tmp_path, more, said):
    with pytest.raises(ValueError, match=said):
        plan([tiny(tmp_path, more=more)], [0], tmp_path)


def test_what_was_kept_from_elsewhere_and_what_the_check_warns_of_is_noted(tmp_path):
    config = tiny(tmp_path, more='auto_scale_lr = dict(base_batch_size=512)\n')
    whole = plan([config], [0, 1], tmp_path)
    (kd,) = whole.distilled
    seen = inspect_config(kd.cfg)
    assert any('is meant for batches of 512' in warning for warning in seen.warnings)
    results = dict(
        zip(
            kd.runs,
            [
                result(60.0, versions=versions(), hardware=hardware()),
                result(61.0, versions=dict(versions(), torch='1.0'), hardware='1 core of wood'),
            ],
            strict=True,
        )
    )
    notes = verdict_plan.side(kd, results, {}, seen).notes
    assert any('tools/check.py warns: ' in note and '512' in note for note in notes)
    kept = [note for note in notes if note.startswith('Kept: ')]
    assert len(kept) == 2 and all('seed 1 was trained' in note for note in kept)
    assert 'torch 1.0, now' in kept[0] and 'on 1 core of wood' in kept[1]


def test_a_look_finds_gradients_and_measures_the_teacher(tmp_path):
    cfg = load_config(plan([tiny(tmp_path)], [0], tmp_path).runs[1])
    seen = inspect_config(cfg, iterations=1)
    assert seen.errors == [] and seen.ratios['loss_kd'] > 0
    # A random teacher guesses, and is measured on all 60 scans.
    accuracy = seen.teacher['accuracy/top1']
    assert accuracy * 60 / 100 == pytest.approx(round(accuracy * 60 / 100), abs=1e-3)
    # Its weight scales the gradient.
    cfg.model.distiller.distill_losses.loss_kd.loss_weight = 9.0
    assert inspect_config(cfg, iterations=1).ratios['loss_kd'] == pytest.approx(
        10 * seen.ratios['loss_kd'], rel=1e-3
    )
    verdict_plan.keep(seen, tmp_path / 'kept')
    assert verdict_plan.kept(cfg, tmp_path / 'kept') is None
    cfg.model.distiller.distill_losses.loss_kd.loss_weight = 0.9
    cfg.randomness.seed = 8
    assert verdict_plan.kept(cfg, tmp_path / 'kept') == seen


# ---------------------------------------------------------------- the tool


@pytest.fixture
def tool(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(ROOT / 'tools'))
    monkeypatch.chdir(tmp_path)
    import verdict

    def call(*arguments):
        monkeypatch.setattr(sys, 'argv', ['verdict.py', *map(str, arguments)])
        verdict.main()

    call.module = verdict
    return call


@pytest.fixture
def synthetic(monkeypatch, tool):
    """Results in the place of trainings: what each seed of a config reaches."""
    reached = {}

    def run_all(runs, jobs, log, report, tick, devices, tell):
        done, failed = {}, {}
        for run in runs:
            value = reached[run.name.split('-')[0]][run.seed]
            outcome = Failure(value) if isinstance(value, str) else result(value, value + 1)
            report(run, outcome)
            (failed if isinstance(value, str) else done)[run] = outcome
        tick([])
        if failed:
            raise RunsFailedError(done, failed, log)
        return done

    def look(whole, say):
        return {each.name: Inspected('h', ratios={'loss_kd': 1e-4}, teacher={'accuracy/top1': 97.0})
                for each in (whole.alone, *whole.distilled)}  # fmt: skip

    monkeypatch.setattr(progress, 'run_all', run_all)
    monkeypatch.setattr(tool.module, 'inspect_all', look)
    return reached


def read():
    folder = Path('work_dirs/verdict')
    return json.loads((folder / 'verdict.json').read_text()), (folder / 'verdict.html').read_text()


def test_the_page_and_the_json_say_what_the_pairs_come_to(tool, synthetic, capsys):
    synthetic.update(alone=[60.0, 62.0, 59.0], kd_digits=[63.0, 65.2, 62.1],
                     dkd_digits=[60.1, 61.5, 59.9])  # fmt: skip
    tool(KD, DKD, '--seeds', 0, 1, 2)
    printed = ' '.join(capsys.readouterr().out.split())
    found, page = read()
    kd, dkd = found['configs']
    assert (kd['decision'], dkd['decision']) == ('GO', 'INCONCLUSIVE')
    assert kd['mean'] == pytest.approx(statistics.mean([3.0, 3.2, 3.1]))
    for text in (
        'GO',
        'INCONCLUSIVE',
        '+3.10',
        'about',
        'hardly takes part',
        "p values are Holm's",
    ):
        assert text in printed and (text in page or text == "p values are Holm's")
    assert re.sub(r'\s+', ' ', page).count('<figure>') == 1
    assert not re.search(r'(src|href)="[^#]', page)
    cells = re.findall(r'<td>([^<]*)</td>', page)
    assert [cells[i : i + 4] for i, c in enumerate(cells) if c == '1'][0] == [
        '1', '62.00', '65.20', '+3.20'
    ]  # fmt: skip


def test_the_exit_code_says_that_a_run_failed_and_the_rest_is_reported(tool, synthetic, capsys):
    synthetic.update(alone=[60.0, 'RuntimeError: <b>', 59.0], kd_digits=[63.0, 65.0, 62.1])
    with pytest.raises(SystemExit, match=r'^1 of 6 runs failed; see'):
        tool(KD, '--seeds', 0, 1, 2)
    found, page = read()
    assert [pair['seed'] for pair in found['configs'][0]['pairs']] == [0, 2]
    assert found['alone']['failed'] == [dict(seed=1, reason='RuntimeError: <b>')]
    assert 'RuntimeError: &lt;b&gt;' in page and 'RuntimeError: <b>' not in page


def test_one_seed_is_said_to_have_no_interval(tool, synthetic, capsys):
    synthetic.update(alone=[60.0], kd_digits=[63.0])
    tool(KD, '--seeds', 0)
    printed = ' '.join(capsys.readouterr().out.split())
    assert 'One seed: there will be a difference, and no interval' in printed
    assert 'none' in printed and read()[0]['configs'][0]['decision'] == 'INCONCLUSIVE'


def test_a_verdict_on_other_configs_is_kept(tool, synthetic, capsys):
    synthetic.update(alone=[60.0, 61.0], kd_digits=[63.0, 65.0], dkd_digits=[60.0, 66.0])
    tool(KD, '--seeds', 0, 1)
    first, page = read()
    tool(KD, '--seeds', 0, 1)
    assert len(list(Path('work_dirs/verdict').glob('verdict*'))) == 2
    tool(DKD, '--seeds', 0, 1)
    kept = Path('work_dirs/verdict', f'verdict-{first["config_hash"]}')
    assert json.loads(kept.with_suffix('.json').read_text())['configs'] == first['configs']
    assert kept.with_suffix('.html').read_text() == page


@pytest.mark.parametrize('arguments, said', [
    (['absent.py'], "config 'absent.py' is not a file"),
    ([KD, '--alone', 'absent.py'], "config 'absent.py' is not a file"),
    ([KD, '--seeds', 1, 1], 'repeats a seed'),
    ([KD, '--jobs', 0], 'is not a number of runs'),
])  # fmt: skip
def test_wrong_arguments_are_refused(tool, arguments, said, capsys):
    with pytest.raises(SystemExit):
        tool(*arguments)
    assert said in capsys.readouterr().err
    with pytest.raises(SystemExit, match='--alone'):
        tool(CONFIGS / 'ctc/ctc_digits.py')


def test_it_trains_both_and_goes_on_with_what_is_there(tool, tmp_path, capsys):
    config = tiny(tmp_path)
    tool(config, '--seeds', 0, '--work-dir', 'out', '--jobs', 1)
    found = json.loads(Path('out/verdict.json').read_text())
    (one,) = found['configs']
    alone = next(Path('out').glob('alone-*/'))
    for pair in one['pairs']:
        for name, folder in (('alone', alone), ('distilled', Path('out/tiny'))):
            kept = json.loads((folder / str(pair['seed']) / 'result.json').read_text())
            assert pair[name] == kept['accuracy'][-1]
    assert one['cost']['seconds'] > 0 and one['cost']['memory_mib'] > 0
    assert 0 < one['cost']['teacher_share'] < 1
    assert 'teacher' in [reason['of'] for reason in one['reasons']]
    page = Path('out/verdict.html').read_text()
    assert 'agreement with the teacher' in page and page.count('<figure>') >= 5
    before = {path: path.stat().st_mtime_ns for path in Path('out').rglob('result.json')}
    assert len(before) == 2
    # Another seed beside them; what is there is neither trained nor looked at again.
    capsys.readouterr()
    tool(config, '--seeds', 0, 5, '--work-dir', 'out', '--jobs', 1)
    assert 'looking at' not in capsys.readouterr().out
    after = {path: path.stat().st_mtime_ns for path in Path('out').rglob('result.json')}
    assert len(after) == 4 and before.items() <= after.items()
    assert len(json.loads(Path('out/verdict.json').read_text())['configs'][0]['pairs']) == 2
