"""Bridges of the schedules in closed form: variance preserving, variance exploding, Brownian (CDBM, table 1)."""

from __future__ import annotations

import torch
from torch import Tensor

from diffexp.core.errors import ConfigError
from diffexp.process.bridge import Bridge


class BridgeVP(Bridge):
    """The bridge of dx = -beta x / 2 dt + sqrt(beta) dw, beta(t) = beta_min + beta_d t (DDBM-VP).

    log alpha = -B / 2 and rho^2 = exp(B) - 1 with B_t = beta_min t + beta_d t^2 / 2.

    Args:
        beta_min: beta at t = 0, >= 0.
        beta_d: slope of beta, >= 0 (0.1 and 2 in DDBM, DBIM and CDBM).
        t_min, t_max: see `Bridge`.

    Raises:
        ConfigError: for betas that are negative, or both zero.
    """

    name = "bridge_vp"

    def __init__(self, beta_min: float = 0.1, beta_d: float = 2.0, t_min: float = 1e-4, t_max: float = 1.0) -> None:
        super().__init__(t_min, t_max)
        if not (beta_min >= 0.0 and beta_d >= 0.0 and beta_min + beta_d > 0.0):
            raise ConfigError(f"process: needs beta_min >= 0 and beta_d >= 0, not both 0, got {beta_min} and {beta_d}")
        self.beta_min = float(beta_min)
        self.beta_d = float(beta_d)

    def _between(self, t: Tensor, s: Tensor) -> Tensor:
        """B_t - B_s."""
        return (t - s) * (self.beta_min + 0.5 * self.beta_d * (t + s))

    def log_alpha(self, t: Tensor) -> Tensor:
        return -0.5 * self._between(t, torch.zeros_like(t))

    def log_alpha_rate(self, t: Tensor) -> Tensor:
        return -0.5 * self.reference_noise_rate(t)

    def reference_noise_rate(self, t: Tensor) -> Tensor:
        return self.beta_min + self.beta_d * t

    def gained(self, t: Tensor, s: Tensor) -> Tensor:
        return torch.expm1(self._between(t, s)) * (-2.0 * self.log_alpha(s)).exp()


class _Driftless(Bridge):
    """f = 0, so that a + b = 1."""

    def log_alpha(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def log_alpha_rate(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)


class BridgeVE(_Driftless):
    """The bridge of dx = sqrt(2 t) dw (DDBM-VE): rho_t = t, T = sigma_max.

    Args:
        sigma_max: T, > 0 (80, or 20 for DIODE).
        t_min: see `Bridge` (0.002, or 0.0005 for DIODE).
    """

    name = "bridge_ve"

    def __init__(self, sigma_max: float = 80.0, t_min: float = 0.002) -> None:
        super().__init__(t_min, sigma_max)

    def reference_noise_rate(self, t: Tensor) -> Tensor:
        return 2.0 * t

    def gained(self, t: Tensor, s: Tensor) -> Tensor:
        return (t - s) * (t + s)

    def h_weights(self, guidance: float) -> tuple[float, float]:
        """DDBM's code weighs h against the score of x_t given x0 here, which is s - h, and not at all with noise."""
        return 0.5 * (1.0 + guidance), 1.0


class Brownian(_Driftless):
    """The Brownian bridge: dx = sigma dw, so that a = t, b = 1 - t and c = sigma sqrt(t (1 - t)) for T = 1.

    Args:
        sigma: strength of the noise, > 0.
        t_min, t_max: see `Bridge`.

    Raises:
        ConfigError: unless sigma > 0.
    """

    name = "brownian"

    def __init__(self, sigma: float = 1.0, t_min: float = 1e-4, t_max: float = 1.0) -> None:
        super().__init__(t_min, t_max)
        if not sigma > 0.0:
            raise ConfigError(f"process.sigma={sigma}: must be > 0")
        self.sigma = float(sigma)

    def reference_noise_rate(self, t: Tensor) -> Tensor:
        return torch.full_like(t, self.sigma**2)

    def gained(self, t: Tensor, s: Tensor) -> Tensor:
        return self.sigma**2 * (t - s)
