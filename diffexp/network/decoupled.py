"""What the network of decoupled diffusion is made of: a U-Net's options and the number of its decoders.

Huang et al., Decoupled Diffusion Models (arXiv 2306.13720), code of both generations: the U-Net of EDM's ADM, divided
behind its encoder. This module does not import torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from diffexp.core.errors import ConfigError
from diffexp.network.spec import UNetSpec

if TYPE_CHECKING:
    from diffexp.network.decoupled_unet import DecoupledUNet


@dataclass(frozen=True)
class DecoupledSpec(UNetSpec):
    """The options of a U-Net with one or two decoders. `build` makes it.

    Of the options of `UNetSpec` three mean something else: the stem is as wide as the first level; `head_dim` gives
    width // head_dim heads, which share the channels (288 channels at 64 are four heads of 72); and `zero_init` leaves
    the networks' last convolutions alone, which are drawn uniform with variance 1 / fan_in.

    Args:
        decoders: 2: one for the image's parameters, one for the noise; 1: all channels from one.

    Raises:
        ConfigError: an option is out of range or contradicts another.
    """

    decoders: Literal[1, 2] = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.decoders not in (1, 2):
            raise ConfigError(f"network.decoders={self.decoders}: there is one decoder (1), or one for each head (2)")
        if self.progressive_input != "none":
            raise ConfigError("network.progressive_input: the network of decoupled diffusion has no pyramid; use none")

    @property
    def stem(self) -> int:
        """Channels of the first convolution's output."""
        return self.widths[0]

    def check_heads(self, width: int) -> None:
        """Raise ConfigError when the channels of an attention cannot be shared out."""
        heads = self.heads(width)
        if heads < 1 or width % heads:
            raise ConfigError(
                f"network: {width} channels at an attention cannot be shared by {heads} heads; change head_dim="
                f"{self.head_dim} or num_heads={self.num_heads}"
            )

    def build(self, in_channels: int, out_channels: int, resolution: int, num_classes: int = 0) -> DecoupledUNet:
        """Make the network, with fresh weights from torch's global generator (seed it with `core.random.seeded`).

        Args:
            in_channels: channels of the state; with two decoders those of the noise too.
            out_channels: channels of the output: the image's parameters first, the noise last.
            resolution: height = width of the images, in pixels.
            num_classes: classes of the data set; used only if `class_conditional`.

        Raises:
            ConfigError: see `check`; or two decoders have nothing to divide.
        """
        from diffexp.network.decoupled_unet import DecoupledUNet  # torch is loaded only when a network is really made

        self.check(resolution, num_classes)
        image = out_channels - in_channels
        if self.decoders == 2 and image < 1:
            raise ConfigError(
                f"network.decoders=2: a prediction of {out_channels} channels on a state of {in_channels} has no image "
                "beside the noise: use prediction=ddm, or network.decoders=1"
            )
        heads = (image, in_channels) if self.decoders == 2 else (out_channels,)
        return DecoupledUNet(self, in_channels, heads, resolution, num_classes if self.class_conditional else 0)
