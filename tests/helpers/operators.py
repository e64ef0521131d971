"""mmcv's operators by one implementation or another, and cases to compare them in.

A case calls a function of ``mmcv.ops`` and knows the loop that it must equal. The
ordinary tests compare kd_plugins' operators with the loops, ``make test-ops``
compares them with mmcv's compiled ones.
"""

import contextlib
import functools
import importlib.machinery
import itertools
import sys
from collections.abc import Callable
from dataclasses import dataclass

import mmcv.ops
import pytest
import torch
from torch import Tensor

from helpers import operator_oracles as oracles
from kd_plugins.compat.loading import RefusingLoader
from kd_plugins.compat.operators import extension


@contextlib.contextmanager
def operators(module):
    """Let ``mmcv.ops`` work with the functions of a module."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in sys.modules if name.startswith('mmcv.ops')]:
            if hasattr(sys.modules[name], 'ext_module'):
                patch.setattr(sys.modules[name], 'ext_module', module)
        yield


def ours():
    """Let ``mmcv.ops`` work with kd_plugins' operators, also where there are compiled ones."""
    return operators(extension)


def compiled():
    """Let ``mmcv.ops`` work with mmcv's own operators; fail where there are none."""
    module = importlib.import_module('mmcv._ext')
    assert isinstance(
        module.__loader__, importlib.machinery.ExtensionFileLoader | RefusingLoader
    ), 'mmcv has no compiled operators here: `make setup OPS=compiled`'
    return operators(module)


@dataclass(frozen=True)
class Case:
    """One operator with one set of options.

    Args:
        operator: Its name in ``mmcv.ops``.
        options: What is special about the case.
        call: Takes the inputs, returns a tensor.
        oracle: The same as a loop.
        inputs: Makes the inputs, float64 those that have a gradient; the same ones each time.
        fixed: The names of floating inputs without gradient.
        on_cpu: Whether mmcv's own operator runs on CPUs.
    """

    operator: str
    options: str
    call: Callable[..., Tensor]
    oracle: Callable[..., Tensor]
    inputs: Callable[[], dict]
    fixed: tuple = ()
    on_cpu: bool = True

    def __str__(self):
        return f'{self.operator}-{self.options}'


def run(function, case, dtype=torch.float64, device='cpu'):
    """Return what a function makes of a case's inputs, and the gradients, as float64 on the CPU."""
    inputs = {
        name: value.to(device, dtype if value.is_floating_point() else value.dtype)
        for name, value in case.inputs().items()
    }
    wanted = [
        value.requires_grad_()
        for name, value in inputs.items()
        if value.is_floating_point() and name not in case.fixed
    ]
    result = function(**inputs)
    weights = torch.randn(result.shape, generator=generator(), dtype=torch.float64)
    grads = []
    if wanted:
        total = (result * weights.to(result)).sum()
        grads = torch.autograd.grad(total, wanted, allow_unused=True)
        grads = [
            torch.zeros_like(x) if g is None else g for x, g in zip(wanted, grads, strict=True)
        ]
    return [value.detach().double().cpu() for value in (result, *grads)]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def randn(*shape, seed=0, scale=1.0):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64) * scale


#: Image index and corners on a picture of 40 x 32, maps being a quarter of it: inside, across
#: a border, around the whole picture, less than a pixel, all outside, without an area.
ROIS = torch.tensor(
    [
        [0, 3.1, 4.7, 21.4, 17.9],
        [1, -7.3, 12.2, 9.6, 44.1],
        [0, -50.3, -61.7, 90.9, 70.2],
        [1, 13.31, 8.17, 14.02, 9.93],
        [0, 80.0, 80.0, 99.0, 99.0],
        [1, 11.3, 7.7, 11.3, 7.7],
    ],
    dtype=torch.float64,
)
NO_ROIS = ROIS[:0]


def _maps(channels=2):
    return randn(2, channels, 8, 10)


def _roi_align():
    for mode, ratio, aligned in itertools.product(('avg', 'max'), (0, 2), (True, False)):
        settings = ((2, 3), 0.25, ratio, mode, aligned)
        for regions, rois in (('regions', ROIS), ('none', NO_ROIS)):
            yield Case(
                'roi_align',
                f'{mode}-{ratio}-{"aligned" if aligned else "legacy"}-{regions}',
                lambda maps, rois, s=settings: mmcv.ops.roi_align(maps, rois, *s),
                lambda maps, rois, s=settings: oracles.roi_align(maps, rois, *s),
                lambda rois=rois: dict(maps=_maps(), rois=rois.clone()),
                fixed=('rois',),
            )


def _roi_pool():
    for regions, rois in (('regions', ROIS), ('none', NO_ROIS)):
        yield Case(
            'roi_pool',
            regions,
            lambda maps, rois: mmcv.ops.roi_pool(maps, rois, (2, 3), 0.25),
            lambda maps, rois: oracles.roi_pool(maps, rois, (2, 3), 0.25),
            lambda rois=rois: dict(maps=_maps(), rois=rois.clone()),
            fixed=('rois',),
            on_cpu=False,
        )


def _deform_roi_pool():
    # Where samples leave the map mmcv's gradients of offsets are not the derivatives.
    inner = ROIS[[0, 3]] * 0.8 + torch.tensor([0, 4, 4, 4, 4], dtype=torch.float64)
    for ratio, moved in itertools.product((0, 2), (True, False)):
        regions = inner if moved else ROIS

        def call(maps, rois, offset=None, ratio=ratio):
            return mmcv.ops.deform_roi_pool(maps, rois, offset, (2, 3), 0.25, ratio, 0.1)

        def oracle(maps, rois, offset=None, ratio=ratio):
            return oracles.deform_roi_pool(maps, rois, offset, (2, 3), 0.25, ratio, 0.1)

        def inputs(regions=regions, moved=moved):
            offset = dict(offset=randn(len(regions), 2, 2, 3, seed=1)) if moved else {}
            return dict(maps=_maps(), rois=regions.clone(), **offset)

        options = f'{ratio}-{"moved" if moved else "still"}'
        yield Case('deform_roi_pool', options, call, oracle, inputs, ('rois',), on_cpu=False)


#: Stride, padding, dilation, groups, groups of offsets.
GEOMETRIES = {
    'plain': ((1, 1), (1, 1), (1, 1), 1, 1),
    'strided': ((2, 1), (0, 2), (1, 2), 1, 1),
    'groups': ((1, 1), (1, 1), (1, 1), 2, 1),
    'offset-groups': ((1, 1), (1, 1), (1, 1), 1, 2),
    'all': ((1, 2), (2, 1), (2, 1), 2, 4),
    # Offsets are whole numbers, as they are 0 at first.
    'on-pixels': ((1, 2), (2, 1), (2, 1), 2, 2),
}


def _deform_conv():
    kernel = (3, 2)
    for (name, geometry), masked, biased in itertools.product(
        GEOMETRIES.items(), (False, True), (False, True)
    ):
        if biased and not masked:
            continue  # which mmcv's has not
        stride, padding, dilation, groups, deform_groups = geometry

        def inputs(name=name, geometry=geometry, masked=masked, biased=biased):
            stride, padding, dilation, groups, deform_groups = geometry
            maps = randn(2, 4, 4, 3)
            out = [
                (size + 2 * p - d * (k - 1) - 1) // s + 1
                for size, p, d, k, s in zip((4, 3), padding, dilation, kernel, stride, strict=True)
            ]
            tensors = dict(
                maps=maps,
                # Some far outside.
                offset=randn(2, 2 * deform_groups * 6, *out, seed=1, scale=2.0),
                weight=randn(2, 4 // groups, *kernel, seed=2),
            )
            if name == 'on-pixels':
                tensors['offset'] = (tensors['offset'] / 2).round()
            if masked:
                tensors['mask'] = randn(2, deform_groups * 6, *out, seed=3).sigmoid()
            if biased:
                tensors['bias'] = randn(2, seed=4)
            return tensors

        def call(maps, offset, weight, mask=None, bias=None, geometry=geometry):
            if mask is None:
                return mmcv.ops.deform_conv2d(maps, offset, weight, *geometry)
            return mmcv.ops.modulated_deform_conv2d(maps, offset, mask, weight, bias, *geometry)

        def oracle(maps, offset, weight, mask=None, bias=None, geometry=geometry):
            return oracles.deform_conv(maps, offset, mask, weight, bias, *geometry)

        operator = 'modulated_deform_conv2d' if masked else 'deform_conv2d'
        yield Case(operator, name + ('-bias' if biased else ''), call, oracle, inputs)


def _deform_conv_of_larger_maps():
    # As DyHead's: mmcv reads the first numbers of larger maps of offsets.
    def inputs():
        return dict(
            maps=randn(2, 2, 4, 3),
            offset=randn(2, 18, 8, 6, seed=1),
            mask=randn(2, 9, 8, 6, seed=3).sigmoid(),
            weight=randn(2, 2, 3, 3, seed=2),
        )

    def call(maps, offset, mask, weight):
        return mmcv.ops.modulated_deform_conv2d(maps, offset, mask, weight, None, 1, 1)

    def oracle(maps, offset, mask, weight):
        offset = offset.reshape(2, -1)[:, : 18 * 12].reshape(2, 18, 4, 3)
        mask = mask.reshape(2, -1)[:, : 9 * 12].reshape(2, 9, 4, 3)
        return oracles.deform_conv(maps, offset, mask, weight, None, *GEOMETRIES['plain'])

    yield Case('modulated_deform_conv2d', 'larger-maps', call, oracle, inputs)


def _focal():
    # Classes, background and, for the other loss, ones to leave out.
    logits = randn(7, 4, scale=3.0)
    for (kind, fill), weighted, gamma, alpha in itertools.product(
        (('sigmoid', 4), ('softmax', -1)), (False, True), (2.0, 1.5), (0.25, 0.6)
    ):
        target = torch.tensor([0, 3, fill, 1, 1, fill, 2])

        def call(logits, target, weight=None, kind=kind, gamma=gamma, alpha=alpha):
            loss = getattr(mmcv.ops, f'{kind}_focal_loss')
            return loss(logits, target, gamma, alpha, weight, 'sum')[None]

        def oracle(logits, target, weight=None, kind=kind, gamma=gamma, alpha=alpha):
            return getattr(oracles, f'{kind}_focal')(logits, target, weight, gamma, alpha).sum()[
                None
            ]

        def inputs(target=target, weighted=weighted, logits=logits):
            weight = dict(weight=randn(4, seed=1).exp()) if weighted else {}
            return dict(logits=logits.clone(), target=target, **weight)

        options = f'{gamma}-{alpha}' + ('-weighted' if weighted else '')
        yield Case(f'{kind}_focal_loss', options, call, oracle, inputs, ('weight',), on_cpu=False)


def _attention():
    from mmcv.ops.multi_scale_deform_attn import MultiScaleDeformableAttnFunction

    shapes = torch.tensor([[4, 3], [2, 5], [1, 1]])
    starts = torch.tensor([0, 12, 22])

    def inputs():
        # Some outside of the maps, some exactly a pixel before the first one.
        locations = randn(2, 4, 2, 3, 2, 2, seed=1, scale=0.6) + 0.5
        locations[0, 0, :, 0] = torch.tensor([0.3, -0.125])
        locations[0, 1, :, 1] = torch.tensor([-0.1, 0.4])
        return dict(
            value=randn(2, 23, 2, 3),
            locations=locations,
            weights=randn(2, 4, 2, 3, 2, seed=2).exp(),
        )

    yield Case(
        'ms_deform_attn',
        'levels',
        lambda value, locations, weights: MultiScaleDeformableAttnFunction.apply(
            value, shapes.to(value.device), starts.to(value.device), locations, weights, 64
        ),
        lambda value, locations, weights: oracles.attention(
            value, shapes, starts, locations, weights
        ),
        inputs,
        on_cpu=False,
    )


def _carafe():
    for size, groups, scale in ((3, 1, 2), (5, 2, 2), (1, 2, 3), (3, 4, 1)):
        settings = (size, groups, scale)

        def inputs(size=size, groups=groups, scale=scale):
            features = randn(2, 4, 3, 4)
            masks = randn(2, groups * size**2, 3 * scale, 4 * scale, seed=1)
            return dict(features=features, masks=masks)

        yield Case(
            'carafe',
            '-'.join(map(str, settings)),
            lambda features, masks, s=settings: mmcv.ops.carafe(features, masks, *s),
            lambda features, masks, s=settings: oracles.carafe(features, masks, *s),
            inputs,
            on_cpu=False,
        )


def _masked_conv():
    def oracle(maps, mask, weight, bias):
        return torch.nn.functional.conv2d(maps, weight, bias, padding=(1, 0)) * mask[:, None]

    for name, chosen in (('some', 0.5), ('all', -1.0), ('none', 2.0)):
        yield Case(
            'masked_conv2d',
            name,
            lambda maps, mask, weight, bias: mmcv.ops.masked_conv2d(
                maps, mask, weight, bias, (1, 0)
            ),
            oracle,
            lambda chosen=chosen: dict(
                maps=randn(1, 3, 6, 5),
                mask=torch.rand(1, 6, 5, generator=generator()) > chosen,
                weight=randn(4, 3, 3, 1, seed=1),
                bias=randn(4, seed=2),
            ),
            ('maps', 'weight', 'bias'),  # mmcv's gives none
            on_cpu=False,
        )


@functools.cache
def cases():
    """All cases of operators with gradients."""
    return [
        case
        for family in (
            _roi_align,
            _roi_pool,
            _deform_roi_pool,
            _deform_conv,
            _deform_conv_of_larger_maps,
            _focal,
            _attention,
            _carafe,
            _masked_conv,
        )
        for case in family()
    ]
