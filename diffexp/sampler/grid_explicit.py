"""A grid that is given as a list, e.g. one that was found by a search."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from diffexp.core.errors import ConfigError
from diffexp.process.base import Process
from diffexp.sampler.grid import Grid, Last

Unit = Literal["t", "alpha", "log_snr"]


class Explicit(Grid):
    """The n times of a list, from noise to data, then `t_end`: it has n steps and no other number of them.

    Signal levels and log-SNR values keep their meaning on every scalar process; beyond a process's ends they stand for
    the nearest end (see `Process.time_of`).

    Args:
        values: at least one; times fall along the list, alpha (in [0, 1)) and log_snr rise.
        unit: what the values are.
        t_end: see `Grid`.
        last: see `Grid`.

    Raises:
        ConfigError: for an empty list, values out of range, or values out of order.
    """

    name = "explicit"

    def __init__(self, values: list[float], unit: Unit = "t", t_end: float | None = None, last: Last = "state") -> None:
        super().__init__(t_end, last)
        self.values = [float(value) for value in values]
        self.unit: Unit = unit
        if not self.values:
            raise ConfigError("grid.values=[]: name at least one, e.g. grid.values=[0.9,0.5,0.1]")
        if not all(math.isfinite(value) for value in self.values):
            raise ConfigError(f"grid.values={self.values}: must be finite")
        if unit == "alpha" and not all(0.0 <= value < 1.0 for value in self.values):
            raise ConfigError(f"grid.values={self.values}: signal levels must lie in [0, 1); t_end comes after them")
        for first, second in pairwise(self.values):
            if not (first > second if unit == "t" else first < second):
                direction = "fall" if unit == "t" else "rise"
                raise ConfigError(f"grid.values: must {direction} from noise to data, got {first:g} before {second:g}")

    @property
    def choices(self) -> tuple[int, ...]:  # type: ignore[override]
        return (len(self.values),)

    def _times(self, process: Process, n: int, start: float, end: float) -> Tensor:
        if n != len(self.values):
            raise ConfigError(f"grid explicit: has {len(self.values)} steps, not {n}")
        times = self._converted(process, torch.tensor(self.values, dtype=torch.float64))
        if not float(times[0]) <= start:
            raise ConfigError(f"grid.values: {float(times[0]):g} is after the prior of process {process.name}, {start}")
        return torch.cat([times, torch.tensor([end], dtype=torch.float64)])

    def _converted(self, process: Process, values: Tensor) -> Tensor:
        if self.unit == "alpha":
            return process.time_of(values)
        return process.time_of_log_snr(values) if self.unit == "log_snr" else values
