"""Halving and doubling of the resolution: 2x2 box, FIR filter [1, 3, 3, 1], and convolutions.

Box: mean of 2x2 pixels / repetition of a pixel (Progressive Distillation, DDPM++). FIR: the anti-aliased resampling of
StyleGAN2 as NCSN++ uses it (Song et al. 2021): the outer product of [1, 3, 3, 1] / 8, zeros outside the image; doubling
multiplies by 4, because three of four samples are the zeros put in between.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FIR_TAPS = (1.0, 3.0, 3.0, 1.0)


class BoxDown(nn.Module):
    """Mean over 2x2 pixels: (B, C, H, W) -> (B, C, H/2, W/2)."""

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, 2)


class BoxUp(nn.Module):
    """Every pixel four times: (B, C, H, W) -> (B, C, 2H, 2W)."""

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=2.0, mode="nearest")


class _Fir(nn.Module):
    """Holds the 4x4 filter of unit sum; not saved, since it is a constant."""

    def __init__(self) -> None:
        super().__init__()
        taps = torch.tensor(FIR_TAPS)
        self.register_buffer("kernel", torch.outer(taps, taps) / taps.sum() ** 2, persistent=False)

    def _weight(self, x: Tensor, gain: float = 1.0) -> Tensor:
        return (self.kernel * gain).to(x.dtype).expand(x.shape[1], 1, -1, -1)


class FirDown(_Fir):
    """Filter, then every second pixel: (B, C, H, W) -> (B, C, H/2, W/2)."""

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self._weight(x), stride=2, padding=1, groups=x.shape[1])


class FirUp(_Fir):
    """Zeros between the pixels, then the filter times 4: (B, C, H, W) -> (B, C, 2H, 2W)."""

    def forward(self, x: Tensor) -> Tensor:
        return F.conv_transpose2d(x, self._weight(x, gain=4.0), stride=2, padding=1, groups=x.shape[1])


class ConvDown(nn.Conv2d):
    """3x3 convolution of stride 2; zeros are padded at the right and the bottom only (as Flax's "SAME" does)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size=3, stride=2)

    def forward(self, x: Tensor, _embedding: Tensor | None = None) -> Tensor:  # called like a residual block
        return super().forward(F.pad(x, (0, 1, 0, 1)))


class ConvUp(nn.Conv2d):
    """Repetition of every pixel, then a 3x3 convolution."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size=3, padding=1)

    def forward(self, x: Tensor, _embedding: Tensor | None = None) -> Tensor:  # called like a residual block
        return super().forward(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class FirConvDown(_Fir):
    """The FIR filter, then a 3x3 convolution of stride 2: one step of NCSN++'s residual input pyramid."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size=3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        # Padding by 2 makes H + 1 filtered pixels, of which the convolution keeps H/2.
        return self.conv(F.conv2d(x, self._weight(x), padding=2, groups=x.shape[1]))
