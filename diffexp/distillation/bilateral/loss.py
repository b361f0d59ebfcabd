"""The step loss that trains a schedule network (Lam et al. 2022, eq. 14), as the released code has it and exactly.

With the ratio r = b / delta of a step's variance b to that of the level, the reverse step p(x' | x_t) of variance
(delta - b) / (1 - b) r and the law q(x' | x0) of variance (delta - b) / (1 - b) are apart by

    KL(p || q) = |e - r e^|^2 / (2 (1 - r)) + D / 2 (r - 1 - log r)

for a state of D numbers, noise e and estimate e^. The released code has half of the logarithm: log_coef = 1/4. Where
the estimate is optimal, with error e2 = E|e - e^|^2 / D, the minimum is at e2 r (1 + 1 / (1 - r)^2) = 2 log_coef.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from diffexp.core.errors import ConfigError
from diffexp.core.transfer import to_device
from diffexp.distillation.bilateral.pair import TIMES, check_tau, pairs
from diffexp.distillation.bilateral.score import Score
from diffexp.network.schedule.base import ScheduleNetwork
from diffexp.prediction.conditions import NO_CONDITIONS, Conditions
from diffexp.process.operator import Scalar

CODE = 0.25
EXACT = 0.5
GUARD = 1.0e-8
"""What the released code adds inside its logarithm, twice."""


@dataclass(frozen=True)
class Moments:
    """What the loss needs of the noise e and its estimate e^: sums over a sample's D numbers, float64 (B,).

    |e - r e^|^2 = error + 2 (1 - r) cross + (1 - r)^2 energy, which does not cancel where r is close to 1.

    Attributes:
        error: |e - e^|^2.
        cross: (e - e^) . e^.
        energy: |e^|^2.
        count: D.
    """

    error: Tensor
    cross: Tensor
    energy: Tensor
    count: int

    @classmethod
    def of(cls, noise: Tensor, estimate: Tensor) -> Moments:
        """Of tensors (B, *) of any floating type."""
        estimate = estimate.detach().double().flatten(1)
        off = noise.double().flatten(1) - estimate
        sums = [(a * b).sum(1) for a, b in ((off, off), (off, estimate), (estimate, estimate))]
        return cls(*sums, count=estimate.shape[1])


def step_loss(
    logit: Tensor, limit: Tensor, delta: Tensor, moments: Moments, log_coef: float = CODE, guard: float = GUARD
) -> Tensor:
    """The step loss of each sample, float64 (B,), summed over its numbers; differentiable in the logit.

    r = limit sigmoid(logit); 1 - r is made of the other sigmoid, so a saturated network has a large loss, not an
    infinite one.

    Args:
        logit: of the schedule network, (B,).
        limit: the largest r, see `Pair.limit`, float64 (B,).
        delta: the level's variance, float64 (B,).
        moments: of the noise and its estimate.
        log_coef: 1/4 as the released code, 1/2 for the divergence itself.
        guard: see `GUARD`; 0 leaves it out.
    """
    logit = logit.double()
    r, rest = limit * torch.sigmoid(logit), (1.0 - limit) + limit * torch.sigmoid(-logit)
    square = moments.error + 2.0 * rest * moments.cross + rest.square() * moments.energy
    exact = -(limit.log() + F.logsigmoid(logit))
    log = torch.log(guard + delta / (r * delta + guard)) if guard > 0.0 else exact
    return square / (2.0 * rest) + moments.count * (log_coef * log - 0.5 * rest)


@dataclass(frozen=True)
class Terms:
    """The step loss of a batch and what tells how the network fares; each (B,).

    Attributes:
        loss: to be averaged and minimised, float64.
        divergence: the exact KL, without gradient.
        ratio: sigma of the schedule network, without gradient; near 1 everywhere it says nothing of the sample.
        bounded: whether the larger step, and not the level's variance, bounds the beta.
    """

    loss: Tensor
    divergence: Tensor
    ratio: Tensor
    bounded: Tensor


def check_log_coef(log_coef: float) -> None:
    """Raise ConfigError unless it is positive."""
    if not log_coef > 0.0:
        raise ConfigError(f"distillation.log_coef={log_coef}: must be > 0; 0.25 is the code's, 0.5 the exact one")


class StepLoss:
    """The step loss of a schedule network at random pairs of levels, for one frozen denoiser.

    Args:
        score: the denoiser.
        tau: how many steps of the training's table the levels are apart.
        log_coef: 1/4 as the released code, which makes more steps; 1/2 for the divergence.
        times: T on a process without a table.

    Raises:
        ConfigError: for a tau that does not fit the process, or a log_coef that is not positive.
    """

    def __init__(self, score: Score, tau: int, log_coef: float = CODE, times: int = TIMES) -> None:
        check_tau(score.denoiser.process, tau, times)
        check_log_coef(log_coef)
        self.score = score
        self.tau = tau
        self.log_coef = log_coef
        self.times = times

    def __call__(
        self,
        network: ScheduleNetwork,
        x0: Tensor,
        noise: Tensor,
        share: Tensor,
        conditions: Conditions = NO_CONDITIONS,
    ) -> Terms:
        """The terms of a batch.

        Args:
            network: the schedule network.
            x0: data (B, *).
            noise: unit noise like `x0`.
            share: uniform numbers in [0, 1), float64 (B,), that choose the levels.
            conditions: what the denoiser is told.
        """
        levels = pairs(self.score.denoiser.process, self.tau, share, self.times)
        signal, factor = (Scalar(value).cast(x0.dtype, x0.device) for value in (levels.alpha, levels.delta.sqrt()))
        x = signal.apply(x0) + factor.apply(noise)
        moments = Moments.of(noise, self.score.noise(x, levels.t, conditions))
        logit = network(x)
        limit, delta = (to_device(value, x.device) for value in (levels.limit, levels.delta))
        loss = step_loss(logit, limit, delta, moments, self.log_coef)
        with torch.no_grad():
            divergence = step_loss(logit, limit, delta, moments, EXACT, guard=0.0)
        return Terms(loss, divergence, torch.sigmoid(logit.detach().double()), limit < 1.0)
