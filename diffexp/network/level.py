"""One level of the U-Net: its residual blocks, their attention, and the change of resolution at its end."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from diffexp.network.attention import SelfAttention
from diffexp.network.block import ResidualBlock


class DownLevel(nn.Module):
    """Blocks on the way down; the output of each, and of the downsampling, is put on the stack of skips.

    Args:
        blocks: the residual blocks.
        attention: what follows each block, one entry a block, or an empty list.
        downsample: called as (h, embedding), or None at the coarsest level.
        pyramid: maps what entered the level to what is added to the downsampled features, or None.
        gain: factor of that sum.
    """

    def __init__(
        self,
        blocks: list[ResidualBlock],
        attention: list[SelfAttention],
        downsample: nn.Module | None,
        pyramid: nn.Module | None,
        gain: float = 1.0,
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.attention = nn.ModuleList(attention)
        self.downsample = downsample
        self.pyramid = pyramid
        self.gain = gain

    def forward(self, h: Tensor, embedding: Tensor, skips: list[Tensor], entry: Tensor) -> Tensor:
        """Append to `skips`; return the features of the next level. `entry` feeds the pyramid."""
        for index, block in enumerate(self.blocks):
            h = block(h, embedding)
            if self.attention:
                h = self.attention[index](h)
            skips.append(h)
        if self.downsample is not None:
            h = self.downsample(h, embedding)
            if self.pyramid is not None:
                h = (self.pyramid(entry) + h) * self.gain
            skips.append(h)
        return h


class UpLevel(nn.Module):
    """Blocks on the way up; each takes one skip from the stack, concatenated after the features.

    Args:
        blocks: the residual blocks.
        attention: one entry a block; or a single entry, which comes after the last block; or an empty list.
        upsample: called as (h, embedding), or None at the finest level.
    """

    def __init__(
        self, blocks: list[ResidualBlock], attention: list[SelfAttention], upsample: nn.Module | None
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.attention = nn.ModuleList(attention)
        self.first_attention = len(blocks) - len(attention)
        self.upsample = upsample

    def forward(self, h: Tensor, embedding: Tensor, skips: list[Tensor]) -> Tensor:
        """Pop from `skips`; return the features of the next level."""
        for index, block in enumerate(self.blocks):
            h = block(torch.cat([h, skips.pop()], dim=1), embedding)
            if index >= self.first_attention:
                h = self.attention[index - self.first_attention](h)
        return h if self.upsample is None else self.upsample(h, embedding)
