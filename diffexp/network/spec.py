"""What a U-Net is made of: the scalars of `conf/network/*.yaml`, checked before anything is built.

A YAML file cannot know the channels, the resolution or the number of classes: those come from the data set and from the
prediction. So the file describes a `UNetSpec`, and `UNetSpec.build` makes the network once the rest is known.

Covered by the options: the U-Net of Progressive Distillation (Salimans & Ho 2022), NCSN++ and DDPM++ (Song et al. 2021)
in the deep form that gDDIM trains, ADM (Dhariwal & Nichol 2021) as the bridges use it, and small networks for quick
runs. This module does not import torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args, get_type_hints, runtime_checkable

from diffexp.core.errors import ConfigError, nearest

if TYPE_CHECKING:
    from torch import nn

    from diffexp.network.unet import UNet


@runtime_checkable
class NetworkSpec(Protocol):
    """What a choice of the group `network` builds: it makes the network once the data and the prediction are known."""

    def build(self, in_channels: int, out_channels: int, resolution: int, num_classes: int = 0) -> nn.Module:
        """A network (u (B, C, H, W), time (B,) or (1,), labels (B,) or None) -> (B, out_channels, H, W), fresh weights.

        Its fourth argument comes only when images are augmented, which a spec without a positive `augment_dim` refuses:
        (B, augment_dim), what was done to each.

        Args:
            in_channels, out_channels: of the state, and of all heads of the prediction together.
            resolution: height = width of the images, in pixels.
            num_classes: classes of the data set, 0 for none.
        """


@dataclass(frozen=True)
class UNetSpec:
    """The options of one U-Net. `build` makes it.

    Args:
        channels: width of the stem; level l has `channels * multipliers[l]` channels.
        multipliers: one factor a level, finest level first; each level has half the resolution of the one before.
        blocks: residual blocks a level on the way down; the way up has one more.
        attention: resolutions (pixels) at which blocks are followed by self-attention. The middle always has it.
        num_heads: attention heads; give this or `head_dim`.
        head_dim: channels of one head; heads = width / head_dim.
        attention_up: on the way up, attention after "every" block, or "once" at the end of each level.
        attention_order: of the rows of queries, keys and values, see `SelfAttention`.
        embedding: sinusoids of the time input, sines first ("positional") or cosines first ("timestep", ADM's), or
            random "fourier" features of its logarithm.
        embedding_dim: width of the time embedding; null means 4 * channels.
        fourier_scale: standard deviation of the random frequencies.
        conditioning: the embedding is "add"ed before the second norm, or becomes its "scale_shift".
        class_conditional: labels enter the embedding. If false, the classes of the data set are ignored.
        label_bias: the label's embedding has a bias (ADM's has none).
        skip_scale: residual sums are divided by sqrt(2).
        resampling: between levels a residual block that averages / repeats 2x2 pixels ("box") or filters with
            [1, 3, 3, 1] ("fir"), or a plain convolution of stride 2 / after repetition ("conv").
        shortcut: a residual block's skip has a 1x1 convolution when the "width" changes, or also when the block
            resamples ("width_or_resample").
        progressive_input: "residual" adds a filtered, convolved pyramid of the input after each downsampling.
        dropout: probability inside residual blocks, in [0, 1).
        max_groups: group norm uses min(max_groups, width // min_group_size) groups.
        min_group_size: the fewest channels that share a group; see `max_groups`.
        norm_eps: added to the variance in group norm.
        zero_init: the last layer of every residual block, attention and of the network starts at zero.
        initialisation: law of all other weights; biases start at zero. "pytorch": each layer's own, biases too (ADM).
        augment_dim: numbers that tell the network how an image was augmented, see `dataset.augmentation`;
            null: nobody tells.

    Raises:
        ConfigError: an option is out of range or contradicts another.
    """

    channels: int
    multipliers: list[int]
    blocks: int
    attention: list[int]
    num_heads: int | None = None
    head_dim: int | None = None
    attention_up: Literal["every", "once"] = "every"
    attention_order: Literal["new", "legacy"] = "new"
    embedding: Literal["positional", "timestep", "fourier"] = "positional"
    embedding_dim: int | None = None
    fourier_scale: float = 16.0
    conditioning: Literal["add", "scale_shift"] = "scale_shift"
    class_conditional: bool = False
    label_bias: bool = True
    skip_scale: bool = False
    resampling: Literal["box", "fir", "conv"] = "box"
    shortcut: Literal["width", "width_or_resample"] = "width"
    progressive_input: Literal["none", "residual"] = "none"
    dropout: float = 0.0
    max_groups: int = 32
    min_group_size: int = 1
    norm_eps: float = 1e-6
    zero_init: bool = True
    initialisation: Literal["lecun_normal", "xavier_uniform", "pytorch"] = "lecun_normal"
    augment_dim: int | None = None

    def __post_init__(self) -> None:
        for name in ("multipliers", "attention"):  # plain lists: a ListConfig inside a network breaks checkpoints
            object.__setattr__(self, name, list(getattr(self, name)))
        _check_choices(self)
        for name in ("channels", "blocks", "max_groups", "min_group_size"):
            _check_positive(name, getattr(self, name))
        for name in ("num_heads", "head_dim", "embedding_dim", "augment_dim"):
            if getattr(self, name) is not None:
                _check_positive(name, getattr(self, name))
        if not self.multipliers or any(factor < 1 for factor in self.multipliers):
            raise ConfigError(f"network.multipliers={list(self.multipliers)}: give one integer >= 1 for every level")
        if (self.num_heads is None) == (self.head_dim is None):
            raise ConfigError("network: give exactly one of num_heads and head_dim, and null for the other")
        if not 0.0 <= self.dropout < 1.0:
            raise ConfigError(f"network.dropout={self.dropout}: a probability in [0, 1) is needed")
        if self.norm_eps <= 0.0 or self.fourier_scale <= 0.0:
            raise ConfigError("network.norm_eps and network.fourier_scale must be greater than 0")
        if self.embedding == "positional" and (self.channels % 2 or self.channels < 4):
            raise ConfigError(
                f"network.channels={self.channels}: positional embedding needs an even width of 4 or more"
            )
        if self.embedding == "timestep" and self.channels < 2:
            raise ConfigError(f"network.channels={self.channels}: timestep embedding needs a width of 2 or more")

    @property
    def embedding_width(self) -> int:
        """Width of the time embedding."""
        return 4 * self.channels if self.embedding_dim is None else self.embedding_dim

    @property
    def stem(self) -> int:
        """Channels of the first convolution's output."""
        return self.channels

    @property
    def widths(self) -> list[int]:
        """Channels of each level, finest first."""
        return [self.channels * factor for factor in self.multipliers]

    def groups(self, width: int) -> int:
        """Groups that group norm uses for `width` channels."""
        return max(1, min(self.max_groups, width // self.min_group_size))

    def heads(self, width: int) -> int:
        """Attention heads for `width` channels."""
        return self.num_heads if self.num_heads is not None else width // self.head_dim

    def resolutions(self, resolution: int) -> list[int]:
        """Height = width of each level's images for inputs of `resolution` pixels, finest first.

        Raises:
            ConfigError: `resolution` cannot be halved that often, or an attention resolution does not occur.
        """
        factor = 2 ** (len(self.multipliers) - 1)
        if resolution < factor or resolution % factor:
            raise ConfigError(
                f"network.multipliers has {len(self.multipliers)} levels, so the images' resolution must be a multiple "
                f"of {factor}, but it is {resolution}: use fewer levels or pad the images"
            )
        sizes = [resolution >> level for level in range(len(self.multipliers))]
        for size in self.attention:
            if size not in sizes:
                raise ConfigError(f"network.attention={size} does not occur: the levels' resolutions are {sizes}")
        return sizes

    def check(self, resolution: int, num_classes: int = 0) -> None:
        """Check what depends on the data set, without building anything.

        Raises:
            ConfigError: resolution, heads, norm groups or classes do not fit the options.
        """
        sizes = self.resolutions(resolution)
        for width in {w for w, size in zip(self.widths, sizes, strict=True) if size in self.attention} | {
            self.widths[-1]
        }:
            self.check_heads(width)
        for width in sorted(self._normed_widths()):
            if width % self.groups(width):
                raise ConfigError(
                    f"network: {self.groups(width)} norm groups do not divide {width} channels; change channels, "
                    "multipliers, max_groups or min_group_size"
                )
        if self.class_conditional and num_classes < 2:
            raise ConfigError(
                f"network.class_conditional=true needs a data set with at least 2 classes, not {num_classes}: "
                "choose another data set or set it to false"
            )

    def check_heads(self, width: int) -> None:
        """Raise ConfigError when the channels of an attention cannot be shared out."""
        divisor, name = (self.num_heads, "num_heads") if self.head_dim is None else (self.head_dim, "head_dim")
        if width % divisor:
            raise ConfigError(f"network.{name}={divisor} does not divide the {width} channels at an attention")

    def _normed_widths(self) -> set[int]:
        """Every width that meets a group norm: the levels, and the inputs of the blocks on the way up."""
        skips, down = [self.stem], self.widths
        for level, width in enumerate(down):
            skips += [width] * (self.blocks + (level < len(down) - 1))
        normed, current = {self.stem, *down}, down[-1]
        for width in reversed(down):
            for _ in range(self.blocks + 1):
                normed.add(current + skips.pop())
                current = width
        return normed

    def build(self, in_channels: int, out_channels: int, resolution: int, num_classes: int = 0) -> UNet:
        """Make the network, with fresh weights from torch's global generator (seed it with `core.random.seeded`).

        Args:
            in_channels: channels of the input (state, and whatever is concatenated to it).
            out_channels: channels of the output (all heads of the prediction together).
            resolution: height = width of the images, in pixels.
            num_classes: classes of the data set; used only if `class_conditional`.

        Raises:
            ConfigError: see `check`.
        """
        from diffexp.network.unet import UNet  # torch is loaded only when a network is really made

        self.check(resolution, num_classes)
        _check_positive("in_channels", in_channels)
        _check_positive("out_channels", out_channels)
        return UNet(self, in_channels, out_channels, resolution, num_classes if self.class_conditional else 0)


def _check_choices(spec: UNetSpec) -> None:
    for name, hint in get_type_hints(type(spec)).items():
        value: Any = getattr(spec, name)
        choices = get_args(hint)
        if choices and all(isinstance(choice, str) for choice in choices) and value not in choices:
            raise ConfigError(f"network.{name}={value!r} is not known; {nearest(str(value), choices)}")


def _check_positive(name: str, value: int) -> None:
    if value < 1:
        raise ConfigError(f"network.{name}={value}: an integer >= 1 is needed")
