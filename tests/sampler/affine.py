"""Exact moments of what a sampler makes of Gaussian data, whose estimates are affine in the state.

One image of one pixel follows each unit of noise: that of the start and that of every draw. Together with an image that
gets no noise they are the whole affine map, so that nothing is drawn and nothing estimated.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from diffexp.prediction.denoiser import Denoiser
from diffexp.sampler.grid import Grid
from diffexp.sampler.loop import Sampler
from diffexp.sampler.noise import FixedNoise
from diffexp.sampler.stepper import Stepper


def moments(
    stepper: Stepper, grid: Grid, denoiser: Denoiser, n: int, silent: Callable[[int], bool] = lambda draw: False
) -> tuple[Tensor, Tensor]:
    """(mean, covariance) of the last state of one pixel after n steps, (d,) and (d, d), d numbers for each pixel.

    Args:
        stepper, grid, denoiser: the sampler, on Gaussian data with independent pixels.
        n: number of steps.
        silent: the draws whose noise is left out.
    """
    d, draws = denoiser.process.state_shape((1, 1, 1))[0], n * stepper.draws
    noise = torch.zeros(1 + draws, 1 + (1 + draws) * d, d, 1, 1, dtype=torch.float64)
    for place in range(1 + draws):
        if place == 0 or not silent(place - 1):
            noise[place, 1 + place * d : 1 + (place + 1) * d, :, 0, 0] = torch.eye(d, dtype=torch.float64)
    sampler, states = Sampler("affine", stepper, grid), []
    source = FixedNoise(noise[0], noise[1:])
    sampler.sample(denoiser, source, sampler.evaluations(n), on_step=lambda k, u: states.append(u))
    mean, *responses = states[-1].flatten(1)
    spread = torch.stack(responses) - mean
    return mean, spread.T @ spread
