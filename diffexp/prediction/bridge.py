"""What a network says on a bridge; it is shown the end point y, unscaled, as further channels behind the state."""

from __future__ import annotations

import torch
from torch import Tensor

from diffexp.core.errors import ConfigError
from diffexp.prediction.preconditioned import Normalised, Preconditioned
from diffexp.prediction.time_input import TimeInput
from diffexp.process.base import Marginal, Process
from diffexp.process.bridge import Bridge


class DDBM(Normalised):
    """DDBM's preconditioning (Zhou et al. 2024).

    Args:
        time: see `Head`; "250log_t" in DDBM's code.
        sigma_data, cov: see `Normalised`; both official repositories train with cov = 0 (the paper says s^2 / 2).
    """

    name = "ddbm"
    shows = "endpoint"

    def __init__(self, time: TimeInput = "250log_t", sigma_data: float = 0.5, cov: float = 0.0) -> None:
        super().__init__(time, sigma_data, cov)

    def check(self, process: Process) -> None:
        _bridge(process, self.name)


class I2SB(Preconditioned):
    """I2SB's prediction (Liu et al. 2023): F is the noise's share in the state, x^ = x_t - rho_t F.

    The network is told N (t0 + (t1 - t0) t): N linspace(t0, t1, N)[i] at the i-th time of a table.

    Args:
        num_times: N.
        t0, t1: ends of the line.
    """

    name = "i2sb"
    shows = "endpoint"

    def __init__(self, num_times: int = 1000, t0: float = 1e-4, t1: float = 1.0) -> None:
        super().__init__()
        self.num_times = num_times
        self.t0 = t0
        self.t1 = t1

    def check(self, process: Process) -> None:
        _bridge(process, self.name)

    def time_input(self, process: Process, t: Tensor) -> Tensor:
        share = _bridge(process, self.name).snapped(t)
        return self.num_times * (self.t0 + (self.t1 - self.t0) * share)

    def coefficients(self, law: Marginal) -> tuple[Tensor, Tensor, Tensor]:
        rho = _bridge(law.process, self.name).rho(law.t)
        one = torch.ones_like(rho)
        return one, one, -rho

    def input_scale(self, process: Process, t: Tensor) -> None:
        return None


def _bridge(process: Process | None, name: str) -> Bridge:
    """The process as the bridge that it has to be."""
    if not isinstance(process, Bridge):
        known = "it" if process is None else process.name
        raise ConfigError(f"prediction={name} needs a bridge, and {known} is none: use eps, or process=bridge_vp")
    return process
