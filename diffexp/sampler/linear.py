"""Linear steps from the prediction: u_s = A_s x^ + K e^ + C z, one row of coefficients for each step.

DDIM (Song et al. 2021, eq. 12 with eta = 0) keeps all the noise it sees: K = L_s, C = 0. DDPM's ancestral step
(Ho et al. 2020, eq. 7) draws from the exact posterior of u_s given u_t and the data estimate. Both satisfy
K K^T + C C^T = L_s L_s^T on isotropic processes, so that the step has the right marginal for exact predictions.
"""

from __future__ import annotations

import abc
from dataclasses import dataclass

import torch
from torch import Tensor

from diffexp.process.base import Process
from diffexp.process.operator import Operator, combine
from diffexp.sampler.grid import Last
from diffexp.sampler.stepper import Draw, Evaluate, Stepper


@dataclass(frozen=True)
class Row:
    """Coefficients of one step from grid time k.

    Attributes:
        k: index of the step's first time.
        data: A_s, or None when the step hands over the data estimate itself.
        noise: K, or None.
        fresh: C, or None when no noise is drawn.
    """

    k: int
    data: Operator | None
    noise: Operator | None = None
    fresh: Operator | None = None

    def cast(self, dtype: torch.dtype, device: torch.device | str) -> Row:
        """The same row, ready for states of this type and device."""
        parts = [None if part is None else part.cast(dtype, device) for part in (self.data, self.noise, self.fresh)]
        return Row(self.k, *parts)


class LinearStepper(Stepper):
    """One evaluation a step, linear in data estimate, noise estimate and fresh noise."""

    @abc.abstractmethod
    def coefficients(self, process: Process, t: Tensor, s: Tensor) -> tuple[Operator, Operator | None]:
        """(K, C) of the steps t -> s, batched over the steps; C is None for a deterministic step."""

    def plan(self, process: Process, times: Tensor, last: Last) -> list[Row]:
        t, s = times[:-1], times[1:]
        signal = process.signal(s)
        keep, fresh = self.coefficients(process, t, s)
        drawn = [None if fresh is None or fresh[k].is_zero() else fresh[k] for k in range(len(t))]
        rows = [Row(k, signal[k], keep[k], drawn[k]) for k in range(len(t))]
        if last == "data":
            rows[-1] = Row(len(t) - 1, None)
        return rows

    def step(self, u: Tensor, row: Row, evaluate: Evaluate, draw: Draw) -> Tensor:
        prediction = evaluate(u, row.k)
        if row.data is None:
            return prediction.data
        terms = [(row.data, prediction.data), (row.noise, prediction.noise)]
        if row.fresh is not None:
            terms.append((row.fresh, draw()))
        return combine(terms)


class DDIM(LinearStepper):
    """The deterministic step: the noise estimate is carried over unchanged."""

    def coefficients(self, process: Process, t: Tensor, s: Tensor) -> tuple[Operator, Operator | None]:
        return process.factor(s), None


class Ancestral(LinearStepper):
    """DDPM's step: a draw from the posterior q(u_s | u_t, x^) with its exact ("small") covariance."""

    def coefficients(self, process: Process, t: Tensor, s: Tensor) -> tuple[Operator, Operator | None]:
        return process.posterior(t, s)
