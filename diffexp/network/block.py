"""The residual block of BigGAN as diffusion U-Nets use it.

Progressive Distillation: scale and shift from the embedding, 2x2 box resampling inside, plain sum. NCSN++ (Song et al.
2021): the embedding is added, FIR resampling inside, a 1x1 convolution on the skip of resampling blocks, sum / sqrt(2).
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffexp.network.norm import GroupNorm


class ResidualBlock(nn.Module):
    """skip(x) + conv2(dropout(silu(norm2(conv1(silu(norm1(x))), embedding)))); both branches are resampled alike.

    Args:
        in_channels: channels of x.
        out_channels: channels of the result.
        embedding_dim: width of the embedding.
        groups: groups of the two norms, (for `in_channels`, for `out_channels`).
        conditioning: "add" the projected embedding before norm2, or use it as "scale_shift" (scale first) after it.
        resample: halves or doubles the resolution of both branches, or None.
        skip_conv: the skip has a 1x1 convolution even if the width stays.
        dropout: probability before conv2.
        eps: of the norms.
        gain: factor of the sum (1, or 1/sqrt(2) for scaled skips).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        embedding_dim: int,
        groups: tuple[int, int],
        conditioning: Literal["add", "scale_shift"] = "scale_shift",
        resample: nn.Module | None = None,
        skip_conv: bool = False,
        dropout: float = 0.0,
        eps: float = 1e-6,
        gain: float = 1.0,
    ) -> None:
        super().__init__()
        self.scale_shift = conditioning == "scale_shift"
        self.gain = gain
        self.norm1 = GroupNorm(groups[0], in_channels, eps)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.project = nn.Linear(embedding_dim, out_channels * (2 if self.scale_shift else 1))
        self.norm2 = GroupNorm(groups[1], out_channels, eps)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.resample = resample
        self.skip = nn.Conv2d(in_channels, out_channels, 1) if skip_conv or in_channels != out_channels else None

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """(B, in, H, W) and the activated (B, embedding_dim) -> (B, out, H', W')."""
        h = F.silu(self.norm1(x))
        if self.resample is not None:
            h, x = self.resample(h), self.resample(x)
        h = self.conv1(h)
        condition = self.project(embedding)[:, :, None, None]
        if self.scale_shift:
            scale, shift = condition.chunk(2, dim=1)
            h = torch.addcmul(shift, self.norm2(h), scale + 1.0)
        else:
            h = self.norm2(h + condition)
        h = self.conv2(self.dropout(F.silu(h)))
        total = (x if self.skip is None else self.skip(x)) + h
        return total if self.gain == 1.0 else total.mul_(self.gain)
