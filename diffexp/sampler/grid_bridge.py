"""Grids of the official bridge samplers (DDBM, DBIM): both keep a small distance from the end point, t = T."""

from __future__ import annotations

import torch
from torch import Tensor

from diffexp.core.errors import ConfigError
from diffexp.process.base import Process
from diffexp.sampler.grid import Grid, Last, pinned


class _BridgeGrid(Grid):
    """Times on a bridge that keep `gamma` from its end point.

    Args:
        gamma: the distance, > 0, in units of time.
        t_end: see `Grid`.
        last: see `Grid`.

    Raises:
        ConfigError: unless gamma > 0.
    """

    def __init__(self, gamma: float, t_end: float | None = None, last: Last = "state") -> None:
        super().__init__(t_end, last)
        if not gamma > 0.0:
            raise ConfigError(f"grid.gamma={gamma}: must be > 0")
        self.gamma = gamma

    def _first(self, process: Process, start: float, end: float) -> float:
        """T - gamma."""
        if not process.endpoint:
            raise ConfigError(f"grid {self.name} is for bridges, and process {process.name} is none: use grid=uniform")
        if not start - self.gamma > end:
            raise ConfigError(f"grid.gamma={self.gamma:g}: leaves no time between {end:g} and {start:g}")
        return start - self.gamma


class Leaving(_BridgeGrid):
    """The end point, then times uniform from T - gamma to t_end (DBIM): the first of n steps leaves the end point.

    Args:
        gamma: see above; 1e-3 as published, also for T = 80.
        t_end, last: see `Grid`.
    """

    name = "bridge"

    def __init__(self, gamma: float = 1e-3, t_end: float | None = None, last: Last = "state") -> None:
        super().__init__(gamma, t_end, last)

    def _times(self, process: Process, n: int, start: float, end: float) -> Tensor:
        first = self._first(process, start, end)
        if n < 2:
            raise ConfigError("grid bridge: one step from the end point and at least one more are needed, not 1 step")
        rest = pinned(torch.linspace(first, end, n, dtype=torch.float64), first, end)
        return torch.cat([torch.tensor([start], dtype=torch.float64), rest])


class BridgeKarras(_BridgeGrid):
    """n times from T - gamma to the bridge's t_min, uniform in t^(1/rho), then t_end (DDBM).

    Args:
        rho: the exponent, > 0; larger is denser near the data (7 as published).
        gamma: see above; 1e-4 as published, also for T = 80.
        t_end: see `Grid`; None is the data time, 0.
        last: see `Grid`.

    Raises:
        ConfigError: unless rho > 0.
    """

    name = "bridge_karras"

    def __init__(self, rho: float = 7.0, gamma: float = 1e-4, t_end: float | None = None, last: Last = "state") -> None:
        super().__init__(gamma, t_end, last)
        if not rho > 0.0:
            raise ConfigError(f"grid.rho={rho}: must be > 0")
        self.rho = rho

    def _end(self, process: Process) -> float:
        return process.t_data

    def _times(self, process: Process, n: int, start: float, end: float) -> Tensor:
        first, final, root = self._first(process, start, end), process.t_min, 1.0 / self.rho
        if not first > final > end:
            raise ConfigError(f"grid.t_end={end:g}: must be below {final:g}, the process's t_min")
        share = torch.linspace(0.0, 1.0, n, dtype=torch.float64)
        times = (first**root + share * (final**root - first**root)) ** self.rho
        times = pinned(times, first, final) if n > 1 else torch.tensor([first], dtype=torch.float64)
        return torch.cat([times, torch.tensor([end], dtype=torch.float64)])
