"""Symmetric splitting of the reverse process, SSCS (Dockhorn et al. 2022, section 3.3), for any process that has a
stationary law N(0, S).

The reverse process, walked from noise to data, is the sum of two parts,

    du = [S F^T S^-1 u dtau + G dw] + G G^T (score + S^-1 u) dtau

The first, A, is linear, and keeps N(0, S): it is the forward process seen backwards while it rests there, so that its
step is Bayes' rule for u_s given u_t. The second, E, holds what is to be learned, and vanishes where the law is
N(0, S); Euler's rule is used for it. A step is half of A, all of E, half of A: one evaluation and two draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from diffexp.core.errors import ConfigError
from diffexp.prediction.form import Form
from diffexp.process.base import Process
from diffexp.process.combination import Combination
from diffexp.process.operator import Operator
from diffexp.sampler.grid import Last
from diffexp.sampler.stepper import Carry, Draw, Evaluate, Stepper

Half = tuple[Operator, Operator]


@dataclass(frozen=True)
class Plan:
    """Coefficients of n steps, each a batch of n operators.

    Attributes:
        first, second: (mean, noise) of the two halves of A.
        state, score: what E makes of the state and of the score: I + h G G^T S^-1 and h G G^T.
        last: as in `Grid`.
    """

    first: Half
    second: Half
    state: Operator
    score: Operator
    last: Last


@dataclass(frozen=True)
class Row:
    """One step from grid time k.

    Attributes:
        k: index of the step's first time.
        first: the first half, of the state and fresh noise.
        rest: E and the second half, of the prediction's parts and, behind them, fresh noise; or the data.
        draws: whether fresh noise enters `rest`.
    """

    k: int
    first: Combination
    rest: Combination
    draws: bool = True

    def cast(self, dtype: torch.dtype, device: torch.device | str) -> Row:
        """The same row, ready for states of this type and device."""
        return Row(self.k, self.first.cast(dtype, device), self.rest.cast(dtype, device), self.draws)


class SSCS(Stepper):
    """The symmetric splitting; of weak order one, like Euler-Maruyama, but exact where nothing is to be learned.

    Args:
        second_half: the interval of time of the second half of A: its "own", or the "first" half's again, as in
            CLD-SGM's code; the same for a constant beta.
    """

    needs = frozenset({"score"})
    draws = 2

    def __init__(self, second_half: Literal["own", "first"] = "own") -> None:
        self.second_half = second_half

    def plan(self, process: Process, times: Tensor, last: Last) -> Plan:
        root = process.stationary_factor()
        if root is None:
            raise ConfigError(
                f"sampler.stepper: sscs splits around a law that the process keeps, and {process.name} has none: use "
                "euler_maruyama"
            )
        t, s = times[:-1], times[1:]
        middle, law = 0.5 * (t + s), root.covariance()
        first = _half(process, law, t, middle)
        second = first if self.second_half == "first" else _half(process, law, middle, s)
        kick = (t - s) * process.diffusion(t).covariance()
        return Plan(first, second, kick.identity() + kick @ law.inverse(), kick, last)

    def bind(self, plan: Plan, form: Form) -> Sequence[Row]:
        (mean, noise), (mean_, noise_) = plan.first, plan.second
        first = Combination({0: mean, 1: noise})
        rest = form.state(mean_ @ plan.state) + form.score.after(mean_ @ plan.score) + Combination({form.parts: noise_})
        rows = [Row(k, first[k], rest[k]) for k in range(len(form.marginal.t))]
        if plan.last == "data":
            rows[-1] = Row(rows[-1].k, rows[-1].first, form.data[-1], draws=False)
        return rows

    def step(self, u: Tensor, row: Row, evaluate: Evaluate, draw: Draw, carry: Carry) -> Tensor:
        parts = evaluate(row.first((u, draw(0))), row.k).parts
        return row.rest((*parts, draw(1)) if row.draws else parts)


def _half(process: Process, law: Operator, t: Tensor, s: Tensor) -> Half:
    """(mean, noise) of u_s given u_t, s < t, when u_s ~ N(0, S): S Psi^T S^-1 and a factor of
    (S^-1 + Psi^T N^-1 Psi)^-1 with Psi = Psi(t, s) and the noise N that is added from s to t.

    S - S Psi^T S^-1 Psi S is the same, without digits in short steps: on CLD the position gets noise of order h^3.
    """
    psi, root = process.transition(t, s), process.transition_factor(t, s)
    seen = (root.inverse() @ psi).transpose()
    return law @ psi.transpose() @ law.inverse(), (law.inverse() + seen.covariance()).inverse().factor()
