"""The contract of an objective: the entry of the group `objective`, a loss on data or the settings of one."""

from __future__ import annotations

import abc
from typing import Literal

from torch import Tensor, nn

from diffexp.core.errors import ConfigError
from diffexp.prediction.conditions import Conditions
from diffexp.prediction.denoiser import NetworkDenoiser, told
from diffexp.prediction.head import Head
from diffexp.process.base import Marginal, Process

Reduce = Literal["mean", "sum"]


class Objective(abc.ABC):
    """What all objectives share.

    Args:
        reduce: "mean" over the pixels of an image, or their "sum"; images are averaged.
        label_dropout: probability with which an image is shown without its label, in [0, 1): classifier-free guidance
            needs it (0.1 to 0.2 in Ho & Salimans 2022).
        masked: errors count only inside the mask of the data.

    Raises:
        ConfigError: for a label_dropout out of range.
    """

    def __init__(self, reduce: Reduce = "mean", label_dropout: float = 0.0, masked: bool = False) -> None:
        if not 0.0 <= label_dropout < 1.0:
            raise ConfigError(f"objective.label_dropout={label_dropout}: a probability in [0, 1) is needed")
        self.reduce: Reduce = reduce
        self.label_dropout = label_dropout
        self.masked = masked

    @abc.abstractmethod
    def check(self, head: Head, process: Process) -> None:
        """Raise ConfigError when the prediction or the process does not suit it, or no time is left to train on."""

    def prepare(self, shape: tuple[int, int, int]) -> None:  # noqa: B027 - most objectives need nothing besides
        """Read what a training on images (C, H, W) needs beside the data; ConfigError when it is missing."""

    def networks(self) -> list[nn.Module]:
        """The frozen networks that it asks beside the one under training, once it is prepared."""
        return []


def reduced(errors: Tensor, how: Reduce) -> Tensor:
    """The mean or the sum over each image's pixels and channels: (B, *) to (B,)."""
    return errors.flatten(1).mean(1) if how == "mean" else errors.flatten(1).sum(1)


def mask_of(conditions: Conditions) -> Tensor:
    """The masks of a batch, (B, 1, H, W); ConfigError when the data have none."""
    if conditions.mask is None:
        raise ConfigError("objective.masked=true: the data set has no masks; choose another, or set it to false")
    return conditions.mask


def output_of(denoiser: NetworkDenoiser, law: Marginal, u: Tensor, conditions: Conditions) -> Tensor:
    """What the network under training puts out for states `u` (B, *) at the times of their law: (B, outputs * C, *)."""
    scale = denoiser.input_scale(law.t)
    scale = None if scale is None else scale.cast(u.dtype, u.device)
    return denoiser.output(u, told(denoiser.time_input(law.t), u.dtype, u.device), conditions, scale)
