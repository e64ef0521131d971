"""Distillation losses as loops over python floats, from the formulas alone.

Probabilities come from exact rational-free arithmetic in ``math``; nothing here
shares a line, a library function or a trick with the package.
"""

import math


def softmax(logits, tau):
    exps = [math.exp(z / tau) for z in logits]
    return [e / sum(exps) for e in exps]


def kl(p, q):
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)


def kd(z_s, z_t, tau):
    """Hinton's loss of one sample."""
    return tau**2 * kl(softmax(z_t, tau), softmax(z_s, tau))


def tckd_nckd(z_s, z_t, label, tau):
    """Both parts of DKD of one sample."""
    p_s, p_t = softmax(z_s, tau), softmax(z_t, tau)
    tckd = kl([p_t[label], 1 - p_t[label]], [p_s[label], 1 - p_s[label]])
    rest_s = [z for i, z in enumerate(z_s) if i != label]
    rest_t = [z for i, z in enumerate(z_t) if i != label]
    return tau**2 * tckd, tau**2 * kl(softmax(rest_t, tau), softmax(rest_s, tau))


def batch_of(rows):
    return sum(rows) / len(rows)
