"""Exact laws of one number under a process, and how far samples are from them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from diffexp.core import random
from diffexp.process.base import Process

_TABLE = 400_001  # points at which a distribution function is tabulated before it is inverted


@dataclass(frozen=True)
class Law:
    """A mixture of Gaussians on the line: float64 (K,) each."""

    weights: Tensor
    means: Tensor
    stds: Tensor

    def quantiles(self, n: int) -> Tensor:
        """The quantiles at (i + 1/2) / n, (n,)."""
        low = float((self.means - 9.0 * self.stds).min())
        high = float((self.means + 9.0 * self.stds).max())
        x = torch.linspace(low, high, _TABLE, dtype=torch.float64)
        below = torch.special.ndtr((x[:, None] - self.means) / self.stds) @ self.weights
        levels = (torch.arange(n, dtype=torch.float64) + 0.5) / n
        right = torch.searchsorted(below, levels).clamp(1, _TABLE - 1)
        share = (levels - below[right - 1]) / (below[right] - below[right - 1])
        return x[right - 1] + share * (x[right] - x[right - 1])

    def draw(self, n: int, seed: int) -> Tensor:
        """n independent numbers."""
        place, value = random.normal(seed, "oracle/law", range(2), (n,)).double()
        which = torch.bucketize(torch.special.ndtr(place), self.weights.cumsum(0)[:-1])
        return self.means[which] + self.stds[which] * value

    def distance(self, samples: Tensor) -> float:
        """The Wasserstein-1 distance between the samples' law and this one."""
        values = samples.flatten().double()
        return float((values.sort().values - self.quantiles(len(values))).abs().mean())

    def floor(self, n: int, repeats: int = 5) -> float:
        """The distance of n exact samples: what Monte Carlo alone leaves, a mean over repeats."""
        return sum(self.distance(self.draw(n, seed)) for seed in range(repeats)) / repeats


def pixel_law(process: Process, weights: list[float], means: list[float], stds: list[float], t: float) -> Law:
    """The exact law of a pixel's position at time t, for data that are a mixture in every pixel."""
    at = process.marginal(torch.tensor(t, dtype=torch.float64))
    one = process.lift(torch.ones(1, 1, 1, 1, dtype=torch.float64))
    gain = process.readout(at.signal.apply(one)).flatten()
    noise = process.readout(at.factor.covariance().apply(one)).flatten()
    share, centre, spread = (torch.tensor(values, dtype=torch.float64) for values in (weights, means, stds))
    return Law(share / share.sum(), gain * centre, ((gain * spread) ** 2 + noise).sqrt())
