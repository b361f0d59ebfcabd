"""One U-Net whose options make the networks of the papers (Ho 2020; Song 2021; Dhariwal & Nichol 2021; Salimans 2022).

    time, label -> embedding
    x -> conv_in -> down levels (push skips) -> block, attention, block -> up levels (pop skips) -> norm, silu, conv_out

Each level follows `UNetSpec`; see there for the options and for the papers they come from.
"""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn

from diffexp.network.attention import SelfAttention
from diffexp.network.block import ResidualBlock
from diffexp.network.embedding import Embedding, FourierFeatures, PositionalFeatures, TimestepFeatures
from diffexp.network.level import DownLevel, UpLevel
from diffexp.network.norm import GroupNorm
from diffexp.network.resampling import BoxDown, BoxUp, ConvDown, ConvUp, FirConvDown, FirDown, FirUp
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
        self._gain = math.sqrt(0.5) if spec.skip_scale else 1.0
        self._sizes = spec.resolutions(resolution)
        self.embedding = Embedding(_features(spec), spec.embedding_width, num_classes, spec.label_bias)
        self.conv_in = nn.Conv2d(in_channels, spec.channels, 3, padding=1)
        skips = [spec.channels]
        self.down = nn.ModuleList(self._down_level(level, skips) for level in range(len(self._sizes)))
        middle = skips[-1]
        self.middle1, self.middle2 = self._block(middle, middle), self._block(middle, middle)
        self.middle_attention = self._attention(middle)
        self.up = nn.ModuleList(self._up_level(level, skips) for level in reversed(range(len(self._sizes))))
        self.norm_out = GroupNorm(spec.groups(spec.widths[0]), spec.widths[0], spec.norm_eps)
        self.conv_out = nn.Conv2d(spec.widths[0], out_channels, 3, padding=1)
        self.reset_parameters()

    def forward(self, x: Tensor, time: Tensor, labels: Tensor | None = None) -> Tensor:
        """The raw output of the network.

        Args:
            x: (B, in_channels, H, W).
            time: (B,) time input, already scaled by the prediction; positive if the embedding is "fourier". (1,) when
                all images share it: cheaper, and the embedding then has no matrix product over the batch, whose
                rounding would depend on the batch size.
            labels: (B,) int64 in [0, num_classes); ignored by a network without classes.

        Returns:
            (B, out_channels, H, W), in the dtype of x also under autocast.

        Raises:
            DiffexpError: the network has classes but `labels` is None.
        """
        embedding = self.embedding(time, labels)
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
        draw = _LAWS[self.spec.initialisation]
        attentions = [module for module in self.modules() if isinstance(module, SelfAttention)]
        blocks = [module for module in self.modules() if isinstance(module, ResidualBlock)]
        fused = {attention.qkv for attention in attentions}
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear) and draw is None:
                module.reset_parameters()
            elif isinstance(module, nn.Conv2d | nn.Linear):
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
                for weight in module.weight.detach().chunk(3 if module in fused else 1):  # q, k, v: each its own fan
                    draw(weight)
        if self.spec.zero_init:
            for layer in (self.conv_out, *(block.conv2 for block in blocks), *(item.out for item in attentions)):
                nn.init.zeros_(layer.weight)
                nn.init.zeros_(layer.bias)
        if draw is None and self.embedding.label is not None:
            nn.init.normal_(self.embedding.label.weight)  # a table's own law

    def _block(self, in_channels: int, out_channels: int, resample: nn.Module | None = None) -> ResidualBlock:
        spec = self.spec
        return ResidualBlock(
            in_channels,
            out_channels,
            spec.embedding_width,
            groups=(spec.groups(in_channels), spec.groups(out_channels)),
            conditioning=spec.conditioning,
            resample=resample,
            skip_conv=resample is not None and spec.shortcut == "width_or_resample",
            dropout=spec.dropout,
            eps=spec.norm_eps,
            gain=self._gain,
        )

    def _attention(self, channels: int) -> SelfAttention:
        spec = self.spec
        heads, groups = spec.heads(channels), spec.groups(channels)
        return SelfAttention(channels, heads, groups, spec.norm_eps, self._gain, spec.attention_order)

    def _down_level(self, level: int, skips: list[int]) -> DownLevel:
        """Append the width of every output to `skips`."""
        spec, width, entry = self.spec, self.spec.widths[level], skips[-1]
        blocks = [self._block(entry if index == 0 else width, width) for index in range(spec.blocks)]
        attend = self._sizes[level] in spec.attention
        attention = [self._attention(width) for _ in blocks] if attend else []
        skips += [width] * spec.blocks
        if level == len(self._sizes) - 1:
            return DownLevel(blocks, attention, None, None)
        skips.append(width)
        pyramid = None
        if spec.progressive_input == "residual":
            source = self.in_channels if level == 0 else entry
            pyramid = FirConvDown(source, width) if spec.resampling == "fir" else ConvDown(source, width)
        return DownLevel(blocks, attention, self._resample(width, down=True), pyramid, self._gain)

    def _up_level(self, level: int, skips: list[int]) -> UpLevel:
        """Pop the widths of the skips that the level takes."""
        spec, width = self.spec, self.spec.widths[level]
        entry = spec.widths[min(level + 1, len(self._sizes) - 1)]
        blocks = [
            self._block((entry if index == 0 else width) + skips.pop(), width) for index in range(spec.blocks + 1)
        ]
        count = len(blocks) if spec.attention_up == "every" else 1
        attention = [self._attention(width) for _ in range(count)] if self._sizes[level] in spec.attention else []
        return UpLevel(blocks, attention, self._resample(width, down=False) if level > 0 else None)

    def _resample(self, width: int, down: bool) -> nn.Module:
        if self.spec.resampling == "conv":
            return ConvDown(width, width) if down else ConvUp(width, width)
        if self.spec.resampling == "fir":
            return self._block(width, width, FirDown() if down else FirUp())
        return self._block(width, width, BoxDown() if down else BoxUp())


def _features(spec: UNetSpec) -> FourierFeatures | PositionalFeatures | TimestepFeatures:
    if spec.embedding == "fourier":
        return FourierFeatures(2 * spec.channels, spec.fourier_scale)
    return TimestepFeatures(spec.channels) if spec.embedding == "timestep" else PositionalFeatures(spec.channels)


def _lecun_normal_(weight: Tensor) -> None:
    """Normal of variance 1 / fan_in, cut at two standard deviations (of the uncut law, which is a little wider)."""
    fan_in = weight[0].numel()
    scale = math.sqrt(1.0 / fan_in) / 0.8796256610342398  # standard deviation of a unit normal cut at +-2
    nn.init.trunc_normal_(weight, std=scale, a=-2.0 * scale, b=2.0 * scale)


_LAWS = {"lecun_normal": _lecun_normal_, "xavier_uniform": nn.init.xavier_uniform_, "pytorch": None}
