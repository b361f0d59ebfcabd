"""The one sampling loop: it owns random numbers, counting, clipping and hooks; steppers own the mathematics."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diffexp.core.errors import ConfigError, SamplingError
from diffexp.prediction.conditions import NO_CONDITIONS, Conditions
from diffexp.prediction.denoiser import Denoiser
from diffexp.prediction.result import Prediction
from diffexp.process.base import Process
from diffexp.sampler.grid import Grid
from diffexp.sampler.noise import NoiseSource
from diffexp.sampler.stepper import Stepper, cast_rows

OnStep = Callable[[int, Tensor], None]
_SEARCH_LIMIT = 100_000


@dataclass(frozen=True)
class SampleResult:
    """Images in data space, (B, C, H, W), and the counted network evaluations for each of them."""

    images: Tensor
    nfe: int


class Sampler:
    """A grid and a stepper under one name.

    Args:
        name: the name in tables and file names.
        stepper: the family of steps.
        grid: the times.
        clip: hold data estimates in [-1, 1] and derive the noise again from them.
    """

    def __init__(self, name: str, stepper: Stepper, grid: Grid, clip: bool = False) -> None:
        self.name = name
        self.stepper = stepper
        self.grid = grid
        self.clip = clip
        self._plans: weakref.WeakKeyDictionary[Process, dict[int, Sequence[Any]]] = weakref.WeakKeyDictionary()

    def steps(self, nfe: int) -> int:
        """The number of steps that costs exactly `nfe` evaluations.

        Raises:
            ConfigError: when there is none; it names the nearest feasible budgets.
        """
        n, below = self._largest(nfe)
        if n >= 1 and below == nfe:
            return n
        above = self.stepper.evaluations(n + 1)
        options = f"{below} or {above}" if n >= 1 else f"{above}"
        raise ConfigError(f"nfe={nfe} is not reachable with sampler {self.name}: choose {options}")

    def nearest_nfe(self, nfe: int) -> int:
        """The largest feasible budget that is not above `nfe`, or the smallest feasible one."""
        n, below = self._largest(nfe)
        return below if n >= 1 else self.stepper.evaluations(1)

    def _largest(self, nfe: int) -> tuple[int, int]:
        """(n, its cost) of the largest n with cost <= nfe; (0, 0) when one step is too expensive."""
        low, high = 0, min(max(nfe, 0), _SEARCH_LIMIT) + 1
        while high - low > 1:  # costs grow with n, by at least one a step
            middle = (low + high) // 2
            low, high = (middle, high) if self.stepper.evaluations(middle) <= nfe else (low, middle)
        return low, self.stepper.evaluations(low) if low else 0

    def times(self, process: Process, nfe: int) -> Tensor:
        """The grid of this budget on `process`, float64 (n + 1,)."""
        return self.grid.times(process, self.steps(nfe))

    def plan(self, process: Process, nfe: int) -> Sequence[Any]:
        """The float64 coefficient rows of this budget, computed once for each process."""
        plans = self._plans.setdefault(process, {})
        if nfe not in plans:
            plans[nfe] = self.stepper.plan(process, self.times(process, nfe), self.grid.last)
        return plans[nfe]

    def check(self, gives: frozenset[str]) -> None:
        """Raise ConfigError when a denoiser that gives only `gives` cannot feed the stepper."""
        missing = sorted(self.stepper.needs - gives)
        if missing:
            raise ConfigError(f"sampler {self.name} needs {', '.join(missing)}, the prediction gives {sorted(gives)}")

    @torch.no_grad()
    def sample(
        self,
        denoiser: Denoiser,
        noise: NoiseSource,
        nfe: int,
        conditions: Conditions = NO_CONDITIONS,
        on_step: OnStep | None = None,
    ) -> SampleResult:
        """Images from noise, with exactly `nfe` network evaluations for each.

        Args:
            denoiser: where predictions come from.
            noise: the batch's random numbers; its type and device are those of the computation.
            nfe: the budget.
            conditions: of this batch, on the same device.
            on_step: called with (k, state) after each step k.

        Raises:
            ConfigError: for an infeasible budget or a denoiser that does not give what the stepper needs.
            SamplingError: when the counted evaluations differ from the declared ones.
        """
        self.check(denoiser.gives)
        process = denoiser.process
        start = noise.initial()
        rows = cast_rows(self.plan(process, nfe), start.dtype, start.device)
        points = denoiser.prepare_each(self.times(process, nfe), start.dtype, start.device)

        def evaluate(u: Tensor, k: int) -> Prediction:
            prediction = denoiser(u, points[k], conditions)
            return prediction.clipped() if self.clip else prediction

        before = denoiser.evaluations
        u = process.prior_factor().cast(start.dtype, start.device).apply(start)
        for k, row in enumerate(rows):
            u = self.stepper.step(u, row, evaluate, lambda k=k: noise.step(k))
            if on_step is not None:
                on_step(k, u)
        self._check_count(denoiser.evaluations - before, nfe, len(start))
        return SampleResult(process.readout(u), nfe)

    def _check_count(self, counted: int, nfe: int, images: int) -> None:
        if counted != nfe * images:
            raise SamplingError(f"sampler {self.name} declared {nfe} evaluations an image, used {counted / images:g}")
