"""DBIM (Zheng et al. 2025): DDIM for bridges. One step leaves the end point y with fresh noise; then, for s < t,

    x_s = k x_t + (b_s - k b_t) x^ + (a_s - k a_t) y + omega z,   k = sqrt(c_s^2 - omega^2) / c_t,
    omega = eta alpha_s rho_s sqrt(1 - rho_s^2 / rho_t^2)                                          (eq. 11, 15 and 18)

with eta in [0, 1]: 0 is deterministic, the exponential Euler step of the probability flow (CDBM, eq. 16), 1 the
Markovian step, in which y has no part. The last step keeps k and leaves its noise out (official code).

Orders 2 and 3 (eta = 0, appendices D and E) extrapolate x^ in lambda = log(b / c) over the last two or three times:

    x_s = (c_s / c_t) x_t + (a_s - c_s / c_t a_t) y
          + b_s [(1 - e^-h) x^ + (e^-h + h - 1) x^' + (h^2 / 2 - h + 1 - e^-h) x^''],   h = lambda_s - lambda_t
"""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import torch
from torch import Tensor

from diffexp.core.errors import ConfigError
from diffexp.process.base import Process
from diffexp.process.bridge import Bridge
from diffexp.process.operator import Scalar
from diffexp.sampler.grid import Last
from diffexp.sampler.linear import Coefficients, LinearStepper

MAX_ORDER = 3


class DBIM(LinearStepper):
    """DBIM's steps of any eta, or of order 2 and 3; the first one is the step from the end point.

    Args:
        eta: share of the posterior's standard deviation that is drawn, in [0, 1]; above 0 only with order 1.
        order: 1 to 3, estimates that a step uses. The first steps behind the end point know fewer and use lower orders.
        lower_order_final: with order 2 and 3, the last step is of order 1.

    Raises:
        ConfigError: for values out of range or that exclude each other.
    """

    needs = frozenset({"data"})
    endpoint = True

    def __init__(self, eta: float = 0.0, order: int = 1, lower_order_final: bool = True) -> None:
        where = "sampler.stepper"
        if not 0.0 <= eta <= 1.0:
            raise ConfigError(f"{where}.eta={eta}: must be between 0 (deterministic) and 1 (Markovian)")
        if not 1 <= order <= MAX_ORDER:
            raise ConfigError(f"{where}.order={order}: must be between 1 and {MAX_ORDER}")
        if order > 1 and eta > 0.0:
            raise ConfigError(f"{where}.order={order}: is deterministic; set {where}.eta=0, or {where}.order=1")
        self.eta = eta
        self.order = order
        self.lower_order_final = lower_order_final

    @property
    def min_steps(self) -> int:  # type: ignore[override]
        """The step from the end point, and as many as the order: fewer would never reach it."""
        return 1 + self.order

    def check(self, process: Process, times: Tensor) -> None:
        if float(times[0]) < process.t_max:
            raise ConfigError(
                f"sampler dbim: starts at the end point, t = {process.t_max:g}, but the grid at {float(times[0]):g}: "
                "use grid=bridge"
            )

    def coefficients(self, process: Process, t: Tensor, s: Tensor) -> Coefficients:
        """The steps of order 1; fresh noise also in the last one. From the end point all noise is fresh."""
        bridge = cast(Bridge, process)
        (a_t, b_t, c_t), (a_s, b_s, c_s) = bridge.abc(t), bridge.abc(s)
        mean, fresh = (operator.value for operator in bridge.posterior(t, s))
        leaving = t >= process.t_max
        omega = torch.where(leaving, c_s, self.eta * fresh)
        # c_s^2 - omega^2 in a form free of cancellation.
        kept = (mean.square() + (1.0 - self.eta**2) * fresh.square()).sqrt()
        k = torch.where(leaving, 0.0, kept / c_t)
        return Coefficients(
            state=Scalar(k), data=Scalar(b_s - k * b_t), second=Scalar(a_s - k * a_t), fresh=Scalar(omega)
        )

    def plan(self, process: Process, times: Tensor, last: Last) -> Coefficients:
        first = self.coefficients(process, times[:-1], times[1:])
        silent = torch.ones(len(times) - 1, dtype=torch.float64)
        silent[-1] = 0.0
        plan = replace(first, fresh=silent * cast(Scalar, first.fresh), last=last)
        return plan if self.order == 1 else self._with_memory(process, times, plan)

    def _with_memory(self, process: Process, times: Tensor, plan: Coefficients) -> Coefficients:
        """The plan with the data estimates of earlier steps; that at the end point is not among them."""
        clock, n = 0.5 * process.log_snr(times), len(times) - 1
        data, past = cast(Scalar, plan.data).value.clone(), torch.zeros(self.order - 1, n, dtype=torch.float64)
        level = cast(Bridge, process).abc(times)[1]
        start = int(float(times[0]) >= process.t_max)
        for k in range(start + 1, n):
            order = 1 if k == n - 1 and self.lower_order_final else min(self.order, k - start + 1)
            if order > 1:
                data[k], past[: order - 1, k] = _extrapolation(clock[k + 1 - order : k + 2], level[k + 1])
        if not bool(torch.isfinite(past).all() & torch.isfinite(data).all()):
            raise ConfigError(
                f"sampler.stepper.order={self.order}: two times of {n} steps have the same noise, or the last has "
                "none: use fewer steps, a later grid.t_end, or order=1"
            )
        return replace(plan, data=Scalar(data), past=tuple(Scalar(row) for row in past))


def _extrapolation(clock: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
    """The coefficients of the estimate at the step's first time, (), and of those before it, the newest first.

    Args:
        clock: lambda at the times of all estimates, in their order, and at the step's end, (order + 1,).
        level: b at the step's end.
    """
    h = clock[-1] - clock[-2]
    zeroth, first = -torch.expm1(-h), torch.expm1(-h) + h
    newest = clock[-2] - clock[-3]
    if len(clock) == 3:  # of two estimates, the difference is the derivative
        slope = first / newest
        return level * (zeroth + slope), -level * slope[None]
    second = 0.5 * h.square() - first
    older = clock[-3] - clock[-4]
    both = newest + older
    near = (first * (2.0 * newest + older) + 2.0 * second) / (both * newest)
    far = -(first * newest + 2.0 * second) / (both * older)
    return level * (zeroth + near), level * torch.stack([far - near, -far])
