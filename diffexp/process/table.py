"""Discrete schedules as processes in continuous time: a table of signal levels, joined by straight lines.

Time is a fractional index into the table. Index i in 0 .. T - 1 has alpha_i^2 = prod_{j <= i} (1 - beta_j) (Ho et al.
2020, section 2), so index 0 has noise already; the clean data are at t = -1. Between entries alpha is linear in t: that
is the map from noise levels to indices of BDDM's released code (Lam et al. 2022).
"""

from __future__ import annotations

import torch
from torch import Tensor

from diffexp.core.errors import ConfigError
from diffexp.process.base import FactorKind
from diffexp.process.operator import Scalar
from diffexp.process.scalar import ScalarProcess


class Table(ScalarProcess):
    """Variance preserving on t in [-1, T - 1] with alpha piecewise linear; 1 - alpha keeps its digits near the data.

    Drift and diffusion are those of the straight lines: constant slope -alpha' within an interval, and at an entry the
    slope of the interval towards the noise (at the last one, towards the data).

    Args:
        betas: float64 (T,), each in (0, 1).

    Attributes:
        num_steps: T.
        betas: the table's steps, (T,).
        alphas: its signal levels, (T,).

    Raises:
        ConfigError: for an empty table or a beta out of range.
    """

    variance_preserving = True
    t_data = -1.0

    def __init__(self, betas: Tensor) -> None:
        if len(betas) < 1 or not bool(((betas > 0.0) & (betas < 1.0)).all()):
            raise ConfigError("process: a table needs at least one beta, each between 0 and 1")
        self.num_steps = len(betas)
        self.t_max = float(self.num_steps - 1)
        self.betas = betas
        log_step = 0.5 * torch.log1p(-betas)
        log_alpha = torch.cat([torch.zeros(1, dtype=torch.float64), log_step.cumsum(0)])
        self._alpha, self._delta = log_alpha.exp(), -torch.expm1(log_alpha)  # at t = -1, 0, .., T - 1
        self._slope = -self._alpha[:-1] * torch.expm1(log_step)
        self.alphas = self._alpha[1:]

    def _interval(self, t: Tensor) -> Tensor:
        """k with t in [k - 1, k)."""
        return (t + 1.0).floor().clamp(0, self.num_steps - 1).long()

    def _interpolated(self, levels: Tensor, t: Tensor) -> Tensor:
        k = self._interval(t)
        return torch.lerp(levels[k], levels[k + 1], t + 1.0 - k)

    def _level(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """(alpha, 1 - alpha), each with its own digits."""
        return self._interpolated(self._alpha, t), self._interpolated(self._delta, t)

    def signal(self, t: Tensor) -> Scalar:
        return Scalar(self._level(t)[0])

    def factor(self, t: Tensor, kind: FactorKind | None = None) -> Scalar:
        delta = self._level(t)[1]
        return Scalar((delta * (2.0 - delta)).sqrt())

    def transition(self, t: Tensor, s: Tensor) -> Scalar:
        return Scalar(self._level(t)[0] / self._level(s)[0])

    def log_alpha(self, t: Tensor) -> Tensor:
        alpha, delta = self._level(t)
        return torch.where(delta < 0.5, torch.log1p(-delta), alpha.log())

    def log_sigma(self, t: Tensor) -> Tensor:
        alpha, delta = self._level(t)
        return 0.5 * torch.where(delta < 0.5, (delta * (2.0 - delta)).log(), torch.log1p(-(alpha**2)))

    def log_alpha_rate(self, t: Tensor) -> Tensor:
        return -self._slope[self._interval(t)] / self._level(t)[0]

    def variance_rate(self, t: Tensor) -> Tensor:
        return 2.0 * self._slope[self._interval(t)] * self._level(t)[0]

    def diffusion(self, t: Tensor) -> Scalar:
        return Scalar((2.0 * self._slope[self._interval(t)] / self._level(t)[0]).sqrt())

    def time_of(self, alpha: Tensor) -> Tensor:
        """The fractional index of a signal level, exact at the table's own levels; -1 for alpha = 1."""
        return self._where_reached(self._alpha, torch.as_tensor(alpha, dtype=torch.float64), -1.0)

    def time_of_log_snr(self, log_snr: Tensor) -> Tensor:
        log_snr = torch.as_tensor(log_snr, dtype=torch.float64)
        alpha = torch.sigmoid(log_snr).sqrt()
        delta = torch.sigmoid(-log_snr) / (1.0 + alpha)
        return torch.where(delta < 0.5, self._where_reached(self._delta, delta, 1.0), self.time_of(alpha))

    def _where_reached(self, levels: Tensor, wanted: Tensor, sign: float) -> Tensor:
        """The time at which the straight lines through `levels` (rising with `sign`) reach the wanted values."""
        k = torch.searchsorted(sign * levels, (sign * wanted).contiguous(), right=True) - 1
        k = k.clamp(0, self.num_steps - 1)
        share = (wanted - levels[k]) / (levels[k + 1] - levels[k])
        return self._within(k - 1.0 + share)

    def index(self, t: Tensor) -> Tensor:
        return t.clamp(0.0, self.t_max)
