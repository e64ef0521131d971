"""Gradients that are given by formulas, for trajectories of an optimizer.

Nothing here knows an optimizer: the same script drove the published one.
"""

import torch

#: Which of the losses (task, distillation) reach a parameter in a step.
REACHED = {
    'both': lambda step: (True, True),
    'task': lambda step: (True, False),
    'distill': lambda step: (False, True),
    # Both, one, the other, none, beginning with none.
    'sometimes': lambda step: ((False, False), (False, True), (True, True), (True, False))[
        step % 4
    ],
}


def start():
    return {
        name: torch.tensor([0.5 + i, -1.0 + 0.3 * i], dtype=torch.float64)
        for i, name in enumerate(REACHED)
    }


def gradients(name, value, step):
    """The task's and the distillation's gradient, None where a loss does not reach."""
    i = list(REACHED).index(name)
    k = torch.arange(2, dtype=torch.float64)
    task = (torch.sin(0.7 * step + i + k) + 0.3 * value).to(value.dtype)
    distill = (torch.cos(0.4 * step - i + 2 * k) + 0.2 * value).to(value.dtype)
    by_task, by_distillation = REACHED[name](step)
    return (task if by_task else None), (distill if by_distillation else None)


def rate(setting, step):
    """The learning rate: 0.05, or falling twice."""
    return 0.05 * 0.1 ** (step // 10) if setting.get('falling') else 0.05


SETTINGS = {
    'plain': dict(weight_decay=0.02),
    'no weight decay': dict(weight_decay=0.0),
    'dampening': dict(weight_decay=0.02, dampening=0.1),
    'falling rate': dict(weight_decay=0.02, falling=True),
}
