"""Labels of weak views: k, the cutoffs of FlexMatch, and what is remembered."""

import copy
import gc
import weakref
from collections import Counter

import pytest
import torch
from helpers.two_views import numbers

from kd_plugins.connectors import (
    FlexiblePseudoLabels,
    PseudoLabels,
    class_thresholds,
    label_rank,
    pseudo_labels,
)
from kd_plugins.structures import ViewLogits


def sure_of(labels, classes=4, sure=0.9):
    """Logits whose first class is the label, with this probability."""
    rest = (1 - sure) / (classes - 1)
    p = torch.full((len(labels), classes), rest, dtype=torch.float64)
    p[range(len(labels)), labels] = sure
    return p.log()


def views(labels, indices, sure=0.9, classes=4):
    weak = sure_of(labels, classes, sure)
    return ViewLogits(weak[:0], weak, weak + numbers(weak.shape, 0.2, 0.5), tuple(indices))


def test_the_rank_of_a_label_is_the_worst_of_the_batch():
    logits = numbers((20, 7), 0.4, 2.0)
    labels = (torch.arange(20) * 3) % 7
    places = [
        sorted(row.tolist(), reverse=True).index(row[y].item()) + 1
        for row, y in zip(logits, labels, strict=True)
    ]
    assert len(set(places)) > 4
    for rows in (slice(0, 1), slice(3, 7), slice(0, 20)):
        assert label_rank(logits[rows], labels[rows]) == max(places[rows])
    assert label_rank(logits[:0], labels[:0]) == 1


def test_candidates_are_k_also_where_classes_tie():
    weak, strong = torch.zeros(3, 5), numbers((3, 5), 0.1, 1.0).float()
    pseudo = PseudoLabels(0.5)(ViewLogits(weak[:0], weak, strong, (0, 1, 2)))
    assert (pseudo.candidates.sum(1) == pseudo.k).all()
    assert pseudo.candidates.gather(1, pseudo.labels[:, None]).all()


@pytest.mark.parametrize('used', [0, 3, 9, 20])
def test_thresholds_are_flexmatchs(used):
    latest = torch.full((20,), -1)
    latest[:used] = (torch.arange(used) * torch.arange(used)) % 4
    counter = Counter(latest.tolist())
    shares = [counter[c] / max(counter.values()) for c in range(4)]
    wanted = torch.tensor([a / (2 - a) for a in shares])
    torch.testing.assert_close(class_thresholds(latest, 4), wanted)
    assert used or not wanted.any()


def test_cutoffs_are_those_before_the_step_and_a_step_counts_once():
    label = FlexiblePseudoLabels(8, cutoff=0.8)
    first = views([0, 0, 0, 0, 1], range(5))
    # Nothing is counted yet, so that no class has a cutoff above 0.
    unsure = views([1, 2], [5, 6], sure=0.4)
    assert label(first).selected.all()
    assert label(first) is label(first)
    assert label.latest.tolist() == [0, 0, 0, 0, 1, -1, -1, -1]
    # Of 4, 1, 0, 0 and 3 unused: 0.8 for class 0, 0.8 * 0.25 / 1.75 for class 1, 0 for 2.
    thresholds = label.cutoff * class_thresholds(label.latest, 4)
    torch.testing.assert_close(thresholds, torch.tensor([0.8, 0.8 / 7, 0.0, 0.0]))
    assert label(unsure).selected.tolist() == [True, True]
    assert label(views([0, 0], [5, 6], sure=0.7)).selected.tolist() == [False, False]
    # Labels that are not sure are not remembered, and sure ones take the place of others.
    assert label.latest.tolist() == [0, 0, 0, 0, 1, -1, -1, -1]
    label(views([3, 2, 1], [0, 7, 0]))
    assert label.latest.tolist() == [1, 0, 0, 0, 1, -1, -1, 2]
    label.eval()
    label(views([3, 3], [1, 2]))
    assert label.latest.tolist() == [1, 0, 0, 0, 1, -1, -1, 2]
    assert list(label.state_dict()) == ['latest']


def test_the_labels_of_all_ranks_are_remembered_and_the_worst_rank_counts(monkeypatch):
    other = torch.tensor([[3, 4], [2, -1]])
    monkeypatch.setattr(pseudo_labels.dist, 'all_gather', lambda mine: [mine, other])
    asked = []

    def all_reduce(k, op):
        asked.append(op)
        k.clamp_(min=3)

    monkeypatch.setattr(pseudo_labels.dist, 'all_reduce', all_reduce)
    label = FlexiblePseudoLabels(6, cutoff=0.8)
    pseudo = label(views([1, 0], [0, 1]))
    assert label.latest.tolist() == [1, 0, -1, 2, -1, -1]
    assert asked == ['max'] and int(pseudo.k) == 3 and (pseudo.candidates.sum(1) == 3).all()


def test_nothing_of_a_step_is_kept_alive_and_copies_are_apart():
    label = FlexiblePseudoLabels(4)
    seen = views([0], [0])
    seen.strong.requires_grad_()
    label(seen)
    alive = weakref.ref(seen)
    clone = copy.deepcopy(label)
    del seen
    gc.collect()
    assert alive() is None
    clone(views([1], [1]))
    assert label.latest.tolist() == [-1 if label.cutoff > 0.9 else 0, -1, -1, -1]
    assert not any(
        x.requires_grad for x in vars(label._latest[1]).values() if isinstance(x, torch.Tensor)
    )


def test_settings_and_pictures_out_of_range_are_refused():
    for value in (0, 1.5, -0.2, 'high', None):
        with pytest.raises(ValueError, match=r'PseudoLabels.cutoff=.*a probability above 0'):
            PseudoLabels(value)
    with pytest.raises(ValueError, match=r'FlexiblePseudoLabels.num_unlabelled=0 '):
        FlexiblePseudoLabels(0)
    label = FlexiblePseudoLabels(3)
    for indices in ([0, 3], [None, 0]):
        with pytest.raises(ValueError, match=r'counts 3 pictures by their sample_idx, and a batch'):
            label(views([0, 1], indices))
    with pytest.raises(ValueError, match=r'labels.num_unlabelled=3 is wrong: give 5, the pictures'):
        label.check_unlabelled('model.distiller.connectors.labels', 5)
    label.check_unlabelled('model.distiller.connectors.labels', 3)
    with pytest.raises(
        ValueError, match=r'PseudoLabels.views is a Tensor, .*kd_plugins.ViewLogits'
    ):
        label(sure_of([0, 1]))
