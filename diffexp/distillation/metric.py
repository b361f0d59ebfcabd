"""Distances of two batches of images by formulas; the learned one is `network.lpips`."""

from __future__ import annotations

import torch
from torch import Tensor

from diffexp.core.errors import ConfigError
from diffexp.network.metric import Metric

HUBER = 0.00054
"""c / sqrt(dimension) of improved consistency training (Song & Dhariwal 2024, section 3.3)."""


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
