"""Which two times a consistency loss compares: t, and r < t, closer to the data. Both are float64 on the CPU.

CDBM (He et al. 2024, section 3.3): r = t - dt, or a share of t that grows in stages; the second form is that of easy
consistency tuning (Geng et al. 2024). CM (Song et al. 2023, appendix C): neighbours on a grid that gets finer.
"""

from __future__ import annotations

import abc
import math

import torch
from torch import Tensor

from diffexp.core.errors import ConfigError

GAP = 1.0e-5
"""The smallest t - r that a training sees."""


class Schedule(abc.ABC):
    """A law of pairs of times on [low, high], where low is the time at which the consistency function ends."""

    @abc.abstractmethod
    def pairs(self, share: Tensor, low: float, high: float, step: int, steps: int) -> tuple[Tensor, Tensor]:
        """One pair for each image.

        Args:
            share: uniform numbers in [0, 1), float64 (B,), that make the times random.
            low, high: the range.
            step, steps: optimiser steps done, and the training's length.

        Returns:
            (t, r) with low <= r <= t - GAP and t <= high.
        """

    def target_decay(self, step: int, steps: int) -> float | None:
        """The decay of the target network's average in this step; None where the schedule says nothing about it."""
        return None


class _Continuous(Schedule):
    """t uniform on [low + GAP, high], and r a function of t."""

    @abc.abstractmethod
    def earlier(self, t: Tensor, low: float, step: int, steps: int) -> Tensor:
        """r(t) >= low, the shape of `t`."""

    def pairs(self, share: Tensor, low: float, high: float, step: int, steps: int) -> tuple[Tensor, Tensor]:
        t = low + GAP + (high - low - GAP) * share
        return t, torch.minimum(self.earlier(t, low, step, steps), (t - GAP).clamp_min(low))


class Constant(_Continuous):
    """r = max(low, t - dt).

    Args:
        dt: in the process's own time, > 0; CDBM tries 1/9 to 1/120 on [0, 1].

    Raises:
        ConfigError: for another dt, with which r would not be before t.
    """

    def __init__(self, dt: float = 1.0 / 60.0) -> None:
        if not dt >= GAP:
            raise ConfigError(f"distillation.schedule.dt={dt}: must be at least {GAP:g}, so that r is before t")
        self.dt = dt

    def earlier(self, t: Tensor, low: float, step: int, steps: int) -> Tensor:
        return (t - self.dt).clamp_min(low)


class Sigmoid(_Continuous):
    """r = max(low, t (1 - q^-a n(t))), n(t) = 1 + k sigmoid(-b t), with a = 1, 2, ... in stages: r approaches t.

    Args:
        q: how much closer every stage brings r, > 1.
        k: how much further away r is at small t, >= 0 (K of the specification; 8 in ECT).
        b: how fast that fades with t, >= 0, per unit of the process's time; CDBM tries 1 to 50 on [0, 1].
        every: steps of a stage; None: all stages are equally long, and fill the training.
        stages: the last a, >= 1.

    Raises:
        ConfigError: for numbers with which r would not be before t, or not approach it.
    """

    def __init__(
        self, q: float = 2.0, k: float = 8.0, b: float = 20.0, every: int | None = None, stages: int = 6
    ) -> None:
        if not (q > 1.0 and k >= 0.0 and b >= 0.0):
            raise ConfigError(
                f"distillation.schedule: q={q}, k={k}, b={b}: needs q > 1, k >= 0 and b >= 0, else r is not before t"
            )
        if stages < 1 or q**stages > 1.0e6:
            raise ConfigError(f"distillation.schedule.stages={stages}: from 1 to {int(math.log(1.0e6, q))} for q={q:g}")
        if every is not None and every < 1:
            raise ConfigError(f"distillation.schedule.every={every}: a stage is at least one step, or null")
        self.q = q
        self.k = k
        self.b = b
        self.every = every
        self.stages = stages

    def stage(self, step: int, steps: int) -> int:
        """a after `step` steps: 1 + floor(step / every), at most `stages`."""
        every = self.every or max(1, math.ceil(steps / self.stages))
        return min(1 + step // every, self.stages)

    def earlier(self, t: Tensor, low: float, step: int, steps: int) -> Tensor:
        return self.share(t, self.stage(step, steps)).clamp_min(low)

    def share(self, t: Tensor, a: float) -> Tensor:
        """t (1 - q^-a n(t)), which may be negative."""
        return t * (1.0 - self.q**-a * (1.0 + self.k * torch.sigmoid(-self.b * t)))


class Curriculum(Schedule):
    """Neighbours on a Karras grid of N(k) points, and a target network with decay mu(k) (CM, appendix C).

    N(k) = ceil(sqrt(k / K ((s1 + 1)^2 - s0^2) + s0^2) - 1) + 1, mu(k) = exp(s0 log(mu0) / (N(k) - 1)), where K is the
    training's length. The number of intervals, N - 1, is at least one.

    Args:
        start_scales: s0 >= 1.
        end_scales: s1 >= s0.
        start_decay: mu0 in (0, 1), of the target network; None leaves it to distillation.target_ema.
        rho: exponent of the grid, which is even in t^(1 / rho).

    Raises:
        ConfigError: for numbers out of range.
    """

    def __init__(
        self, start_scales: int = 2, end_scales: int = 150, start_decay: float | None = 0.95, rho: float = 7.0
    ) -> None:
        if not 1 <= start_scales <= end_scales:
            raise ConfigError(
                f"distillation.schedule: start_scales={start_scales} and end_scales={end_scales}: "
                "needs 1 <= start_scales <= end_scales"
            )
        if start_decay is not None and not 0.0 < start_decay < 1.0:
            raise ConfigError(f"distillation.schedule.start_decay={start_decay}: must be in (0, 1), or null")
        if not rho > 0.0:
            raise ConfigError(f"distillation.schedule.rho={rho}: must be > 0")
        self.start_scales = start_scales
        self.end_scales = end_scales
        self.start_decay = start_decay
        self.rho = rho

    def points(self, step: int, steps: int) -> int:
        """N(k), the number of points of the grid."""
        first, last = self.start_scales**2, (self.end_scales + 1) ** 2
        return max(math.ceil(math.sqrt(step / steps * (last - first) + first) - 1.0), 1) + 1

    def target_decay(self, step: int, steps: int) -> float | None:
        if self.start_decay is None:
            return None
        return math.exp(self.start_scales * math.log(self.start_decay) / (self.points(step, steps) - 1))

    def pairs(self, share: Tensor, low: float, high: float, step: int, steps: int) -> tuple[Tensor, Tensor]:
        n = self.points(step, steps)
        power = 1.0 / self.rho
        times = torch.linspace(high**power, low**power, n, dtype=torch.float64) ** self.rho
        times[0], times[-1] = high, low
        if float(-times.diff().max()) < GAP:
            raise ConfigError(f"distillation.schedule: {n} points on [{low:g}, {high:g}] are closer than {GAP:g}")
        place = (share * (n - 1)).long().clamp_max(n - 2)
        return times[place], times[place + 1]
