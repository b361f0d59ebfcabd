"""A trained denoiser, asked for the noise in a variance-preserving state of any level."""

from __future__ import annotations

import torch
from torch import Tensor

from diffexp.core.errors import ConfigError
from diffexp.prediction.conditions import NO_CONDITIONS, Conditions
from diffexp.prediction.denoiser import Denoiser
from diffexp.process.base import Process
from diffexp.process.operator import Scalar
from diffexp.process.scalar import why_no_level


def check_process(process: Process) -> None:
    """Raise ConfigError where a step is more than one number: on a bridge, CLD, blurring, or with drawn images."""
    why = why_no_level(process)
    if why is not None:
        raise ConfigError(f"distillation=bilateral: process {process.name} {why}: choose a teacher on vp, ve or ddpm")


class Score:
    """e^(x, t) for x = alpha x0 + sqrt(delta) e, whatever the denoiser predicts and whatever its process scales by.

    States of a process that does not preserve variance are x times the root of alpha_t^2 + sigma_t^2.

    Args:
        denoiser: frozen; it counts its evaluations.

    Raises:
        ConfigError: for a process whose steps are not numbers.
    """

    def __init__(self, denoiser: Denoiser) -> None:
        check_process(denoiser.process)
        self.denoiser = denoiser

    def time(self, alpha: Tensor, delta: Tensor) -> Tensor:
        """The time at which the process has this level, float64 like `alpha`; beyond its ends the nearest end."""
        return self.denoiser.process.time_of_log_snr(2.0 * alpha.log() - delta.log())

    @torch.no_grad()
    def noise(self, x: Tensor, t: Tensor, conditions: Conditions = NO_CONDITIONS) -> Tensor:
        """The estimated unit noise, like `x` (B, *); `t` is float64 (B,), or (1,) for all."""
        process = self.denoiser.process
        point = self.denoiser.at(t, x.dtype, x.device)
        if process.variance_preserving:
            return self.denoiser(x, point, conditions).noise
        size = Scalar((process.signal(t).covariance() + process.factor(t).covariance()).value.sqrt())
        return self.denoiser(size.cast(x.dtype, x.device).apply(x), point, conditions).noise
