"""Affine maps of images without aliasing: wavelet interpolation to twice the resolution, bilinear reading, and back.

The filter is the orthogonal low-pass of the symlet with six vanishing moments, as in the augmentation of Karras et al.
2020 (appendix B) that EDM uses. Doubling with B and halving with B^T gives the image itself, since B^T B = 1: a map
that does nothing changes nothing. Outside, the image is mirrored once, and then zero.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

SYM6 = (
    0.015404109327027373, 0.0034907120842174702, -0.11799011114819057, -0.048311742585633, 0.4910559419267466,
    0.787641141030194, 0.3379294217276218, -0.07263752278646252, -0.021060292512300564, 0.04472490177066578,
    0.0017677118642428036, -0.007800708325034148,
)  # fmt: skip
SMALLEST = 4
"""Pixels of an axis that, mirrored once, hold all that the filter reads."""

_CENTRE = 5  # the tap that lies on a pixel: sample j of the doubled image stands at pixel j / 2
_BEFORE = len(SYM6) // 2  # doubled samples that the first pixel reads before its own; the last one reads less behind


def warp(images: Tensor, inverse: Tensor) -> Tensor:
    """Images seen through affine maps.

    Args:
        images: (N, C, H, W), float64, H and W at least `SMALLEST`.
        inverse: (N, 2, 3), float64: from a place (x, y, 1) in the result to the place (x, y) in the image that is shown
            there; in pixels from the centre, x to the right, y down.

    Returns:
        (N, C, H, W), float64; an image's values do not depend on what else is in the batch.
    """
    height, width = images.shape[2:]
    doubled = _along(_doubling(width), _along(_doubling(height), images, 2), 3)
    read = F.grid_sample(doubled, _grid(inverse, height, width), mode="bilinear", align_corners=True)
    return _along(_halving(width), _along(_halving(height), read, 2), 3)


def _along(matrix: Tensor, images: Tensor, axis: int) -> Tensor:
    """A matrix on one axis of images: as many equal products as there are channels, whatever the batch."""
    flat = images.flatten(0, 1)
    if axis == 3:
        found = torch.bmm(flat, matrix.t().expand(len(flat), -1, -1))
    else:
        found = torch.bmm(matrix.expand(len(flat), -1, -1), flat)
    return found.unflatten(0, images.shape[:2])


def _grid(inverse: Tensor, height: int, width: int) -> Tensor:
    """Where the doubled result reads the doubled image, in `grid_sample`'s units: (N, 2 (H + 6), 2 (W + 6), 2)."""
    spans = [torch.arange(-_BEFORE, 2 * size + _BEFORE, dtype=torch.float64) / 2.0 for size in (height, width)]
    y, x = spans[0][:, None] - (height - 1) / 2.0, spans[1] - (width - 1) / 2.0
    # The doubled image has its centre a quarter of a pixel behind, and `grid_sample` counts half its length as 1.
    unit = torch.tensor([_length(width) - 1, _length(height) - 1], dtype=torch.float64)[:, None] / 4.0
    rows = torch.cat([inverse[:, :, :2], inverse[:, :, 2:] - 0.25], dim=2) / unit
    found = rows[:, :, :1, None] * x + rows[:, :, 1:2, None] * y + rows[:, :, 2:, None]
    return found.movedim(1, -1)


def _length(size: int) -> int:
    """Samples of a mirrored and doubled axis."""
    return 2 * (3 * size - 2)


def _taps(samples: Tensor, pixels: Tensor) -> Tensor:
    """What the doubled `samples` take of `pixels`: the filter's taps, zero beyond its ends."""
    place = samples[:, None] + _CENTRE - 2 * pixels[None]
    inside = (place >= 0) & (place < len(SYM6))
    return torch.tensor(SYM6, dtype=torch.float64)[place.clamp(0, len(SYM6) - 1)] * inside


@lru_cache(maxsize=8)
def _doubling(size: int) -> Tensor:
    """(2 (3 size - 2), size): mirrors an axis once on both sides and doubles it."""
    pixels = torch.arange(-(size - 1), 2 * size - 1)
    taps = _taps(torch.arange(-2 * (size - 1), 4 * size - 2), pixels)
    shown = size - 1 - (size - 1 - pixels.abs()).abs()
    return taps @ (shown[:, None] == torch.arange(size)[None]).double()


@lru_cache(maxsize=8)
def _halving(size: int) -> Tensor:
    """(size, 2 (size + 6)): the doubling's transpose, on the samples that `_grid` reads."""
    return _taps(torch.arange(-_BEFORE, 2 * size + _BEFORE), torch.arange(size)).t().contiguous()
