"""torch's own loss scaler on CPU tensors, which torch 2.1 keeps to accelerators."""

from unittest import mock

import torch


def cpu_scaler(init_scale):
    if hasattr(torch.amp, 'GradScaler'):
        return torch.amp.GradScaler('cpu', init_scale=init_scale)
    with mock.patch('torch.cuda.amp.grad_scaler.amp_definitely_not_available', lambda: False):
        return CPUGradScaler(init_scale=init_scale)


class CPUGradScaler(torch.cuda.amp.GradScaler):
    """Only what calls an accelerator's kernel is replaced."""

    def scale(self, outputs):
        if self._scale is None:
            self._lazy_init_scale_growth_tracker(outputs.device)
        return outputs * self._scale

    def _unscale_grads_(self, optimizer, inv_scale, found_inf, allow_fp16):
        for group in optimizer.param_groups:
            for p in group['params']:
                if p.grad is not None:
                    found_inf.fill_(max(found_inf.item(), float(not p.grad.isfinite().all())))
                    p.grad.mul_(inv_scale)
        return {found_inf.device: found_inf}

    def update(self, new_scale=None):
        found = [s['found_inf_per_device'].values() for s in self._per_optimizer_states.values()]
        if new_scale is None:
            new_scale = self.get_scale() * (0.5 if any(sum(map(float, f)) for f in found) else 1.0)
        super().update(new_scale)
