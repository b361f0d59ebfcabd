"""DDBM's hybrid sampler (Zhou et al. 2024, algorithm 1): a little of the reverse process, then Heun on the flow.

Each interval [t, s] is cut at t^ = t + churn (s - t). To t^ goes one Euler-Maruyama step of the reverse process, from
there a Heun step of the probability flow to s:

    dx = [f x - g^2 (score - w' h)] dt + g dw,     dx = [f x - g^2 (score / 2 - w h)] dt,

score = -(x - a y - b x^) / c^2 and h the h-transform. It starts from y itself, just before the end point, where both
are infinite; the last step is Euler's, because c = 0 at the data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor

from diffexp.core.errors import ConfigError
from diffexp.prediction.form import Form
from diffexp.process.base import Process
from diffexp.process.bridge import Bridge
from diffexp.process.combination import Combination
from diffexp.process.operator import Operator
from diffexp.sampler.grid import Last
from diffexp.sampler.stepper import Carry, Draw, Evaluate, Stepper


@dataclass(frozen=True)
class Plan:
    """Coefficients at the visited times, and lengths of n steps.

    Attributes:
        drift, noise: f and g^2.
        pull_state, pull_end: g^2 h as coefficients of the state and of y.
        weights: (w, w').
        length, churned: of the flow's steps and of those with noise, (n,), negative.
        last: as in `Grid`.
    """

    drift: Operator
    noise: Operator
    pull_state: Operator
    pull_end: Operator
    weights: tuple[float, float]
    length: Tensor
    churned: Tensor
    last: Last

    def slope(self, form: Form, share: float, weight: float) -> Combination:
        """f x - g^2 (share score - weight h) of the parts at the visited times."""
        pull = form.state(weight * self.pull_state) + form.second(weight * self.pull_end)
        return form.state(self.drift) - form.score.after(share * self.noise) + pull


@dataclass(frozen=True)
class Row:
    """One step.

    Attributes:
        k: index of the first visited time of the flow's step.
        churned: the state after the step with noise, of the parts one visit before k, and fresh noise; None without.
        predicted: Euler's step, of the parts at k.
        corrected: Heun's, of the parts at k and behind them those at k + 1; None for Euler's.
    """

    k: int
    churned: Combination | None
    predicted: Combination
    corrected: Combination | None

    def cast(self, dtype: torch.dtype, device: torch.device | str) -> Row:
        """The same row, ready for states of this type and device."""
        own = (self.churned, self.predicted, self.corrected)
        return Row(self.k, *(part and part.cast(dtype, device) for part in own))  # type: ignore[arg-type]


class DDBMHeun(Stepper):
    """The hybrid sampler: n steps cost 3 n - 1 evaluations, 2 n - 1 without churn.

    Args:
        churn: share of each step that goes with noise, in [0, 1) (0.33 as published).
        w: weight of the h-transform in the flow (1 is the bridge's own); what it does to the reverse process and on
            variance exploding bridges is that of DDBM's code, see `Bridge.h_weights`.
        final: "euler" as published, or "heun", one evaluation more, for grids that end before the data.

    Raises:
        ConfigError: for a churn out of range.
    """

    needs = frozenset({"data"})
    endpoint = True

    def __init__(self, churn: float = 0.33, w: float = 1.0, final: Literal["euler", "heun"] = "euler") -> None:
        if not 0.0 <= churn < 1.0:
            raise ConfigError(f"sampler.stepper.churn={churn}: must lie in [0, 1); 0 is the probability flow")
        self.churn = churn
        self.w = w
        self.final: Literal["euler", "heun"] = final

    @property
    def visits(self) -> int:
        """Visited times of one step, but for its end."""
        return 2 if self.churn > 0.0 else 1

    def check(self, process: Process, times: Tensor) -> None:
        if not float(times[0]) < process.t_max:
            raise ConfigError(
                f"sampler ddbm_heun: the drift is infinite at the end point, t = {process.t_max:g}, where the grid "
                "starts: use grid=bridge_karras"
            )
        if self.final == "heun" and not float(times[-1]) > process.t_data:
            raise ConfigError("sampler.stepper.final=heun: the score is infinite at the data: use euler, or grid.t_end")

    def evaluations(self, n: int) -> int:
        return (self.visits + 1) * n - (self.final == "euler")

    def visited(self, times: Tensor) -> Tensor:
        t, s = times[:-1], times[1:]
        inner = t[:, None] if self.visits == 1 else torch.stack([t, t + self.churn * (s - t)], dim=1)
        return inner.flatten() if self.final == "euler" else torch.cat([inner.flatten(), times[-1:]])

    def plan(self, process: Process, times: Tensor, last: Last) -> Plan:
        bridge, places, whole = cast(Bridge, process), self.visited(times), times[1:] - times[:-1]
        middle = times[:-1] + self.churn * whole if self.churn > 0.0 else times[:-1]
        noise, (state, end) = bridge.diffusion(places).covariance(), bridge.h_transform(places)
        return Plan(
            bridge.reference_drift(places), noise, noise @ state, noise @ end, bridge.h_weights(self.w),
            times[1:] - middle, middle - times[:-1], last,
        )  # fmt: skip

    def bind(self, plan: Plan, form: Form) -> Sequence[Row]:
        flow = plan.slope(form, 0.5, plan.weights[0])
        reverse = plan.slope(form, 1.0, plan.weights[1]) if self.churn > 0.0 else None
        rows = []
        for step, (h, churned) in enumerate(zip(plan.length.tolist(), plan.churned.tolist(), strict=True)):
            k = self.visits * (step + 1) - 1
            here = form.state()[k]
            mixed = None
            if reverse is not None:
                fresh = ((-churned) * plan.noise[k - 1]).factor()
                mixed = here + _times(churned, reverse[k - 1]) + Combination({form.parts: fresh})
            corrected = None
            if step < len(plan.length) - 1 or self.final == "heun":
                corrected = here + _times(0.5 * h, flow[k]) + _times(0.5 * h, flow[k + 1]).shifted(form.parts)
            rows.append(Row(k, mixed, here + _times(h, flow[k]), corrected))
        if plan.last == "data":
            rows[-1] = self._ending(rows[-1], form)
        return rows

    def _ending(self, row: Row, form: Form) -> Row:
        """The last row, which hands over the data estimate of its last evaluation."""
        if row.corrected is None:
            return Row(row.k, row.churned, form.data[row.k], None)
        return Row(row.k, row.churned, row.predicted, form.data[row.k + 1].shifted(form.parts))

    def step(self, u: Tensor, row: Row, evaluate: Evaluate, draw: Draw, carry: Carry) -> Tensor:
        if row.churned is not None:
            u = row.churned((*evaluate(u, row.k - 1).parts, draw()))
        here = evaluate(u, row.k).parts
        predicted = row.predicted(here)
        if row.corrected is None:
            return predicted
        return row.corrected((*here, *evaluate(predicted, row.k + 1).parts))


def _times(number: float, combination: Combination) -> Combination:
    return combination.map(lambda operator: number * operator)
