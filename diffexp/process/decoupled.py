"""Decoupled diffusion (DDM, Huang et al. 2023; ADM): image to zero and zero to noise, two processes in one.

    u_t = x0 + H_t(phi) + sigma(t) e,     x0 + H_1(phi) = 0,     sigma(t) = sqrt(t) or t,     t in [0, 1]

With phi_j = m_j x0 + k_j K (see `attenuation`) this is the law u_t = alpha_t x0 + B_t K + sigma_t e with
alpha = 1 + sum h_j m_j and B = sum h_j k_j: every sampler of the package runs on it. It ends in pure unit noise,
alpha = 0 exactly, so that what is relative to the signal (drift, log-SNR) is infinite there.

Two processes have this law given the image. The linear one, du = F u dt + G dw with F = alpha' / alpha, is what
`transition`, `posterior` and the rest state, as for every other process. DDM's own has noise that is a Brownian motion
with the clock sigma^2, whatever the image does: its posterior is `noise_posterior`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from diffexp.core.errors import ConfigError
from diffexp.process.attenuation import Attenuation
from diffexp.process.base import FactorKind
from diffexp.process.operator import Scalar
from diffexp.process.scalar import ScalarProcess

Noise = Literal["sqrt", "linear"]


class Decoupled(ScalarProcess):
    """An attenuation of the image and noise that grows beside it.

    Args:
        attenuation: how the image goes to zero.
        noise: sigma(t) = sqrt(t) ("sqrt", a Wiener process) or t ("linear", ADM; the marginals of rectified flow).
        t_prior: the time at which sampling starts, in (0, 1]. Below 1 there is a signal, which predictions of the noise
            alone need.

    Raises:
        ConfigError: for an attenuation that does not end in zero, or a t_prior out of range.
    """

    def __init__(self, attenuation: Attenuation, noise: Noise = "sqrt", t_prior: float = 1.0) -> None:
        attenuation.check()
        if not 0.0 < t_prior <= 1.0:
            raise ConfigError(f"process.t_prior={t_prior}: must lie in (0, 1]")
        self.attenuation = attenuation
        self.noise: Noise = noise
        self.name = f"ddm_{attenuation.name}{'_t' if noise == 'linear' else ''}"
        self._t_prior = float(t_prior)

    @property
    def t_prior(self) -> float:
        return self._t_prior

    @property
    def drawn(self) -> bool:  # type: ignore[override]
        return self.attenuation.of_drawn is not None

    def draw(self, normal: Callable[[], Tensor]) -> Tensor | None:
        bound = self.attenuation.bound
        return normal().clamp(-bound, bound) if self.drawn else None

    def alpha(self, t: Tensor) -> Tensor:
        """alpha_t; exactly 0 at t = 1."""
        return torch.where(t < self.t_max, self.attenuation.signal(t), 0.0)

    def sigma(self, t: Tensor) -> Tensor:
        """sigma_t."""
        return t.sqrt() if self.noise == "sqrt" else t

    def gained(self, t: Tensor, s: Tensor) -> Tensor:
        """sigma_t^2 - sigma_s^2 without cancellation."""
        return t - s if self.noise == "sqrt" else (t - s) * (t + s)

    def noise_posterior(self, t: Tensor, s: Tensor) -> tuple[Scalar, Scalar]:
        """(K, C) of DDM's own process: sigma_s e_s = K e_t + C z for s < t, with fresh unit noise z.

        K = sigma_s^2 / sigma_t and C = sigma_s sqrt(sigma_t^2 - sigma_s^2) / sigma_t: a Brownian motion with the clock
        sigma^2, seen at an earlier time.
        """
        low, high = self.sigma(s), self.sigma(t)
        return Scalar(low.square() / high), Scalar(low * self.gained(t, s).clamp_min(0.0).sqrt() / high)

    # What every process of scalars states about itself, see `ScalarProcess`.

    def log_alpha(self, t: Tensor) -> Tensor:
        return self.alpha(t).log()

    def log_sigma(self, t: Tensor) -> Tensor:
        return (0.5 if self.noise == "sqrt" else 1.0) * t.log()

    def log_alpha_rate(self, t: Tensor) -> Tensor:
        return self.attenuation.signal_rate(t) / self.alpha(t)

    def variance_rate(self, t: Tensor) -> Tensor:
        return torch.ones_like(t) if self.noise == "sqrt" else 2.0 * t

    def signal(self, t: Tensor) -> Scalar:
        return Scalar(self.alpha(t))

    def auxiliary(self, t: Tensor) -> Scalar | None:
        """B_t, of the image that is drawn with the data; None where none is."""
        return Scalar(torch.where(t < self.t_max, self.attenuation.drawn_signal(t), 0.0)) if self.drawn else None

    def factor(self, t: Tensor, kind: FactorKind | None = None) -> Scalar:
        return Scalar(self.sigma(t))

    def transition(self, t: Tensor, s: Tensor) -> Scalar:
        return Scalar(self.alpha(t) / self.alpha(s))

    def prior_factor(self, t: Tensor | None = None) -> Scalar:
        return self.factor(torch.tensor(self.t_prior, dtype=torch.float64) if t is None else t)
