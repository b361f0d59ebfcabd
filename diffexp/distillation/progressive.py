"""Progressive distillation (Salimans & Ho 2022, algorithm 2): one step of the student is two of its teacher.

The student's objective regresses the target x~ of `stage` in the place of x0: with it one step of DDIM ends where two
of the teacher do. Training after training, the number of steps is halved.

A *conversion* is a stage before them that changes the prediction alone: a student with new weights, in a prediction of
its own, learns what its teacher says at the teacher's own steps. So students of several predictions have one teacher.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from diffexp.core import random
from diffexp.core.errors import CheckpointError, ConfigError
from diffexp.core.halving import halvings
from diffexp.distillation.base import Distillation, Loss
from diffexp.distillation.stage import Stage, target
from diffexp.objective.base import Objective
from diffexp.objective.batch import conditions_of, data_and_noise
from diffexp.objective.denoising import Denoising
from diffexp.prediction.conditions import NO_CONDITIONS, Conditions
from diffexp.prediction.denoiser import NetworkDenoiser
from diffexp.prediction.head import Head
from diffexp.process.base import Process
from diffexp.process.operator import Scalar
from diffexp.sampler.grid import Grid


class Progressive(Distillation):
    """One stage of a progressive distillation, or, without `student_steps`, the plan of all of them.

    Args:
        grid: the times of the sampler, of which teacher and student take 2 N and N steps.
        start_steps: steps of the first teacher.
        end_steps: steps of the last student; start_steps / end_steps is a power of two.
        updates: optimiser steps of a stage of a plan.
        updates_at: {N: optimiser steps} of single stages, in the place of `updates`.
        student_steps: N of this training; None: a plan, which commands carry out as a chain of trainings.
        initialise: start from the teacher's weights; a conversion has new ones.
        teacher_ema: see `Distillation`.
        convert: optimiser steps of the conversion that a plan begins with; None: it has none.
        convert_lr: its learning rate, since it starts from nothing; None: that of the other stages.
        teacher_steps: of one stage, the steps that its teacher takes; None: 2 N. N makes it a conversion.

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
        convert: int | None = None,
        convert_lr: float | None = None,
        teacher_steps: int | None = None,
    ) -> None:
        self.stages = halvings(start_steps, end_steps)
        _check_stage(student_steps, teacher_steps)
        for key, count in [("updates", updates), *(("updates_at", count) for count in (updates_at or {}).values())]:
            _check_count(key, count)
        _check_count("convert", 1 if convert is None else convert)
        if convert_lr is not None and not convert_lr > 0.0:
            raise ConfigError(f"distillation.convert_lr={convert_lr}: must be > 0, or null")
        self.grid = grid
        self.student_steps = student_steps
        self.first = f"a conversion at {start_steps} steps, then " if convert is not None else ""
        self.converts = teacher_steps is not None and teacher_steps == student_steps
        self.initialise = initialise and not self.converts
        self.teacher_ema = teacher_ema
        begins = student_steps is None and convert is not None
        self.teacher_prediction = None if self.converts or begins else "prediction"

    @property
    def plan(self) -> bool:
        return self.student_steps is None

    def told(self) -> str:
        if self.plan:
            return f"progressive, {self.first}stages of {', '.join(map(str, self.stages))} steps"
        what = "a conversion at" if self.converts else "a student of"
        return f"progressive, {what} {self.steps} step{'s' * (self.steps > 1)}"

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
        self._stage(process)

    def _stage(self, process: Process) -> Stage:
        return (Stage.own if self.converts else Stage.of)(process, self.grid, self.steps)

    def check_teacher(self, trained: Mapping[str, Any], path: str) -> None:
        own, wanted = (trained.get("distillation") or {}).get("student_steps"), self.steps * (2 - self.converts)
        if own is not None and own != wanted:
            what = "a conversion at" if self.converts else "a student of"
            raise CheckpointError(
                f"teacher={path}: is a student of {own} steps; {what} {self.steps} needs one of {wanted}, or an "
                "undistilled network"
            )

    @property
    def hint_of_prediction(self) -> str:
        """How to learn from it nevertheless."""
        own = f"distillation.student_steps={2 * self.steps} distillation.teacher_steps={2 * self.steps}"
        return f"a training with {own} converts it first (of a plan: distillation.convert=<updates>)"

    def loss(
        self, student: NetworkDenoiser, teacher: NetworkDenoiser | None, objective: Objective, steps: int
    ) -> ProgressiveLoss:
        assert teacher is not None
        assert isinstance(objective, Denoising)
        return ProgressiveLoss(self._stage(student.process), teacher, objective)


def _check_stage(student: int | None, teacher: int | None) -> None:
    """Refuse the steps of a stage, or of its teacher, that mean nothing."""
    if student is not None and student < 1:
        raise ConfigError(f"distillation.student_steps={student}: must be at least 1, or null for all stages")
    if teacher is not None and student is None:
        raise ConfigError(f"distillation.teacher_steps={teacher}: is of one stage; add distillation.student_steps=...")
    if teacher is not None and student is not None and teacher not in (student, 2 * student):
        raise ConfigError(
            f"distillation.teacher_steps={teacher}: a student of {student} has a teacher of {2 * student} steps, or "
            f"converts one of {student}"
        )


def _check_count(key: str, updates: int) -> None:
    if updates < 1:
        raise ConfigError(f"distillation.{key}={updates}: a stage is at least one update")


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
