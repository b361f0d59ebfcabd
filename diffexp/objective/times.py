"""Time laws: at which times a training looks at its images. Every draw is keyed by the image's position."""

from __future__ import annotations

import abc

import torch
from torch import Tensor

from diffexp.core import random
from diffexp.core.errors import ConfigError
from diffexp.process.base import Process

_STREAM = "train/time"


class Times(abc.ABC):
    """A law of training times."""

    name: str

    def check(self, process: Process) -> None:  # noqa: B027 - most laws fit every process
        """Raise ConfigError when no time is left to train on."""

    def start(self, process: Process) -> float:
        """The smallest time on `process`."""
        return process.t_min

    @abc.abstractmethod
    def draw(self, process: Process, seed: int, positions: Tensor) -> Tensor:
        """One time for each image: float64 (B,) on the CPU; `positions` (B,) are places in the order of the data."""


class Uniform(Times):
    """Uniform in [t_min, t_max], independent.

    Args:
        t_min: smallest time; 1e-5 in the score-based papers. None is the process's own: its data time, or a bridge's
            epsilon.
    """

    name = "uniform"

    def __init__(self, t_min: float | None = 1e-5) -> None:
        self.t_min = t_min

    def start(self, process: Process) -> float:
        return process.t_min if self.t_min is None else self.t_min

    def check(self, process: Process) -> None:
        if not process.t_data <= self.start(process) < process.t_max:
            limits = f"[{process.t_data}, {process.t_max})"
            raise ConfigError(f"objective.times.t_min={self.t_min}: must lie in {limits}, the times of {process.name}")

    def draw(self, process: Process, seed: int, positions: Tensor) -> Tensor:
        return self._spread(process, random.uniform(seed, _STREAM, positions))

    def _spread(self, process: Process, share: Tensor) -> Tensor:
        start = self.start(process)
        return start + (process.t_max - start) * share


class Stratified(Uniform):
    """Uniform in [t_min, t_max] with one time in each of `strata` equal intervals for `strata` successive images.

    The mean over a batch of that size has far less variance (Kingma et al. 2021, section 5 draws the same intervals
    with one shared offset; here the offsets are independent, so that each belongs to its image).

    Args:
        strata: number of intervals; that of the images in a step over all devices.
        t_min: as for `Uniform`.

    Raises:
        ConfigError: for fewer than one interval.
    """

    name = "stratified"

    def __init__(self, strata: int, t_min: float | None = 1e-5) -> None:
        super().__init__(t_min)
        if strata < 1:
            raise ConfigError(f"objective.times.strata={strata}: must be at least 1")
        self.strata = strata

    def draw(self, process: Process, seed: int, positions: Tensor) -> Tensor:
        place = positions.to(torch.float64) % self.strata
        return self._spread(process, (place + random.uniform(seed, _STREAM, positions)) / self.strata)


class End(Times):
    """The last time alone, t_max: on a bridge the state is the end point itself, and training is plain regression."""

    name = "end"

    def start(self, process: Process) -> float:
        return process.t_max

    def draw(self, process: Process, seed: int, positions: Tensor) -> Tensor:
        return torch.full((len(positions),), process.t_max, dtype=torch.float64)


class Discrete(Times):
    """Uniform over N times t_i = t_data + (i + 1) (t_max - t_data) / N, i = 0 .. N - 1: never the data time itself.

    On the cosine process these are the times of an N-step sampler (Salimans & Ho 2022, released code); on a process
    with a table of N entries they are its indices (Ho et al. 2020).

    Args:
        num_times: N; None is the length of the process's table.

    Raises:
        ConfigError: for fewer than one time.
    """

    name = "discrete"

    def __init__(self, num_times: int | None = None) -> None:
        if num_times is not None and num_times < 1:
            raise ConfigError(f"objective.times.num_times={num_times}: must be at least 1")
        self.num_times = num_times

    def count(self, process: Process) -> int:
        """N on `process`; ConfigError when neither it nor the law names one."""
        found = self.num_times if self.num_times is not None else process.num_steps
        if found is None:
            raise ConfigError(f"objective.times.num_times: process {process.name} has no table: give a number")
        return found

    def check(self, process: Process) -> None:
        self.count(process)

    def start(self, process: Process) -> float:
        return float(self.times(process, torch.zeros(())))

    def times(self, process: Process, index: Tensor) -> Tensor:
        """t_i for indices i: float64, the shape of `index`."""
        step = (process.t_max - process.t_data) / self.count(process)
        return process.t_data + (index.to(torch.float64) + 1.0) * step

    def draw(self, process: Process, seed: int, positions: Tensor) -> Tensor:
        return self.times(process, random.integers(seed, _STREAM, positions, self.count(process)))
