"""Heun's method in the variables in which the flow has no linear part (Karras et al. 2022, algorithm 1).

With the noise held constant over a step, the probability flow is solved exactly by
    u_s = Psi(s, t) u_t + D e,   D = L_s - Psi(s, t) L_t      (gDDIM, eq. 18; Euler's rule in sigma / alpha)
which is the DDIM step A_s x^ + L_s e^. The corrector replaces e by the mean of both ends (the trapezoidal rule), so it
adds D (e_s - e_t) / 2. Anchoring on the prediction and not on Psi u_t matters: Psi reaches 1e4 near the prior and would
amplify the rounding of the state. The last step has no corrector, as in Karras et al.: n steps cost 2 n - 1.
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
    """Coefficients of one step from grid time k.

    Attributes:
        k: index of the step's first time.
        data: A_s, or None when the step hands over the data estimate itself.
        noise: L_s.
        half: D / 2, or None for the last step, which has no corrector.
    """

    k: int
    data: Operator | None
    noise: Operator
    half: Operator | None

    def cast(self, dtype: torch.dtype, device: torch.device | str) -> Row:
        """The same row, ready for states of this type and device."""
        parts = [None if part is None else part.cast(dtype, device) for part in (self.data, self.noise, self.half)]
        return Row(self.k, *parts)


class Heun(Stepper):
    """Second order, deterministic: two evaluations a step, one in the last."""

    def evaluations(self, n: int) -> int:
        return 2 * n - 1

    def plan(self, process: Process, times: Tensor, last: Last) -> list[Row]:
        t, s = times[:-1], times[1:]
        signal, factor = process.signal(s), process.factor(s)
        half = 0.5 * (factor - process.transition(s, t) @ process.factor(t))
        final = len(t) - 1
        rows = [Row(k, signal[k], factor[k], half[k]) for k in range(final)]
        return [*rows, Row(final, None if last == "data" else signal[final], factor[final], None)]

    def step(self, u: Tensor, row: Row, evaluate: Evaluate, draw: Draw) -> Tensor:
        here = evaluate(u, row.k)
        if row.data is None:
            return here.data
        predicted = combine([(row.data, here.data), (row.noise, here.noise)])
        if row.half is None:
            return predicted
        there = evaluate(predicted, row.k + 1)
        return predicted + row.half.apply(there.noise - here.noise)
