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


class BetweenNoise:
    """The noise of a share of the way from one source to another, along great circles: see `slerp`.

    Args:
        first: the source at 0.
        second: the source at 1, for a batch of the same shape.
        share: in [0, 1]; the ends are the sources themselves, exactly.
    """

    def __init__(self, first: NoiseSource, second: NoiseSource, share: float) -> None:
        self.first = first
        self.second = second
        self.share = share

    def initial(self) -> Tensor:
        return slerp(self.first.initial(), self.second.initial(), self.share)

    def step(self, k: int) -> Tensor:
        return slerp(self.first.step(k), self.second.step(k), self.share)


class TorchNoise:
    """The noise of the official bridge code: every image has a generator of torch's and takes its draws in turn.

    Args:
        seeds: one for each image; 42 + its index in DBIM's evaluation.
        shape: shape of one state.
        dtype: type of the states.
        device: device of the states; numbers are drawn on the CPU, as float32, and moved.
    """

    def __init__(
        self,
        seeds: Sequence[int],
        shape: Sequence[int],
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        self._streams = random.TorchStreams(seeds, shape)
        self._drawn: list[Tensor] = []
        self._begins = 0
        self.dtype = dtype
        self.device = device

    def initial(self) -> Tensor:
        self._begins = 1
        return self._draw(0)

    def step(self, k: int) -> Tensor:
        return self._draw(self._begins + k)

    def _draw(self, k: int) -> Tensor:
        while len(self._drawn) <= k:  # draws that nobody wanted are made all the same
            self._drawn.append(self._streams.normal())
        return to_device(self._drawn[k], self.device, self.dtype)


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


def slerp(first: Tensor, second: Tensor, share: float) -> Tensor:
    """sin((1 - a) w) / sin(w) first + sin(a w) / sin(w) second, w the angle between two images' noises.

    In between, unit noise keeps its length, where the straight line would shorten it. Parallel noises, which have no
    circle between them, are joined by that line.

    Args:
        first, second: (B, *); the angle is that of each image, over all its numbers, in float64.
        share: a in [0, 1]; 0 and 1 give `first` and `second`, bit for bit.
    """
    if share in (0.0, 1.0):
        return first if share == 0.0 else second
    flat = [noise.double().flatten(1) for noise in (first, second)]
    unit = [noise / noise.norm(dim=1, keepdim=True) for noise in flat]
    # The angle by half its chords: the cosine alone loses digits where noises are nearly parallel.
    angle = 2.0 * torch.atan2((unit[0] - unit[1]).norm(dim=1), (unit[0] + unit[1]).norm(dim=1))
    whole = angle.sin()
    straight = whole < 1.0e-12
    shares = [torch.where(straight, a, (a * angle).sin() / whole) for a in (1.0 - share, share)]
    a, b = (weight.to(first.dtype).reshape(-1, *[1] * (first.ndim - 1)) for weight in shares)
    return a * first + b * second
