"""The one sampling loop: it owns random numbers, counting, clipping and hooks; steppers own the mathematics."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from diffexp.core.errors import ConfigError, SamplingError
from diffexp.prediction.conditions import NO_CONDITIONS, Conditions
from diffexp.prediction.denoiser import Denoiser, Point
from diffexp.prediction.result import Prediction
from diffexp.prediction.wrapper import Composited, Guided
from diffexp.process.base import Process
from diffexp.process.operator import Operator
from diffexp.sampler.euler import EulerMean
from diffexp.sampler.grid import Grid
from diffexp.sampler.noise import NoiseSource
from diffexp.sampler.stepper import Stepper, cast_rows

OnStep = Callable[[int, Tensor], None]
Key = tuple[Any, ...]
Step = tuple[Stepper, Any]
Bound = tuple[Sequence[Point], Sequence[Step], Operator]
_SEARCH_LIMIT = 100_000


@dataclass(frozen=True)
class SampleResult:
    """Images in data space, (B, C, H, W), and the counted network evaluations for each of them.

    Where images choose their own steps (see `adaptive`), `nfe` is the mean over the batch.
    """

    images: Tensor
    nfe: float


class Sampler:
    """A grid and a stepper under one name.

    Args:
        name: the name in tables and file names.
        stepper: the family of steps.
        grid: the times.
        clip: hold data estimates in [-1, 1] and derive the noise again from them.
        guidance: scale of classifier-free guidance, which doubles the network evaluations (1 is the conditional model
            itself); None: no guidance.
        mask: outside the mask of the data, estimates are the end point's own (inpainting on bridges).

    Attributes:
        budgeted: whether it takes a budget of evaluations, as all do but adaptive solvers.
    """

    budgeted: bool = True

    def __init__(
        self,
        name: str,
        stepper: Stepper,
        grid: Grid,
        clip: bool = False,
        guidance: float | None = None,
        mask: bool = False,
    ) -> None:
        self.name = name
        self.stepper = stepper
        self.grid = grid
        self.clip = clip
        self.guidance = guidance
        self.mask = mask
        self._forget()

    def _forget(self) -> None:
        self._plans: weakref.WeakKeyDictionary[Process, dict[Key, Any]] = weakref.WeakKeyDictionary()
        self._bound: weakref.WeakKeyDictionary[Denoiser, dict[Key, Bound]] = weakref.WeakKeyDictionary()

    def __getstate__(self) -> dict[str, Any]:
        """Without what was planned: it belongs to a process and a denoiser of this very program."""
        return {name: value for name, value in self.__dict__.items() if name not in ("_plans", "_bound")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    def evaluations(self, n: int) -> int:
        """Network evaluations of n >= 1 steps, for each image."""
        calls = self.stepper.evaluations(n) + (self.grid.last == "denoise_em")
        return calls * (1 if self.guidance is None else 2)

    def steps(self, nfe: int) -> int:
        """The number of steps that costs exactly `nfe` evaluations.

        Raises:
            ConfigError: when there is none; it names the nearest feasible budgets.
        """
        n, below = self._largest(nfe)
        if n >= 1 and below == nfe:
            return n
        numbers = [*([n] if n >= 1 else []), *self._above(n)]
        options = " or ".join(str(self.evaluations(number)) for number in numbers)
        if self.grid.choices is not None:
            options += f", the {' or '.join(map(str, numbers))} steps of grid {self.grid.name}"
        raise ConfigError(f"nfe={nfe} is not reachable with sampler {self.name}: choose {options}")

    def nearest_nfe(self, nfe: int) -> int:
        """The largest feasible budget that is not above `nfe`, or the smallest feasible one."""
        n, below = self._largest(nfe)
        return below if n >= 1 else self.evaluations(self._above(0)[0])

    def _offered(self) -> Sequence[int] | None:
        """The grid's numbers of steps that the stepper takes, or all, where it says why it takes none; None: any."""
        own, fewest = self.grid.choices, self.stepper.min_steps
        return own and ([n for n in own if n >= fewest] or own)

    def _above(self, n: int) -> list[int]:
        """The next larger number of steps than n, if there is one."""
        offered = self._offered()
        return [max(n + 1, self.stepper.min_steps)] if offered is None else [k for k in offered if k > n][:1]

    def _largest(self, nfe: int) -> tuple[int, int]:
        """(n, its cost) of the largest n with cost <= nfe; (0, 0) when one step is too expensive."""
        offered = self._offered()
        if offered is not None:
            n = max((n for n in offered if self.evaluations(n) <= nfe), default=0)
            return (n, self.evaluations(n)) if n else (0, 0)
        low, high = 0, min(max(nfe, 0), _SEARCH_LIMIT) + 1
        while high - low > 1:  # costs grow with n, by at least one a step
            middle = (low + high) // 2
            low, high = (middle, high) if self.evaluations(middle) <= nfe else (low, middle)
        return (low, self.evaluations(low)) if low >= self.stepper.min_steps else (0, 0)

    def times(self, process: Process, nfe: int) -> Tensor:
        """The grid of this budget on `process`, float64 (n + 1,); ConfigError when the sampler does not fit it."""
        self._check_endpoint(process)
        self._check_drawn(process)
        times = self.grid.times(process, self.steps(nfe))
        self._check_signal(process, times)
        self.stepper.check(process, times)
        return times

    def _check_endpoint(self, process: Process) -> None:
        wanted = self.stepper.endpoint
        if wanted and not process.endpoint:
            raise ConfigError(f"sampler {self.name} is for bridges, and process {process.name} is none: use ddim")
        if wanted is False and process.endpoint:
            raise ConfigError(f"sampler {self.name} leaves out the end point of process {process.name}: use dbim")
        if process.endpoint and self.grid.last == "denoise_em":
            raise ConfigError(f"grid.last=denoise_em leaves out the end point of process {process.name}: use state")

    def _check_drawn(self, process: Process) -> None:
        if process.drawn and not (self.stepper.drawn and self.grid.last != "denoise_em"):
            what = "grid.last=denoise_em" if self.stepper.drawn else f"sampler {self.name}"
            raise ConfigError(
                f"{what} leaves out the image that process {process.name} draws with its data: use ddm_posterior, "
                "ddm_ddim, ddim or ddpm, or gddim or heun with sampler.stepper.form=data, and grid.last=state"
            )

    def _check_signal(self, process: Process, times: Tensor) -> None:
        if not process.endpoint and not self.stepper.from_nothing and process.signal(times[0]).is_zero():
            raise ConfigError(
                f"sampler {self.name}: its steps are infinite at t = {float(times[0]):g}, where process {process.name} "
                "has no signal: use ddim, or gddim or heun with sampler.stepper.form=data, or process.t_prior=0.999"
            )

    def plan(self, process: Process, nfe: int) -> Any:
        """The stepper's float64 coefficients of this budget, computed once for each process."""
        plans = self._plans.setdefault(process, {})
        key = (nfe, self.stepper, self.grid)
        if key not in plans:
            plans[key] = self.stepper.plan(process, self.times(process, nfe), self.grid.last)
        return plans[key]

    def check(self, gives: frozenset[str]) -> None:
        """Raise ConfigError when a denoiser that gives only `gives` cannot feed the sampler."""
        ending = {"data": {"data"}, "denoise_em": {"score"}}.get(self.grid.last, set())
        missing = sorted((self.stepper.needs | ending) - gives)
        if missing:
            raise ConfigError(f"sampler {self.name} needs {', '.join(missing)}, the prediction gives {sorted(gives)}")
        if self.guidance is not None and "unconditional" not in gives:
            raise ConfigError(
                f"sampler.guidance={self.guidance:g}: the model never learned to go without labels: train it with "
                "dataset.labels=true network.class_conditional=true objective.label_dropout=0.1"
            )

    def check_conditions(self, process: Process, given: Collection[str]) -> None:
        """Raise ConfigError when the data do not give what sampling needs; `given`: names of `Conditions`' fields."""
        if process.endpoint and "endpoint" not in given:
            raise ConfigError(
                f"process {process.name} is a bridge, whose data need end points: choose a data set of pairs"
            )
        if self.mask and not (process.endpoint and "mask" in given):
            what = "the data have no masks" if process.endpoint else f"process {process.name} is no bridge"
            raise ConfigError(f"sampler.mask=true: {what}; set it to false")

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
            ConfigError: for an infeasible budget or a denoiser that does not give what the sampler needs.
            SamplingError: when the counted evaluations differ from the declared ones.
        """
        self.check(denoiser.gives)
        self.check_conditions(denoiser.process, conditions.given)
        self.plan(denoiser.process, nfe)  # refuses a process that the sampler does not fit before anything is drawn
        start = denoiser.process.start(noise.initial, conditions.endpoint)
        asked = self._wrap(denoiser)
        points, steps, prior = self._bind(denoiser, asked, nfe, start)

        def evaluate(u: Tensor, k: int) -> Prediction:
            return asked(u, points[k], conditions)

        before, carry, draws = denoiser.evaluations, [], self.stepper.draws
        u = prior.apply(start)
        for k, (stepper, row) in enumerate(steps):
            u = stepper.step(u, row, evaluate, lambda j=0, k=k: noise.step(k * draws + j), carry)
            if on_step is not None:
                on_step(k, u)
        self._check_count(denoiser.evaluations - before, nfe, len(start))
        return SampleResult(denoiser.process.readout(u), nfe)

    def _wrap(self, denoiser: Denoiser) -> Denoiser:
        """The denoiser with guidance, clipping and the mask around it."""
        asked = denoiser if self.guidance is None else Guided(denoiser, self.guidance)
        clipped = self.stepper.clipped(asked) if self.clip else asked
        return Composited(clipped) if self.mask else clipped

    def _bind(self, denoiser: Denoiser, asked: Denoiser, nfe: int, start: Tensor) -> Bound:
        """Points, steps and prior factor, cast; made once for each denoiser, budget, type and device."""
        made = self._bound.setdefault(denoiser, {})
        key = (nfe, start.dtype, start.device, self.stepper, self.grid, self.clip, self.guidance, self.mask)
        if key not in made:
            process, dtype, device = denoiser.process, start.dtype, start.device
            times = self.times(process, nfe)
            visited = self.stepper.visited(times)
            rows = self.stepper.bind(self.plan(process, nfe), asked.form(process.marginal(visited)))
            steps: list[Step] = [(self.stepper, row) for row in cast_rows(rows, dtype, device)]
            if self.grid.last == "denoise_em":
                steps.append(denoising_step(asked, times[-1:], len(visited), dtype, device))
                visited = torch.cat([visited, times[-1:]])
            prior = process.prior_factor(times[0]).cast(dtype, device)
            made[key] = asked.prepare(visited, dtype, device), steps, prior
        return made[key]

    def _check_count(self, counted: int, nfe: int, images: int) -> None:
        if counted != nfe * images:
            raise SamplingError(f"sampler {self.name} declared {nfe} evaluations an image, used {counted / images:g}")


def denoising_step(denoiser: Denoiser, end: Tensor, k: int, dtype: torch.dtype, device: torch.device | str) -> Step:
    """The step from the grid's last time, the k-th one visited, to the data time.

    Raises:
        ConfigError: for a grid that ends there already.
    """
    process, stepper = denoiser.process, EulerMean()
    if not float(end) > process.t_data:
        raise ConfigError(f"grid.last=denoise_em: needs grid.t_end above the data time, {process.t_data:g}")
    plan = stepper.plan(process, torch.cat([end, torch.full_like(end, process.t_data)]), "state")
    (row,) = stepper.bind(plan, denoiser.form(process.marginal(end)))
    return stepper, replace(row, k=k).cast(dtype, device)
