"""gDDIM (Zhang, Tao & Chen 2023): exponential integrators in the factor R, on any linear Gaussian process.

Deterministic (eq. 18 and 19), with the noise estimates at the last r + 1 times, newest first:

    u_t = Psi(t, s) u_s + sum_j C_j e_j                               convergence order r + 1

Predictor and corrector (Adams-Moulton): the predicted state is evaluated, and the step is taken again with the new
estimate among the nodes; two evaluations a step. Stochastic (eq. 22), of order one:

    u_t = Psi(t, s) u_s + [Psihat(t, s) - Psi(t, s)] R_s e + C z,     C C^T = P

On scalar processes order one is DDIM for lambda = 0 and DDPM's ancestral step for lambda = 1.

Psi is infinite where sampling starts without a signal (decoupled processes). The data form of the same flow is not:

    u_t = R_t R_s^-1 u_s + R_t sum_j (int l_j d(R^-1 A)) x^_j,      u_t = Psihat u_s + (A_t - Psihat A_s) x^ + C z

with the data estimates in the place of those of the noise, and terms like those of x^ for a predicted second image. Of
order one the forms are the same step. Where x^ changes at once, as from such a prior, the first steps, which know fewer
estimates, leave an error of order two, unless they are short.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from diffexp.core.errors import ConfigError
from diffexp.prediction.form import Form
from diffexp.process.base import FactorKind, Process
from diffexp.process.combination import Combination
from diffexp.process.operator import Operator
from diffexp.sampler.exponential import coefficients, data_coefficients
from diffexp.sampler.grid import Last
from diffexp.sampler.stepper import Carry, Draw, EstimateForm, Evaluate, Stepper
from diffexp.sampler.stochastic import contraction, noise_factor

MAX_ORDER = 4


@dataclass(frozen=True)
class Plan:
    """Coefficients of n steps, each a batch of n operators.

    A method remembers one estimate for each visited time (the noise, or the data), or two (and a second image).

    Attributes:
        n: number of steps.
        transition: what becomes of the state: Psi(t, s), or R_t R_s^-1.
        predictor: C_j, the newest time first; of two estimates, one after the other for each time.
        corrector: C_j, the predicted state's first; empty without a corrector.
        width: the number of estimates.
        fresh: C, or None.
        turn: K^-1 R at all n + 1 times, from the estimate in R to that in K; None for K = R.
        last: as in `Grid`.
    """

    n: int
    transition: Operator
    predictor: list[Operator]
    corrector: list[Operator]
    width: int
    fresh: Operator | None
    turn: Operator | None
    last: Last


@dataclass(frozen=True)
class Row:
    """One step from grid time k.

    Attributes:
        k: index of the step's first time.
        estimates: of the parts at the step's first time; the data in a step that hands those over.
        predicted: of (state, estimates from the newest on, fresh noise); None where the first estimate is handed over.
        draws: whether fresh noise enters.
        ends: the estimates, of the parts at the step's end; empty without a corrector.
        corrected: of (state, estimates at the predicted state, estimates from the newest on); None without a corrector.
    """

    k: int
    estimates: tuple[Combination, ...]
    predicted: Combination | None
    draws: bool = False
    ends: tuple[Combination, ...] = ()
    corrected: Combination | None = None

    def cast(self, dtype: torch.dtype, device: torch.device | str) -> Row:
        """The same row, ready for states of this type and device."""
        predicted, corrected = (part and part.cast(dtype, device) for part in (self.predicted, self.corrected))
        estimates, ends = (tuple(part.cast(dtype, device) for part in some) for some in (self.estimates, self.ends))
        return Row(self.k, estimates, predicted, self.draws, ends, corrected)


class GDDIM(Stepper):
    """gDDIM of any order, with or without corrector, deterministic or stochastic.

    Args:
        order: convergence order, 1 to 4 (the paper's q; the polynomial degree is one less). The first steps know fewer
            estimates and use lower orders, on the real nodes.
        lam: stochasticity lambda >= 0; 0 is the probability flow, 1 the reverse process. Only with order 1.
        corrector: convergence order of the corrector, 2 to 4; None for none.
        factor: K in which the estimates are held over a step: "R", or "cholesky" for the paper's comparison.
        form: whether estimates of the "noise" are held over a step, or those of the "data" (with factor R).

    Raises:
        ConfigError: for values out of range or that exclude each other.
    """

    def __init__(
        self,
        order: int = 2,
        lam: float = 0.0,
        corrector: int | None = None,
        factor: FactorKind = "R",
        form: EstimateForm = "noise",
    ) -> None:
        where = "sampler.stepper"
        if not 1 <= order <= MAX_ORDER:
            raise ConfigError(f"{where}.order={order}: must be between 1 and {MAX_ORDER}")
        if corrector is not None and not 2 <= corrector <= MAX_ORDER:
            raise ConfigError(f"{where}.corrector={corrector}: must be between 2 and {MAX_ORDER}, or null for none")
        if not lam >= 0.0:
            raise ConfigError(f"{where}.lam={lam}: must be 0 (deterministic) or larger")
        if lam > 0.0 and (order > 1 or corrector is not None or factor != "R"):
            raise ConfigError(f"{where}.lam={lam}: the stochastic step has order=1, corrector=null and factor=R")
        if form == "data" and factor != "R":
            raise ConfigError(f"{where}.form=data: needs {where}.factor=R, not {factor}")
        self.order = order
        self.lam = lam
        self.corrector = corrector
        self.factor: FactorKind = factor
        self.form: EstimateForm = form
        self.needs = frozenset({form})
        self.drawn = self.from_nothing = form == "data"

    @property
    def min_steps(self) -> int:
        """As many as the order: fewer would never reach it."""
        return max(self.order, (self.corrector or 1) - 1)

    def visited(self, times: Tensor) -> Tensor:
        """A corrector also evaluates at the end of the last step."""
        return times if self.corrector is not None else times[:-1]

    def evaluations(self, n: int) -> int:
        return n if self.corrector is None else 2 * n

    def plan(self, process: Process, times: Tensor, last: Last) -> Plan:
        n, s, t = len(times) - 1, times[:-1], times[1:]
        if n < self.min_steps:
            raise ConfigError(f"sampler.stepper.order={self.order}: needs {self.min_steps} steps, but the grid has {n}")
        fresh = None
        if self.lam > 0.0:
            y = contraction(process, s, t, self.lam)
            transition, predictor = self._stochastic(process, s, t, y)
            fresh = noise_factor(process, t, y)
        else:
            transition = self._kept(process, s, t)
            predictor = self._coefficients(process, times, 0, self.order - 1)
        corrector = [] if self.corrector is None else self._coefficients(process, times, 1, self.corrector - 1)
        turn = None if self.factor == "R" else process.factor(times, self.factor).inverse() @ process.factor(times)
        width = 2 if self.form == "data" and process.drawn else 1
        return Plan(n, transition, predictor, corrector, width, fresh, turn, last)

    def _kept(self, process: Process, s: Tensor, t: Tensor) -> Operator:
        """What becomes of the state in a deterministic step."""
        return process.transition(t, s) if self.form == "noise" else process.factor(t) @ process.factor(s).inverse()

    def _coefficients(self, process: Process, times: Tensor, first: int, degree: int) -> list[Operator]:
        """Of the estimates at each node, newest first."""
        if self.form == "noise":
            return coefficients(process, times, first, degree, self.factor)
        found = [data_coefficients(process, times, first, degree, level) for level in _levels(process)]
        return [operator for node in zip(*found, strict=True) for operator in node]

    def _stochastic(self, process: Process, s: Tensor, t: Tensor, y: Operator) -> tuple[Operator, list[Operator]]:
        """What becomes of the state, and of the estimates, for Psihat R_s = R_t Y."""
        moved = process.factor(t, "R") @ y
        if self.form == "noise":
            transition = process.transition(t, s)
            return transition, [moved - transition @ process.factor(s, "R")]
        kept = moved @ process.factor(s, "R").inverse()
        return kept, [level(t) - kept @ level(s) for level in _levels(process)]

    def bind(self, plan: Plan, form: Form) -> Sequence[Row]:
        rows = [self._row(plan, form, k) for k in range(plan.n)]
        if plan.last == "data" and plan.corrector:  # the last evaluation is that of the predicted state
            same = Combination({1: plan.transition.identity()[plan.n - 1]})
            rows[-1] = replace(rows[-1], ends=(form.data[plan.n],), corrected=same)
        elif plan.last == "data":
            rows[-1] = Row(plan.n - 1, (form.data[plan.n - 1],), None)
        return rows

    def _row(self, plan: Plan, form: Form, k: int) -> Row:
        kept, draws = {0: plan.transition[k]}, plan.fresh is not None and not plan.fresh[k].is_zero()
        predicted = kept | _placed(plan.predictor[: (k + 1) * plan.width], k)
        if draws:
            predicted[1 + len(plan.predictor)] = plan.fresh[k]  # type: ignore[index]
        estimates = self._estimates(plan, form, k)
        if not plan.corrector:
            return Row(k, estimates, Combination(predicted), draws)
        corrected = Combination(kept | _placed(plan.corrector[: (k + 2) * plan.width], k))
        return Row(k, estimates, Combination(predicted), draws, self._estimates(plan, form, k + 1), corrected)

    def _estimates(self, plan: Plan, form: Form, k: int) -> tuple[Combination, ...]:
        """What the method remembers of time k, of the parts; the noise in the plan's factor."""
        if self.form == "noise":
            return (form.noise[k] if plan.turn is None else form.noise[k].after(plan.turn[k]),)
        return (form.data[k],) if form.drawn is None else (form.data[k], form.drawn[k])

    def step(self, u: Tensor, row: Row, evaluate: Evaluate, draw: Draw, carry: Carry) -> Tensor:
        parts = evaluate(u, row.k).parts
        said = [estimate(parts) for estimate in row.estimates]
        if row.predicted is None:
            return said[0]
        carry[:0] = said
        del carry[self.min_steps * len(said) :]
        predicted = row.predicted((u, *carry, draw()) if row.draws else (u, *carry))
        if row.corrected is None:
            return predicted
        parts = evaluate(predicted, row.k + 1).parts
        return row.corrected((u, *(end(parts) for end in row.ends), *carry))


def _levels(process: Process) -> list[Callable[[Tensor], Operator]]:
    """A and, where an image is drawn with the data, B."""
    return [process.signal, process.auxiliary] if process.drawn else [process.signal]  # type: ignore[list-item]


def _placed(listed: Sequence[Operator], k: int) -> dict[int, Operator]:
    """The coefficients of step k by their places behind the state."""
    return {place: operator[k] for place, operator in enumerate(listed, start=1)}
