"""The stochastic family of gDDIM: transition and noise of the reverse process with noise level lambda.

    u_t ~ N(Psi(t, s) u_s + [Psihat(t, s) - Psi(t, s)] R_s e,  P),   dPsihat = Fhat Psihat dt,
    Fhat = F + (1 + lambda^2) / 2 G G^T Sigma^-1                                                 (gDDIM, eq. 22 and 23)

Written as Psihat = R_t Y R_s^-1, the factor Y obeys dY/dt = lambda^2 / 2 (R^-1 G) (R^-1 G)^T Y from Y = I at s: it is
I for lambda = 0 and shrinks towards the data. With it P = Sigma_t - Psihat Sigma_s Psihat^T = R_t (I - Y Y^T) R_t^T,
which needs no equation of its own and is symmetric and non-negative.
"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor

from diffexp.process.base import Process
from diffexp.process.operator import Operator

_STEPS = 128
_LEVELS = 3


def contraction(process: Process, s: Tensor, t: Tensor, lam: float) -> Operator:
    """Y of the steps from s to t < s, a batch of n operators.

    lambda = 0 and 1 are known in closed form (Psihat = R_t R_s^-1, and Sigma_t Psi(s, t)^T Sigma_s^-1, Bayes' rule);
    for others the equation is integrated step by step.
    """
    factor = process.factor(t)
    if lam == 0.0:
        return factor.identity()
    if lam == 1.0:
        return factor.transpose() @ process.transition(s, t).transpose() @ process.factor(s).transpose().inverse()
    return _extrapolated(process, s, t, lam)


def noise_factor(process: Process, t: Tensor, y: Operator) -> Operator:
    """C with C C^T = P = R_t (I - Y Y^T) R_t^T, lower triangular."""
    factor = process.factor(t)
    left = y.identity() - y.covariance()
    return (factor @ left @ factor.transpose()).factor()


def _extrapolated(process: Process, s: Tensor, t: Tensor, lam: float) -> Operator:
    """Runge-Kutta of order 4 with 128, 256 and 512 steps, extrapolated (Richardson) to order 6."""
    table = [_runge_kutta(process, s, t, lam, _STEPS * 2**level) for level in range(_LEVELS)]
    for order in (4, 5):
        weight = 1.0 / (2.0**order - 1.0)
        table = [fine + weight * (fine - coarse) for coarse, fine in pairwise(table)]
    return table[0]


def _runge_kutta(process: Process, s: Tensor, t: Tensor, lam: float, steps: int) -> Operator:
    """Y by the classical method in w = sqrt(tau): the pull grows like 1 / tau near the data."""
    low, high = s.sqrt(), t.sqrt()
    h = (high - low) / steps

    def rate(w: Tensor) -> Operator:
        tau = w.square()
        pull = process.factor(tau).inverse() @ process.diffusion(tau)
        return (lam**2 * w) * pull.covariance()  # lambda^2 / 2 dtau / dw

    y, here = process.factor(s).identity(), rate(low)
    for k in range(steps):
        middle, there = rate(low + (k + 0.5) * h), rate(low + (k + 1.0) * h)
        k1 = here @ y
        k2 = middle @ (y + (0.5 * h) * k1)
        k3 = middle @ (y + (0.5 * h) * k2)
        k4 = there @ (y + h * k3)
        y, here = y + (h / 6.0) * (k1 + 2.0 * k2 + 2.0 * k3 + k4), there
    return y
