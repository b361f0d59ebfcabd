"""I2SB's bridges (Liu et al. 2023): noise that is weak at both ends; the continuous schedule and the official table."""

from __future__ import annotations

import torch
from torch import Tensor

from diffexp.core.errors import ConfigError
from diffexp.process.base import FactorKind
from diffexp.process.bridge import Bridge
from diffexp.process.operator import Scalar

_HALF = 0.5


def _check(beta_min: float, beta_max: float) -> None:
    if not 0.0 < beta_min <= beta_max:
        raise ConfigError(f"process: needs 0 < beta_min <= beta_max, got {beta_min} and {beta_max}")


class BridgeI2SB(Bridge):
    """The continuous limit: g(t) = sqrt(beta_min) + (sqrt(beta_max) - sqrt(beta_min)) min(t, 1 - t), f = 0.

    Args:
        beta_min: g^2 at both ends, > 0.
        beta_max: what g^2 would reach at t = 1 without the turn at 1/2 (1 in DBIM and CDBM, 0.3 in I2SB).
        t_min: see `Bridge`.

    Raises:
        ConfigError: unless 0 < beta_min <= beta_max.
    """

    name = "i2sb"

    def __init__(self, beta_min: float = 0.1, beta_max: float = 1.0, t_min: float = 1e-4) -> None:
        super().__init__(t_min)
        _check(beta_min, beta_max)
        self.beta_min = float(beta_min)
        self.beta_max = float(beta_max)
        self._root = self.beta_min**0.5
        self._slope = self.beta_max**0.5 - self._root

    def log_alpha(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def log_alpha_rate(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def reference_noise_rate(self, t: Tensor) -> Tensor:
        return (self._root + self._slope * torch.minimum(t, 1.0 - t)).square()

    def gained(self, t: Tensor, s: Tensor) -> Tensor:
        rising = self._piece(t.clamp_max(_HALF), s.clamp_max(_HALF))
        falling = self._piece(1.0 - s.clamp_min(_HALF), 1.0 - t.clamp_min(_HALF))
        return rising + falling

    def _piece(self, t: Tensor, s: Tensor) -> Tensor:
        """int_s^t (root + slope u)^2 du."""
        root, slope = self._root, self._slope
        return (t - s) * (root**2 + root * slope * (t + s) + slope**2 / 3.0 * (t * t + t * s + s * s))


class BridgeI2SBDiscrete(Bridge):
    """I2SB's table as DBIM's code has it, with its quirks, for its checkpoints and numbers.

    Time t stands for index i = round((N - 1) t), half to even. Both sums, rho_i^2 = beta_0 + .. + beta_i and
    rhobar_i^2 = beta_i + .. + beta_N-1, contain beta_i: a + b is not 1, and some noise is left at both ends. Prefer
    `BridgeI2SB` for anything new; a consistency model needs it.

    Args:
        num_times: N, even; N - 1 indices make one unit of time.
        beta_min: beta at both ends, > 0, per unit of time.
        beta_max: beta that N steps would reach without the turn in the middle.
        t_min: see `Bridge`.

    Raises:
        ConfigError: unless 0 < beta_min <= beta_max and N is even and positive.
    """

    name = "i2sb_discrete"

    def __init__(
        self, num_times: int = 1000, beta_min: float = 0.1, beta_max: float = 1.0, t_min: float = 1e-4
    ) -> None:
        super().__init__(t_min)
        _check(beta_min, beta_max)
        if num_times < 2 or num_times % 2:
            raise ConfigError(f"process.num_times={num_times}: must be even and at least 2, one half mirrors the other")
        self.num_times = num_times
        self.beta_min = float(beta_min)
        self.beta_max = float(beta_max)
        ends = (self.beta_min / num_times) ** 0.5, (self.beta_max / num_times) ** 0.5
        half = torch.linspace(*ends, num_times, dtype=torch.float64).square()[: num_times // 2]
        self._betas = torch.cat([half, half.flip(0)])
        self._sums = self._betas.cumsum(0)
        self._left = self._betas.flip(0).cumsum(0).flip(0)

    def index(self, t: Tensor) -> Tensor:
        """i, as float64."""
        return torch.round((self.num_times - 1) * t)

    def snapped(self, t: Tensor) -> Tensor:
        return self.index(t) / (self.num_times - 1)

    def _at(self, table: Tensor, t: Tensor) -> Tensor:
        return table[self.index(t).long()]

    def log_alpha(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def log_alpha_rate(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def reference_noise_rate(self, t: Tensor) -> Tensor:
        return (self.num_times - 1) * self._at(self._betas, t)

    def gained(self, t: Tensor, s: Tensor) -> Tensor:
        return self.rho2(t) - self.rho2(s)

    def rho2(self, t: Tensor) -> Tensor:
        return self._at(self._sums, t)

    def rho_bar2(self, t: Tensor) -> Tensor:
        return self._at(self._left, t)

    def posterior(self, t: Tensor, s: Tensor, kind: FactorKind | None = None) -> tuple[Scalar, Scalar]:
        """The quirks leave K^2 = c_s^2 - C^2 alone."""
        fresh = self.posterior_factor(t, s)
        return Scalar((self.factor(s).value.square() - fresh.value.square()).clamp_min(0.0).sqrt()), fresh
