"""The cosine process with log-SNR limits, in angles (Salimans & Ho 2022, section 3 of the released code's schedule).

alpha = cos(phi), sigma = sin(phi), phi(t) = a t + b: the angle interval is squeezed so that the log-SNR ends exactly at
its limits (the paper's cos(pi t / 2) is its limit). A uniform grid in t is uniform in angle.

Everything is written in phi and in its complement psi = pi/2 - phi, each computed without the other: near the data phi
is small and cos(phi) = sin(psi) carries no digits of it, near the prior it is the other way round.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from diffexp.core.errors import ConfigError
from diffexp.process.operator import Scalar
from diffexp.process.scalar import ScalarProcess

_LIMIT = 1000.0


class Cosine(ScalarProcess):
    """Variance preserving with phi(t) = a t + b, log-SNR(t) = -2 log tan(phi(t)), t in [0, 1].

    Args:
        logsnr_max: log-SNR at t = 0 (20 in the paper's configurations).
        logsnr_min: log-SNR at t = 1 (-20).

    Raises:
        ConfigError: unless -1000 <= logsnr_min < logsnr_max <= 1000.
    """

    name = "cosine"
    variance_preserving = True

    def __init__(self, logsnr_max: float = 20.0, logsnr_min: float = -20.0) -> None:
        if not logsnr_min < logsnr_max:
            raise ConfigError(f"process: needs logsnr_min < logsnr_max, got {logsnr_min} and {logsnr_max}")
        if not -_LIMIT <= logsnr_min < logsnr_max <= _LIMIT:
            raise ConfigError(f"process: log-SNR limits must lie within +-{_LIMIT:g}, got {logsnr_min}, {logsnr_max}")
        self.logsnr_max = float(logsnr_max)
        self.logsnr_min = float(logsnr_min)
        low, high = math.exp(0.5 * self.logsnr_min), math.exp(-0.5 * self.logsnr_max)
        self._phi_data, self._psi_prior = math.atan(high), math.atan(low)
        # The difference of two arctangents as one: close limits would cancel.
        self._rate = math.atan2(-math.expm1(0.5 * (self.logsnr_min - self.logsnr_max)), low + high)

    def angle(self, t: Tensor) -> Tensor:
        """phi(t) in radians, in (0, pi/2)."""
        return self._rate * t + self._phi_data

    def _coangle(self, t: Tensor) -> Tensor:
        """psi(t) = pi/2 - phi(t)."""
        return self._rate * (1.0 - t) + self._psi_prior

    def log_alpha(self, t: Tensor) -> Tensor:
        return _log_cosine(self.angle(t), self._coangle(t))

    def log_sigma(self, t: Tensor) -> Tensor:
        return _log_cosine(self._coangle(t), self.angle(t))

    def log_snr(self, t: Tensor) -> Tensor:
        return 2.0 * (torch.sin(self._coangle(t)).log() - torch.sin(self.angle(t)).log())

    def _tangent(self, t: Tensor) -> Tensor:
        """tan(phi(t)), relative to its own size at both ends."""
        return torch.sin(self.angle(t)) / torch.sin(self._coangle(t))

    def log_alpha_rate(self, t: Tensor) -> Tensor:
        return -self._rate * self._tangent(t)

    def variance_rate(self, t: Tensor) -> Tensor:
        return 2.0 * self._rate * torch.sin(self.angle(t)) * torch.sin(self._coangle(t))

    def diffusion(self, t: Tensor) -> Scalar:
        return Scalar((2.0 * self._rate * self._tangent(t)).sqrt())

    def time_of_log_snr(self, log_snr: Tensor) -> Tensor:
        half = 0.5 * torch.as_tensor(log_snr, dtype=torch.float64)
        from_data = (torch.atan(torch.exp(-half)) - self._phi_data) / self._rate
        from_prior = 1.0 - (torch.atan(torch.exp(half)) - self._psi_prior) / self._rate
        return self._within(torch.where(half > 0.0, from_data, from_prior))


def _log_cosine(phi: Tensor, psi: Tensor) -> Tensor:
    """log cos(phi) = log sin(psi) for complementary angles in [0, pi/2]; relative to its own size also near zero."""
    return torch.where(phi < psi, 0.5 * torch.log1p(-(torch.sin(phi) ** 2)), torch.sin(psi).log())
