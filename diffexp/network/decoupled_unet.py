"""A U-Net that divides behind its encoder: every head has a branch and a decoder of its own (DDM, section 5.1).

time, label, augmentation -> embedding
x -> conv_in -> down levels (push skips) -> for each head: branch -> block, attention, block
                                            -> up levels (the same skips for all) -> norm, silu, conv_out
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffexp.network.assembly import Assembly, draw_weights
from diffexp.network.decouple import Branch
from diffexp.network.decoupled import DecoupledSpec


class Decoder(nn.Module):
    """From the encoder's features to one head's channels.

    Args:
        pieces: makes the layers.
        skips: widths of the encoder's outputs, the last one those of the features.
        out_channels: of the head.
    """

    def __init__(self, pieces: Assembly, skips: list[int], out_channels: int) -> None:
        super().__init__()
        width = skips[-1]
        self.branch = Branch(width)
        self.middle1, self.middle2 = pieces.block(width, width), pieces.block(width, width)
        self.middle_attention = pieces.attention(width)
        self.up = pieces.up(list(skips))
        self.norm_out = pieces.norm_out()
        self.conv_out = nn.Conv2d(pieces.spec.widths[0], out_channels, 3, padding=1)

    def forward(self, h: Tensor, embedding: Tensor, skips: Sequence[Tensor]) -> Tensor:
        """(B, C, h, w), the embedding and the encoder's outputs -> (B, out_channels, H, W)."""
        left = list(skips)  # the other decoder takes them too
        h = self.middle2(self.middle_attention(self.middle1(self.branch(h), embedding)), embedding)
        for level in self.up:
            h = level(h, embedding, left)
        return self.conv_out(F.silu(self.norm_out(h)))


class DecoupledUNet(nn.Module):
    """Maps (B, in_channels, H, W), (B,) times and (B,) labels to (B, sum(heads), H, W). Made by `DecoupledSpec.build`.

    Args:
        spec: the options; they must have passed `check`.
        in_channels: channels of the input.
        heads: channels of each decoder's output.
        resolution: H = W, in pixels; it decides which levels have attention.
        num_classes: 0 for a network without labels.
    """

    def __init__(
        self, spec: DecoupledSpec, in_channels: int, heads: Sequence[int], resolution: int, num_classes: int = 0
    ) -> None:
        super().__init__()
        self.spec = spec
        self.in_channels, self.out_channels = in_channels, sum(heads)
        self.resolution, self.num_classes = resolution, num_classes
        pieces = Assembly(spec, resolution)
        self.embedding = pieces.embedding(num_classes)
        self.conv_in = nn.Conv2d(in_channels, spec.stem, 3, padding=1)
        self.down, skips = pieces.down(in_channels)
        self.decoders = nn.ModuleList(Decoder(pieces, skips, channels) for channels in heads)
        self.reset_parameters()

    def forward(self, x: Tensor, time: Tensor, labels: Tensor | None = None, augment: Tensor | None = None) -> Tensor:
        """The raw output, head behind head.

        Args:
            x: (B, in_channels, H, W).
            time: (B,) time input, the logarithm of t; or (1,) when all images share it.
            labels: (B,) int64 in [0, num_classes); ignored by a network without classes.
            augment: (B, augment_dim), how each image was augmented; None: not at all.

        Returns:
            (B, out_channels, H, W), in the dtype of x also under autocast.

        Raises:
            DiffexpError: the network has classes but `labels` is None.
        """
        embedding = self.embedding(time, labels, augment)
        h = self.conv_in(x)
        skips = [h]
        for level in self.down:
            h = level(h, embedding, skips, h)
        return torch.cat([decoder(h, embedding, skips) for decoder in self.decoders], dim=1).to(x.dtype)

    def reset_parameters(self) -> None:
        """Draw all weights anew from torch's global generator, those of the last convolutions at full size."""
        draw_weights(self, self.spec)
        for decoder in self.decoders:
            bound = math.sqrt(3.0 / decoder.conv_out.weight[0].numel())
            nn.init.uniform_(decoder.conv_out.weight, -bound, bound)
            nn.init.zeros_(decoder.conv_out.bias)
