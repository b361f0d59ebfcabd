"""Grids of short noise schedules (BDDM, Lam et al. 2022): written out by their betas, or read from a search's file.

The levels of a schedule are computed from its betas alone, alpha_n^2 = prod_{i <= n} (1 - beta_i) counted from the data
on, and visited where the process has their signal-to-noise ratio. Sampling never asks the network that found them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import NoReturn

import torch
from torch import Tensor

from diffexp.core.errors import ConfigError
from diffexp.process.base import Process
from diffexp.process.scalar import why_no_level
from diffexp.process.table import Table
from diffexp.sampler.grid import Grid, Last
from diffexp.sampler.schedule_file import check_betas, read_schedules


class _Levels(Grid):
    """Schedules of different numbers of steps, each by its betas; `t_end` is the data time, where alpha_0 = 1.

    Attributes:
        schedule: hexadecimal digits that stand for all the betas, so that results tell schedules apart by content.
    """

    def __init__(self, schedules: Mapping[int, tuple[float, ...]], t_end: float | None, last: Last) -> None:
        super().__init__(t_end, last)
        self._schedules = schedules
        self.schedule: str | None = _digest(schedules)

    @property
    def choices(self) -> tuple[int, ...]:
        return tuple(sorted(self._schedules))

    def betas(self, n: int) -> Tensor:
        """The betas of n steps, rising from the data, float64 (n,); ConfigError names the nearest numbers of steps."""
        if n not in self.choices:
            below, above = ([k for k in self.choices if k < n][-1:], [k for k in self.choices if k > n][:1])
            has = " or ".join(map(str, [*below, *above]))
            raise ConfigError(f"grid {self.name}: has no schedule of {n} steps: choose {has}")
        return torch.tensor(self._schedules[n], dtype=torch.float64)

    def _end(self, process: Process) -> float:
        return process.t_data

    def _times(self, process: Process, n: int, start: float, end: float) -> Tensor:
        why = why_no_level(process)
        if why is not None:
            raise ConfigError(
                f"grid {self.name}: holds noise levels, and process {process.name} {why}: use grid=uniform, or a "
                "process like vp, ve or ddpm"
            )
        betas = self.betas(n)
        # The table keeps 1 - alpha with digits of its own: alpha alone loses those of the smallest betas.
        log_snr = Table(betas).log_snr(torch.arange(n - 1, -1, -1, dtype=torch.float64))
        times = process.time_of_log_snr(log_snr)
        if not float(times[0]) <= start:
            raise ConfigError(
                f"grid {self.name}: begins at t = {float(times[0]):g}, after the prior of process {process.name}, "
                f"{start:g}"
            )
        if not float(times[-1]) > end:
            raise ConfigError(_too_clean(self.name, process, float(betas[0]), end))
        return torch.cat([times, torch.tensor([end], dtype=torch.float64)])


def _too_clean(grid: str, process: Process, beta: float, end: float) -> str:
    left = float(torch.sigmoid(-process.log_snr(torch.tensor(end, dtype=torch.float64))))
    fix = "grid.t_end=null" if end > process.t_data else "a process that ends in cleaner data, e.g. vp"
    return (
        f"grid {grid}: its last step, beta_1 = {beta:g}, is less noise than process {process.name} has at t = {end:g}, "
        f"{left:.3g}: use {fix}"
    )


def _digest(schedules: Mapping[int, tuple[float, ...]]) -> str:
    return hashlib.sha256(repr(sorted(schedules.items())).encode()).hexdigest()[:8]


class Betas(_Levels):
    """One schedule, written out: as many steps as betas.

    Args:
        betas: the variances of the steps, in (0, 1), from the data on, where they are smallest.
        name: what tables call it.
        t_end: see `Grid`; None is the data time, for which the betas were made.
        last: see `Grid`.

    Raises:
        ConfigError: for an empty list, betas out of range, or betas that fall.
    """

    def __init__(
        self, betas: list[float], name: str = "betas", t_end: float | None = None, last: Last = "state"
    ) -> None:
        checked = check_betas(betas, "grid.betas")
        super().__init__({len(checked): checked}, t_end, last)
        self.name = name


class File(_Levels):
    """The schedules of a file, see `diffexp.sampler.schedule_file`: each budget takes the one with its number of steps.

    Args:
        path: the file, or a run folder with one; None: not known yet. Such a grid has no times, and says so.
        t_end: see `Betas`.
        last: see `Grid`.

    Raises:
        ConfigError: for a file that is missing or holds no schedules.
    """

    name = "file"

    def __init__(self, path: str | None = None, t_end: float | None = None, last: Last = "state") -> None:
        found = () if path is None else read_schedules(path).schedules
        super().__init__({schedule.steps: schedule.betas for schedule in found}, t_end, last)
        if path is None:
            self.schedule = None

    @property
    def choices(self) -> tuple[int, ...]:
        if self.schedule is None:
            self.refuse()
        return super().choices

    def refuse(self) -> NoReturn:
        """Say that a file is missing: ConfigError."""
        raise ConfigError(
            "grid.path=null: name a file of schedules, e.g. grid.path=runs/<recipe>/<run>/schedules.json, which "
            "task=search writes"
        )
