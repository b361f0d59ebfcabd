"""What a schedule network is made of: `conf/distillation/schedule_network/*.yaml`. No torch is imported here."""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import TYPE_CHECKING

from diffexp.core.errors import ConfigError

if TYPE_CHECKING:
    from diffexp.network.schedule.base import ScheduleNetwork


class ScheduleSpec(abc.ABC):
    """Makes a schedule network once the data are known."""

    @abc.abstractmethod
    def build(self, shape: tuple[int, ...]) -> ScheduleNetwork:
        """The network for samples of this shape, (C, *), with fresh weights from torch's global generator.

        Raises:
            ConfigError: it does not read such samples, or an argument is out of range.
        """


@dataclass(frozen=True)
class VGG11Spec(ScheduleSpec):
    """See `convolutional.VGG11`."""

    def build(self, shape: tuple[int, ...]) -> ScheduleNetwork:
        from diffexp.network.schedule.convolutional import VGG11

        if len(shape) != 3:
            raise ConfigError(f"distillation.schedule_network: VGG11 reads images, not {tuple(shape)}: use small")
        return VGG11(shape[0])


@dataclass(frozen=True)
class SmallSpec(ScheduleSpec):
    """See `convolutional.Small`.

    Args:
        widths: channels of each convolution.
    """

    widths: tuple[int, ...] = (16, 32, 64)

    def build(self, shape: tuple[int, ...]) -> ScheduleNetwork:
        from diffexp.network.schedule.convolutional import Small

        return Small(shape[0], tuple(self.widths), len(shape) - 1)


@dataclass(frozen=True)
class GALRSpec(ScheduleSpec):
    """See `galr.GALR`, whose arguments these are."""

    blocks: int = 1
    dim: int = 128
    hidden: int = 128
    window: int = 8
    segment: int = 64
    low_dim: int = 8
    heads: int = 8
    dropout: float = 0.1

    def build(self, shape: tuple[int, ...]) -> ScheduleNetwork:
        from diffexp.network.schedule.galr import GALR

        if len(shape) != 2 or shape[0] != 1:
            raise ConfigError(
                f"distillation.schedule_network: GALR reads waveforms (1, L), these samples are {tuple(shape)}: "
                "use distillation/schedule_network=vgg11 or small"
            )
        return GALR(**vars(self))
