"""DDM's samplers, which read the predicted parameters phi^ and the predicted noise n^ of a decoupled process.

The posterior step of any size starts at the state and is exact for true heads (DDM, section 4 of its derivation: the
noise is a Brownian motion with the clock sigma^2):

    u_s = u_t + sum_j (h_j(s) - h_j(t)) phi^_j - (sigma_t^2 - sigma_s^2) / sigma_t n^
              + sigma_s sqrt(sigma_t^2 - sigma_s^2) / sigma_t z

The deterministic step of ADM's code starts at the data that the heads imply, x^ = u_t - H_t(phi^) - sigma_t n^:

    u_s = x^ + sum_j h_j(s) phi^_j + sigma_s n^

Heads are redundant. Reconciled, the parameters are those of x^ and not the predicted ones, while the noise stays as it
is predicted; clipping then has an effect on them (see `ClippedHeads`). With heads that agree the second step is DDIM's.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from torch import Tensor

from diffexp.core.errors import ConfigError
from diffexp.prediction.form import Form
from diffexp.prediction.redundant import ClippedHeads
from diffexp.process.attenuation import Attenuation
from diffexp.process.base import Process
from diffexp.process.combination import Combination
from diffexp.process.decoupled import Decoupled
from diffexp.process.operator import Operator, Scalar
from diffexp.sampler.grid import Last
from diffexp.sampler.linear import Row
from diffexp.sampler.stepper import Carry, Draw, Evaluate, Stepper


@dataclass(frozen=True)
class Plan:
    """Coefficients of n steps, each a batch of n operators; None for one that is not there.

    Attributes:
        state: on the state.
        data: on x^.
        parameters: on each phi^_j.
        noise: on n^.
        fresh: on fresh noise.
        last: as in `Grid`.
    """

    state: Operator | None
    data: Operator | None
    parameters: tuple[Operator, ...]
    noise: Operator
    fresh: Operator | None
    last: Last


class _Decoupled(Stepper):
    """One evaluation a step, linear in state, data, parameters, noise and fresh noise."""

    drawn = True
    from_nothing = True
    clipped = ClippedHeads

    def check(self, process: Process, times: Tensor) -> None:
        if process.attenuation is None:
            raise ConfigError(
                f"sampler.stepper={type(self).__name__}: is for decoupled processes, and process {process.name} is "
                "none: use ddim or ddpm, or process=ddm_const"
            )

    @abc.abstractmethod
    def reconciles(self, process: Process | None) -> bool:
        """Whether the parameters are those of x^ in place of the predicted ones."""

    def bind(self, plan: Plan, form: Form) -> Sequence[Row]:
        reconciled = self.reconciles(form.marginal.process)
        parameters = form.implied_parameters() if reconciled else form.parameters
        mix = form.own_noise.after(plan.noise)
        for operator, parameter in zip(plan.parameters, parameters, strict=True):
            mix += parameter.after(operator)
        if plan.state is not None:
            mix += form.state(plan.state)
        if plan.data is not None:
            mix += form.data.after(plan.data)
        rows = [self._row(k, mix[k], plan, form) for k in range(len(form.marginal.t))]
        if plan.last == "data":
            rows[-1] = Row(rows[-1].k, form.data[-1])
        return rows

    def _row(self, k: int, mean: Combination, plan: Plan, form: Form) -> Row:
        draws = plan.fresh is not None and not plan.fresh[k].is_zero()
        return Row(k, mean + Combination({form.parts: plan.fresh[k]}) if draws else mean, draws)  # type: ignore[index]

    def step(self, u: Tensor, row: Row, evaluate: Evaluate, draw: Draw, carry: Carry) -> Tensor:
        parts = evaluate(u, row.k).parts
        return row.mix((*parts, draw()) if row.draws else parts)


class Posterior(_Decoupled):
    """DDM's step: the posterior of its own process given the predicted image and noise.

    Args:
        reconcile: whether the parameters are those of x^, as in the published sampler of the constant attenuation; the
            linear one takes the predicted ones. None: yes, unless an image is drawn with the data.
    """

    def __init__(self, reconcile: bool | None = None) -> None:
        self.reconcile = reconcile

    def reconciles(self, process: Process | None) -> bool:
        return not (process is not None and process.drawn) if self.reconcile is None else self.reconcile

    def plan(self, process: Process, times: Tensor, last: Last) -> Plan:
        t, s = times[:-1], times[1:]
        own = cast(Decoupled, process)
        moved = [Scalar(to - at) for to, at in zip(_levels(own, s), _levels(own, t), strict=True)]
        lost, fresh = Scalar(-own.gained(t, s) / own.sigma(t)), own.noise_posterior(t, s)[1]
        return Plan(own.signal(t).identity(), None, tuple(moved), lost, fresh, last)


class Deterministic(_Decoupled):
    """ADM's deterministic step; it takes the heads as they are predicted, x^ alone may be clipped."""

    def reconciles(self, process: Process | None) -> bool:
        return False

    def plan(self, process: Process, times: Tensor, last: Last) -> Plan:
        own, s = cast(Decoupled, process), times[1:]
        shares = tuple(Scalar(h) for h in _levels(own, s))
        return Plan(None, own.signal(s).identity(), shares, own.factor(s), None, last)


def _levels(process: Decoupled, t: Tensor) -> tuple[Tensor, ...]:
    """h_j(t)."""
    return cast(Attenuation, process.attenuation).coefficients(t)
