"""Kutta's 3/8 rule for the probability flow, of fourth order with four evaluations a step (Kutta 1901).

It is what `rk4` names in torchdiffeq, and there CLD-SGM's solver with fixed steps:

    k1 = f(t, u),                       k2 = f(t + h/3, u + h k1 / 3),
    k3 = f(t + 2h/3, u + h (k2 - k1/3)),  k4 = f(t + h, u + h (k1 - k2 + k3)),
    u <- u + h (k1 + 3 k2 + 3 k3 + k4) / 8,     f = F u - G G^T score / 2
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diffexp.core.errors import ConfigError
from diffexp.prediction.form import Form
from diffexp.process.base import Process
from diffexp.process.combination import Combination
from diffexp.process.operator import Operator
from diffexp.sampler.grid import Last
from diffexp.sampler.stepper import Carry, Draw, Evaluate, Stepper

_THIRDS = 3


@dataclass(frozen=True)
class Plan:
    """The flow at the 3 n + 1 visited times, and the length of the n steps.

    Attributes:
        state, score: F and -G G^T / 2.
        length: h < 0, (n,).
        last: as in `Grid`.
    """

    state: Operator
    score: Operator
    length: Tensor
    last: Last


@dataclass(frozen=True)
class Row:
    """One step.

    Attributes:
        k: index of its first visited time; the others follow.
        slopes: h f at the four times, each of the parts there.
        data: the data estimate of the last evaluation, where that is handed over.
    """

    k: int
    slopes: tuple[Combination, ...]
    data: Combination | None = None

    def cast(self, dtype: torch.dtype, device: torch.device | str) -> Row:
        """The same row, ready for states of this type and device."""
        slopes = tuple(slope.cast(dtype, device) for slope in self.slopes)
        return Row(self.k, slopes, self.data and self.data.cast(dtype, device))


class RK4(Stepper):
    """The 3/8 rule; deterministic, needs the score alone."""

    needs = frozenset({"score"})
    order = 4

    def check(self, process: Process, times: Tensor) -> None:
        if process.factor(times[-1]).is_zero():
            raise ConfigError(
                f"sampler rk4: evaluates at its last time too, t = {float(times[-1]):g}, where process {process.name} "
                "has no noise and the score is infinite: set grid.t_end above it"
            )

    def evaluations(self, n: int) -> int:
        return 4 * n

    def visited(self, times: Tensor) -> Tensor:
        """The ends of the steps and their thirds."""
        t, s = times[:-1, None], times[1:, None]
        inner = t + (s - t) * torch.arange(_THIRDS, dtype=torch.float64) / _THIRDS
        return torch.cat([inner.flatten(), times[-1:]])

    def plan(self, process: Process, times: Tensor, last: Last) -> Plan:
        places = self.visited(times)
        pull = -0.5 * process.diffusion(places).covariance()
        return Plan(process.drift(places), pull, times[1:] - times[:-1], last)

    def bind(self, plan: Plan, form: Form) -> Sequence[Row]:
        flow = form.state(plan.state) + form.score.after(plan.score)
        rows = []
        for step, h in enumerate(plan.length.tolist()):
            k = _THIRDS * step
            rows.append(Row(k, tuple(flow[k + i].map(lambda own, h=h: h * own) for i in range(_THIRDS + 1))))
        if plan.last == "data":
            rows[-1] = Row(rows[-1].k, rows[-1].slopes, form.data[-1])
        return rows

    def step(self, u: Tensor, row: Row, evaluate: Evaluate, draw: Draw, carry: Carry) -> Tensor:
        slope = row.slopes
        one = slope[0](evaluate(u, row.k).parts)
        two = slope[1](evaluate(u + one / 3.0, row.k + 1).parts)
        three = slope[2](evaluate(u + (two - one / 3.0), row.k + 2).parts)
        there = evaluate(u + (one - two + three), row.k + 3).parts
        if row.data is not None:
            return row.data(there)
        return u + 0.125 * (one + 3.0 * (two + three) + slope[3](there))
