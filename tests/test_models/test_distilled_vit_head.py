import copy
import warnings

import pytest
import torch
from helpers.networks import build, distilled, vit
from mmpretrain.structures import DataSample

LABELS = [0, 3, 4]


def pictures():
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def samples(mixed=False):
    out = [DataSample().set_gt_label(label) for label in LABELS]
    if mixed:
        for sample, score in zip(out, torch.eye(5)[LABELS] * 0.7 + 0.06, strict=True):
            sample.set_gt_score(score)
    return out


def answers(network):
    """Logits of the class token, the distillation token and every patch."""
    tokens = network.backbone(pictures())[-1]
    layers = network.head.layers
    return (
        layers.head(tokens[:, 0]),
        layers.head_dist(tokens[:, 1]),
        layers.head_dist(tokens[:, 2:]),
    )


def test_two_predictions_are_those_of_mmpretrains_head_with_the_same_weights():
    network = build(distilled())
    stock = build(vit('DistilledVisionTransformer', head='DeiTClsHead'))
    stock.load_state_dict(network.state_dict())
    torch.testing.assert_close(network(pictures(), mode='tensor'), stock(pictures(), mode='tensor'))
    both = zip(network.predict(pictures()), stock.predict(pictures()), strict=True)
    for ours, theirs in both:
        torch.testing.assert_close(ours.pred_score, theirs.pred_score)
    # Both kinds of output of the backbone give the same.
    usual = build(distilled())
    usual.load_state_dict(network.state_dict())
    usual.backbone.out_type = 'cls_token'
    assert torch.equal(usual(pictures(), mode='tensor'), network(pictures(), mode='tensor'))


def test_three_predictions_are_the_mean_with_that_of_all_patches():
    network = build(distilled(predictions=3))
    cls, dist, dense = answers(network)
    expected = (cls + dist + sum(dense[:, i] for i in range(16)) / 16) / 3
    torch.testing.assert_close(network(pictures(), mode='tensor'), expected)


@pytest.mark.parametrize('mixed', [False, True])
@pytest.mark.parametrize('predictions', [2, 3])
def test_labels_teach_the_class_token_alone(predictions, mixed):
    cfg = distilled(predictions=predictions)
    cfg['head']['loss'] = dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original',
                               loss_weight=0.5)  # fmt: skip
    network = build(cfg).train()
    with warnings.catch_warnings():
        warnings.simplefilter('error')  # mmpretrain's head warns that it cannot be trained
        loss = network(pictures(), samples(mixed), mode='loss')['loss']
    target = torch.eye(5)[LABELS] * 0.7 + 0.06 if mixed else torch.eye(5)[LABELS]
    target = 0.9 * target + 0.1 / 5
    cls = answers(network)[0]
    expected = -0.5 * (target * cls.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert network.head.layers.head.weight.grad.any()
    assert network.head.layers.head_dist.weight.grad is None


def test_the_distillation_tokens_logits_can_be_recorded():
    network = build(distilled(predictions=3)).train()
    seen = []
    network.head.layers.head_dist.register_forward_hook(lambda m, i, output: seen.append(output))
    network(pictures(), samples(), mode='loss')
    (logits,) = seen
    torch.testing.assert_close(logits, answers(network)[1])


def test_it_starts_from_a_truncated_normal_distribution_and_not_from_zero():
    from mmengine.registry import MODELS, DefaultScope

    cfg = distilled()
    cfg['head'].update(in_channels=400, num_classes=100)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        head = MODELS.build(cfg['head'])
    head.init_weights()
    for layer in (head.layers.head, head.layers.head_dist):
        assert layer.weight.std().item() == pytest.approx(0.02, rel=0.02)
        assert not layer.bias.any()


def test_a_hidden_layer_reads_every_token():
    cfg = distilled(predictions=3, hidden_dim=7)
    network = build(cfg)
    tokens = network.backbone(pictures())[-1]
    layers = network.head.layers
    inner = torch.tanh(layers.pre_logits(tokens))
    expected = (
        layers.head(inner[:, 0]) + layers.head_dist(inner[:, 1])
        + layers.head_dist(inner[:, 2:]).mean(dim=1)
    ) / 3  # fmt: skip
    torch.testing.assert_close(network(pictures(), mode='tensor'), expected)


@pytest.mark.parametrize('mode', ['loss', 'tensor'])
def test_patches_that_are_missing_are_named_in_the_first_step(mode):
    cfg = copy.deepcopy(distilled(predictions=3))
    cfg['backbone']['out_type'] = 'cls_token'
    says = r"DistilledViTHead.predictions=3 does not fit .* with out_type='raw'"
    with pytest.raises(ValueError, match=says):
        build(cfg)(pictures(), samples(), mode=mode)


def test_other_numbers_of_predictions_are_refused():
    with pytest.raises(ValueError, match=r'DistilledViTHead.predictions=4 is wrong: give 2'):
        build(distilled(predictions=4))
