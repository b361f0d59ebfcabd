"""The pieces that U-Nets are put together from: levels, blocks and attentions as a `UNetSpec` says, and weights."""

from __future__ import annotations

import math
from collections.abc import Iterable

from torch import Tensor, nn

from diffexp.network.attention import SelfAttention
from diffexp.network.block import ResidualBlock
from diffexp.network.embedding import Embedding, FourierFeatures, PositionalFeatures, TimestepFeatures
from diffexp.network.level import DownLevel, UpLevel
from diffexp.network.norm import GroupNorm
from diffexp.network.resampling import BoxDown, BoxUp, ConvDown, ConvUp, FirConvDown, FirDown, FirUp
from diffexp.network.spec import UNetSpec


class Assembly:
    """Makes the pieces, in the order in which a network asks for them: each draws its weights when it is made.

    Args:
        spec: the options; they must have passed `UNetSpec.check`.
        resolution: H = W, in pixels; it decides which levels have attention.
    """

    def __init__(self, spec: UNetSpec, resolution: int) -> None:
        self.spec = spec
        self._sizes = spec.resolutions(resolution)
        self._gain = math.sqrt(0.5) if spec.skip_scale else 1.0

    def embedding(self, num_classes: int) -> Embedding:
        """The embedding of time, labels (0 classes: none) and augmentation."""
        spec = self.spec
        return Embedding(_features(spec), spec.embedding_width, num_classes, spec.label_bias, spec.augment_dim or 0)

    def down(self, in_channels: int) -> tuple[nn.ModuleList, list[int]]:
        """The levels on the way down, and the width of every skip, that of the stem first.

        Args:
            in_channels: of the network's input, which feeds the pyramid.
        """
        skips = [self.spec.stem]
        levels = nn.ModuleList(self._down_level(level, skips, in_channels) for level in range(len(self._sizes)))
        return levels, skips

    def up(self, skips: list[int]) -> nn.ModuleList:
        """The levels on the way up; they pop `skips` until nothing is left."""
        return nn.ModuleList(self._up_level(level, skips) for level in reversed(range(len(self._sizes))))

    def norm_out(self) -> GroupNorm:
        """The norm before the last convolution."""
        spec, width = self.spec, self.spec.widths[0]
        return GroupNorm(spec.groups(width), width, spec.norm_eps)

    def block(self, in_channels: int, out_channels: int, resample: nn.Module | None = None) -> ResidualBlock:
        """A residual block."""
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

    def attention(self, channels: int) -> SelfAttention:
        """A self-attention."""
        spec = self.spec
        heads, groups = spec.heads(channels), spec.groups(channels)
        return SelfAttention(channels, heads, groups, spec.norm_eps, self._gain, spec.attention_order)

    def _down_level(self, level: int, skips: list[int], in_channels: int) -> DownLevel:
        """Append the width of every output to `skips`."""
        spec, width, entry = self.spec, self.spec.widths[level], skips[-1]
        blocks = [self.block(entry if index == 0 else width, width) for index in range(spec.blocks)]
        attend = self._sizes[level] in spec.attention
        attention = [self.attention(width) for _ in blocks] if attend else []
        skips += [width] * spec.blocks
        if level == len(self._sizes) - 1:
            return DownLevel(blocks, attention, None, None)
        skips.append(width)
        pyramid = None
        if spec.progressive_input == "residual":
            source = in_channels if level == 0 else entry
            pyramid = FirConvDown(source, width) if spec.resampling == "fir" else ConvDown(source, width)
        return DownLevel(blocks, attention, self._resample(width, down=True), pyramid, self._gain)

    def _up_level(self, level: int, skips: list[int]) -> UpLevel:
        """Pop the widths of the skips that the level takes."""
        spec, width = self.spec, self.spec.widths[level]
        entry = spec.widths[min(level + 1, len(self._sizes) - 1)]
        blocks = [self.block((entry if index == 0 else width) + skips.pop(), width) for index in range(spec.blocks + 1)]
        count = len(blocks) if spec.attention_up == "every" else 1
        attention = [self.attention(width) for _ in range(count)] if self._sizes[level] in spec.attention else []
        return UpLevel(blocks, attention, self._resample(width, down=False) if level > 0 else None)

    def _resample(self, width: int, down: bool) -> nn.Module:
        if self.spec.resampling == "conv":
            return ConvDown(width, width) if down else ConvUp(width, width)
        if self.spec.resampling == "fir":
            return self.block(width, width, FirDown() if down else FirUp())
        return self.block(width, width, BoxDown() if down else BoxUp())


def draw_weights(network: nn.Module, spec: UNetSpec, last: Iterable[nn.Conv2d] = ()) -> None:
    """Draw the weights of a network's convolutions and dense layers anew from torch's global generator.

    Biases become zero (but with the law "pytorch", which has its own), and so do the last layers of residual blocks
    and attentions where `spec.zero_init` says so, and what reads the augmentation.

    Args:
        network: made by `Assembly`.
        spec: its options.
        last: the layers that end the network, if they are to start at zero with the others.
    """
    draw = _LAWS[spec.initialisation]
    attentions = [module for module in network.modules() if isinstance(module, SelfAttention)]
    blocks = [module for module in network.modules() if isinstance(module, ResidualBlock)]
    fused = {attention.qkv for attention in attentions}
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear) and draw is None:
            module.reset_parameters()
        elif isinstance(module, nn.Conv2d | nn.Linear):
            if module.bias is not None:
                nn.init.zeros_(module.bias)
            for weight in module.weight.detach().chunk(3 if module in fused else 1):  # q, k, v: each its own fan
                draw(weight)
    if spec.zero_init:
        for layer in (*last, *(block.conv2 for block in blocks), *(item.out for item in attentions)):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
    for embedding in (module for module in network.modules() if isinstance(module, Embedding)):
        if draw is None and embedding.label is not None:
            nn.init.normal_(embedding.label.weight)  # a table's own law
        if embedding.augment is not None:
            nn.init.zeros_(embedding.augment.weight)


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
