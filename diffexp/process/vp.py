"""The variance-preserving process with linear beta (Song et al. 2021; gDDIM, eq. 8)."""

from __future__ import annotations

import torch
from torch import Tensor

from diffexp.core.errors import ConfigError
from diffexp.process.operator import Scalar
from diffexp.process.scalar import ScalarProcess


class VP(ScalarProcess):
    """du = -beta(t) u / 2 dt + sqrt(beta(t)) dw with beta(t) = beta_min + (beta_max - beta_min) t, t in [0, 1].

    alpha_t = exp(-(beta_min t + (beta_max - beta_min) t^2 / 2) / 2), sigma_t^2 = 1 - alpha_t^2.

    Args:
        beta_min: beta at t = 0, per unit of time, >= 0.
        beta_max: beta at t = 1, > beta_min (0.1 and 20 are the published values).

    Raises:
        ConfigError: unless 0 <= beta_min < beta_max.
    """

    name = "vp"
    variance_preserving = True

    def __init__(self, beta_min: float = 0.1, beta_max: float = 20.0) -> None:
        if not 0.0 <= beta_min < beta_max:
            raise ConfigError(f"process: needs 0 <= beta_min < beta_max, got {beta_min} and {beta_max}")
        self.beta_min = float(beta_min)
        self.beta_max = float(beta_max)

    def _beta(self, t: Tensor) -> Tensor:
        return self.beta_min + (self.beta_max - self.beta_min) * t

    def log_alpha(self, t: Tensor) -> Tensor:
        return -0.25 * (self.beta_max - self.beta_min) * t**2 - 0.5 * self.beta_min * t

    def log_sigma(self, t: Tensor) -> Tensor:
        return 0.5 * (-torch.expm1(2.0 * self.log_alpha(t))).log()

    def log_alpha_rate(self, t: Tensor) -> Tensor:
        return -0.5 * self._beta(t)

    def variance_rate(self, t: Tensor) -> Tensor:
        return self._beta(t) * (2.0 * self.log_alpha(t)).exp()

    def diffusion(self, t: Tensor) -> Scalar:
        return Scalar(self._beta(t).sqrt())

    def time_of_log_snr(self, log_snr: Tensor) -> Tensor:
        # 1 / SNR = exp(E) - 1 with E the integral of beta, so E = log(1 + 1 / SNR), accurate at both ends; then the
        # root of E(t) in the form without cancellation.
        log_snr = torch.as_tensor(log_snr, dtype=torch.float64)
        integral = torch.logaddexp(torch.zeros_like(log_snr), -log_snr).clamp_max(0.5 * (self.beta_min + self.beta_max))
        slope = self.beta_max - self.beta_min
        t = 2.0 * integral / (self.beta_min + (self.beta_min**2 + 2.0 * slope * integral).sqrt())
        return self._within(torch.where(integral > 0.0, t, 0.0))
