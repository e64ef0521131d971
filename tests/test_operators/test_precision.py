"""The operators in 16 bits, and under autocast: rounded once, from float32 or better."""

import pytest
import torch
from helpers.operators import cases, ours, run

#: One case of each operator that mmdet trains with.
CASES = {
    str(case): case
    for case in cases()
    if str(case)
    in (
        'roi_align-avg-0-aligned-regions',
        'roi_align-max-2-aligned-regions',
        'roi_pool-regions',
        'deform_roi_pool-2-moved',
        'deform_conv2d-plain',
        'modulated_deform_conv2d-all-bias',
        'sigmoid_focal_loss-2.0-0.25',
        'softmax_focal_loss-2.0-0.25-weighted',
        'ms_deform_attn-levels',
        'carafe-3-1-2',
    )
}


@pytest.mark.parametrize('dtype', (torch.float16, torch.bfloat16), ids=str)
@pytest.mark.parametrize('name', CASES)
def test_sixteen_bits_give_what_float64_gives_of_the_same_inputs(name, dtype):
    case = CASES[name]

    def rounded():
        return {
            key: value.to(dtype).double() if value.is_floating_point() else value
            for key, value in case.inputs().items()
        }

    exact_case = type(case)(**{**vars(case), 'inputs': rounded})
    with ours():
        got = run(case.call, case, dtype)
        exact = run(case.call, exact_case)
    eps = torch.finfo(dtype).eps
    for first, second in zip(got, exact, strict=True):
        # The weights of the sum are rounded, too.
        bound = 8 * eps * max(float(second.abs().max()), 1e-3)
        assert first.isfinite().all()
        torch.testing.assert_close(first, second, rtol=0, atol=bound)


@pytest.mark.parametrize('name', CASES)
def test_bfloat16_autocast_changes_nothing_of_float32_inputs(name):
    case = CASES[name]

    def under_autocast(**inputs):
        with torch.autocast('cpu', torch.bfloat16):
            return case.call(**inputs)

    with ours():
        plain = run(case.call, case, torch.float32)
        mixed = run(under_autocast, case, torch.float32)
    for first, second in zip(mixed, plain, strict=True):
        torch.testing.assert_close(first, second, rtol=1e-5, atol=1e-5)
