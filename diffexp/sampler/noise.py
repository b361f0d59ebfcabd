"""Where a sampler's random numbers come from: always the image's own stream, never a shared generator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from diffexp.core import random
from diffexp.core.transfer import to_device


class NoiseSource(Protocol):
    """Unit noise for one batch of images."""

    def initial(self) -> Tensor:
        """The noise at the prior, (B, *)."""

    def step(self, k: int) -> Tensor:
        """Fresh noise of draw k >= 0, (B, *): of step k for a sampler that draws once a step."""


class KeyedNoise:
    """Noise that belongs to (seed, image index, step): the same for any batch size, device count and sampler.

    Args:
        seed: the evaluation's seed.
        indices: indices of the images in this batch, (B,).
        shape: shape of one state.
        dtype: type of the states.
        device: device of the states; numbers are drawn on the CPU and moved.
    """

    def __init__(
        self,
        seed: int,
        indices: Sequence[int],
        shape: Sequence[int],
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        self.seed = seed
        self.indices = list(indices)
        self.shape = tuple(shape)
        self.dtype = dtype
        self.device = device

    def _draw(self, stream: str, step: int) -> Tensor:
        values = random.normal(self.seed, stream, self.indices, self.shape, step)
        return to_device(values, self.device, self.dtype)

    def initial(self) -> Tensor:
        return self._draw("sample/initial", 0)

    def step(self, k: int) -> Tensor:
        return self._draw("sample/step", k)


class FixedNoise:
    """Noise from given tensors, for reproducing published trajectories.

    Args:
        initial: (B, *).
        steps: one (B, *) tensor for each draw, by its number.
    """

    def __init__(self, initial: Tensor, steps: Sequence[Tensor] = ()) -> None:
        self._initial = initial
        self._steps = steps

    def initial(self) -> Tensor:
        return self._initial

    def step(self, k: int) -> Tensor:
        return self._steps[k]
