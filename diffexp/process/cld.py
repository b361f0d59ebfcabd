"""Critically damped Langevin diffusion, CLD (Dockhorn et al. 2022; gDDIM, Zhang, Tao & Chen 2023, section 3).

A velocity v is joined to every pixel x; noise enters the velocity alone, and the image follows:

    dx = beta m_inv v dt,   dv = -beta x dt - Gamma beta m_inv v dt + sqrt(2 Gamma beta) dw,   Gamma = 2 / sqrt(m_inv)

A state is (B, 2C, H, W), x before v. Everything depends on t through B(t) = beta0 t + beta1 t^2 / 2 alone; the
stationary law is x ~ N(0, 1), v ~ N(0, M), M = 1 / m_inv. (gDDIM's eq. 10 prints F and G with other signs.)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property
from typing import Literal, NoReturn

import torch
from torch import Tensor

from diffexp.core.errors import ConfigError
from diffexp.process.base import FactorKind, Process
from diffexp.process.block import Block
from diffexp.process.cld_angle import Angle, rotation
from diffexp.process.cld_covariance import Covariance, added_noise, block, parallel, propagation
from diffexp.process.operator import Operator


class CLD(Process):
    """CLD with beta(t) = beta0 + beta1 t on t in [0, 1].

    Args:
        m_inv: inverse mass 1 / M, > 0.
        beta0, beta1: beta at t = 0 and its rate; beta >= 0 on [0, 1] and not always zero.
        gamma: the velocity starts from N(0, gamma M), gamma >= 0.
        eps: a variance that keeps factors invertible near t = 0, >= 0; see `eps_rule`.
        eps_rule: "transported": Sigma_0 = diag(eps, eps + start velocity), and Psi carries it on (gDDIM). "added": eps
            is added to both variances of Sigma_t at every t (CLD-SGM); with eps > 0 this is the law of no linear
            equation, and there is no factor R and no posterior.
        velocity: "hsm": the start velocity is part of the noise, Sigma_0 has gamma M (hybrid score matching). "dsm": it
            is drawn with the data, see `velocity_std` and `lift`.

    Raises:
        ConfigError: for values out of range.
    """

    name = "cld"

    def __init__(
        self,
        m_inv: float = 4.0,
        beta0: float = 4.0,
        beta1: float = 0.0,
        gamma: float = 0.04,
        eps: float = 1e-6,
        eps_rule: Literal["transported", "added"] = "transported",
        velocity: Literal["hsm", "dsm"] = "hsm",
    ) -> None:
        _check(m_inv, beta0, beta1, gamma, eps)
        self.m_inv = float(m_inv)
        self.beta0 = float(beta0)
        self.beta1 = float(beta1)
        self.gamma = float(gamma)
        self.eps = float(eps)
        self.eps_rule = eps_rule
        self.velocity = velocity
        self._speed = math.sqrt(self.m_inv)  # c
        self._friction = 2.0 / self._speed  # Gamma
        carried = self.eps if eps_rule == "transported" else 0.0
        self._start = carried, carried + (self.gamma / self.m_inv if velocity == "hsm" else 0.0)
        self._added = self.eps if eps_rule == "added" else 0.0

    @property
    def velocity_std(self) -> float:
        """The standard deviation of the velocity that is drawn with the data; 0 for "hsm", whose data are at rest."""
        return math.sqrt(self.gamma / self.m_inv) if self.velocity == "dsm" else 0.0

    def beta(self, t: Tensor) -> Tensor:
        """beta(t)."""
        return self.beta0 + self.beta1 * t

    def beta_integral(self, t: Tensor, s: Tensor | float = 0.0) -> Tensor:
        """B(t) - B(s), negative for t < s."""
        return (t - s) * (self.beta0 + 0.5 * self.beta1 * (t + s))

    def signal(self, t: Tensor) -> Block:
        return propagation(self.beta_integral(t), self.m_inv).matrix()

    def transition(self, t: Tensor, s: Tensor) -> Block:
        return propagation(self.beta_integral(t, s), self.m_inv).matrix()

    def drift(self, t: Tensor) -> Block:
        beta = self.beta(t)
        return block(0.0 * beta, self.m_inv * beta, -beta, -self._friction * self.m_inv * beta)

    def diffusion(self, t: Tensor) -> Block:
        rate = self.noise_rate(t)
        zero = 0.0 * rate
        return block(zero, zero, zero, rate.sqrt())

    def noise_rate(self, t: Tensor) -> Tensor:
        """2 Gamma beta, of the velocity; no noise enters the position."""
        return 2.0 * self._friction * self.beta(t)

    def factor(self, t: Tensor, kind: FactorKind | None = None) -> Block:
        b = self.beta_integral(t)
        lower = self._covariance(b).factor()
        cholesky = kind == "cholesky" or (kind is None and bool(self._added))
        return lower if cholesky else lower @ rotation(self._angle(self._speed * b))

    def angle(self, t: Tensor) -> Tensor:
        """theta_t in R_t = L_t Rot(theta_t): radians, 0 at t = 0 and falling; ConfigError where there is no R."""
        return self._angle(self._speed * self.beta_integral(t))

    def prior_factor(self, t: Tensor | None = None) -> Block:
        """diag(1, sqrt(M)) at t_max, as published; at earlier times the law of white data of unit variance."""
        if t is None or float(t) >= self.t_max:
            return self.stationary_factor()
        b = self.beta_integral(t)
        white = propagation(b, self.m_inv).carry(1.0, self.velocity_std**2)
        return (white + self._covariance(b)).factor()

    def stationary_factor(self) -> Block:
        return _diagonal(1.0, 1.0 / self._speed)

    def transition_factor(self, t: Tensor, s: Tensor) -> Block:
        """The noise of the equation itself: with "added", Sigma_t differs from what is moved and added by up to eps."""
        return added_noise(self.beta_integral(t, s), self.m_inv).factor()

    def posterior_factor(self, t: Tensor, s: Tensor, kind: FactorKind | None = None) -> Block:
        # u_s is known from the data with Sigma_s, and from u_t with the noise since, moved back to s.
        self._require_equation("no posterior between two times")
        b = self.beta_integral(t, s)
        back = propagation(-b, self.m_inv)
        before, added = self._covariance(self.beta_integral(s)), added_noise(b, self.m_inv).under(back)
        total = self._covariance(self.beta_integral(t)).under(back).det
        return parallel(before, added, total).factor()

    def data_covariance(self, std: float) -> Operator:
        return _diagonal(std**2, self.velocity_std**2)

    def lift(self, x0: Tensor, velocity: Tensor | None = None) -> Tensor:
        """x0 (B, C, *) and its velocity, zero unless given, as a state (B, 2C, *)."""
        return torch.cat([x0, torch.zeros_like(x0) if velocity is None else velocity], dim=1)

    def lift_drawn(self, x0: Tensor, normal: Callable[[], Tensor]) -> Tensor:
        return self.lift(x0) if self.velocity_std == 0.0 else self.lift(x0, self.velocity_std * normal())

    def resting_variance(self, t: Tensor) -> Tensor:
        """Sigma_vv at times `t` when the start velocity is part of the noise, whatever `velocity` is: CLD-SGM's mixed
        score takes the velocity for a draw from N(0, Sigma_vv)."""
        start = self._start[0], self._start[0] + self.gamma / self.m_inv
        b = self.beta_integral(t)
        return (propagation(b, self.m_inv).carry(*start) + added_noise(b, self.m_inv)).vv + self._added

    def readout(self, u: Tensor) -> Tensor:
        return u[:, : u.shape[1] // 2]

    def state_shape(self, image_shape: tuple[int, ...]) -> tuple[int, ...]:
        return (2 * image_shape[0], *image_shape[1:])

    def log_snr(self, t: Tensor) -> NoReturn:
        raise ConfigError(
            "process=cld: position and velocity have no common signal-to-noise ratio: use objective=plain, grid=power "
            "or uniform, and prediction.time=999t or t"
        )

    def time_of_log_snr(self, log_snr: Tensor) -> NoReturn:
        self.log_snr(log_snr)

    def _covariance(self, b: Tensor) -> Covariance:
        """Sigma at B(t) = b."""
        sigma = propagation(b, self.m_inv).carry(*self._start) + added_noise(b, self.m_inv)
        return sigma.widened(self._added) if self._added else sigma

    @cached_property
    def _angle(self) -> Angle:
        self._require_equation("no factor R")
        if self._start[1] == 0.0:
            raise ConfigError(
                "process: no factor R when the noise starts without any variance, as it turns without end near t = 0: "
                "use process.eps > 0, or factor cholesky"
            )
        y_max = self._speed * float(self.beta_integral(torch.tensor(self.t_max, dtype=torch.float64)))
        return Angle(self._covariance, self.m_inv, y_max)

    def _require_equation(self, missing: str) -> None:
        """Refuse what needs d Sigma / dt = F Sigma + Sigma F^T + G G^T."""
        if self._added:
            raise ConfigError(
                f"process.eps_rule=added: {missing}, as eps at every t is not moved by the equation: use "
                "process.eps_rule=transported, or factor cholesky"
            )


def _diagonal(xx: float, vv: float) -> Block:
    return Block(torch.diag(torch.tensor([xx, vv], dtype=torch.float64)))


def _check(m_inv: float, beta0: float, beta1: float, gamma: float, eps: float) -> None:
    if not 0.0 < m_inv < math.inf:
        raise ConfigError(f"process.m_inv={m_inv}: must be > 0")
    if not (0.0 <= beta0 < math.inf and 0.0 <= beta0 + beta1 < math.inf and 2.0 * beta0 + beta1 > 0.0):
        raise ConfigError(
            f"process: beta0={beta0} and beta1={beta1} need beta0 + beta1 t >= 0 on [0, 1], and not zero throughout"
        )
    for name, value in (("gamma", gamma), ("eps", eps)):
        if not 0.0 <= value < math.inf:
            raise ConfigError(f"process.{name}={value}: must be >= 0")
