"""Heun's method in the variables in which the flow has no linear part (Karras et al. 2022, algorithm 1).

With the noise held constant over a step, the probability flow is solved exactly by
    u_s = Psi(s, t) u_t + D e,   D = L_s - Psi(s, t) L_t      (gDDIM, eq. 18; Euler's rule in sigma / alpha)
which is the DDIM step A_s x^ + L_s e^. The corrector replaces e by the mean of both ends (the trapezoidal rule), so it
adds D (e_s - e_t) / 2. Anchoring on the prediction and not on Psi u_t matters: Psi reaches 1e4 near the prior and would
amplify the rounding of the state. The last step has no corrector, as in Karras et al.: n steps cost 2 n - 1.

The data form is the trapezoidal rule of the same flow in its other variable, d(L^-1 u) = x^ d(L^-1 A): the corrector is
(A_s - L_s L_t^-1 A_t) (x^_s - x^_t) / 2, which stays finite where sampling starts without a signal. A predicted second
image has a term of the same kind.
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
from diffexp.sampler.stepper import Carry, Draw, EstimateForm, Evaluate, Stepper


@dataclass(frozen=True)
class Coefficients:
    """Of n steps: A_s, L_s, B_s or None, and D / 2 of each estimate; batches of n operators. `last` as in `Grid`."""

    data: Operator
    noise: Operator
    second: Operator | None
    halves: tuple[Operator, ...]
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
    """Second order, deterministic: two evaluations a step, one in the last.

    Args:
        form: the estimate whose change over a step is corrected: that of the "noise", or of the "data".
    """

    order = 2

    def __init__(self, form: EstimateForm = "noise") -> None:
        self.form: EstimateForm = form
        self.drawn = self.from_nothing = form == "data"

    def evaluations(self, n: int) -> int:
        return 2 * n - 1

    def plan(self, process: Process, times: Tensor, last: Last) -> Coefficients:
        t, s = times[:-1], times[1:]
        signal, factor, second = process.signal(s), process.factor(s), process.auxiliary(s)
        if self.form == "noise":
            halves = (0.5 * (factor - process.transition(s, t) @ process.factor(t)),)
            return Coefficients(signal, factor, second, halves, last)
        keep, ends = factor @ process.factor(t).inverse(), [(signal, process.signal(t))]
        if second is not None:
            ends.append((second, process.auxiliary(t)))
        return Coefficients(signal, factor, second, tuple(0.5 * (to - keep @ at) for to, at in ends), last)

    def bind(self, plan: Coefficients, form: Form) -> Sequence[Row]:
        predicted = form.data.after(plan.data) + form.noise.after(plan.noise)
        if plan.second is not None:
            predicted += form.second(plan.second)
        estimates = [form.noise] if self.form == "noise" else [form.data, form.drawn][: len(plan.halves)]
        pairs = list(zip(estimates, plan.halves, strict=True))
        here = predicted
        for estimate, half in pairs:
            here = here - estimate.after(half)
        final, rows = len(form.marginal.t) - 1, []
        for k in range(final):
            corrected = here[k]
            for estimate, half in pairs:
                corrected += estimate[k + 1].after(half[k]).shifted(form.parts)
            rows.append(Row(k, predicted[k], corrected))
        return [*rows, Row(final, form.data[final] if plan.last == "data" else predicted[final], None)]

    def step(self, u: Tensor, row: Row, evaluate: Evaluate, draw: Draw, carry: Carry) -> Tensor:
        here = evaluate(u, row.k).parts
        predicted = row.predicted(here)
        if row.corrected is None:
            return predicted
        return row.corrected((*here, *evaluate(predicted, row.k + 1).parts))
