from pathlib import Path

import torch
from fullflex import PICTURES, STEPS, half, network
from helpers.processes import run_on_two_ranks

from kd_plugins.connectors import label_rank
from kd_plugins.losses import anl_loss, eml_loss


def by_hand():
    """Train one network by the mean of both halves' losses, with the k and the counts of both."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    latest, ks, of_ranks, cutoff = [-1] * PICTURES, [], [], 0.4
    for t in range(STEPS):
        counts = [latest.count(c) for c in range(-1, 5)]
        share = torch.tensor(counts[1:]) / max(counts)
        thresholds = cutoff * share / (2 - share)
        seen, remembered = [], []
        for rank in range(2):
            data = half(rank, t)
            rest = data['unlabelled']
            logits = model.architecture(torch.cat([data['inputs'], rest['inputs'], rest['strong']]))
            labelled, weak, strong = logits.split([2, 3, 3])
            sure, labels = weak.detach().softmax(1).max(1)
            seen.append((data, labelled, weak.detach(), strong, labels, sure))
            for sample, label, p in zip(rest['data_samples'], labels, sure, strict=True):
                remembered += [(sample.sample_idx, int(label))] if p >= cutoff else []
        places = [int(label_rank(strong, labels)) for _, _, _, strong, labels, _ in seen]
        of_ranks.append(places)
        k = max(2, *places)
        total = 0.0
        for data, labelled, weak, strong, labels, sure in seen:
            y = torch.cat([sample.gt_label for sample in data['data_samples']])
            selected = sure >= thresholds[labels]
            candidates = torch.zeros_like(weak, dtype=torch.bool)
            candidates.scatter_(1, weak.topk(k).indices, True)
            cross_entropy = torch.nn.functional.cross_entropy
            total = total + cross_entropy(labelled, y) / 2
            fixmatch = cross_entropy(strong, labels, reduction='none') * selected
            total = total + fixmatch.mean() / 2 + anl_loss(strong, candidates, cutoff).mean() / 2
            eml = eml_loss(strong, labels, selected, candidates, torch.tensor(k), cutoff)
            total = total + eml / 2
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        ks.append(k)
        for index, label in remembered:
            latest[index] = label
    return dict(model.named_parameters()), ks, latest, of_ranks


def test_two_ranks_have_one_k_and_one_memory(tmp_path):
    script, out = Path(__file__).with_name('fullflex.py'), tmp_path / 'weights.pth'
    run_on_two_ranks(script, out)
    (first, first_ks), (second, second_ks) = torch.load(out)
    weights, ks, latest, of_ranks = by_hand()
    assert first_ks == second_ks == ks
    # A rank alone would have found another.
    assert any(a != b and max(a, b) > 2 for a, b in of_ranks)
    assert all(torch.equal(first[key], second[key]) for key in first)
    remembered = first['distiller.connectors.pseudo_labels.latest']
    assert remembered.tolist() == latest and len({*latest}) > 1
    start = network().state_dict()
    for key, value in weights.items():
        torch.testing.assert_close(first[key], value.detach(), rtol=1e-9, atol=1e-12)
        assert not torch.equal(first[key], start[key])
