"""Processes whose operators are numbers: u_t = alpha_t x0 + sigma_t e.

A subclass states log(alpha) and log(sigma) with their derivatives; everything else follows:
F = (log alpha)', G^2 = d(sigma^2)/dt - 2 F sigma^2.
"""

from __future__ import annotations

import abc

import torch
from torch import Tensor

from diffexp.process.base import FactorKind, Process
from diffexp.process.operator import Scalar

_HALVINGS = 128


def bisected(process: Process, log_snr: Tensor) -> Tensor:
    """The times of these log-SNR values on a process on which they fall with time, down to neighbouring floats.

    Values beyond the process's ends give the nearest end.
    """
    log_snr = torch.as_tensor(log_snr, dtype=torch.float64)
    low, high = torch.full_like(log_snr, process.t_data), torch.full_like(log_snr, process.t_max)
    for _ in range(_HALVINGS):
        middle = low + 0.5 * (high - low)
        later = process.log_snr(middle) > log_snr
        low, high = torch.where(later, middle, low), torch.where(later, high, middle)
    cleanest = process.log_snr(torch.tensor(process.t_data, dtype=torch.float64))
    return torch.where(log_snr >= cleanest, process.t_data, high)


def why_no_level(process: Process) -> str | None:
    """Why the noise in a state of this process is not told by one number; None where it is: "... has ..."."""
    t = torch.tensor([process.t_max], dtype=torch.float64)
    if process.endpoint:
        return "starts from an image, not from noise"
    if process.drawn:
        return "draws a second image with its data"
    if isinstance(process.signal(t), Scalar) and isinstance(process.factor(t), Scalar):
        return None
    return "has more than one number for each noise level"


class ScalarProcess(Process):
    """A process with scalar alpha_t and sigma_t; times are float64 of any shape."""

    @abc.abstractmethod
    def log_alpha(self, t: Tensor) -> Tensor:
        """log alpha_t."""

    @abc.abstractmethod
    def log_sigma(self, t: Tensor) -> Tensor:
        """log sigma_t; minus infinity where there is no noise."""

    @abc.abstractmethod
    def log_alpha_rate(self, t: Tensor) -> Tensor:
        """d log alpha / dt."""

    @abc.abstractmethod
    def variance_rate(self, t: Tensor) -> Tensor:
        """d sigma^2 / dt."""

    def signal(self, t: Tensor) -> Scalar:
        return Scalar(self.log_alpha(t).exp())

    def factor(self, t: Tensor, kind: FactorKind | None = None) -> Scalar:
        return Scalar(self.log_sigma(t).exp())

    def transition(self, t: Tensor, s: Tensor) -> Scalar:
        return Scalar((self.log_alpha(t) - self.log_alpha(s)).exp())

    def drift(self, t: Tensor) -> Scalar:
        return Scalar(self.log_alpha_rate(t))

    def diffusion(self, t: Tensor) -> Scalar:
        variance = (2.0 * self.log_sigma(t)).exp()
        return Scalar((self.variance_rate(t) - 2.0 * self.log_alpha_rate(t) * variance).sqrt())

    def prior_factor(self, t: Tensor | None = None) -> Scalar:
        """Unit noise on a variance-preserving process, as published for VP and cosine; sigma_t on others."""
        if self.variance_preserving:
            return Scalar(1.0)
        return self.factor(torch.tensor(self.t_max, dtype=torch.float64) if t is None else t)

    def stationary_factor(self) -> Scalar | None:
        return Scalar(1.0) if self.variance_preserving else None

    def log_snr(self, t: Tensor) -> Tensor:
        return 2.0 * (self.log_alpha(t) - self.log_sigma(t))

    def time_of_log_snr(self, log_snr: Tensor) -> Tensor:
        # Processes with a closed form override this.
        return bisected(self, log_snr)

    def _within(self, t: Tensor) -> Tensor:
        """Times held between the process's ends."""
        return t.clamp(self.t_data, self.t_max)

    def transition_factor(self, t: Tensor, s: Tensor) -> Scalar:
        # sigma_t^2 (1 - SNR_t / SNR_s): the difference of variances would cancel for close times (PD, section 3).
        return self._new_noise(t, t, s)

    def posterior_factor(self, t: Tensor, s: Tensor, kind: FactorKind | None = None) -> Scalar:
        return self._new_noise(s, t, s)

    def _new_noise(self, level: Tensor, t: Tensor, s: Tensor) -> Scalar:
        """sigma_level sqrt(1 - SNR_t / SNR_s)."""
        ratio = -torch.expm1(self.log_snr(t) - self.log_snr(s))
        return Scalar(self.log_sigma(level).exp() * ratio.sqrt())
