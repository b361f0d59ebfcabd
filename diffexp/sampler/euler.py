"""Euler's rule in time, without the exponential integrator's care: the baselines of every comparison.

The probability flow is du/dt = F u + G G^T L^-T e / 2, the reverse process du = (F u + G G^T L^-T e) dt + G dw
(Song et al. 2021, eq. 6 and 13, with score = -L^-T e). Both are rows of the linear stepper.
"""

from __future__ import annotations

from torch import Tensor

from diffexp.process.base import Process
from diffexp.process.operator import Operator
from diffexp.sampler.linear import Coefficients, LinearStepper


class Euler(LinearStepper):
    """Euler's method for the probability flow; first order in time."""

    def coefficients(self, process: Process, t: Tensor, s: Tensor) -> Coefficients:
        state, pull, _ = _parts(process, t, s)
        return Coefficients(state=state, noise=0.5 * pull)


class EulerMaruyama(LinearStepper):
    """The Euler-Maruyama method for the reverse process; it draws noise in every step, the last one included."""

    def coefficients(self, process: Process, t: Tensor, s: Tensor) -> Coefficients:
        state, pull, spread = _parts(process, t, s)
        return Coefficients(state=state, noise=pull, fresh=(t - s).sqrt() * spread)


def _parts(process: Process, t: Tensor, s: Tensor) -> tuple[Operator, Operator, Operator]:
    """(I + (s - t) F, (s - t) G G^T L^-T, G) at times t."""
    drift, spread = process.drift(t), process.diffusion(t)
    pull = spread.covariance() @ process.factor(t).transpose().inverse()
    return drift.identity() + (s - t) * drift, (s - t) * pull, spread
