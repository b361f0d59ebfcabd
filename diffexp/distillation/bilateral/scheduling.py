"""Noise scheduling: a trained schedule network turns one guess of the noisiest step into a whole schedule.

The reverse process runs from noise; after each step the network says how large the next one is, until a step would be
smaller than any of the training (Lam et al. 2022, algorithm 3, and the released code). Sampling afterwards needs the
betas alone: their levels are computed again from the data on, so they differ from the guess by what was left over.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from diffexp.core.errors import ConfigError
from diffexp.distillation.bilateral.pair import TIMES, bounded
from diffexp.distillation.bilateral.score import Score
from diffexp.network.schedule.base import ScheduleNetwork
from diffexp.prediction.conditions import NO_CONDITIONS, Conditions
from diffexp.prediction.denoiser import Denoiser
from diffexp.process.base import Process
from diffexp.sampler.grid_file import Betas
from diffexp.sampler.linear import DDIM, Ancestral
from diffexp.sampler.loop import Sampler
from diffexp.sampler.noise import NoiseSource

Mode = Literal["ddpm", "ddim"]
OnCall = Callable[[Tensor, Tensor], None]


@dataclass(frozen=True)
class Start:
    """A guess of the noisiest level and of the step that leaves it.

    Attributes:
        alpha: the level's signal, in (0, 1).
        beta: the variance of the step, in (0, 1 - alpha^2]: it cannot hold more noise than the level.
    """

    alpha: float
    beta: float

    @property
    def fits(self) -> bool:
        """Whether `check` lets it pass."""
        return 0.0 < self.alpha < 1.0 and 0.0 < self.beta <= (1.0 - self.alpha) * (1.0 + self.alpha)

    def check(self) -> None:
        """Raise ConfigError for a level that is none, or a step that is larger than its level."""
        if not 0.0 < self.alpha < 1.0:
            raise ConfigError(f"search: alpha_N={self.alpha:g}: must lie between 0 and 1")
        largest = (1.0 - self.alpha) * (1.0 + self.alpha)
        if not 0.0 < self.beta <= largest:
            raise ConfigError(
                f"search: beta_N={self.beta:g} at alpha_N={self.alpha:g}: must be above 0 and at most "
                f"1 - alpha_N^2 = {largest:.6g}, the variance of the noise there"
            )


def smallest_beta(process: Process, times: int = TIMES) -> float:
    """The smallest step of the training: of the process's table, or of `times` even times on one without.

    Where the process has noise at its data time still, no step is below that variance: there are no cleaner levels.
    """
    length = process.num_steps or times
    step = (process.t_max - process.t_data) / length
    t = process.t_data + torch.arange(length + 1, dtype=torch.float64) * step
    log_snr = process.log_snr(t.clamp_max(process.t_max))
    betas = -torch.expm1(torch.nn.functional.logsigmoid(log_snr).diff())
    return max(float(betas.min()), float(torch.sigmoid(-log_snr[0])))


def noise_schedule(
    score: Score,
    network: ScheduleNetwork,
    noise: NoiseSource,
    start: Start,
    cap: int,
    floor: float,
    mode: Mode = "ddpm",
    fresh: bool = True,
    conditions: Conditions = NO_CONDITIONS,
    on_call: OnCall | None = None,
) -> Tensor:
    """The betas of a schedule, rising from the data: float64 (n,), 1 <= n <= cap. It costs n evaluations a sample.

    Where a batch is given, all its samples share one schedule, made with the mean of their ratios. A start whose step
    is larger than its level (see `Start.check`) gives that one step, as in the released code.

    Args:
        score: the denoiser.
        network: the schedule network; GALR, which has dropout, in evaluation mode.
        noise: one sample's numbers, or a batch's; draw k belongs to step k.
        start: where to begin.
        cap: the largest number of steps, >= 1.
        floor: a step below this variance is not taken any more, see `smallest_beta`.
        mode: the reverse step, DDPM's or DDIM's.
        fresh: DDPM's step draws noise; else it is its mean (the first version of the paper).
        conditions: what the denoiser is told.
        on_call: called with (state, time (1,)) before each evaluation.
    """
    x = noise.initial()
    alpha, beta = (torch.tensor([value], dtype=torch.float64) for value in (start.alpha, start.beta))
    delta, betas = (1.0 - alpha) * (1.0 + alpha), []
    for k in range(cap):
        betas.append(beta)
        t = score.time(alpha, delta)
        if on_call is not None:
            on_call(x, t)
        estimate = score.noise(x, t, conditions)
        after = (delta - beta) / (1.0 - beta)
        if k == cap - 1 or float(after) < 0.0:
            break  # nobody asks for a further beta
        x = _stepped(x, estimate, *(float(value) for value in (beta, delta, after)), mode)
        if mode == "ddpm" and fresh:
            x = x + math.sqrt(float(after / delta * beta)) * noise.step(k)
        alpha, delta = alpha / (1.0 - beta).sqrt(), after
        beta = bounded(_common_ratio(network, x), beta, delta)
        if float(beta) < floor:
            break
    return torch.cat(betas).flip(0)


def _stepped(x: Tensor, estimate: Tensor, beta: float, delta: float, after: float, mode: Mode) -> Tensor:
    """The step's mean, from variance `delta` to variance `after`."""
    gain = 1.0 / math.sqrt(1.0 - beta)
    if mode == "ddim":
        return gain * (x - math.sqrt(delta) * estimate) + math.sqrt(after) * estimate
    return gain * (x - beta / math.sqrt(delta) * estimate)


@torch.no_grad()
def _common_ratio(network: ScheduleNetwork, x: Tensor) -> Tensor:
    """The mean of the samples' ratios, (1,) on the CPU."""
    return network.ratio(x).mean()[None].cpu()


def sampler(betas: Tensor, mode: Mode = "ddpm", clip: bool = False) -> Sampler:
    """The sampler of a found schedule, as many steps as it has betas; it never asks the schedule network.

    Args:
        betas: rising from the data, float64 (n,).
        mode: DDPM's or DDIM's steps.
        clip: hold data estimates in [-1, 1]; the released code does not.

    Raises:
        ConfigError: for betas outside (0, 1).
    """
    return Sampler(f"bddm_{mode}", Ancestral() if mode == "ddpm" else DDIM(), Betas(betas.tolist()), clip)


def draw(
    denoiser: Denoiser,
    betas: Tensor,
    noise: NoiseSource,
    mode: Mode = "ddpm",
    conditions: Conditions = NO_CONDITIONS,
) -> Tensor:
    """Images (B, *) from a found schedule, one evaluation for each beta; errors as for `sampler`."""
    return sampler(betas, mode).sample(denoiser, noise, len(betas), conditions).images
