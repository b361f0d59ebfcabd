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

    def factor(self, t: Tensor, kind: FactorKind = "R") -> Scalar:
        return Scalar(self.log_sigma(t).exp())

    def transition(self, t: Tensor, s: Tensor) -> Scalar:
        return Scalar((self.log_alpha(t) - self.log_alpha(s)).exp())

    def drift(self, t: Tensor) -> Scalar:
        return Scalar(self.log_alpha_rate(t))

    def diffusion(self, t: Tensor) -> Scalar:
        variance = (2.0 * self.log_sigma(t)).exp()
        return Scalar((self.variance_rate(t) - 2.0 * self.log_alpha_rate(t) * variance).sqrt())

    def prior_factor(self) -> Scalar:
        """Unit noise: both VP and the cosine schedule start sampling from exactly N(0, I)."""
        return Scalar(1.0)

    def log_snr(self, t: Tensor) -> Tensor:
        return 2.0 * (self.log_alpha(t) - self.log_sigma(t))

    def posterior_factor(self, t: Tensor, s: Tensor, kind: FactorKind = "R") -> Scalar:
        # sigma_s^2 (1 - SNR_t / SNR_s): the difference of variances would cancel for close times (PD, section 3).
        ratio = -torch.expm1(self.log_snr(t) - self.log_snr(s))
        return Scalar(self.log_sigma(s).exp() * ratio.sqrt())
