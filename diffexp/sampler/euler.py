"""Euler's rule in time, without the exponential integrator's care: the baselines of every comparison.

The probability flow is du/dt = F u - G G^T score / 2, the reverse process du = (F u - G G^T score) dt + G dw, and a
family between and beyond them has the share (1 + lambda^2) / 2 of the score and the noise lambda G dw (Song et al.
2021, eq. 6 and 13; gDDIM, eq. 6). All are rows of the linear stepper, and need the score alone.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from diffexp.core.errors import ConfigError
from diffexp.process.base import Process
from diffexp.sampler.linear import Coefficients, LinearStepper


class Euler(LinearStepper):
    """Euler's method for the probability flow; first order in time."""

    needs = frozenset({"score"})

    def coefficients(self, process: Process, t: Tensor, s: Tensor) -> Coefficients:
        return _coefficients(process, t, s, 0.0)


class EulerMaruyama(LinearStepper):
    """The Euler-Maruyama method for the reverse process; it draws noise in every step, the last one included.

    Args:
        lam: stochasticity lambda >= 0: 1 is the reverse process, 0 the probability flow (Euler's method).

    Raises:
        ConfigError: for a negative lam.
    """

    needs = frozenset({"score"})

    def __init__(self, lam: float = 1.0) -> None:
        if not lam >= 0.0:
            raise ConfigError(f"sampler.stepper.lam={lam}: must be 0 (the probability flow) or larger")
        self.lam = lam

    def coefficients(self, process: Process, t: Tensor, s: Tensor) -> Coefficients:
        return _coefficients(process, t, s, self.lam)


class EulerMean(LinearStepper):
    """The mean of the reverse process's Euler step: the denoising step of score_sde, CLD-SGM and gDDIM's CLD."""

    needs = frozenset({"score"})

    def coefficients(self, process: Process, t: Tensor, s: Tensor) -> Coefficients:
        return replace(_coefficients(process, t, s, 1.0), fresh=None)


def _coefficients(process: Process, t: Tensor, s: Tensor, lam: float) -> Coefficients:
    drift, spread = process.drift(t), process.diffusion(t)
    pull = (0.5 * (1.0 + lam**2) * (t - s)) * spread.covariance()
    fresh = None if lam == 0.0 else (lam * (t - s).sqrt()) * spread
    return Coefficients(state=drift.identity() + (s - t) * drift, score=pull, fresh=fresh)
