"""What makes the source of a pair out of its target: outlines, a hole to fill, or a lost resolution."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor

from diffexp.core.errors import ConfigError
from diffexp.core.image import to_float


@runtime_checkable
class Degradation(Protocol):
    """A fixed map of images. Equal text (`repr`) must mean equal sources: it enters the data's fingerprint.

    Attributes:
        masks: whether it gives masks.
    """

    masks: bool

    def check(self, shape: tuple[int, int, int]) -> None:
        """Raise ConfigError when images (C, H, W) cannot be degraded so."""

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """uint8 (B, C, H, W) -> sources float32 (B, C, H, W) in [-1, 1], and a mask (B, 1, H, W) or None."""


@dataclass(frozen=True)
class Outline:
    """Black outlines on white: where Sobel's gradient of the brightness is steep.

    Args:
        threshold: smallest gradient of a line, in brightness per pixel; a straight step from black to white has 0.5.

    Raises:
        ConfigError: the threshold is not in (0, 0.5).
    """

    masks: ClassVar[bool] = False

    threshold: float = 0.3

    def __post_init__(self) -> None:
        if not 0.0 < self.threshold < 0.5:
            raise ConfigError(f"dataset.degradation.threshold={self.threshold}: must be between 0 and 0.5")

    def check(self, shape: tuple[int, int, int]) -> None:
        """Every image has outlines."""

    def __call__(self, images: Tensor) -> tuple[Tensor, None]:
        """See `Degradation`."""
        # Whole numbers: the lines are the same on every machine.
        grey = F.pad(images.to(torch.float32).sum(1, keepdim=True), (1, 1, 1, 1), mode="replicate")
        rows = grey[..., :-2, :] + 2 * grey[..., 1:-1, :] + grey[..., 2:, :]
        columns = grey[..., :-2] + 2 * grey[..., 1:-1] + grey[..., 2:]
        across, down = rows[..., 2:] - rows[..., :-2], columns[..., 2:, :] - columns[..., :-2, :]
        bound = 8 * 255 * images.shape[1] * self.threshold
        lines = across.double().square() + down.double().square() > bound**2
        return torch.where(lines, -1.0, 1.0).to(torch.float32).expand(images.shape), None


@dataclass(frozen=True)
class CentreMask:
    """A square hole in the centre, mask 1; the source holds 0 (grey) there and the target elsewhere.

    Args:
        size: height and width of the hole in pixels.
    """

    masks: ClassVar[bool] = True

    size: int

    def check(self, shape: tuple[int, int, int]) -> None:
        """See `Degradation`."""
        side = min(shape[1:])
        if not 0 < self.size < side or any((length - self.size) % 2 for length in shape[1:]):
            raise ConfigError(
                f"dataset.degradation.size={self.size} leaves no even frame in {shape[1]}x{shape[2]} pixels: did you "
                f"mean {side // 2 + (side - side // 2) % 2}?"
            )

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """See `Degradation`."""
        height, width = images.shape[2:]
        top, left = (height - self.size) // 2, (width - self.size) // 2
        mask = torch.zeros(len(images), 1, height, width)
        mask[:, :, top : top + self.size, left : left + self.size] = 1.0
        return to_float(images) * (1.0 - mask), mask


@dataclass(frozen=True)
class Downscale:
    """A lower resolution: the mean of squares of pixels, brought back to the size.

    Args:
        factor: side of a square, in pixels.
        back: Pixels are repeated ("nearest") or interpolated ("bicubic").
    """

    masks: ClassVar[bool] = False

    factor: int
    back: str = "nearest"

    def __post_init__(self) -> None:
        if self.back not in ("nearest", "bicubic"):
            raise ConfigError(f"dataset.degradation.back={self.back} is unknown: choose from nearest, bicubic")

    def check(self, shape: tuple[int, int, int]) -> None:
        """See `Degradation`."""
        if self.factor < 2 or any(length % self.factor for length in shape[1:]):
            raise ConfigError(
                f"dataset.degradation.factor={self.factor}: must be at least 2 and divide {shape[1]} and {shape[2]}"
            )

    def __call__(self, images: Tensor) -> tuple[Tensor, None]:
        """See `Degradation`."""
        small = F.avg_pool2d(to_float(images), self.factor)
        options = {"align_corners": False} if self.back == "bicubic" else {}
        large = F.interpolate(small, scale_factor=float(self.factor), mode=self.back, **options)
        return large.clamp(-1.0, 1.0), None
