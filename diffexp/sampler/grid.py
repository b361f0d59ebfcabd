"""Grids: the decreasing times that a sampler visits, and what it hands over at the end."""

from __future__ import annotations

import abc
from typing import Literal

import torch
from torch import Tensor

from diffexp.core.errors import ConfigError
from diffexp.process.base import Process

Last = Literal["state", "data", "denoise_em"]


class Grid(abc.ABC):
    """n + 1 times of n steps: the network is asked at the first n of them, and the last is `t_end`.

    Args:
        t_end: the last time; None is the process's own, t_min: its data time, or a bridge's epsilon.
        last: "state" hands over the state at `t_end`; "data" hands over the data estimate of the last evaluation, taken
            at the time before; both cost the same. "denoise_em" takes one Euler step of the reverse process from
            `t_end` to the data time, without its noise, which costs one evaluation more.

    Attributes:
        name: short name, as in the config group.
        choices: the numbers of steps that the grid has, rising; None when it has any.
    """

    name: str
    choices: tuple[int, ...] | None = None

    def __init__(self, t_end: float | None = None, last: Last = "state") -> None:
        self.t_end = t_end
        self.last: Last = last

    def times(self, process: Process, n: int) -> Tensor:
        """The n + 1 times of n steps on `process`, strictly decreasing, float64.

        Raises:
            ConfigError: when t_end is not a time of the process before its prior, or when n steps do not fit.
        """
        end = self._end(process) if self.t_end is None else self.t_end
        if not process.t_data <= end < process.t_prior:
            limits = f"[{process.t_data:g}, {process.t_prior:g})"
            raise ConfigError(f"grid.t_end={end}: must lie in {limits}, the times of process {process.name}")
        times = self._times(process, n, process.t_prior, end)
        self._require_decrease(process, times)
        return times

    def _end(self, process: Process) -> float:
        """The last time where none is given."""
        return process.t_min

    @abc.abstractmethod
    def _times(self, process: Process, n: int, start: float, end: float) -> Tensor:
        """n + 1 times between `start`, the time of the prior, and `end`, float64; the last is exactly `end`."""

    def _require_decrease(self, process: Process, times: Tensor) -> None:
        falls = times[:-1] > times[1:]
        if not bool(falls.all()):
            k = int(falls.logical_not().nonzero()[0])
            pair = f"{float(times[k]):.17g} and {float(times[k + 1]):.17g}"
            raise ConfigError(
                f"grid {self.name}: times {k} and {k + 1} of {len(times) - 1} steps on process {process.name} do not "
                f"decrease, {pair}: use fewer steps or an earlier t_end"
            )


def pinned(times: Tensor, start: float, end: float) -> Tensor:
    """The same times with their ends exactly as they are meant: powers and logarithms round."""
    times[0], times[-1] = start, end
    return times


class Power(Grid):
    """Uniform in the p-th root of time: t_k = linspace(T^(1/p), t_end^(1/p), n + 1)^p (gDDIM's `ts_order`).

    Time counts from the data: on a table, where these are at -1, it is t + 1.

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
        return _powers(self.p, n, process.t_data, start, end)


class QuadraticStriding(Grid):
    """CLD-SGM's quadratic striding: uniform in the square root of the time that is left until t_end.

    In reversed time tau = T - t, tau_k = tau_n (1 - (1 - k / n)^2). `Power` with p = 2 counts from the data instead.
    """

    name = "quadratic_striding"

    def _times(self, process: Process, n: int, start: float, end: float) -> Tensor:
        return _powers(2.0, n, end, start, end)


def _powers(p: float, n: int, zero: float, start: float, end: float) -> Tensor:
    """n + 1 times that are uniform in the p-th root of the time since `zero`."""
    roots = torch.linspace((start - zero) ** (1.0 / p), (end - zero) ** (1.0 / p), n + 1, dtype=torch.float64)
    return pinned(zero + roots**p, start, end)


class Uniform(Grid):
    """Uniform in time; on the cosine process this is uniform in angle."""

    name = "uniform"

    def _times(self, process: Process, n: int, start: float, end: float) -> Tensor:
        return pinned(torch.linspace(start, end, n + 1, dtype=torch.float64), start, end)


class Ends(Grid):
    """The ends of the time axis alone, for solvers that choose their steps.

    Args:
        t_end: see `Grid`.
        last: "state" or "denoise_em".

    Raises:
        ConfigError: for last="data": an adaptive solver has no evaluation that ends it.
    """

    name = "ends"
    choices = (1,)

    def __init__(self, t_end: float | None = None, last: Last = "state") -> None:
        super().__init__(t_end, last)
        if last == "data":
            raise ConfigError("grid.last=data: an adaptive solver ends with the state or with denoise_em")

    def _times(self, process: Process, n: int, start: float, end: float) -> Tensor:
        return torch.tensor([start, end], dtype=torch.float64)
