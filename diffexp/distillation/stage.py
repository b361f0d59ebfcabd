"""The steps of one student, and what its teacher says of a state at one of them (Salimans & Ho 2022, algorithm 2).

    u_t = alpha_t x0 + sigma_t e              data with noise, at a time t of the student's grid
    x1 = teacher(u_t),  u_m = DDIM(u_t, x1)   the first half of the step, to the teacher's time m in between
    x2 = teacher(u_m),  u_s = DDIM(u_m, x2)   the second half
    x~ = w1 x1 + w2 x2,  w1 + w2 = 1          the estimate with which one step of DDIM goes from u_t to u_s

DDIM moves u / sigma by (cot phi_s - cot phi_t) x^, where tan(phi) = sigma / alpha, so on every scalar process

    w1 = sin(phi_s) sin(phi_t - phi_m) / (sin(phi_m) sin(phi_t - phi_s))
    w2 = sin(phi_t) sin(phi_m - phi_s) / (sin(phi_m) sin(phi_t - phi_s))

The published quotient (u_s - q u_t) / (alpha_s - q alpha_t), q = sigma_s / sigma_t, is the same number, but loses as
many digits as its denominator is small, which is of the order of the step.

A student that takes the teacher's own steps has x~ = x1: it says the same in another prediction.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from diffexp.core.errors import ConfigError
from diffexp.prediction.conditions import NO_CONDITIONS, Conditions
from diffexp.prediction.denoiser import Denoiser
from diffexp.process.base import Marginal, Process
from diffexp.process.flow import ode_step
from diffexp.process.operator import Operator, Scalar, combine
from diffexp.sampler.grid import Grid

_NESTED = 1.0e-9  # of the times' range: how far the student's grid may be from every second time of the teacher's


def angle(process: Process, t: Tensor) -> Tensor:
    """phi in [0, pi / 2] with tan(phi) = sigma / alpha, of a scalar process: float64, the shape of `t`."""
    signal, factor = process.signal(t), process.factor(t)
    assert isinstance(signal, Scalar)
    assert isinstance(factor, Scalar)
    return torch.atan2(factor.value, signal.value)


def target_weights(phi_t: Tensor, phi_m: Tensor, phi_s: Tensor) -> tuple[Tensor, Tensor]:
    """(w1, w2) of two estimates, at phi_t and at phi_m, for one step from phi_t to phi_s; see the module.

    Args:
        phi_t, phi_m, phi_s: decreasing angles in [0, pi / 2], float64; phi_s = 0 gives (0, 1).
    """
    whole = torch.sin(phi_m) * torch.sin(phi_t - phi_s)
    return (
        torch.sin(phi_s) * torch.sin(phi_t - phi_m) / whole,
        torch.sin(phi_t) * torch.sin(phi_m - phi_s) / whole,
    )


@dataclass(frozen=True)
class Stage:
    """The N steps of a student, by their index i = 0 .. N - 1; the step 0 is the last one of a sampling.

    Attributes:
        t, m, s: first time, the teacher's time in between, and last time of each step, float64 (N,).
        first, second: the weights w1 and w2 of the teacher's estimates, float64 (N,).
        converts: the steps are the teacher's own: m is t, and there is no second estimate.
    """

    t: Tensor
    m: Tensor
    s: Tensor
    first: Tensor
    second: Tensor
    converts: bool = False

    @classmethod
    def own(cls, process: Process, grid: Grid, steps: int) -> Stage:
        """The stage of a student that takes the same N steps as its teacher; ConfigError when the grid has no such."""
        times = grid.times(process, steps)
        t, s = times[:-1].flip(0), times[1:].flip(0)
        return cls(t, t, s, torch.ones_like(t), torch.zeros_like(t), converts=True)

    @classmethod
    def of(cls, process: Process, grid: Grid, steps: int) -> Stage:
        """The stage of a student of `steps` steps on a grid whose 2 N steps are the teacher's.

        Raises:
            ConfigError: the grid's N steps are not every second one of its 2 N.
        """
        times = grid.times(process, 2 * steps)
        wide = float(times[0] - times[-1])
        if float((times[::2] - grid.times(process, steps)).abs().max()) > _NESTED * wide:
            raise ConfigError(
                f"distillation.grid: {steps} steps of grid {grid.name} are not every second one of its {2 * steps}: "
                "use grid=uniform, or power"
            )
        t, m, s = times[:-1:2].flip(0), times[1::2].flip(0), times[2::2].flip(0)
        first, second = target_weights(angle(process, t), angle(process, m), angle(process, s))
        if grid.last == "data":  # the sampler ends with the estimate itself
            first[0], second[0] = 0.0, 1.0
        return cls(t, m, s, first, second)

    def __len__(self) -> int:
        return len(self.t)


@dataclass(frozen=True)
class Target:
    """What a teacher says of states, each at a step of its own.

    Attributes:
        middle: u_m, (B, C, H, W); of a conversion the states themselves.
        data: x~.
        noise: e~ with u = alpha_t x~ + sigma_t e~.
        estimates: x1 and x2; of a conversion x1 alone.
    """

    middle: Tensor
    data: Tensor
    noise: Tensor
    estimates: tuple[Tensor, ...]


@torch.no_grad()
def target(stage: Stage, teacher: Denoiser, u: Tensor, index: Tensor, conditions: Conditions = NO_CONDITIONS) -> Target:
    """x~ for states `u` (B, C, H, W) at the steps `index` (B,) of a stage: two evaluations of the teacher, or one."""
    process, place = teacher.process, (u.dtype, u.device)
    t, m = stage.t[index], stage.m[index]
    x1 = teacher(u, teacher.at(t, *place), conditions).data
    if stage.converts:
        return Target(u, x1, _noise(process, t, u, x1), (x1,))
    middle = ode_step(process, u, t, m, x1)
    x2 = teacher(middle, teacher.at(m, *place), conditions).data
    data = combine([(Scalar(w[index]).cast(*place), x) for w, x in ((stage.first, x1), (stage.second, x2))])
    return Target(middle, data, _noise(process, t, u, data), (x1, x2))


def _noise(process: Process, t: Tensor, u: Tensor, data: Tensor) -> Tensor:
    """e~ = (u - alpha_t x~) / sigma_t: whatever the student predicts, its target is of one and the same state."""
    law = process.marginal(t).cast(u.dtype, u.device)
    return combine(list(zip(law.derived(_noise_of), (u, data), strict=True)))


def _noise_of(law: Marginal) -> tuple[Operator, Operator]:
    """(1 / sigma, -alpha / sigma)."""
    inverse = law.factor.inverse()
    return inverse, -1.0 * (inverse @ law.signal)
