"""Strips of images between two seeds: every noise of a sampler goes along a great circle, the conditions stay."""

from __future__ import annotations

import torch
from torch import Tensor

from diffexp.core.errors import ConfigError
from diffexp.core.precision import exact_float32
from diffexp.prediction.conditions import Conditions
from diffexp.prediction.denoiser import Denoiser
from diffexp.sampler.loop import Sampler
from diffexp.sampler.noise import BetweenNoise, KeyedNoise


class Interpolation:
    """The group `interpolation`.

    Args:
        seeds: the two evaluation seeds whose noise is joined; conditions are those of the first.
        points: images in a strip, with both ends, >= 2.
        images: number of strips: images 0, 1, ... of a seed.

    Raises:
        ConfigError: for a value out of range.
    """

    def __init__(self, seeds: list[int], points: int = 9, images: int = 8) -> None:
        if len(seeds) != 2 or seeds[0] == seeds[1] or min(seeds) < 0:
            raise ConfigError(f"interpolation.seeds={seeds}: two different seeds >= 0 are needed, e.g. [0,1]")
        if points < 2:
            raise ConfigError(f"interpolation.points={points}: a strip has at least its 2 ends")
        if images < 1:
            raise ConfigError(f"interpolation.images={images}: at least one strip is needed")
        self.seeds = (seeds[0], seeds[1])
        self.points = points
        self.images = images

    @property
    def shares(self) -> list[float]:
        """Places along the way, exactly 0 and 1 at its ends."""
        return [k / (self.points - 1) for k in range(self.points)]


def strips(
    sampler: Sampler,
    denoiser: Denoiser,
    shape: tuple[int, int, int],
    settings: Interpolation,
    nfe: int,
    conditions: Conditions,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """The images, (strips, points, C, H, W), in data space.

    The first column is what an evaluation with the first seed scores; the last, what one with the second seed does on
    the same conditions.

    Args:
        shape: (C, H, W) of an image.
        nfe: a budget that is feasible for the sampler.
        conditions: of the strips, on the device.
        device, dtype: of the states; the network is on the device.
    """
    state = denoiser.process.state_shape(shape)
    first, second = (KeyedNoise(seed, range(settings.images), state, dtype, device) for seed in settings.seeds)
    columns = []
    for share in settings.shares:
        with exact_float32():
            noise = BetweenNoise(first, second, share)
            columns.append(sampler.sample(denoiser, noise, nfe, conditions).images.cpu())
    return torch.stack(columns, dim=1)
