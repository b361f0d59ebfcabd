"""gDDIM (Zhang, Tao & Chen 2023): exponential integrators in the factor R, on any linear Gaussian process.

Deterministic (eq. 18 and 19), with the noise estimates at the last r + 1 times, newest first:

    u_t = Psi(t, s) u_s + sum_j C_j e_j                               convergence order r + 1

Predictor and corrector (Adams-Moulton): the predicted state is evaluated, and the step is taken again with the new
estimate among the nodes; two evaluations a step. Stochastic (eq. 22), of order one:

    u_t = Psi(t, s) u_s + [Psihat(t, s) - Psi(t, s)] R_s e + C z,     C C^T = P

On scalar processes order one is DDIM for lambda = 0 and DDPM's ancestral step for lambda = 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from diffexp.core.errors import ConfigError
from diffexp.prediction.form import Form
from diffexp.process.base import FactorKind, Process
from diffexp.process.combination import Combination
from diffexp.process.operator import Operator
from diffexp.sampler.exponential import coefficients
from diffexp.sampler.grid import Last
from diffexp.sampler.stepper import Carry, Draw, Evaluate, Stepper
from diffexp.sampler.stochastic import contraction, noise_factor

MAX_ORDER = 4


@dataclass(frozen=True)
class Plan:
    """Coefficients of n steps, each a batch of n operators.

    Attributes:
        n: number of steps.
        transition: Psi(t, s).
        predictor: C_j, the newest estimate first.
        corrector: C_j, the estimate at the predicted state first; empty without a corrector.
        fresh: C, or None.
        turn: K^-1 R at all n + 1 times, from the estimate in R to that in K; None for K = R.
        last: as in `Grid`.
    """

    n: int
    transition: Operator
    predictor: list[Operator]
    corrector: list[Operator]
    fresh: Operator | None
    turn: Operator | None
    last: Last


@dataclass(frozen=True)
class Row:
    """One step from grid time k.

    Attributes:
        k: index of the step's first time.
        noise: the estimate e, of the parts at the step's first time; the data in a step that hands those over.
        predicted: of (state, estimates from the newest on, fresh noise); None where `noise` is handed over.
        draws: whether fresh noise enters.
        noise_end: the estimate, of the parts at the step's end; None without a corrector.
        corrected: of (state, estimate at the predicted state, estimates from the newest on); None without a corrector.
    """

    k: int
    noise: Combination
    predicted: Combination | None
    draws: bool = False
    noise_end: Combination | None = None
    corrected: Combination | None = None

    def cast(self, dtype: torch.dtype, device: torch.device | str) -> Row:
        """The same row, ready for states of this type and device."""
        own = (self.noise, self.predicted, self.noise_end, self.corrected)
        noise, predicted, noise_end, corrected = (part and part.cast(dtype, device) for part in own)
        return Row(self.k, noise, predicted, self.draws, noise_end, corrected)


class GDDIM(Stepper):
    """gDDIM of any order, with or without corrector, deterministic or stochastic.

    Args:
        order: convergence order, 1 to 4 (the paper's q; the polynomial degree is one less). The first steps know fewer
            estimates and use lower orders, on the real nodes.
        lam: stochasticity lambda >= 0; 0 is the probability flow, 1 the reverse process. Only with order 1.
        corrector: convergence order of the corrector, 2 to 4; None for none.
        factor: K in which the estimates are held over a step: "R", or "cholesky" for the paper's comparison.

    Raises:
        ConfigError: for values out of range or that exclude each other.
    """

    needs = frozenset({"noise"})

    def __init__(
        self, order: int = 2, lam: float = 0.0, corrector: int | None = None, factor: FactorKind = "R"
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
        self.order = order
        self.lam = lam
        self.corrector = corrector
        self.factor: FactorKind = factor

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
        transition, fresh = process.transition(t, s), None
        if self.lam == 0.0:
            predictor = coefficients(process, times, 0, self.order - 1, self.factor)
        else:
            y = contraction(process, s, t, self.lam)
            predictor = [process.factor(t, "R") @ y - transition @ process.factor(s, "R")]  # Psihat R_s = R_t Y
            fresh = noise_factor(process, t, y)
        corrector = [] if self.corrector is None else coefficients(process, times, 1, self.corrector - 1, self.factor)
        turn = None if self.factor == "R" else process.factor(times, self.factor).inverse() @ process.factor(times)
        return Plan(n, transition, predictor, corrector, fresh, turn, last)

    def bind(self, plan: Plan, form: Form) -> Sequence[Row]:
        rows = [self._row(plan, form, k) for k in range(plan.n)]
        if plan.last == "data" and plan.corrector:  # the last evaluation is that of the predicted state
            same = Combination({1: plan.transition.identity()[plan.n - 1]})
            rows[-1] = replace(rows[-1], noise_end=form.data[plan.n], corrected=same)
        elif plan.last == "data":
            rows[-1] = Row(plan.n - 1, form.data[plan.n - 1], None)
        return rows

    def _row(self, plan: Plan, form: Form, k: int) -> Row:
        terms = {0: plan.transition[k]}
        predicted = terms | {1 + j: c[k] for j, c in enumerate(plan.predictor) if j <= k}
        draws = plan.fresh is not None and not plan.fresh[k].is_zero()
        if draws:
            predicted[1 + len(plan.predictor)] = plan.fresh[k]  # type: ignore[index]
        if not plan.corrector:
            return Row(k, _estimate(plan, form, k), Combination(predicted), draws)
        corrected = terms | {1 + j: c[k] for j, c in enumerate(plan.corrector) if j <= k + 1}
        ends = _estimate(plan, form, k + 1), Combination(corrected)
        return Row(k, _estimate(plan, form, k), Combination(predicted), draws, *ends)

    def step(self, u: Tensor, row: Row, evaluate: Evaluate, draw: Draw, carry: Carry) -> Tensor:
        noise = row.noise(evaluate(u, row.k).parts)
        if row.predicted is None:
            return noise
        carry.insert(0, noise)
        del carry[self.min_steps :]
        predicted = row.predicted((u, *carry, draw()) if row.draws else (u, *carry))
        if row.noise_end is None or row.corrected is None:
            return predicted
        there = row.noise_end(evaluate(predicted, row.k + 1).parts)
        return row.corrected((u, there, *carry))


def _estimate(plan: Plan, form: Form, k: int) -> Combination:
    """The noise estimate in the plan's factor, of the parts at time k."""
    return form.noise[k] if plan.turn is None else form.noise[k].after(plan.turn[k])
