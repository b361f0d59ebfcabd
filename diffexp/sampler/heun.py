"""Heun's method in the variables in which the flow has no linear part (Karras et al. 2022, algorithm 1).

With the noise held constant over a step the probability flow is solved exactly by
    u_s = Psi(s, t) u_t + D e,   D = L_s - Psi(s, t) L_t      (gDDIM, eq. 18; the trapezoidal rule in sigma / alpha)
so the predictor is the DDIM step and the corrector uses the mean of the noise at both ends. The last step has no
corrector, as in Karras et al.: n steps cost 2 n - 1 evaluations.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from diffexp.process.base import Process
from diffexp.process.operator import Operator, combine
from diffexp.sampler.grid import Last
from diffexp.sampler.stepper import Draw, Evaluate, Stepper


@dataclass(frozen=True)
class Row:
    """Coefficients of one step from grid time k: Psi(s, t), D and D / 2; `final` steps have no corrector."""

    k: int
    transition: Operator
    full: Operator
    half: Operator
    final: bool
    hand_over_data: bool

    def cast(self, dtype: torch.dtype, device: torch.device | str) -> Row:
        """The same row, ready for states of this type and device."""
        operators = (operator.cast(dtype, device) for operator in (self.transition, self.full, self.half))
        return Row(self.k, *operators, self.final, self.hand_over_data)


class Heun(Stepper):
    """Second order, deterministic: two evaluations a step, one in the last."""

    needs = frozenset({"noise", "data"})

    def evaluations(self, n: int) -> int:
        return 2 * n - 1

    def plan(self, process: Process, times: Tensor, last: Last) -> list[Row]:
        t, s = times[:-1], times[1:]
        transition = process.transition(s, t)
        full = process.factor(s) - transition @ process.factor(t)
        final = len(t) - 1
        return [
            Row(k, transition[k], full[k], 0.5 * full[k], k == final, hand_over_data=k == final and last == "data")
            for k in range(len(t))
        ]

    def step(self, u: Tensor, row: Row, evaluate: Evaluate, draw: Draw) -> Tensor:
        here = evaluate(u, row.k)
        if row.hand_over_data:
            return here.data
        predicted = combine([(row.transition, u), (row.full, here.noise)])
        if row.final:
            return predicted
        there = evaluate(predicted, row.k + 1)
        return combine([(row.transition, u), (row.half, here.noise), (row.half, there.noise)])
