"""One U-Net whose options make the networks of the papers (Ho 2020; Song 2021; Dhariwal & Nichol 2021; Salimans 2022).

    time, label -> embedding
    x -> conv_in -> down levels (push skips) -> block, attention, block -> up levels (pop skips) -> norm, silu, conv_out

Each level follows `UNetSpec`; see there for the options and for the papers they come from.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from diffexp.network.assembly import Assembly, draw_weights
from diffexp.network.spec import UNetSpec


class UNet(nn.Module):
    """Maps (B, in_channels, H, W), (B,) times and (B,) labels to (B, out_channels, H, W). Made by `UNetSpec.build`.

    Args:
        spec: the options; they must have passed `UNetSpec.check`.
        in_channels: channels of the input.
        out_channels: channels of the output.
        resolution: H = W, in pixels; it decides which levels have attention.
        num_classes: 0 for a network without labels.
    """

    def __init__(
        self, spec: UNetSpec, in_channels: int, out_channels: int, resolution: int, num_classes: int = 0
    ) -> None:
        super().__init__()
        self.spec = spec
        self.in_channels, self.out_channels = in_channels, out_channels
        self.resolution, self.num_classes = resolution, num_classes
        pieces = Assembly(spec, resolution)
        self.embedding = pieces.embedding(num_classes)
        self.conv_in = nn.Conv2d(in_channels, spec.stem, 3, padding=1)
        self.down, skips = pieces.down(in_channels)
        middle = skips[-1]
        self.middle1, self.middle2 = pieces.block(middle, middle), pieces.block(middle, middle)
        self.middle_attention = pieces.attention(middle)
        self.up = pieces.up(skips)
        self.norm_out = pieces.norm_out()
        self.conv_out = nn.Conv2d(spec.widths[0], out_channels, 3, padding=1)
        self.reset_parameters()

    def forward(self, x: Tensor, time: Tensor, labels: Tensor | None = None, augment: Tensor | None = None) -> Tensor:
        """The raw output of the network.

        Args:
            x: (B, in_channels, H, W).
            time: (B,) time input, already scaled by the prediction; positive if the embedding is "fourier". (1,) when
                all images share it: cheaper, and the embedding then has no matrix product over the batch, whose
                rounding would depend on the batch size.
            labels: (B,) int64 in [0, num_classes); ignored by a network without classes.
            augment: (B, augment_dim), how each image was augmented; None: not at all.

        Returns:
            (B, out_channels, H, W), in the dtype of x also under autocast.

        Raises:
            DiffexpError: the network has classes but `labels` is None.
        """
        embedding = self.embedding(time, labels, augment)
        h, entry = self.conv_in(x), x
        skips = [h]
        for level in self.down:
            h = entry = level(h, embedding, skips, entry)
        h = self.middle2(self.middle_attention(self.middle1(h, embedding)), embedding)
        for level in self.up:
            h = level(h, embedding, skips)
        return self.conv_out(F.silu(self.norm_out(h))).to(x.dtype)

    def reset_parameters(self) -> None:
        """Draw all weights anew from torch's global generator; biases and (if chosen) last layers become zero."""
        draw_weights(self, self.spec, [self.conv_out])
