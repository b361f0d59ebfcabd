"""How far what a sampler makes is from the exact law, for Gaussian data: a number without noise of its own.

Estimates of Gaussian data are affine in the state, so a sample is an affine map of the numbers that were drawn. Batches
in which each state has one unit of one draw, and no other noise, give this map, and with it mean and covariance of the
samples: nothing is drawn and nothing estimated.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from diffexp.core.errors import SamplingError
from diffexp.prediction.conditions import NO_CONDITIONS, Conditions
from diffexp.prediction.oracle.gaussian import Gaussian, Voiced
from diffexp.sampler.loop import Sampler

END_POINT = 0.4
"""What a bridge starts from, in every pixel."""


@dataclass(frozen=True)
class Measured:
    """The Wasserstein-2 distance of the samples from the exact law, per pixel, and what it took."""

    error: float
    nfe: float


class Units:
    """Noise of which state 0 has none and every other one a single unit of a single draw, the initial one first.

    Args:
        initial: what the states start from, (1 + d, *): none, and those of the initial units.
        draws: how many further draws there are.
        shape: of one state, d numbers.
    """

    def __init__(self, initial: Tensor, draws: int, shape: tuple[int, ...]) -> None:
        self._first, self._draws, self._shape = initial, draws, shape
        self._size = math.prod(shape)

    def initial(self) -> Tensor:
        return torch.cat([self._first, self._first[:1].expand(self._draws * self._size, *self._shape)])

    def step(self, k: int) -> Tensor:
        batch = torch.zeros(len(self._first) + self._draws * self._size, self._size, dtype=torch.float64)
        begin = len(self._first) + k * self._size
        batch[begin : begin + self._size] = torch.eye(self._size, dtype=torch.float64)
        return batch.reshape(-1, *self._shape)


def measure(sampler: Sampler, denoiser: Voiced, shape: tuple[int, int, int], nfe: int | None) -> Measured:
    """The error of a sampler that starts from the exact law at its grid's first time, or from a bridge's end point.

    Args:
        sampler: without clipping and guidance, which are not affine.
        denoiser: the exact one.
        shape: of the images.
        nfe: the budget; None for a sampler that takes none.

    Raises:
        ConfigError: for a sampler that does not fit.
        SamplingError: when it does not do what it declared, or its samples are not finite.
    """
    sampler.check(denoiser.gives)
    data, process = denoiser.data, denoiser.process
    times, state = sampler.times(process, nfe), process.state_shape(shape)
    start = _start(data, times[0], state)
    draws = (len(times) - 1) * getattr(sampler.stepper, "draws", 0)
    noise = Units(start, draws, state)
    states = len(start) + draws * math.prod(state)
    given = NO_CONDITIONS
    if process.endpoint:
        given = Conditions(endpoint=torch.full((states, *shape), END_POINT, dtype=torch.float64))
    found = sampler.sample(denoiser, noise, nfe, given)
    if not bool(found.images.isfinite().all()):
        raise SamplingError(f"sampler {sampler.name}: its samples are not finite")
    mean, *units = found.images.flatten(1)
    wanted, spread = _exact(data, times[-1], state)
    return Measured(_distance(mean, torch.stack(units) - mean, wanted, spread), found.nfe)


def _start(data: Gaussian, t: Tensor, state: tuple[int, ...]) -> Tensor:
    """The initial noise that puts mean and units of the exact law at time t, (1 + d, *); a bridge draws none."""
    zero = torch.zeros(1, *state, dtype=torch.float64)
    if data.process.endpoint:
        return zero
    law = data.process.marginal(t)
    centre = data.centre(law, zero)
    units = torch.eye(math.prod(state), dtype=torch.float64).reshape(-1, *state)
    found = torch.cat([centre, centre + data.covariance(law).factor().apply(units)])
    return data.process.prior_factor(t).inverse().apply(found)


def _exact(data: Gaussian, t: Tensor, state: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Mean (p,) and units (d, p) of the exact law of the image at time t."""
    law, process = data.process.marginal(t), data.process
    zero = torch.zeros(1, *state, dtype=torch.float64)
    end = torch.full_like(process.readout(zero), END_POINT) if process.endpoint else None
    units = torch.eye(math.prod(state), dtype=torch.float64).reshape(-1, *state)
    spread = process.readout(data.covariance(law).factor().apply(units)).flatten(1)
    return process.readout(data.centre(law, zero, end)).flatten(), spread


def _distance(mean: Tensor, spread: Tensor, wanted: Tensor, exact: Tensor) -> float:
    """Per pixel; covariances are compared by their roots, which is Wasserstein's distance where they commute."""
    apart = (_root(spread) - _root(exact)).square().sum() + (mean - wanted).square().sum()
    return float((apart / len(mean)).sqrt())


def _root(spread: Tensor) -> Tensor:
    """The symmetric root of spread^T spread: V s V^T of the singular values, which keeps their digits."""
    _, values, basis = torch.linalg.svd(spread, full_matrices=False)
    return basis.T @ torch.diag(values) @ basis
