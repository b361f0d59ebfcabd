"""Grids: the decreasing times that a sampler visits, and what it hands over at the end."""

from __future__ import annotations

import abc
from typing import Literal

import torch
from torch import Tensor

from diffexp.core.errors import ConfigError
from diffexp.process.base import Process

Last = Literal["state", "data"]


class Grid(abc.ABC):
    """n + 1 times from the prior down to `t_end`.

    Args:
        t_end: the last time; None is the process's data time.
        last: "state" hands over the state at `t_end`; "data" hands over the data estimate of the last evaluation, taken
            at the time before. Both cost the same.

    Raises:
        ConfigError: for a negative t_end.
    """

    name: str

    def __init__(self, t_end: float | None = None, last: Last = "state") -> None:
        if t_end is not None and t_end < 0.0:
            raise ConfigError(f"grid.t_end={t_end}: must be >= 0")
        self.t_end = t_end
        self.last: Last = last

    def times(self, process: Process, n: int) -> Tensor:
        """The n + 1 times of n steps on `process`, strictly decreasing, float64.

        Raises:
            ConfigError: when t_end is not before the process's t_max.
        """
        end = process.t_data if self.t_end is None else self.t_end
        if not end < process.t_max:
            raise ConfigError(f"grid.t_end={end}: must be below the time of the prior, {process.t_max}")
        times = self._times(process, n, process.t_max, end)
        # Powers and logarithms round; the ends are meant exactly.
        times[0], times[-1] = process.t_max, end
        return times

    @abc.abstractmethod
    def _times(self, process: Process, n: int, start: float, end: float) -> Tensor:
        """n + 1 times from `start` to `end`, float64."""


class Power(Grid):
    """Uniform in t^(1/p): t_k = linspace(T^(1/p), t_end^(1/p), n + 1)^p (gDDIM's `ts_order`).

    Args:
        p: the exponent, > 0; larger is denser near the data.
        t_end: see `Grid`.
        last: see `Grid`.

    Raises:
        ConfigError: unless p > 0.
    """

    name = "power"

    def __init__(self, p: float = 2.0, t_end: float | None = None, last: Last = "state") -> None:
        super().__init__(t_end, last)
        if not p > 0.0:
            raise ConfigError(f"grid.p={p}: must be > 0")
        self.p = p

    def _times(self, process: Process, n: int, start: float, end: float) -> Tensor:
        root = 1.0 / self.p
        return torch.linspace(start**root, end**root, n + 1, dtype=torch.float64) ** self.p


class Uniform(Grid):
    """Uniform in time; on the cosine process this is uniform in angle."""

    name = "uniform"

    def _times(self, process: Process, n: int, start: float, end: float) -> Tensor:
        return torch.linspace(start, end, n + 1, dtype=torch.float64)
