"""Linear steps: u_s = S u_t + A x^ + K e^ + C z, one row of independent coefficients for each step.

DDIM (Song et al. 2021, eq. 12 and 16) and DDPM's ancestral step (Ho et al. 2020, eq. 7) have A = A_s, S = 0 and
K K^T + C C^T = L_s L_s^T on isotropic processes, so that the step has the right marginal for exact predictions; a
named variance other than the posterior's gives that up. Euler's steps (`euler`) are rows of the same kind.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from diffexp.core.errors import ConfigError
from diffexp.prediction.form import Form
from diffexp.process.base import Process
from diffexp.process.combination import Combination
from diffexp.process.operator import Operator
from diffexp.process.variance import Variance, check_variance, reverse_factor
from diffexp.sampler.grid import Last
from diffexp.sampler.stepper import Carry, Draw, Evaluate, Stepper


@dataclass(frozen=True)
class Coefficients:
    """The coefficients of n steps, each a batch of n operators or None for zero.

    Attributes:
        state: S, on the present state.
        data: A, on the data estimate.
        noise: K, on the noise estimate.
        score: on the score estimate, -R_t^-T e^.
        fresh: C, on fresh noise.
        second: on the second image, given or predicted.
        past: on the data estimates of earlier steps, the newest first; zero where there is none yet.
        last: what the last step hands over: its "state", or the "data" estimate in place of it.
    """

    state: Operator | None = None
    data: Operator | None = None
    noise: Operator | None = None
    score: Operator | None = None
    fresh: Operator | None = None
    second: Operator | None = None
    past: tuple[Operator, ...] = ()
    last: Last = "state"


@dataclass(frozen=True)
class Row:
    """One step from grid time k.

    Attributes:
        k: index of the step's first time.
        mix: the next state as a combination of the prediction's parts and, behind them, fresh noise and the data
            estimates of earlier steps.
        draws: whether fresh noise enters.
        data: the data estimate, for a method that remembers it; else None.
        memory: how many estimates it remembers.
    """

    k: int
    mix: Combination
    draws: bool = False
    data: Combination | None = None
    memory: int = 0

    def cast(self, dtype: torch.dtype, device: torch.device | str) -> Row:
        """The same row, ready for states of this type and device."""
        data = None if self.data is None else self.data.cast(dtype, device)
        return Row(self.k, self.mix.cast(dtype, device), self.draws, data, self.memory)


class LinearStepper(Stepper):
    """One evaluation a step, linear in state, data estimate, noise estimate and fresh noise."""

    @abc.abstractmethod
    def coefficients(self, process: Process, t: Tensor, s: Tensor) -> Coefficients:
        """The coefficients of the steps t -> s, batched over the steps."""

    def plan(self, process: Process, times: Tensor, last: Last) -> Coefficients:
        return replace(self.coefficients(process, times[:-1], times[1:]), last=last)

    def bind(self, plan: Coefficients, form: Form) -> Sequence[Row]:
        mix = Combination({})
        if plan.state is not None:
            mix += form.state(plan.state)
        if plan.data is not None:
            mix += form.data.after(plan.data)
        if plan.noise is not None:
            mix += form.noise.after(plan.noise)
        if plan.score is not None:
            mix += form.score.after(plan.score)
        if plan.second is not None:
            mix += form.second(plan.second)
        rows = [_row(k, mix[k], plan, form) for k in range(len(form.marginal.t))]
        if plan.last == "data":
            rows[-1] = Row(rows[-1].k, form.data[-1])
        return rows

    def step(self, u: Tensor, row: Row, evaluate: Evaluate, draw: Draw, carry: Carry) -> Tensor:
        parts = evaluate(u, row.k).parts
        if row.data is None:
            return row.mix((*parts, draw()) if row.draws else parts)
        mixed = row.mix((*parts, draw() if row.draws else u, *carry))
        carry.insert(0, row.data(parts))
        del carry[row.memory :]
        return mixed


def _row(k: int, mean: Combination, plan: Coefficients, form: Form) -> Row:
    """The row of step k; fresh noise and earlier estimates stand behind the parts, unless their coefficients vanish."""
    further = dict(enumerate(plan.past, start=form.parts + 1))
    if plan.fresh is not None:
        further[form.parts] = plan.fresh
    terms = {place: operator[k] for place, operator in further.items() if not operator[k].is_zero()}
    data = form.data[k] if plan.past else None
    return Row(k, mean + Combination(terms), form.parts in terms, data, len(plan.past))


class DDIM(LinearStepper):
    """The step that carries the noise estimate over; with `eta` a part of it is drawn anew.

    C = eta times the posterior's factor and K K^T = L_s L_s^T - C C^T (Song et al. 2021, eq. 16): eta = 0 is
    deterministic and keeps K = L_s, eta = 1 is the ancestral step.

    Args:
        eta: share of the posterior's standard deviation that is drawn, in [0, 1].

    Raises:
        ConfigError: for another eta.
    """

    drawn = True
    from_nothing = True

    def __init__(self, eta: float = 0.0) -> None:
        if not 0.0 <= eta <= 1.0:
            raise ConfigError(f"sampler.stepper.eta={eta}: must be between 0 (deterministic) and 1 (ancestral)")
        self.eta = eta

    def coefficients(self, process: Process, t: Tensor, s: Tensor) -> Coefficients:
        if self.eta == 0.0:
            return Coefficients(data=process.signal(s), noise=process.factor(s), second=process.auxiliary(s))
        keep, fresh = process.posterior(t, s)
        if self.eta < 1.0:
            fresh = self.eta * fresh
            keep = (process.factor(s).covariance() - fresh.covariance()).factor()
        return Coefficients(data=process.signal(s), noise=keep, fresh=fresh, second=process.auxiliary(s))


class Ancestral(LinearStepper):
    """DDPM's step: the mean of the posterior q(u_s | u_t, x^) and fresh noise of a named variance.

    A step to a noise-free level draws nothing, whatever the variance is called.

    Args:
        variance: "small", "large" or "medium", see `process.variance`.
        interpolation: f in [0, 1], for "medium".

    Raises:
        ConfigError: for an f out of range, a missing one, or one that would have no effect.
    """

    drawn = True
    from_nothing = True

    def __init__(self, variance: Variance = "small", interpolation: float | None = None) -> None:
        check_variance(variance, interpolation, "sampler.stepper")
        self.variance: Variance = variance
        self.interpolation = interpolation

    def coefficients(self, process: Process, t: Tensor, s: Tensor) -> Coefficients:
        fresh = reverse_factor(process, t, s, self.variance, self.interpolation)
        if self.variance != "small":
            fresh = _silenced(fresh, process.factor(s), len(s))
        keep = process.posterior(t, s)[0]
        return Coefficients(data=process.signal(s), noise=keep, fresh=fresh, second=process.auxiliary(s))


def _silenced(fresh: Operator, level: Operator, n: int) -> Operator:
    """Fresh noise of n steps, but none in those whose target level is noise-free."""
    heard = torch.tensor([0.0 if level[k].is_zero() else 1.0 for k in range(n)], dtype=torch.float64)
    return heard * fresh
