"""Convolutional schedule networks: the VGG11 that BDDM names for images, and a small one for signals of any rank."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from diffexp.core.errors import ConfigError
from diffexp.network.schedule.base import ScheduleNetwork

_VGG11 = ((64,), (128,), (256, 256), (512, 512), (512, 512))
_CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


class VGG11(ScheduleNetwork):
    """Eight 3x3 convolutions with ReLU in five levels, each halved by a maximum; mean over pixels; one dense layer.

    BDDM (Lam et al. 2022) names VGG11 for images; its code for images was not published. Trainings have batches of one
    sample, so there are no norms, and He's law keeps the size of the signal instead. The ratio starts near 1/2. A size
    that cannot be halved is rounded up, so images of any size will do.

    Args:
        channels: of the images (B, C, H, W).

    Raises:
        ConfigError: unless `channels` >= 1.
    """

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        _check_at_least_one("channels", channels)
        layers: list[nn.Module] = []
        for level in _VGG11:
            for width in level:
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
                channels = width
            layers.append(nn.MaxPool2d(2, ceil_mode=True))
        self.features = nn.Sequential(*layers)
        self.out = nn.Linear(channels, 1)
        _initialise(self)

    def _logit(self, x: Tensor) -> Tensor:
        return self.out(self.features(x).flatten(2).mean(2)).flatten()


class Small(ScheduleNetwork):
    """Convolutions of width 3 with ReLU, all but the first of stride 2; mean over positions; one dense layer.

    For quick runs, and for signals (B, C, *) of one, two or three dimensions.

    Args:
        channels: C.
        widths: channels of each convolution.
        dimensions: how many axes follow the channels.

    Raises:
        ConfigError: for numbers out of range.
    """

    def __init__(self, channels: int = 1, widths: tuple[int, ...] = (16, 32, 64), dimensions: int = 2) -> None:
        super().__init__()
        _check_at_least_one("channels", channels)
        if not widths or min(widths) < 1:
            raise ConfigError(f"schedule network: widths={list(widths)}: give one integer >= 1 for each convolution")
        if dimensions not in _CONVOLUTIONS:
            raise ConfigError(f"schedule network: dimensions={dimensions}: must be 1, 2 or 3")
        convolution, layers = _CONVOLUTIONS[dimensions], []
        for k, (narrow, wide) in enumerate(pairwise((channels, *widths))):
            layers += [convolution(narrow, wide, 3, stride=2 if k else 1, padding=1), nn.ReLU()]
        self.features = nn.Sequential(*layers)
        self.out = nn.Linear(widths[-1], 1)
        _initialise(self)

    def _logit(self, x: Tensor) -> Tensor:
        return self.out(self.features(x).flatten(2).mean(2)).flatten()


def _check_at_least_one(name: str, value: int) -> None:
    if value < 1:
        raise ConfigError(f"schedule network: {name}={value}: an integer >= 1 is needed")


def _initialise(network: VGG11 | Small) -> None:
    """He's law for layers before a ReLU, a small last layer, biases at zero."""
    for layer in network.features:
        if not isinstance(layer, nn.ReLU | nn.MaxPool2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
    nn.init.normal_(network.out.weight, std=0.1 * network.out.in_features**-0.5)
    nn.init.zeros_(network.out.bias)
