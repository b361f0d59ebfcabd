"""Grids of the official samplers of decoupled diffusion (DDM, ADM): their last step is short, or very short."""

from __future__ import annotations

import torch
from torch import Tensor

from diffexp.core.errors import ConfigError
from diffexp.process.base import Process
from diffexp.sampler.grid import Grid, Last


class UniformEps(Grid):
    """n - 1 equal steps from the prior, the last of which stops at eps and leaves a step of that length (DDM).

    The network is asked at 1, 1 - 1/N, ..., 1/N and eps with N = n - 1, the code's number of steps, which costs N + 1
    evaluations. One step is the whole way.

    Args:
        eps: the last time before `t_end`, > 0; 1e-4 as published.
        t_end: see `Grid`.
        last: see `Grid`.

    Raises:
        ConfigError: unless eps > 0.
    """

    name = "uniform_eps"

    def __init__(self, eps: float = 1e-4, t_end: float | None = None, last: Last = "state") -> None:
        super().__init__(t_end, last)
        if not eps > 0.0:
            raise ConfigError(f"grid.eps={eps}: must be > 0")
        self.eps = eps

    def _times(self, process: Process, n: int, start: float, end: float) -> Tensor:
        if n == 1:
            return torch.tensor([start, end], dtype=torch.float64)
        left = torch.arange(n - 1, 0, -1, dtype=torch.float64) / (n - 1)
        return torch.cat([end + (start - end) * left, torch.tensor([end + self.eps, end], dtype=torch.float64)])


class LinearToSigmaMin2(Grid):
    """n times uniform from the prior to sigma_min^2, then `t_end` (ADM's code for noise sqrt(t)).

    Args:
        sigma_min: root of the last time before `t_end`, > 0; 0.01 as published.
        t_end: see `Grid`.
        last: see `Grid`.

    Raises:
        ConfigError: unless sigma_min > 0.
    """

    name = "linear_to_sigma_min2"

    def __init__(self, sigma_min: float = 0.01, t_end: float | None = None, last: Last = "state") -> None:
        super().__init__(t_end, last)
        if not sigma_min > 0.0:
            raise ConfigError(f"grid.sigma_min={sigma_min}: must be > 0")
        self.sigma_min = sigma_min

    def _times(self, process: Process, n: int, start: float, end: float) -> Tensor:
        # Rounded like the code's formula: its last time is sigma_min^2 up to 1e-16, which a tiny sigma_min can see.
        share = torch.arange(n, dtype=torch.float64) / max(n - 1, 1)
        times = start + share * (self.sigma_min**2 - start)
        return torch.cat([times, torch.tensor([end], dtype=torch.float64)])
