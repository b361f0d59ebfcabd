"""Heun's method in the variables in which the flow has no linear part (Karras et al. 2022, algorithm 1).

With the noise held constant over a step, the probability flow is solved exactly by
    u_s = Psi(s, t) u_t + D e,   D = L_s - Psi(s, t) L_t      (gDDIM, eq. 18; Euler's rule in sigma / alpha)
which is the DDIM step A_s x^ + L_s e^. The corrector replaces e by the mean of both ends (the trapezoidal rule), so it
adds D (e_s - e_t) / 2. Anchoring on the prediction and not on Psi u_t matters: Psi reaches 1e4 near the prior and would
amplify the rounding of the state. The last step has no corrector, as in Karras et al.: n steps cost 2 n - 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diffexp.prediction.form import Form
from diffexp.process.base import Process
from diffexp.process.combination import Combination
from diffexp.process.operator import Operator
from diffexp.sampler.grid import Last
from diffexp.sampler.stepper import Carry, Draw, Evaluate, Stepper


@dataclass(frozen=True)
class Coefficients:
    """Of n steps: A_s, L_s and D / 2, each a batch of n operators; `last` as in `Grid`."""

    data: Operator
    noise: Operator
    half: Operator
    last: Last


@dataclass(frozen=True)
class Row:
    """One step from grid time k.

    Attributes:
        k: index of the step's first time.
        predicted: the DDIM step, of the parts at its first time.
        corrected: the corrected state, of the parts at its first time and behind them those at its second one; None
            for the last step.
    """

    k: int
    predicted: Combination
    corrected: Combination | None

    def cast(self, dtype: torch.dtype, device: torch.device | str) -> Row:
        """The same row, ready for states of this type and device."""
        corrected = None if self.corrected is None else self.corrected.cast(dtype, device)
        return Row(self.k, self.predicted.cast(dtype, device), corrected)


class Heun(Stepper):
    """Second order, deterministic: two evaluations a step, one in the last."""

    def evaluations(self, n: int) -> int:
        return 2 * n - 1

    def plan(self, process: Process, times: Tensor, last: Last) -> Coefficients:
        t, s = times[:-1], times[1:]
        signal, factor = process.signal(s), process.factor(s)
        return Coefficients(signal, factor, 0.5 * (factor - process.transition(s, t) @ process.factor(t)), last)

    def bind(self, plan: Coefficients, form: Form) -> Sequence[Row]:
        data, noise = form.data, form.noise
        predicted = data.after(plan.data) + noise.after(plan.noise)
        here = data.after(plan.data) + noise.after(plan.noise - plan.half)
        final = len(form.marginal.t) - 1
        rows = []
        for k in range(final):
            there = noise[k + 1].after(plan.half[k]).shifted(form.parts)
            rows.append(Row(k, predicted[k], here[k] + there))
        return [*rows, Row(final, data[final] if plan.last == "data" else predicted[final], None)]

    def step(self, u: Tensor, row: Row, evaluate: Evaluate, draw: Draw, carry: Carry) -> Tensor:
        here = evaluate(u, row.k).parts
        predicted = row.predicted(here)
        if row.corrected is None:
            return predicted
        return row.corrected((*here, *evaluate(predicted, row.k + 1).parts))
