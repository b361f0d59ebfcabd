"""Distances of two batches of images, one number for each image; gradients flow into both."""

from __future__ import annotations

import abc

import torch
from torch import Tensor, nn

from diffexp.core.errors import ConfigError

HUBER = 0.00054
"""c / sqrt(dimension) of improved consistency training (Song & Dhariwal 2024, section 3.3)."""


class Metric(abc.ABC):
    """d(a, b) >= 0, and 0 for equal images."""

    def prepare(self, shape: tuple[int, int, int]) -> None:  # noqa: B027 - most metrics suit every image
        """Read what comparing images (C, H, W) needs; ConfigError when it is missing, or they cannot be compared."""

    def networks(self) -> list[nn.Module]:
        """Frozen networks that the metric asks."""
        return []

    @abc.abstractmethod
    def __call__(self, first: Tensor, second: Tensor) -> Tensor:
        """The distances of images (B, C, H, W), (B,)."""


class L2(Metric):
    """The mean of squares."""

    def __call__(self, first: Tensor, second: Tensor) -> Tensor:
        return (first - second).square().flatten(1).mean(1)


class L1(Metric):
    """The mean of absolute values."""

    def __call__(self, first: Tensor, second: Tensor) -> Tensor:
        return (first - second).abs().flatten(1).mean(1)


class PseudoHuber(Metric):
    """sqrt(|a - b|^2 + c^2) - c with the norm over all pixels and channels, and c = `scale` sqrt(their number).

    Args:
        scale: > 0.

    Raises:
        ConfigError: for another scale.
    """

    def __init__(self, scale: float = HUBER) -> None:
        if not scale > 0.0:
            raise ConfigError(f"distillation.metric.scale={scale}: must be > 0 (distillation/metric=l1 is the limit 0)")
        self.scale = scale

    def __call__(self, first: Tensor, second: Tensor) -> Tensor:
        off = (first - second).flatten(1)
        c = self.scale * off.shape[1] ** 0.5
        square = off.square().sum(1)
        return square / (torch.sqrt(square + c**2) + c)  # the difference of the two, without its cancellation
