import pytest
import torch
from helpers.oracles import batch_of, tckd_nckd
from helpers.vector_training import kd, logged, runner_of

from kd_plugins.losses import CSKDLoss, DKDLoss, KDLoss

DKD = dict(type='kd_plugins.DKDLoss', tau=2.0, alpha=0.5, beta=3.0, warmup=2)
LOG = dict(type='kd_plugins.DistillationLogHook')


def train(path, losses, log=True):
    """Train 10 iterations; return what the first term was called with in each."""
    runner = runner_of(path, None, max_epochs=2, losses=losses)
    if log:
        runner.register_hook(LOG)
    calls = []
    term = next(iter(runner.model.distiller.distill_losses.values()))
    term.register_forward_pre_hook(lambda _, args, kwargs: calls.append(kwargs), with_kwargs=True)
    model = runner.train()
    return calls, model


def oracle(call, tau=2.0):
    """Agreement in %, TCKD and NCKD of one batch, sample by sample."""
    rows = list(zip(*(call[k].tolist() for k in ('preds_S', 'preds_T', 'gt_labels')), strict=True))
    same = [s.index(max(s)) == t.index(max(t)) for s, t, _ in rows]
    parts = [tckd_nckd(s, t, label, tau) for s, t, label in rows]
    return 100 * batch_of(same), *(batch_of(part) for part in zip(*parts, strict=True))


def test_logs_agreement_parts_and_teacher_time_where_the_log_is_written(tmp_path):
    calls, _ = train(tmp_path, dict(loss_kd=DKD))
    rows = [row for row in logged(tmp_path) if 'agreement' in row]
    assert [row['iter'] for row in rows] == [2, 4, 7, 9]
    for row in rows:
        expected = oracle(calls[row['iter'] - 1])
        assert [row[k] for k in ('agreement', 'tckd', 'nckd')] == pytest.approx(expected, rel=1e-4)
        assert 0 < row['teacher_seconds'] < row['time']
    assert len({row['agreement'] for row in rows}) > 1


def test_other_iterations_cost_nothing(tmp_path, monkeypatch):
    asked = []

    diagnose = KDLoss.diagnose
    monkeypatch.setattr(KDLoss, 'diagnose', lambda *a, **k: asked.append(1) or diagnose(*a, **k))
    _, model = train(tmp_path, dict(loss_kd=kd(4.0)))
    # Every second of five, and the last of each epoch.
    assert len(asked) == 6
    term = model.distiller.distill_losses.loss_kd
    assert len(term._forward_pre_hooks) == 1 and not model.teacher._watchers


def test_terms_that_say_the_same_are_told_apart(tmp_path):
    train(tmp_path, dict(loss_kd=kd(4.0), loss_dkd=DKD, loss_both_losses=kd(1.0)))
    row = next(row for row in logged(tmp_path) if 'tckd' in row)
    assert {k for k in row if 'agreement' in k} == {
        'agreement.kd',
        'agreement.dkd',
        'agreement.both_termes',
    }


def test_watching_changes_nothing(tmp_path):
    losses = dict(loss_kd=DKD)
    weights = [train(tmp_path / str(log), losses, log)[1].state_dict() for log in (False, True)]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def test_mixed_labels_mix_the_parts():

    generator = torch.Generator().manual_seed(0)
    preds_S, preds_T = torch.randn(2, 3, 5, generator=generator, dtype=torch.float64)
    labels = torch.zeros(3, 5, dtype=torch.float64)
    labels[:, 1], labels[:, 4] = 0.25, 0.75
    seen = DKDLoss(tau=2.0).diagnose(preds_S, preds_T, labels)
    rows = list(zip(preds_S.tolist(), preds_T.tolist(), strict=True))
    for i, name in enumerate(('tckd', 'nckd')):
        expected = batch_of(
            [0.25 * tckd_nckd(s, t, 1, 2.0)[i] + 0.75 * tckd_nckd(s, t, 4, 2.0)[i] for s, t in rows]
        )
        assert seen[name].item() == pytest.approx(expected, rel=1e-10)


def test_patches_agree_on_the_coarser_of_two_grids():
    generator = torch.Generator().manual_seed(0)
    preds_S = torch.randn(2, 3, 4, 4, generator=generator)
    preds_T = torch.randn(2, 3, 2, 2, generator=generator)
    same = []
    for n in range(2):
        for i in range(2):
            for j in range(2):
                cell = preds_S[n, :, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].mean((1, 2)).tolist()
                answer = preds_T[n, :, i, j].tolist()
                same.append(cell.index(max(cell)) == answer.index(max(answer)))
    seen = CSKDLoss().diagnose(preds_S, preds_T)
    assert seen['dense_agreement'].item() == pytest.approx(100 * batch_of(same))
    assert 0 < batch_of(same) < 1
