"""Variance exploding processes: the signal stays, the noise grows (Song et al. 2021; Karras et al. 2022)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from diffexp.core.errors import ConfigError
from diffexp.process.scalar import ScalarProcess


class Exploding(ScalarProcess):
    """alpha = 1: no drift. Sampling starts from N(0, sigma^2) at the first time of the grid."""

    def log_alpha(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def log_alpha_rate(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)


class VE(Exploding):
    """sigma_t = sigma_min (sigma_max / sigma_min)^t, t in [0, 1] (Song et al. 2021, appendix C).

    At t = 0 noise of sigma_min is left: the state is never free of noise.

    Args:
        sigma_min: standard deviation at t = 0, > 0, in units of the data.
        sigma_max: standard deviation at t = 1, about the largest distance between images.

    Raises:
        ConfigError: unless 0 < sigma_min < sigma_max.
    """

    name = "ve"

    def __init__(self, sigma_min: float = 0.01, sigma_max: float = 50.0) -> None:
        if not 0.0 < sigma_min < sigma_max:
            raise ConfigError(f"process: needs 0 < sigma_min < sigma_max, got {sigma_min} and {sigma_max}")
        self.sigma_min = float(sigma_min)
        self.sigma_max = float(sigma_max)
        self._start = math.log(self.sigma_min)
        self._rate = math.log(self.sigma_max / self.sigma_min)

    def log_sigma(self, t: Tensor) -> Tensor:
        return self._start + self._rate * t

    def variance_rate(self, t: Tensor) -> Tensor:
        return 2.0 * self._rate * (2.0 * self.log_sigma(t)).exp()

    def time_of_log_snr(self, log_snr: Tensor) -> Tensor:
        log_sigma = -0.5 * torch.as_tensor(log_snr, dtype=torch.float64)
        return self._within((log_sigma - self._start) / self._rate)


class EDM(Exploding):
    """sigma_t = t, t in [0, sigma_max] (Karras et al. 2022, table 1, "ours"): time is the noise level itself.

    Args:
        sigma_max: the time of the prior.

    Raises:
        ConfigError: unless sigma_max > 0.
    """

    name = "edm"

    def __init__(self, sigma_max: float = 80.0) -> None:
        if not sigma_max > 0.0:
            raise ConfigError(f"process.sigma_max={sigma_max}: must be > 0")
        self.sigma_max = self.t_max = float(sigma_max)

    def log_sigma(self, t: Tensor) -> Tensor:
        return t.log()

    def variance_rate(self, t: Tensor) -> Tensor:
        return 2.0 * t

    def time_of_log_snr(self, log_snr: Tensor) -> Tensor:
        return self._within((-0.5 * torch.as_tensor(log_snr, dtype=torch.float64)).exp())
