"""Operators of mmcv on maps in order and in channels-last, in a process of their own."""

LAYOUTS = """
import torch
{first}
from mmcv.ops import DeformConv2d, ModulatedDeformConv2d, roi_align
{second}
def last(x): return x.contiguous(memory_format=torch.channels_last)
torch.manual_seed(0)
x, rois = torch.randn(2, 8, 16, 16), torch.tensor([[0, 1.0, 2, 9, 11], [1, 3.0, 0, 14, 12]])
offset, mask = torch.randn(2, 18, 16, 16), torch.rand(2, 9, 16, 16)
first, second = DeformConv2d(8, 8, 3, padding=1), ModulatedDeformConv2d(8, 8, 3, padding=1)
for of, maps in (
    (lambda x: roi_align(x, rois, (7, 7)), (x,)),
    (first, (x, offset)),
    (second, (x, offset, mask)),
):
    grads = []
    for layout in (lambda x: x, last):
        given = [layout(each).detach().requires_grad_() for each in maps]
        of(*given).square().sum().backward()
        grads.append([of(*given), *(each.grad for each in given)])
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
print('alike')
"""
