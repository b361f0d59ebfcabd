"""The contract of a distance of two batches of images that a loss is made of; gradients flow into both."""

from __future__ import annotations

import abc

from torch import Tensor, nn


class Metric(abc.ABC):
    """d(a, b) >= 0, one number for each image, and 0 for equal images."""

    def prepare(self, shape: tuple[int, int, int], key: str, instead: str) -> None:  # noqa: B027 - most need nothing
        """Read what comparing images needs.

        Args:
            shape: of the images, (C, H, W).
            key: the dotted key of this metric in a configuration, for errors.
            instead: a setting without it, likewise.

        Raises:
            ConfigError: something is missing, or such images cannot be compared.
        """

    def networks(self) -> list[nn.Module]:
        """Frozen networks that the metric asks."""
        return []

    @abc.abstractmethod
    def __call__(self, first: Tensor, second: Tensor) -> Tensor:
        """The distances of images (B, C, H, W), (B,)."""
