"""Blurring: the signal fades and loses its fine detail, the noise is white (gDDIM, section 4.1; blurring diffusion).

    u_t = A_t x0 + sigma_t e,   A_t = alpha_t D_t,   D_t = (1 - m) exp(-Lambda tau_t) + m   in the cosine basis,

Lambda_ij = (pi i / H)^2 + (pi j / W)^2, tau_t = sigma_B(t)^2 / 2, sigma_B(t) = sigma_blur_max sin^2(pi t / 2), and with
alpha and sigma of a scalar process (Hoogeboom & Salimans 2022, section 4). State and network stay in pixels: the
operators own the transform. alpha_t D_t spans five orders of magnitude, so what can be is a ratio of two times.

The log-SNR is that of the frequency zero, which is not blurred: it names noise levels in weights, times and grids.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from diffexp.core.errors import ConfigError
from diffexp.process.base import FactorKind, Process
from diffexp.process.cosine import Cosine
from diffexp.process.diagonal import Diagonal
from diffexp.process.operator import Operator, Scalar, over
from diffexp.process.scalar import ScalarProcess

_OFFSET = 0.004


class Blurring(Process):
    """A scalar process whose signal is blurred as well; `on` tells it the size of the images.

    Args:
        noise: alpha and sigma, variance preserving, t in [0, 1].
        sigma_blur_max: the blur's standard deviation at t = 1, in pixels, >= 0; 0 leaves the scalar process.
        min_scale: m, what is left of the highest frequencies, in (0, 1].
        side: the height of the images that sigma_blur_max is meant for: on others the blur is the same share of the
            picture, sigma_blur_max H / side pixels. None: sigma_blur_max pixels on all.

    Raises:
        ConfigError: for numbers out of range.
    """

    name = "blurring"

    def __init__(
        self, noise: ScalarProcess, sigma_blur_max: float, min_scale: float, side: int | None = None
    ) -> None:
        if not 0.0 <= sigma_blur_max < math.inf:
            raise ConfigError(f"process.sigma_blur_max={sigma_blur_max}: a number of pixels >= 0 is needed")
        if not 0.0 < min_scale <= 1.0:
            raise ConfigError(f"process.min_scale={min_scale}: must be > 0, for the data to be recovered, and <= 1")
        if side is not None and side < 1:
            raise ConfigError(f"process.side={side}: the height of an image in pixels, or null")
        self.noise = noise
        self.side = side
        self.sigma_blur_max = float(sigma_blur_max)
        self.min_scale = float(min_scale)
        self._known: Tensor | None = None

    def on(self, image_shape: Sequence[int]) -> Blurring:
        height, width = image_shape[-2:]
        rows, columns = (math.pi / n * torch.arange(n, dtype=torch.float64) for n in (height, width))
        sized = copy.copy(self)
        # Lambda goes with the square of a blur's width: a width in shares of the picture is a factor of Lambda
        share = 1.0 if self.side is None else height / self.side
        sized._known = share**2 * (rows[:, None] ** 2 + columns**2)
        return sized

    @property
    def _lambda(self) -> Tensor:
        """Lambda, (H, W), with the scale of the blur."""
        if self._known is None:
            raise ValueError(f"process {self.name} depends on the size of the images: use process.on((C, H, W))")
        return self._known

    def _tau(self, t: Tensor) -> Tensor:
        return 0.5 * self.sigma_blur_max**2 * torch.sin(0.5 * math.pi * t) ** 4

    def _fading(self, t: Tensor) -> Tensor:
        """(1 - m) exp(-Lambda tau), the part of D that changes."""
        return (1.0 - self.min_scale) * torch.exp(-self._lambda * over(self._tau(t), 2))

    def damping(self, t: Tensor) -> Diagonal:
        """D_t."""
        return Diagonal(self._fading(t) + self.min_scale)

    def _lost(self, t: Tensor, s: Tensor) -> Diagonal:
        """1 - (D_t / D_s)^2 for s <= t, with its digits also for close times."""
        a, b = 0.5 * math.pi * t, 0.5 * math.pi * s
        fourth = torch.sin(a + b) * torch.sin(a - b) * (torch.sin(a) ** 2 + torch.sin(b) ** 2)  # sin^4 a - sin^4 b
        passed = over(0.5 * self.sigma_blur_max**2 * fourth, 2)
        fading = self._fading(s)
        share = -fading * torch.expm1(-self._lambda * passed) / (fading + self.min_scale)
        return Diagonal(share * (2.0 - share))

    def signal(self, t: Tensor) -> Operator:
        return self.noise.signal(t) @ self.damping(t)

    def factor(self, t: Tensor, kind: FactorKind | None = None) -> Scalar:
        return self.noise.factor(t, kind)

    def transition(self, t: Tensor, s: Tensor) -> Operator:
        return self.noise.transition(t, s) @ self.damping(t) @ self.damping(s).inverse()

    def _damping_rate(self, t: Tensor) -> Diagonal:
        """-D' / D, >= 0."""
        angle = 0.5 * math.pi * t
        tau_rate = math.pi * self.sigma_blur_max**2 * torch.sin(angle) ** 3 * torch.cos(angle)
        fading = self._fading(t)
        return Diagonal(over(tau_rate, 2) * self._lambda * fading / (fading + self.min_scale))

    def drift(self, t: Tensor) -> Operator:
        return self.noise.drift(t) - self._damping_rate(t)

    def diffusion(self, t: Tensor) -> Operator:
        # G^2 = d(sigma^2)/dt - 2 F sigma^2: what the scalar process adds, and what the blur took from the noise.
        taken = 2.0 * (self.factor(t).covariance() @ self._damping_rate(t))
        return (self.noise.diffusion(t).covariance() + taken).factor()

    def prior_factor(self, t: Tensor | None = None) -> Operator:
        return self.noise.prior_factor(t)

    def log_snr(self, t: Tensor) -> Tensor:
        return self.noise.log_snr(t)

    def time_of_log_snr(self, log_snr: Tensor) -> Tensor:
        return self.noise.time_of_log_snr(log_snr)

    def transition_factor(self, t: Tensor, s: Tensor) -> Operator:
        # sigma_t^2 - (A_t / A_s)^2 sigma_s^2, split as in `diffusion`: neither part is negative, neither cancels.
        kept = (self.noise.transition(t, s) @ self.factor(s)).covariance()
        return (self.noise.transition_factor(t, s).covariance() + kept @ self._lost(t, s)).factor()

    def posterior_factor(self, t: Tensor, s: Tensor, kind: FactorKind | None = None) -> Operator:
        # 1 / (1 / sigma_s^2 + Psi^2 / Q^2) = sigma_s^2 Q^2 / sigma_t^2, since Q^2 + Psi^2 sigma_s^2 = sigma_t^2.
        return self.factor(s) @ self.factor(t).inverse() @ self.transition_factor(t, s)


class GDDIMBlurring(Blurring):
    """gDDIM's schedule: alpha_t^2 = cos^2((t + 0.004) / 1.008 pi / 2), so that some noise is there from the start.

    Training goes on to t = 1; sampling starts, from unit noise, where `time_of_rho` is `rho_max` (0.99598 for 80).

    Args:
        sigma_blur_max, min_scale, side: see `Blurring` (10 pixels and 0.001 in the released code, on CIFAR-10).
        rho_max: the noise level rho at which sampling starts, > 0.

    Raises:
        ConfigError: for numbers out of range.
    """

    def __init__(
        self,
        sigma_blur_max: float = 10.0,
        min_scale: float = 0.001,
        rho_max: float = 80.0,
        side: int | None = None,
    ) -> None:
        # The offset is one and the same at both ends: log-SNR limits of equal size.
        limit = -2.0 * math.log(math.tan(_OFFSET / (1.0 + 2.0 * _OFFSET) * 0.5 * math.pi))
        super().__init__(Cosine(limit, -limit), sigma_blur_max, min_scale, side)
        at_ends = self._relative_noise(torch.tensor([self.t_data, self.t_max], dtype=torch.float64))
        largest = float((at_ends[1] - at_ends[0]) / (1.0 + at_ends[0] ** 2).sqrt())
        if not 0.0 < rho_max <= largest:
            raise ConfigError(f"process.rho_max={rho_max}: must be > 0 and at most {largest:.6g}, its value at t = 1")
        self.rho_max = float(rho_max)
        self._t_prior = float(self.time_of_rho(torch.tensor(self.rho_max, dtype=torch.float64)))

    @property
    def t_prior(self) -> float:
        return self._t_prior

    def _relative_noise(self, t: Tensor) -> Tensor:
        """sigma_t / alpha_t."""
        return (-0.5 * self.log_snr(t)).exp()

    def time_of_rho(self, rho: Tensor) -> Tensor:
        """The time of the noise level rho that is added to the data as they are at t = 0, scaled with them.

        sigma_t / alpha_t = (rho + sigma_0) / alpha_0 (the released code's map): float64, the shape of `rho` >= 0.
        """
        start = self.noise.marginal(self.t_data)
        level = (rho + start.factor.value) / start.signal.value
        return self.time_of_log_snr(-2.0 * level.log())


class HoogeboomBlurring(Blurring):
    """The schedule of the blurring diffusion paper: a cosine with log-SNR limits, sampled from t = 1.

    Args:
        sigma_blur_max, min_scale, side: see `Blurring` (20 pixels and 0.001 for CIFAR-10).
        logsnr_max, logsnr_min: limits of the log-SNR, see `Cosine`.

    Raises:
        ConfigError: for numbers out of range.
    """

    name = "blurring_hoogeboom"

    def __init__(
        self,
        sigma_blur_max: float = 20.0,
        min_scale: float = 0.001,
        logsnr_max: float = 10.0,
        logsnr_min: float = -10.0,
        side: int | None = None,
    ) -> None:
        super().__init__(Cosine(logsnr_max, logsnr_min), sigma_blur_max, min_scale, side)
