"""Grids that are laid out in the noise level of the process and not in its time."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from diffexp.core.errors import ConfigError
from diffexp.process.base import Process
from diffexp.sampler.grid import Grid, Last, pinned

_ROUNDING = 1e-9  # relative; levels this close to the process's own are meant to be equal


class LogSNR(Grid):
    """Uniform in the log signal-to-noise ratio between the prior and `t_end` (the steps of DPM-Solver, Lu et al. 2022).

    A process that ends in clean data has no finite ratio there: `t_end` must then be given.
    """

    name = "log_snr"

    def _times(self, process: Process, n: int, start: float, end: float) -> Tensor:
        first, last = process.log_snr(torch.tensor([start, end], dtype=torch.float64)).tolist()
        if not math.isfinite(first):
            raise _no_level(self.name, process)
        if not math.isfinite(last):
            fix = process.t_data + (1.0 if process.num_steps else 1e-3 * (process.t_max - process.t_data))
            raise ConfigError(
                f"grid.t_end={end:g}: grid log_snr has no first step from infinite log-SNR on process {process.name}: "
                f"set grid.t_end above {process.t_data:g}, e.g. {fix:g}"
            )
        return pinned(process.time_of_log_snr(torch.linspace(first, last, n + 1, dtype=torch.float64)), start, end)


class Karras(Grid):
    """n noise levels uniform in sigma^(1/rho), then `t_end` (Karras et al. 2022, eq. 5), for any scalar process.

    sigma is the noise relative to the signal, sigma_t / alpha_t: time itself on `edm`, exp(-log-SNR / 2) elsewhere.

    Args:
        rho: the exponent, > 0; larger is denser near the data (7 as published).
        sigma_min: the last level before `t_end`, > 0 (0.002 as published).
        sigma_max: the first level (80 as published); None is the process's own at its prior.
        t_end: see `Grid`.
        last: see `Grid`.

    Raises:
        ConfigError: unless rho > 0 and 0 < sigma_min < sigma_max.
    """

    name = "karras"

    def __init__(
        self,
        rho: float = 7.0,
        sigma_min: float = 0.002,
        sigma_max: float | None = None,
        t_end: float | None = None,
        last: Last = "state",
    ) -> None:
        super().__init__(t_end, last)
        if not rho > 0.0:
            raise ConfigError(f"grid.rho={rho}: must be > 0")
        if not 0.0 < sigma_min < (math.inf if sigma_max is None else sigma_max):
            raise ConfigError(f"grid: needs 0 < sigma_min < sigma_max, got {sigma_min} and {sigma_max}")
        self.rho = rho
        self.sigma_min = sigma_min
        self.sigma_max = sigma_max

    def _times(self, process: Process, n: int, start: float, end: float) -> Tensor:
        first = self._largest(process, start)
        root = 1.0 / self.rho
        levels = torch.linspace(first**root, self.sigma_min**root, n, dtype=torch.float64) ** self.rho
        levels[-1], levels[0] = self.sigma_min, first  # a single level is the first
        times = process.time_of_log_snr(-2.0 * levels.log())
        if self.sigma_max is None:
            times[0] = start
        least = _relative_noise(process, end)
        if not self.sigma_min > least * (1.0 + _ROUNDING):
            raise ConfigError(
                f"grid.sigma_min={self.sigma_min:g}: must be above {least:.6g}, where process {process.name} ends "
                f"(grid.t_end={end:g})"
            )
        return torch.cat([times, torch.tensor([end], dtype=torch.float64)])

    def _largest(self, process: Process, start: float) -> float:
        own = _relative_noise(process, start)
        if self.sigma_max is None and not math.isfinite(own):
            raise _no_level(self.name, process)
        if self.sigma_max is None and not self.sigma_min < own:
            raise ConfigError(f"grid.sigma_min={self.sigma_min:g}: process {process.name} has less than {own:.6g}")
        if self.sigma_max is not None and self.sigma_max > own * (1.0 + _ROUNDING):
            raise ConfigError(f"grid.sigma_max={self.sigma_max:g}: process {process.name} has at most {own:.6g}")
        return own if self.sigma_max is None else self.sigma_max


def _relative_noise(process: Process, t: float) -> float:
    """sigma_t / alpha_t."""
    return math.exp(-0.5 * float(process.log_snr(torch.tensor(t, dtype=torch.float64))))


def _no_level(grid: str, process: Process) -> ConfigError:
    """At the end point of a bridge there is neither signal nor noise, at the prior of others at least no signal."""
    if process.endpoint:
        return ConfigError(f"grid {grid}: process {process.name} has no noise level at its end point: use grid=bridge")
    return ConfigError(
        f"grid {grid}: process {process.name} has no signal at t = {process.t_prior:g}: use grid=uniform, or "
        "process.t_prior=0.999"
    )
