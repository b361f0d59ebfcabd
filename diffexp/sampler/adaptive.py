"""An adaptive solver of the probability flow: the error decides on the steps, so that evaluations are counted only.

    du/dt = F u - G G^T score / 2, from the prior to t_end, by the pair of Dormand and Prince (1980): a step of fifth
order, whose difference from an embedded one of fourth order is its error. Every image has a step length of its own:
its samples and its evaluations do not depend on the others of its batch. First step and control are those of Hairer,
Norsett and Wanner (Solving ordinary differential equations I, section II.4), as in scipy's `RK45`, which CLD-SGM and
score_sde use.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from diffexp.core.errors import ConfigError, SamplingError
from diffexp.core.transfer import to_device
from diffexp.prediction.conditions import NO_CONDITIONS, Conditions
from diffexp.prediction.denoiser import Denoiser
from diffexp.prediction.wrapper import Clipped
from diffexp.process.base import Process
from diffexp.sampler.grid import Ends
from diffexp.sampler.loop import OnStep, Sampler, SampleResult, denoising_step
from diffexp.sampler.noise import NoiseSource

Flow = Callable[[Tensor, Tensor, Tensor], Tensor]
"""flow(u, t, images): the slopes at states (A, *) and times (A,) of these images of the batch."""

# Dormand and Prince (1980), table 2: nodes, stages, and the weights of the step minus those of the embedded one. The
# last stage is the next step's first, and its row is the step itself.
_NODES = (0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)
_STAGES: tuple[tuple[float, ...], ...] = (
    (),
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
_ERROR = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)
_EXPONENT = 1 / 5  # of the error in the step length: 1 / (order of the embedded step + 1)
_SAFETY, _SHRINK, _GROW = 0.9, 0.2, 10.0


class DormandPrince:
    """Tolerances of the pair 5(4): a step is taken when the mean square of error / (atol + rtol |u|) is at most 1.

    Args:
        rtol: relative tolerance, > 0.
        atol: absolute tolerance, > 0, in units of the state.
        max_evaluations: a flow that needs more of them for one image is given up.

    Attributes:
        needs: the quantities of a prediction that it reads.
        order: None, the tolerance decides.
        endpoint: False, it is not for bridges: their flow begins with an evaluation at the end point itself.

    Raises:
        ConfigError: for a tolerance that is not positive.
    """

    needs = frozenset({"score"})
    order = None
    endpoint = False
    drawn = False
    from_nothing = False
    clipped = Clipped

    def __init__(self, rtol: float = 1e-5, atol: float = 1e-5, max_evaluations: int = 10_000) -> None:
        for name, value in (("rtol", rtol), ("atol", atol)):
            if not value > 0.0:
                raise ConfigError(f"sampler.stepper.{name}={value}: a tolerance must be > 0")
        self.rtol = rtol
        self.atol = atol
        self.max_evaluations = max_evaluations

    def check(self, process: Process, times: Tensor) -> None:
        """Nothing to refuse: it steps between any times."""

    def norm(self, values: Tensor, *scales: Tensor) -> Tensor:
        """Root mean square of values / (atol + rtol max |scales|) of each image: float64 (A,), on the CPU."""
        scale = torch.stack([state.abs() for state in scales]).amax(0)
        return (values / (self.atol + self.rtol * scale)).double().square().flatten(1).mean(1).sqrt().cpu()


class Adaptive(Sampler):
    """The probability flow at a tolerance in place of a budget.

    Args:
        name: the name in tables and file names.
        stepper: the tolerances.
        grid: where the flow ends, and how.
        clip: see `Sampler`; it makes the flow less smooth, and steps shorter.
        guidance, mask: see `Sampler`; only bridges have masks, for which it is not made.
    """

    budgeted = False

    def __init__(
        self,
        name: str,
        stepper: DormandPrince,
        grid: Ends,
        clip: bool = False,
        guidance: float | None = None,
        mask: bool = False,
    ) -> None:
        super().__init__(name, stepper, grid, clip, guidance, mask)  # type: ignore[arg-type] # its part of a stepper

    def steps(self, nfe: int | None) -> int:
        """One, for the whole flow; ConfigError for a budget."""
        if nfe is not None:
            raise ConfigError(
                f"nfe={nfe}: sampler {self.name} takes no budget, its evaluations are counted: leave it out and set "
                "sampler.stepper.rtol and atol"
            )
        return 1

    def nearest_nfe(self, nfe: int | None) -> None:
        """None: there is no budget; ConfigError as for `steps`."""
        self.steps(nfe)

    def plan(self, process: Process, nfe: int | None) -> None:
        """Nothing can be computed before the steps are known; ConfigError as for `times`."""
        self.times(process, nfe)

    @torch.no_grad()
    def sample(
        self,
        denoiser: Denoiser,
        noise: NoiseSource,
        nfe: int | None = None,
        conditions: Conditions = NO_CONDITIONS,
        on_step: OnStep | None = None,
    ) -> SampleResult:
        """Images from noise; `nfe` of the result is the mean over the batch. See `Sampler.sample`.

        Args:
            nfe: None.
            on_step: called with (k, all states) after each attempted step k.

        Raises:
            SamplingError: when a flow is not finite, or needs too many evaluations or too short steps.
        """
        self.check(denoiser.gives)
        self.check_conditions(denoiser.process, conditions.given)
        process, before = denoiser.process, denoiser.evaluations
        first, end = self.times(process, nfe).tolist()
        start, asked = noise.initial(), self._wrap(denoiser)
        u = process.prior_factor(torch.tensor(first, dtype=torch.float64)).cast(start.dtype, start.device).apply(start)
        u = _Run(self, _flow(asked, conditions), u, first, end, on_step).solve()
        if self.grid.last == "denoise_em":
            times = torch.tensor([end], dtype=torch.float64)
            stepper, row = denoising_step(asked, times, 0, u.dtype, u.device)
            (point,) = asked.prepare(times, u.dtype, u.device)
            u = stepper.step(u, row, lambda state, _: asked(state, point, conditions), noise.initial, [])
        return SampleResult(process.readout(u), (denoiser.evaluations - before) / len(start))


def _flow(denoiser: Denoiser, conditions: Conditions) -> Flow:
    """The slopes of the probability flow."""
    process = denoiser.process

    def flow(u: Tensor, t: Tensor, images: Tensor) -> Tensor:
        point = denoiser.at(t, u.dtype, u.device)
        form = denoiser.form(point.marginal.exact)  # the law is the expensive part: it is not made twice
        slope = form.state(process.drift(t)) + form.score.after(-0.5 * process.diffusion(t).covariance())
        parts = denoiser.parts(u, point, conditions[images])
        return slope.cast(u.dtype, u.device)(parts)

    return flow


@dataclass
class _Run:
    """One batch on its way; times fall."""

    sampler: Adaptive
    flow: Flow
    u: Tensor
    first: float
    end: float
    on_step: OnStep | None

    def solve(self) -> Tensor:
        """The states at the end, (B, *)."""
        count, tolerance = len(self.u), self.sampler.stepper
        t = torch.full((count,), self.first, dtype=torch.float64)
        going = torch.arange(count)
        slope = self.flow(self.u, t, going)
        length = self._first_length(slope)
        grown, used, attempts = torch.full_like(t, _GROW), torch.full_like(t, 2.0), 0
        while len(going):
            here, step = t[going], torch.minimum(length[going], t[going] - self.end)
            new, error, ahead = self._attempt(self.u[going], here, step, slope[going], going)
            norm = tolerance.norm(error, self.u[going], new)
            used[going] += len(_NODES) - 1
            self._require_progress(norm, step, used[going])
            taken = norm <= 1.0
            factor = (_SAFETY * norm.clamp_min(1e-300) ** -_EXPONENT).clamp_min(_SHRINK)
            length[going] = step * torch.minimum(factor, torch.where(taken, grown[going], 1.0))
            grown[going] = taken.double() * (_GROW - 1.0) + 1.0  # no growth right after a rejected step
            moved = going[taken]
            self.u[moved], slope[moved] = new[taken], ahead[taken]
            # the last step ends exactly at the end
            t[moved] = torch.where(step >= here - self.end, self.end, here - step)[taken]
            going = going[t[going] > self.end]
            if self.on_step is not None:
                self.on_step(attempts, self.u)
            attempts += 1
        return self.u

    def _attempt(
        self, u: Tensor, t: Tensor, step: Tensor, slope: Tensor, images: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(the state after a step, its error, the slope there)."""
        slopes, h = [slope], self._spread(-step, u)
        for node, weights in zip(_NODES[1:], _STAGES[1:], strict=True):
            inner = u + h * _weighted(weights, slopes)
            slopes.append(self.flow(inner, t - node * step, images))
        return inner, h * _weighted(_ERROR, slopes), slopes[-1]

    def _first_length(self, slope: Tensor) -> Tensor:
        """A first step of the right size, by comparing the slope with the one an explicit Euler step away."""
        norm, u, limit = self.sampler.stepper.norm, self.u, self.first - self.end
        size, speed = norm(u, u), norm(slope, u)
        try_length = torch.where((size < 1e-5) | (speed < 1e-5), 1e-6, 0.01 * size / speed).clamp_max(limit)
        ahead = u - self._spread(try_length, u) * slope
        bend = norm(self.flow(ahead, self.first - try_length, torch.arange(len(u))) - slope, u) / try_length
        largest = torch.maximum(speed, bend)
        guess = torch.where(largest <= 1e-15, (1e-3 * try_length).clamp_min(1e-6), (0.01 / largest) ** _EXPONENT)
        return torch.minimum(100.0 * try_length, guess).clamp_max(limit)

    def _spread(self, values: Tensor, u: Tensor) -> Tensor:
        """One number for each image, in a shape that multiplies states."""
        return to_device(values, u.device, u.dtype).reshape(-1, *(1,) * (u.ndim - 1))

    def _require_progress(self, norm: Tensor, step: Tensor, used: Tensor) -> None:
        name = self.sampler.name
        if not bool(norm.isfinite().all()):
            raise SamplingError(f"sampler {name}: the flow is not finite; end it earlier with a larger grid.t_end")
        if bool((step < 1e-14 * self.first).any()):
            raise SamplingError(f"sampler {name}: steps became too short; use a larger sampler.stepper.rtol")
        limit = self.sampler.stepper.max_evaluations
        if bool((used > limit).any()):
            raise SamplingError(f"sampler {name}: an image needs more than sampler.stepper.max_evaluations={limit}")


def _weighted(weights: tuple[float, ...], slopes: list[Tensor]) -> Tensor:
    total = weights[0] * slopes[0]
    for weight, slope in zip(weights[1:], slopes[1:], strict=True):
        if weight != 0.0:
            total = total + weight * slope
    return total
