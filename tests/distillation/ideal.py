"""A student that has learnt all that its teacher tells it: its estimate is the teacher's target itself."""

from __future__ import annotations

import torch
from torch import Tensor

from diffexp.distillation.stage import Stage, target
from diffexp.prediction.conditions import NO_CONDITIONS, Conditions
from diffexp.prediction.denoiser import Denoiser, Parts, Point
from diffexp.prediction.form import STATE, Form
from diffexp.process.base import Marginal
from diffexp.process.combination import Combination
from diffexp.sampler.grid import Grid


class Ideal(Denoiser):
    """x^ is the target of `teacher` at the student's own times."""

    def __init__(self, teacher: Denoiser, grid: Grid, steps: int) -> None:
        super().__init__(teacher.process)
        self.teacher, self.stage = teacher, Stage.of(teacher.process, grid, steps)

    def form(self, marginal: Marginal) -> Form:
        return Form(marginal, data=Combination({STATE + 1: marginal.signal.identity()}))

    def parts(self, u: Tensor, point: Point, conditions: Conditions = NO_CONDITIONS) -> Parts:
        self.evaluations += len(u)
        off = (self.stage.t - point.marginal.t.reshape(-1)[:1]).abs()
        assert float(off.min()) < 1e-12 * float(self.stage.t.max())
        index = torch.full((len(u),), int(off.argmin()))
        if point.marginal.t.numel() > 1:  # each state at a time of its own
            index = (self.stage.t[:, None] - point.marginal.t).abs().argmin(0)
        return (u, target(self.stage, self.teacher, u, index, conditions).data)


def ideal(teacher: Denoiser, grid: Grid, start: int, end: int) -> Denoiser:
    """The last of the students with start / 2, ..., end steps."""
    return teacher if start == end else ideal(Ideal(teacher, grid, start // 2), grid, start // 2, end)
