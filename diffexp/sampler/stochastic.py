"""The stochastic family of gDDIM: transition and noise of the reverse process with noise level lambda.

    u_t ~ N(Psi(t, s) u_s + [Psihat(t, s) - Psi(t, s)] R_s e,  P),   dPsihat = Fhat Psihat dt,
    Fhat = F + (1 + lambda^2) / 2 G G^T Sigma^-1                                                 (gDDIM, eq. 22 and 23)

Written as Psihat = R_t Y R_s^-1, the factor Y obeys dY/dt = lambda^2 / 2 (R^-1 G) (R^-1 G)^T Y from Y = I at s: it is
I for lambda = 0 and shrinks towards the data. With it P = Sigma_t - Psihat Sigma_s Psihat^T = R_t (I - Y Y^T) R_t^T,
which needs no equation of its own and is symmetric and non-negative.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor

from diffexp.process.base import Process
from diffexp.process.operator import Operator

_STEPS = 16
_LEVELS = 3
_TOGETHER = 8  # steps whose rates are computed at once
_GAUSS = (0.5 - math.sqrt(3.0) / 6.0, 0.5 + math.sqrt(3.0) / 6.0)


def contraction(process: Process, s: Tensor, t: Tensor, lam: float) -> Operator:
    """Y of the steps from s to t < s, a batch of n operators.

    lambda = 0 and 1 are known in closed form (Psihat = R_t R_s^-1, and Sigma_t Psi(s, t)^T Sigma_s^-1, Bayes' rule).
    Where operators commute Y is that of lambda = 1 to the power lambda^2; for others the equation is integrated.
    """
    factor = process.factor(t, "R")
    if lam == 0.0:
        return factor.identity()
    bayes = factor.transpose() @ process.transition(s, t).transpose() @ process.factor(s, "R").transpose().inverse()
    if lam == 1.0:
        return bayes
    return bayes.identity().geometric(bayes, lam**2) if bayes.commutes else _extrapolated(process, s, t, lam)


def noise_factor(process: Process, t: Tensor, y: Operator) -> Operator:
    """C with C C^T = P = R_t (I - Y Y^T) R_t^T, lower triangular."""
    factor = process.factor(t, "R")
    left = y.identity() - y.covariance()
    return (factor @ left @ factor.transpose()).factor()


def _extrapolated(process: Process, s: Tensor, t: Tensor, lam: float) -> Operator:
    """Magnus steps of order 4, 16, 32 and 64 of them, extrapolated to order 8: they are symmetric, so that only even
    powers of the step occur in their error, and exponentials, so that no lambda is too large for them."""
    table = [_magnus(process, s, t, lam, _STEPS * 2**level) for level in range(_LEVELS)]
    for order in (4, 6):
        weight = 1.0 / (2.0**order - 1.0)
        table = [fine + weight * (fine - coarse) for coarse, fine in pairwise(table)]
    return table[0]


def _magnus(process: Process, s: Tensor, t: Tensor, lam: float, steps: int) -> Operator:
    """Y in equal steps of w = sqrt(tau) (the rate grows like 1 / tau near the data), two Gauss points in each.

    exp(h (A1 + A2) / 2 + sqrt(3) h^2 / 12 [A2, A1]), Iserles & Norsett 1999.
    """
    low = s.sqrt()
    h = (t.sqrt() - low) / steps
    y = process.factor(s, "R").identity()
    for first in range(0, steps, _TOGETHER):
        starts = [low + k * h for k in range(first, min(first + _TOGETHER, steps))]
        rates = _rates(process, [start + share * h for start in starts for share in _GAUSS], lam)
        for one, two in zip(rates[::2], rates[1::2], strict=True):
            turn = (math.sqrt(3.0) / 12.0 * h**2) * (two @ one - one @ two)
            y = ((0.5 * h) * (one + two) + turn).exp() @ y
    return y


def _rates(process: Process, places: list[Tensor], lam: float) -> list[Operator]:
    """dY/dw Y^-1 = lambda^2 w (R^-1 G) (R^-1 G)^T at several w = sqrt(tau), (n,) each; computed together."""
    w = torch.cat(places)
    tau = w.square()
    pull = process.factor(tau, "R").inverse() @ process.diffusion(tau)
    whole = (lam**2 * w) * pull.covariance()
    n = len(places[0])
    return [whole[k * n : (k + 1) * n] for k in range(len(places))]
