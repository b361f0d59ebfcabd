"""Diffusion bridges: a linear process that is tied to data at t = 0 and to a given image y at t = T.

    x_t = a_t y + b_t x0 + c_t e,
    a = abar rho^2 / rho_T^2,   b = alpha rhobar^2 / rho_T^2,   c = alpha rho rhobar / rho_T

of a reference process dx = f x dt + g dw with alpha_t = exp(int_0^t f), abar_t = alpha_t / alpha_T, the accumulated
noise rho_t^2 = int_0^t g^2 / alpha^2 and what is left of it, rhobar_t^2 = int_t^T g^2 / alpha^2 (DBIM, Zheng et al.
2025; CDBM, He et al. 2024, eq. 11 and 12). A subclass states alpha and the noise of any interval without cancellation.

Given y, the bridge is the linear process dx = [(f + g^2 h_x) x + g^2 h_y y] dt + g dw with Doob's h-transform
h_x x + h_y y = grad log p(x_T = y | x_t) (DDBM, Zhou et al. 2024, theorem 1). `drift` is the whole of f + g^2 h_x, and
infinite at T; `auxiliary_drift` is g^2 h_y. Transition, posterior and the rest of the law are finite there.
"""

from __future__ import annotations

import abc
from collections.abc import Callable

import torch
from torch import Tensor

from diffexp.core.errors import ConfigError
from diffexp.process.base import FactorKind, Process, second_image
from diffexp.process.operator import Scalar
from diffexp.process.scalar import bisected


class Bridge(Process):
    """A bridge of scalars; times are float64 of any shape, 0 = data, t_max = the end point.

    Args:
        t_min: the earliest time that training and sampling see (epsilon of the papers), in (0, t_max).
        t_max: T.

    Raises:
        ConfigError: unless 0 < t_min < t_max.
    """

    endpoint = True
    t_min: float = 1e-4

    def __init__(self, t_min: float, t_max: float = 1.0) -> None:
        if not 0.0 < t_min < t_max:
            raise ConfigError(f"process.t_min={t_min}: must lie between 0 and {t_max:g}, the time of the end point")
        self.t_min = float(t_min)
        self.t_max = float(t_max)

    @abc.abstractmethod
    def log_alpha(self, t: Tensor) -> Tensor:
        """log alpha_t of the reference process."""

    @abc.abstractmethod
    def log_alpha_rate(self, t: Tensor) -> Tensor:
        """f(t)."""

    @abc.abstractmethod
    def reference_noise_rate(self, t: Tensor) -> Tensor:
        """g(t)^2, per unit of time."""

    @abc.abstractmethod
    def gained(self, t: Tensor, s: Tensor) -> Tensor:
        """int_s^t g^2 / alpha^2 for s <= t, free of cancellation: exactly 0 for s = t."""

    @property
    def _end(self) -> Tensor:
        return torch.tensor(self.t_max, dtype=torch.float64)

    def rho2(self, t: Tensor) -> Tensor:
        """rho_t^2, the noise relative to the signal that has been added since the data."""
        return self.gained(t, torch.zeros_like(t))

    def rho_bar2(self, t: Tensor) -> Tensor:
        """rhobar_t^2, the noise that is still to come; 0 at T."""
        return self.gained(self._end.expand_as(t), t)

    def rho2_end(self) -> Tensor:
        """rho_T^2, ()."""
        return self.rho2(self._end)

    def alpha(self, t: Tensor) -> Tensor:
        """alpha_t."""
        return self.log_alpha(t).exp()

    def alpha_bar(self, t: Tensor) -> Tensor:
        """alpha_t / alpha_T."""
        return (self.log_alpha(t) - self.log_alpha(self._end)).exp()

    def rho(self, t: Tensor) -> Tensor:
        """rho_t."""
        return self.rho2(t).sqrt()

    def abc(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(a_t, b_t, c_t), the coefficients of y, data and noise."""
        alpha, rho2, left, whole = self.alpha(t), self.rho2(t), self.rho_bar2(t), self.rho2_end()
        return self.alpha_bar(t) * rho2 / whole, alpha * left / whole, alpha * (rho2 * left / whole).sqrt()

    def snapped(self, t: Tensor) -> Tensor:
        """The time of the schedule that stands for `t`: `t` itself, unless the schedule is a table."""
        return t

    # What every process states about itself, see `Process`.

    def signal(self, t: Tensor) -> Scalar:
        return Scalar(self.abc(t)[1])

    def auxiliary(self, t: Tensor) -> Scalar:
        return Scalar(self.abc(t)[0])

    def factor(self, t: Tensor, kind: FactorKind | None = None) -> Scalar:
        return Scalar(self.abc(t)[2])

    def transition(self, t: Tensor, s: Tensor) -> Scalar:
        """b_t / b_s."""
        grown = (self.log_alpha(t) - self.log_alpha(s)).exp()
        return Scalar(grown * self.rho_bar2(t) / self.rho_bar2(s))

    def h_transform(self, t: Tensor) -> tuple[Scalar, Scalar]:
        """(h_x, h_y) of grad log p(x_T = y | x_t) = h_x x_t + h_y y; infinite at T."""
        pull = 1.0 / (self.alpha(t).square() * self.rho_bar2(t))
        return Scalar(-pull), Scalar(self.alpha_bar(t) * pull)

    def h_weights(self, guidance: float) -> tuple[float, float]:
        """Factors of h in the probability flow and in the reverse process, for a guidance w (DDBM's code).

        The flow is dx = [f x - g^2 (s / 2 - w h)] dt, the reverse process has s in place of s / 2.
        """
        return guidance, guidance

    def reference_drift(self, t: Tensor) -> Scalar:
        """f(t), the drift of the process without an end point."""
        return Scalar(self.log_alpha_rate(t))

    def drift(self, t: Tensor) -> Scalar:
        return Scalar(self.log_alpha_rate(t) + self.reference_noise_rate(t) * self.h_transform(t)[0].value)

    def auxiliary_drift(self, t: Tensor) -> Scalar:
        """g^2 h_y: the drift of the bridge is F x + this y."""
        return Scalar(self.reference_noise_rate(t) * self.h_transform(t)[1].value)

    def diffusion(self, t: Tensor) -> Scalar:
        return Scalar(self.reference_noise_rate(t).sqrt())

    def start(self, noise: Callable[[], Tensor], y: Tensor | None) -> Tensor:
        """The end point itself: a bridge has no prior to draw from."""
        return second_image(y)

    def prior_factor(self, t: Tensor | None = None) -> Scalar:
        return Scalar(1.0)

    def log_snr(self, t: Tensor) -> Tensor:
        """2 lambda = log(b^2 / c^2); minus infinity at T."""
        return self.rho_bar2(t).log() - self.rho2(t).log() - self.rho2_end().log()

    def time_of_log_snr(self, log_snr: Tensor) -> Tensor:
        return bisected(self, log_snr)

    def transition_factor(self, t: Tensor, s: Tensor) -> Scalar:
        left = self.rho_bar2(t) / self.rho_bar2(s)
        return Scalar(self.alpha(t) * (self.gained(t, s) * left).sqrt())

    def posterior(self, t: Tensor, s: Tensor, kind: FactorKind | None = None) -> tuple[Scalar, Scalar]:
        """As for `Process`, with u_s = A_s x0 + B_s y + K e + C z; finite at t = T, where K = 0."""
        left = (self.rho_bar2(t) / (self.rho2(t) * self.rho2_end())).sqrt()
        return Scalar(self.alpha(s) * self.rho2(s) * left), self.posterior_factor(t, s)

    def posterior_factor(self, t: Tensor, s: Tensor, kind: FactorKind | None = None) -> Scalar:
        """omega of DBIM for eta = 1 (eq. 11): alpha_s rho_s sqrt(1 - rho_s^2 / rho_t^2)."""
        return Scalar(self.alpha(s) * (self.rho2(s) * self.gained(t, s) / self.rho2(t)).sqrt())
