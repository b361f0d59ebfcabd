"""From an image to the noise from which a deterministic sampler makes it (CDBM, section 3.4; DBIM).

The probability flow is followed upwards, from the end of a sampler's grid to where its noise enters, with first-order
steps; there the noise is what the state holds beside its mean.
"""

from __future__ import annotations

import torch
from torch import Tensor

from diffexp.core.errors import ConfigError
from diffexp.prediction.conditions import NO_CONDITIONS, Conditions
from diffexp.prediction.denoiser import Denoiser
from diffexp.process.base import Process
from diffexp.process.flow import ode_step
from diffexp.sampler.grid import Grid


@torch.no_grad()
def encode(denoiser: Denoiser, images: Tensor, grid: Grid, n: int, conditions: Conditions = NO_CONDITIONS) -> Tensor:
    """The noise of images, (B, *): a bridge's booting noise, or that at the prior.

    It undoes DBIM with eta = 0 (DDIM on other processes), up to an error of first order in the steps.

    Args:
        denoiser: gives "data"; for bridges, it is asked once at the end point too.
        images: states at the grid's last time, (B, *).
        grid: its times, upwards.
        n: number of steps of the grid: as many evaluations, also on bridges.
        conditions: of these images.

    Raises:
        ConfigError: the denoiser does not give data, or the grid ends where there is no noise.
    """
    process = denoiser.process
    if "data" not in denoiser.gives:
        raise ConfigError(f"encoding needs the data, the prediction gives {sorted(denoiser.gives)}")
    if process.drawn:
        raise ConfigError(f"encoding: process {process.name} draws an image with its data, which an image has not")
    times = grid.times(process, n)
    if process.endpoint:
        times = times[1:]  # the noise enters in the step from the end point
    if process.factor(times[-1]).is_zero():
        raise ConfigError(f"grid.t_end={float(times[-1]):g}: there is no noise to be read; end later, e.g. at 1e-3")
    u = images
    for t, s in zip(times.flip(0)[:-1], times.flip(0)[1:], strict=True):  # from t up to s
        u = ode_step(process, u, t, s, _data(denoiser, u, t, conditions), conditions.endpoint)
    return _noise(denoiser, u, times[0], conditions) if process.endpoint else _prior_noise(process, u, times[0])


def _data(denoiser: Denoiser, u: Tensor, t: Tensor, conditions: Conditions) -> Tensor:
    (point,) = denoiser.prepare(t[None], u.dtype, u.device)
    return denoiser(u, point, conditions).data


def _noise(denoiser: Denoiser, u: Tensor, t: Tensor, conditions: Conditions) -> Tensor:
    """z of u = A x^ + B y + L z with the estimate x^ at the end point."""
    process, y = denoiser.process, conditions.endpoint
    end = torch.tensor(process.t_max, dtype=torch.float64)
    start = process.start(lambda: u, y)
    law = process.marginal(t)
    mean = law.perturb(_data(denoiser, start, end, conditions), torch.zeros_like(u), y)
    return law.factor.inverse().apply(u - mean)


def _prior_noise(process: Process, u: Tensor, t: Tensor) -> Tensor:
    return process.prior_factor(t).inverse().apply(u)
