"""Processes diagonal in the cosine basis: times and states to try them on, and Gaussian data in closed form."""

from __future__ import annotations

import torch
from torch import Tensor

from diffexp.core import random
from diffexp.prediction.conditions import Conditions
from diffexp.prediction.oracle.base import Oracle
from diffexp.process.base import Marginal, Process
from diffexp.process.blurring import Blurring
from diffexp.process.dct import DCT
from diffexp.process.diagonal import Diagonal
from diffexp.process.operator import Operator

Ready = tuple[Operator, Operator, Operator]
T = torch.tensor([1e-5, 0.0313, 0.2, 0.45, 0.71, 0.93, 0.99], dtype=torch.float64)
SHAPE = (2, 5, 8)
START = random.normal(0, "test/start", range(3), SHAPE)


def values(operator: Operator, process: Blurring) -> Tensor:
    """(n, H, W): an operator's numbers for each frequency."""
    return (operator @ process.damping(T[0]).identity()).values


def close(got: Tensor, wanted: Tensor, rtol: float = 1e-12, atol: float = 0.0) -> None:
    torch.testing.assert_close(got, wanted.expand_as(got), rtol=rtol, atol=atol)


class Spectral(Oracle):
    """x0 with N(mean_f, std_f^2) at each frequency f, the same for every channel.

    E[e | u] = L^T V^-1 (u - A m) and E[x0 | u] = m + S^2 A^T V^-1 (u - A m), V = A S^2 A^T + L L^T.

    Args:
        process: any process whose operators are numbers or diagonal in the basis.
        mean, std: float64 (H, W), of the frequencies.
    """

    def __init__(self, process: Process, mean: Tensor, std: Tensor) -> None:
        super().__init__(process)
        self.mean, self.spread = DCT().backward(mean), Diagonal(std).covariance()

    def _variance(self, law: Marginal) -> Operator:
        return law.signal.covariance() @ self.spread + law.factor.covariance()

    def ready(self, marginal: Marginal) -> Ready:
        inverse = self._variance(marginal).inverse()
        return marginal.signal, self.spread @ marginal.signal @ inverse, marginal.factor @ inverse

    def estimate(self, u: Tensor, ready: Ready, conditions: Conditions) -> tuple[Tensor, Tensor]:
        signal, data, noise = ready
        off = u - signal.apply(self.mean.expand_as(u))
        return self.mean + data.apply(off), noise.apply(off)

    def flow(self, u: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """The probability flow from time t to time s: distances from the mean grow as the standard deviations do."""
        here, there = self.process.marginal(t), self.process.marginal(s)
        grown = self._variance(there).factor() @ self._variance(here).factor().inverse()
        mean = self.mean.expand_as(u)
        return there.signal.apply(mean) + grown.apply(u - here.signal.apply(mean))
