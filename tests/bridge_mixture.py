"""A bridge between numbers of which everything is known: x0 given y is a mixture of Gaussians, pixel by pixel.

    x0 | y ~ sum_k w_k N(slope_k y + offset_k, std_k^2)

Its posterior mean is a closed form. In one dimension the probability flow keeps quantiles, so that its solution is the
root of F_r(x_r) = F_t(x_t) with the distribution function F of the state given y.
"""

from __future__ import annotations

import torch
from torch import Tensor

from diffexp.prediction.conditions import Conditions
from diffexp.prediction.oracle.base import Oracle
from diffexp.process.base import Marginal, Process

_HALVINGS = 200


class BridgeMixture(Oracle):
    """The exact denoiser of the mixture; numbers are (K,) tensors."""

    def __init__(self, process: Process, weights: Tensor, slopes: Tensor, offsets: Tensor, stds: Tensor) -> None:
        super().__init__(process)
        self.weights = weights / weights.sum()
        self.slopes, self.offsets, self.stds = slopes, offsets, stds

    def law(self, t: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Means and standard deviations of the state's components at time t, () or (B,), along a new last axis."""
        a, b, c = (operator.value for operator in self._operators(t))
        a, b, c = (number.reshape(-1, *[1] * y.ndim) for number in (a, b, c))
        means = b * self.centres(y) + a * y[..., None]
        return means, (b.square() * self.stds.square() + c.square()).sqrt().expand_as(means)

    def centres(self, y: Tensor) -> Tensor:
        """The components' means given y, along a new last axis."""
        return self.slopes * y[..., None] + self.offsets

    def _operators(self, t: Tensor) -> tuple:
        law = self.process.marginal(t)
        return law.auxiliary, law.signal, law.factor

    def ready(self, marginal: Marginal) -> Tensor:
        return marginal.t

    def estimate(self, u: Tensor, ready: Tensor, conditions: Conditions) -> tuple[Tensor, Tensor]:
        y = conditions.endpoint
        assert y is not None
        data = self.posterior_mean(u, ready, y.to(u.dtype))
        law = self.process.marginal(ready)
        noise = law.factor.inverse().apply(u - law.perturb(data, torch.zeros_like(u), y))
        return data, noise

    def posterior(self, u: Tensor, t: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(shares, means, variances) of x0's components given the state and y, along a new last axis."""
        _, b, c = (operator.value.reshape(-1, *[1] * u.ndim) for operator in self._operators(t))
        means, stds = self.law(t, y)
        off = u[..., None] - means
        shares = torch.softmax(self.weights.log() - stds.log() - 0.5 * (off / stds).square(), dim=-1)
        gain = b * self.stds.square() / stds.square()
        variances = (self.stds * c / stds).square()
        return shares, self.centres(y) + gain * off, variances.expand_as(shares)

    def posterior_mean(self, u: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """E[x0 | u, y]; at the end point, where the state says nothing, E[x0 | y]."""
        if bool((t >= self.process.t_max).all()):
            return (self.weights * self.centres(y)).sum(-1)
        shares, means, _ = self.posterior(u, t, y)
        return (shares * means).sum(-1)

    def tails(self, u: Tensor, t: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """(F, 1 - F) at the state, each without cancellation."""
        means, stds = self.law(t, y)
        z = (u[..., None] - means) / stds
        return tuple((self.weights * torch.special.ndtr(sign * z)).sum(-1) for sign in (1.0, -1.0))  # type: ignore[return-value]

    def flow(self, u: Tensor, t: Tensor, r: Tensor, y: Tensor) -> Tensor:
        """The probability flow's solution at time r through the states u at time t, both () or (B,)."""
        below, above = self.tails(u, t, y)
        means, stds = self.law(r, y)
        low, high = (means - 12.0 * stds).amin(-1), (means + 12.0 * stds).amax(-1)
        low, high = low.expand_as(u).clone(), high.expand_as(u).clone()
        for _ in range(_HALVINGS):
            middle = 0.5 * (low + high)
            p, q = self.tails(middle, r, y)
            short = torch.where(below < 0.5, p < below, q > above)
            low, high = torch.where(short, middle, low), torch.where(short, high, middle)
        return 0.5 * (low + high)
