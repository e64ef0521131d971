"""OFA-KD's branches against the published code."""

import pytest
import torch
from helpers.maps import wave
from helpers.ofa import CLASSES, MAPS, SIDE, WIDTH, maps, set_weights, tokens
from helpers.tiny_pictures import from_cnn
from mmengine.registry import MODELS

from kd_plugins.connectors import OFAMapBranch, OFATokenBranch

# Two sums of the logits, two of the gradient at the input, and that of all parameters'
# magnitudes: github.com/Hao840/OFAKD at f7bb896, distillers/ofa.py, the projectors of class OFA
# in float64, with weights and inputs of helpers/ofa.py and the layer norms of the timm it asks for.
PUBLISHED = {
    ('cnn', 1): (
        (1.1695589074538202, 21.466459595224777),
        (-0.18019820205436354, 278.2242415447598),
        460.725348359249,
    ),
    ('cnn', 2): (
        (1.753438894358032, 16.60198925987242),
        (-0.25295725078055875, 49.31416487314597),
        277.05035700327477,
    ),
    ('cnn', 3): (
        (2.0245533718938593, 15.058844245075932),
        (6.259153510788192, 81.16813493506878),
        194.09377076921103,
    ),
    ('cnn', 4): (
        (1.5971614501105373, 22.02285545472289),
        (0.5035402895985457, 63.95020358350986),
        158.46254019069707,
    ),
    ('cls', 1): (
        (-0.14080605700857518, 27.92887480588581),
        (0.4993113520530153, 1.7294898072318758),
        447.15285931059367,
    ),
    ('cls', 2): (
        (0.2828503092711818, 21.873223561295838),
        (-0.550242008129177, 1.9305484849373904),
        306.39648935272567,
    ),
    ('cls', 3): (
        (-0.07703470105961052, 10.977602321451524),
        (0.5100135177038121, 1.9395691722188908),
        159.8766589826267,
    ),
    ('cls', 4): (
        (-0.07703470105961052, 10.977602321451524),
        (0.5100135177038121, 1.9395691722188908),
        159.8766589826267,
    ),
    ('plain', 2): (
        (0.4729449301124704, 26.244574434646392),
        (-0.07101585079967646, 19.037701933034874),
        2266.23104536136,
    ),
}


def branch(kind, stage):
    if kind == 'cnn':
        return OFAMapBranch(MAPS[stage][0], CLASSES, halvings=4 - stage, out_channels=16)
    cls = dict(extra_tokens=1) if kind == 'cls' else dict(out_channels=12)
    return OFATokenBranch(WIDTH, CLASSES, merges=2, blocks=max(4 - stage, 1), **cls)


def sums(row):
    return float((row * wave(row.shape, 1, 0.61, 0.2)).sum()), float(row.abs().sum())


@pytest.mark.parametrize(('kind', 'stage'), PUBLISHED)
def test_logits_and_gradients_are_the_published_codes(kind, stage):
    module = set_weights(branch(kind, stage)).train()
    given = (maps(stage) if kind == 'cnn' else tokens(SIDE**2 + (kind == 'cls'))).requires_grad_()
    logits = module(given)
    assert logits.shape == (len(given), CLASSES)
    parameters = list(module.parameters())
    grads = torch.autograd.grad((logits * wave(logits.shape, 1, 0.9)).sum(), [given, *parameters])
    of_logits, of_input, of_parameters = PUBLISHED[kind, stage]
    assert sums(logits) == pytest.approx(of_logits, rel=1e-9)
    assert sums(grads[0]) == pytest.approx(of_input, rel=1e-9)
    assert sum(float(g.abs().sum()) for g in grads[1:]) == pytest.approx(of_parameters, rel=1e-9)


def test_weights_start_as_published():
    torch.manual_seed(0)
    mapped, token = branch('cnn', 1), OFATokenBranch(64, 50, 1, 2, extra_tokens=1)
    for linear in (m for m in token.modules() if isinstance(m, torch.nn.Linear)):
        assert abs(linear.weight.std() - 0.02) < 0.004
        assert linear.bias is None or not linear.bias.any()
    wide = OFAMapBranch(64, 5, halvings=1, out_channels=64).body[0]
    depthwise, pointwise = wide[0], wide[1]
    assert abs(depthwise.weight.std() - (2 / 9 / 64 * 1) ** 0.5 * 1) < 0.02
    assert abs(pointwise.weight.std() - (2 / 64) ** 0.5) < 0.01
    assert not mapped.fc.bias.any()


def test_an_init_cfg_is_where_a_training_starts():
    start = dict(type='Constant', layer='Linear', val=0.125, bias=0.5)
    students = []
    for given in (None, start):
        cfg = from_cnn()
        cfg['distiller']['connectors']['branch']['init_cfg'] = given
        torch.manual_seed(0)
        model = MODELS.build(cfg)
        before = {name: p.clone() for name, p in model.distiller.named_parameters()}
        model.init_weights()
        linear = [m for m in model.distiller.connectors.modules() if isinstance(m, torch.nn.Linear)]
        assert linear
        for layer in linear:
            started = (layer.weight == 0.125).all() and (layer.bias is None or layer.bias[0] == 0.5)
            assert bool(started) is (given is start)
        now = dict(model.distiller.named_parameters())
        others = [name for name in now if not torch.equal(now[name], before[name])]
        assert all(name.startswith('connectors.branch.') for name in others)
        assert bool(others) is (given is start)
        students.append(model.architecture.state_dict())
    assert all(torch.equal(students[0][name], students[1][name]) for name in students[0])


def test_they_are_found_by_their_names():
    cfg = dict(in_channels=4, num_classes=3)
    built = MODELS.build(dict(cfg, type='kd_plugins.OFAMapBranch', halvings=0, out_channels=6))
    assert isinstance(built, OFAMapBranch)
    built = MODELS.build(dict(cfg, type='kd_plugins.OFATokenBranch', merges=0, blocks=1))
    assert built(torch.zeros(2, 9, 4)).shape == (2, 3)


@pytest.mark.parametrize('dtype', [torch.bfloat16])
def test_half_precision(dtype):
    for module, given in (
        (branch('cnn', 2), maps(2).float()), (branch('cls', 3), tokens().float()),
    ):  # fmt: skip
        with torch.autocast('cpu', dtype=dtype):
            logits = module(given.requires_grad_())
        full = module(given)
        torch.testing.assert_close(logits.float(), full, rtol=0.1, atol=0.1)
        logits.float().sum().backward()
        assert torch.isfinite(given.grad).all()


def test_what_does_not_fit_is_refused():
    for key in ('in_channels', 'num_classes', 'out_channels'):
        cfg = dict(dict(in_channels=4, num_classes=3, halvings=1, out_channels=6), **{key: 0})
        with pytest.raises(ValueError, match=rf'OFAMapBranch\.{key}=0 is wrong: give a whole'):
            OFAMapBranch(**cfg)
    with pytest.raises(ValueError, match=r'OFAMapBranch\.halvings=-1 is wrong'):
        OFAMapBranch(4, 3, -1, 6)
    for key in ('merges', 'extra_tokens'):
        with pytest.raises(ValueError, match=rf'OFATokenBranch\.{key}=-1 is wrong'):
            OFATokenBranch(
                **dict(dict(in_channels=4, num_classes=3, merges=1, blocks=1), **{key: -1})
            )
    with pytest.raises(
        ValueError, match=r'OFATokenBranch\.num_heads=4 is wrong: give a divisor of 6'
    ):
        OFATokenBranch(6, 3, 1, 1)
    for cfg in (dict(merges=1, extra_tokens=1), dict(merges=0)):
        with pytest.raises(ValueError, match=r'out_channels=8 is wrong: give in_channels=4'):
            OFATokenBranch(4, 3, blocks=1, out_channels=8, **cfg)
    token, mapped = OFATokenBranch(4, 3, 1, 1), OFAMapBranch(4, 3, 1, 6)
    with pytest.raises(ValueError, match=r'in_channels=4 does not fit \(2, 4, 5\): record a map'):
        mapped(torch.zeros(2, 4, 5))
    with pytest.raises(ValueError, match=r'in_channels=4 does not fit a tuple: record tokens'):
        token((torch.zeros(2, 4, 4),))
    for patches in (5, 9, 0):
        with pytest.raises(
            ValueError, match=rf'merges=1, extra_tokens=0: {patches} patches make n'
        ):
            token(torch.zeros(2, patches, 4))
