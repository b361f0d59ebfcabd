"""The cosine process with log-SNR limits, in angles (Salimans & Ho 2022, section 3 of the released code's schedule).

alpha = cos(phi), sigma = sin(phi), phi(t) = a t + b: the angle interval is squeezed so that the log-SNR ends exactly at
its limits (the paper's cos(pi t / 2) is its limit). A uniform grid in t is uniform in angle.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from diffexp.core.errors import ConfigError
from diffexp.process.scalar import ScalarProcess


class Cosine(ScalarProcess):
    """Variance preserving with phi(t) = a t + b, log-SNR(t) = -2 log tan(phi(t)), t in [0, 1].

    Args:
        logsnr_max: log-SNR at t = 0 (20 in the paper's configurations).
        logsnr_min: log-SNR at t = 1 (-20).

    Raises:
        ConfigError: unless logsnr_min < logsnr_max.
    """

    name = "cosine"
    variance_preserving = True

    def __init__(self, logsnr_max: float = 20.0, logsnr_min: float = -20.0) -> None:
        if not logsnr_min < logsnr_max:
            raise ConfigError(f"process: needs logsnr_min < logsnr_max, got {logsnr_min} and {logsnr_max}")
        self.logsnr_max = float(logsnr_max)
        self.logsnr_min = float(logsnr_min)
        self._start = math.atan(math.exp(-0.5 * self.logsnr_max))
        self._rate = math.atan(math.exp(-0.5 * self.logsnr_min)) - self._start

    def angle(self, t: Tensor) -> Tensor:
        """phi(t) in radians, in (0, pi/2)."""
        return self._rate * t + self._start

    def _coangle(self, t: Tensor) -> Tensor:
        """pi/2 - phi(t), without the rounding of pi/2 at the noisy end, where cos(phi) would lose its digits."""
        return self._rate * (1.0 - t) + math.atan(math.exp(0.5 * self.logsnr_min))

    def log_alpha(self, t: Tensor) -> Tensor:
        return torch.sin(self._coangle(t)).log()

    def log_sigma(self, t: Tensor) -> Tensor:
        return torch.sin(self.angle(t)).log()

    def log_alpha_rate(self, t: Tensor) -> Tensor:
        return -self._rate / torch.tan(self._coangle(t))

    def variance_rate(self, t: Tensor) -> Tensor:
        return self._rate * torch.sin(2.0 * self.angle(t))

    def time_of(self, alpha: Tensor) -> Tensor:
        """t with alpha_t = alpha, for alpha between alpha(1) and alpha(0)."""
        alpha = torch.as_tensor(alpha, dtype=torch.float64)
        return (torch.arccos(alpha) - self._start) / self._rate
