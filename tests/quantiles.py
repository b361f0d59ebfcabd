"""The probability flow of a bridge in one dimension, exactly: it keeps the quantile of every point.

For x0 | y ~ sum_k w_k N(m_k + q_k y, s_k^2) the state of a bridge has at each time the law
sum_k w_k N(a y + b (m_k + q_k y), S_k^2), S_k^2 = b^2 s_k^2 + c^2; a point x_t goes where F_s(x_s) = F_t(x_t).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diffexp.prediction.conditions import Conditions
from diffexp.prediction.denoiser import Denoiser
from diffexp.prediction.oracle.mixture import Mixture
from diffexp.process.bridge import Bridge
from diffexp.sampler.stepper import Stepper

_HALVINGS = 100


@dataclass(frozen=True)
class Flow:
    """A bridge and a mixture, by numbers for each component.

    Attributes:
        process: the bridge.
        weights, means, slopes, stds: float64 (K,).
    """

    process: Bridge
    weights: Tensor
    means: Tensor
    slopes: Tensor
    stds: Tensor

    def oracle(self) -> Mixture:
        """The exact denoiser."""
        return Mixture(self.process, self.weights, self.means, self.stds, slopes=self.slopes)

    def law(self, t: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """(centres (K, *), S (K, 1 ...)) of the components at one time, for end points y."""
        a, b, c = self.process.abc(t)
        shape = (-1, *[1] * y.ndim)
        means, slopes, stds = (values.reshape(shape) for values in (self.means, self.slopes, self.stds))
        return a * y + b * (means + slopes * y), (b.square() * stds.square() + c.square()).sqrt()

    def tails(self, x: Tensor, t: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """(log F(x), log (1 - F(x)))."""
        centres, spread = self.law(t, y)
        share = (self.weights / self.weights.sum()).log().reshape(-1, *[1] * y.ndim)
        z = (x - centres) / spread
        below, above = (torch.logsumexp(share + torch.special.log_ndtr(side), dim=0) for side in (z, -z))
        return below, above

    def moved(self, x: Tensor, t: Tensor, s: Tensor, y: Tensor) -> Tensor:
        """Where points x at time t are at time s; by bisection, on the tail that is the smaller one."""
        below, above = self.tails(x, t, y)
        lower = below < above
        centres, spread = self.law(s, y)
        low, high = (centres - 50.0 * spread).amin(0), (centres + 50.0 * spread).amax(0)
        for _ in range(_HALVINGS):
            middle = 0.5 * (low + high)
            there = self.tails(middle, s, y)
            left = torch.where(lower, there[0] < below, there[1] > above)  # still left of the quantile
            low, high = torch.where(left, middle, low), torch.where(left, high, middle)
        return 0.5 * (low + high)


def walked(
    stepper: Stepper,
    denoiser: Denoiser,
    times: Tensor,
    u: Tensor,
    conditions: Conditions,
    noise: Sequence[Tensor] = (),
) -> Tensor:
    """The state at the end of a run between the `times` (n + 1,) from the state `u` (B, *) at the first of them."""
    process, visited = denoiser.process, stepper.visited(times)
    plan = stepper.plan(process, times, "state")
    rows = stepper.bind(plan, denoiser.form(process.marginal(visited)))
    points, carry = denoiser.prepare(visited, u.dtype, "cpu"), []
    for k, row in enumerate(rows):
        u = stepper.step(
            u, row, lambda state, place: denoiser(state, points[place], conditions), lambda j=0, k=k: noise[k], carry
        )
    return u
