"""Progressive distillation (Salimans & Ho 2022, algorithm 2): one step of the student is two of its teacher.

    u_t = alpha_t x0 + sigma_t e              data with noise, at a time t of the student's grid
    x1 = teacher(u_t),  u_m = DDIM(u_t, x1)   the first half of the step, to the teacher's time m in between
    x2 = teacher(u_m),  u_s = DDIM(u_m, x2)   the second half
    x~ = w1 x1 + w2 x2,  w1 + w2 = 1          the estimate with which one step of DDIM goes from u_t to u_s

and the student's objective regresses x~ in the place of x0. DDIM moves u / sigma by (cot phi_s - cot phi_t) x^, where
tan(phi) = sigma / alpha, so on every scalar process

    w1 = sin(phi_s) sin(phi_t - phi_m) / (sin(phi_m) sin(phi_t - phi_s))
    w2 = sin(phi_t) sin(phi_m - phi_s) / (sin(phi_m) sin(phi_t - phi_s))

The published quotient (u_s - q u_t) / (alpha_s - q alpha_t), q = sigma_s / sigma_t, is the same number, but loses as
many digits as its denominator is small, which is of the order of the step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from diffexp.core import random
from diffexp.core.errors import CheckpointError, ConfigError
from diffexp.core.halving import halvings
from diffexp.distillation.base import Distillation, Loss
from diffexp.objective.base import Objective
from diffexp.objective.batch import conditions_of, data_and_noise
from diffexp.objective.denoising import Denoising
from diffexp.prediction.conditions import NO_CONDITIONS, Conditions
from diffexp.prediction.denoiser import Denoiser, NetworkDenoiser
from diffexp.prediction.head import Head
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
    """

    t: Tensor
    m: Tensor
    s: Tensor
    first: Tensor
    second: Tensor

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
        middle: u_m, (B, C, H, W).
        data: x~.
        noise: e~ with u = alpha_t x~ + sigma_t e~.
        estimates: x1 and x2.
    """

    middle: Tensor
    data: Tensor
    noise: Tensor
    estimates: tuple[Tensor, Tensor]


@torch.no_grad()
def target(stage: Stage, teacher: Denoiser, u: Tensor, index: Tensor, conditions: Conditions = NO_CONDITIONS) -> Target:
    """x~ for states `u` (B, C, H, W) at the steps `index` (B,) of a stage: two evaluations of the teacher."""
    process, place = teacher.process, (u.dtype, u.device)
    t, m = stage.t[index], stage.m[index]
    x1 = teacher(u, teacher.at(t, *place), conditions).data
    middle = ode_step(process, u, t, m, x1)
    x2 = teacher(middle, teacher.at(m, *place), conditions).data
    data = combine([(Scalar(w[index]).cast(*place), x) for w, x in ((stage.first, x1), (stage.second, x2))])
    law = process.marginal(t).cast(*place)
    noise = combine(list(zip(law.derived(_noise_of), (u, data), strict=True)))
    return Target(middle, data, noise, (x1, x2))


def _noise_of(law: Marginal) -> tuple[Operator, Operator]:
    """(1 / sigma, -alpha / sigma)."""
    inverse = law.factor.inverse()
    return inverse, -1.0 * (inverse @ law.signal)


class Progressive(Distillation):
    """One stage of a progressive distillation, or, without `student_steps`, the plan of all of them.

    Args:
        grid: the times of the sampler, of which teacher and student take 2 N and N steps.
        start_steps: steps of the first teacher.
        end_steps: steps of the last student; start_steps / end_steps is a power of two.
        updates: optimiser steps of a stage of a plan.
        updates_at: {N: optimiser steps} of single stages, in the place of `updates`.
        student_steps: N of this training; None: a plan, which commands carry out as a chain of trainings.
        initialise: start from the teacher's weights.
        teacher_ema: see `Distillation`.

    Raises:
        ConfigError: for steps that halving does not reach, or a number of updates below one.
    """

    asks_teacher = True

    def __init__(
        self,
        grid: Grid,
        start_steps: int,
        end_steps: int = 1,
        updates: int = 50_000,
        updates_at: dict[int, int] | None = None,
        student_steps: int | None = None,
        initialise: bool = True,
        teacher_ema: str | None = None,
    ) -> None:
        self.stages = halvings(start_steps, end_steps)
        if student_steps is not None and student_steps < 1:
            raise ConfigError(f"distillation.student_steps={student_steps}: must be at least 1, or null for all stages")
        for count in (updates, *(updates_at or {}).values()):
            if count < 1:
                raise ConfigError(f"distillation.updates={count}: a stage is at least one update")
        self.grid = grid
        self.student_steps = student_steps
        self.initialise = initialise
        self.teacher_ema = teacher_ema

    @property
    def plan(self) -> bool:
        return self.student_steps is None

    def told(self) -> str:
        if self.plan:
            return f"progressive, stages of {', '.join(map(str, self.stages))} steps"
        return f"progressive, a student of {self.steps} step{'s' * (self.steps > 1)}"

    @property
    def steps(self) -> int:
        """N of this training; of a plan, that of its first stage."""
        return self.student_steps or self.stages[0]

    def check(self, head: Head, process: Process, objective: Objective) -> None:
        t = torch.tensor([process.t_data, process.t_max], dtype=torch.float64)
        scalar = isinstance(process.signal(t), Scalar) and isinstance(process.factor(t), Scalar)
        if not scalar or process.endpoint or process.drawn or process.state_shape((1, 2, 2)) != (1, 2, 2):
            raise ConfigError(
                f"distillation=progressive: process {process.name} is more than a signal and a noise level: use "
                "cosine, vp or edm"
            )
        if not {"data", "noise"} <= head.gives or head.gives & {"jump", "attenuation"}:
            raise ConfigError(f"distillation=progressive: prediction={head.name} is none of eps, x0, v, both, edm")
        if not isinstance(objective, Denoising):
            raise ConfigError(
                "distillation=progressive: its targets take the place of the data in an objective on data: use "
                "objective=snr_trunc, constant, snr, snr_plus_one or plain"
            )
        Stage.of(process, self.grid, self.steps)

    def check_teacher(self, trained: Mapping[str, Any], path: str) -> None:
        own = (trained.get("distillation") or {}).get("student_steps")
        if own is not None and own != 2 * self.steps:
            raise CheckpointError(
                f"teacher={path}: is a student of {own} steps; a student of {self.steps} needs one of "
                f"{2 * self.steps}, or an undistilled network"
            )

    def loss(
        self, student: NetworkDenoiser, teacher: NetworkDenoiser | None, objective: Objective, steps: int
    ) -> ProgressiveLoss:
        assert teacher is not None
        assert isinstance(objective, Denoising)
        return ProgressiveLoss(Stage.of(student.process, self.grid, self.steps), teacher, objective)


class ProgressiveLoss(Loss):
    """The objective's loss with the teacher's targets; see the module.

    Args:
        stage: the student's steps.
        teacher: frozen, in evaluation mode.
        objective: what is regressed, and with which weight.
    """

    def __init__(self, stage: Stage, teacher: NetworkDenoiser, objective: Denoising) -> None:
        self.stage = stage
        self.teacher = teacher
        self.objective = objective

    def __call__(self, denoiser: NetworkDenoiser, batch: Mapping[str, Tensor], seed: int) -> Tensor:
        x0, noise = data_and_noise(denoiser.process, batch, seed)
        index = random.integers(seed, "train/time", batch["position"], len(self.stage))
        conditions = conditions_of(batch, seed, self.objective.label_dropout)
        return self.losses(denoiser, x0, noise, index, conditions).mean()

    def losses(
        self,
        denoiser: NetworkDenoiser,
        x0: Tensor,
        noise: Tensor,
        index: Tensor,
        conditions: Conditions = NO_CONDITIONS,
    ) -> Tensor:
        """The weighted loss of each image, (B,).

        Args:
            denoiser: the student.
            x0, noise: data and unit noise, (B, C, H, W).
            index: the step of each image, int64 (B,) on the CPU.
            conditions: of this batch, for teacher and student.
        """
        law = denoiser.process.marginal(self.stage.t[index]).cast(x0.dtype, x0.device)
        u = law.perturb(x0, noise)
        wanted = target(self.stage, self.teacher, u, index, conditions)
        return self.objective.regress(denoiser, law, u, wanted.data, wanted.noise, conditions)

    def networks(self) -> list[nn.Module]:
        return [self.teacher.network]
