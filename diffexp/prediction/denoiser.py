"""A denoiser maps (state, time, conditions) to a `Prediction` and counts what it asked the network.

Anything with this interface can be sampled: a trained network, a guided one, or a closed-form oracle.
"""

from __future__ import annotations

import abc
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from diffexp.core.transfer import to_device
from diffexp.prediction.conditions import NO_CONDITIONS, Conditions
from diffexp.prediction.head import Head
from diffexp.prediction.result import Prediction
from diffexp.process.base import Marginal, Process


@dataclass(frozen=True)
class Point:
    """Everything about a time (or a batch of them) that a denoiser needs, computed before the loop.

    Attributes:
        marginal: the process at that time, cast to the state's type and device.
        time: the network's time input, float32 on the state's device, () or (B,); None for oracles.
    """

    marginal: Marginal
    time: Tensor | None


class Denoiser(abc.ABC):
    """A source of predictions on one process.

    Attributes:
        process: the forward process.
        gives: what its predictions hold, see `Head.gives`.
        evaluations: network evaluations so far, summed over images (guidance costs two for each).
    """

    process: Process
    gives: frozenset[str] = frozenset({"data", "noise"})

    def __init__(self, process: Process) -> None:
        self.process = process
        self.evaluations = 0

    def time_input(self, t: Tensor) -> Tensor | None:
        """What the network is told about the times `t`, float64; None for oracles."""
        return None

    def prepare(self, t: Tensor, dtype: torch.dtype, device: torch.device | str) -> Point:
        """The point of the times `t` (float64, () or (B,)) for states of this type and device."""
        told = self.time_input(t)
        time = None if told is None else to_device(told, device, torch.float32)
        return Point(self.process.marginal(t).cast(dtype, device), time)

    def prepare_each(self, t: Tensor, dtype: torch.dtype, device: torch.device | str) -> list[Point]:
        """One point for each of the times `t` (n,), as a sampling loop visits them: their numbers stay exact."""
        told = self.time_input(t)
        times = [None] * len(t) if told is None else to_device(told, device, torch.float32).unbind()
        marginal = self.process.marginal(t)
        return [Point(marginal[k].cast(dtype, device), times[k]) for k in range(len(t))]

    @abc.abstractmethod
    def __call__(self, u: Tensor, point: Point, conditions: Conditions = NO_CONDITIONS) -> Prediction:
        """The prediction at states `u` (B, *), all at one time or each at its own."""


class NetworkDenoiser(Denoiser):
    """A denoiser made of a network and the meaning of its output.

    Args:
        network: maps (state, time input (B,) or (1,) when all states share it, labels) to `head.out_channels` channels.
        head: the prediction.
        process: the forward process.
        autocast: lower precision of the network alone while sampling, e.g. torch.bfloat16; states and coefficients keep
            theirs. In training the trainer does this.

    Raises:
        ConfigError: when the head has no meaning on the process.
    """

    def __init__(
        self, network: nn.Module, head: Head, process: Process, autocast: torch.dtype | None = None
    ) -> None:
        super().__init__(process)
        head.check(process)
        self.network = network
        self.head = head
        self.gives = head.gives
        self.autocast = autocast

    def time_input(self, t: Tensor) -> Tensor:
        return self.head.time_input(self.process, t)

    def output(self, u: Tensor, point: Point, conditions: Conditions = NO_CONDITIONS) -> Tensor:
        """The raw network output in the state's type; counted.

        Raises:
            ValueError: for a condition that the network cannot be shown.
        """
        if conditions.image is not None or conditions.mask is not None:
            raise ValueError("this denoiser's network takes no condition image and no mask")
        self.evaluations += u.shape[0]
        time = point.time.reshape(-1)
        if self.autocast is None:
            return self.network(u, time, conditions.labels).to(u.dtype)
        with torch.autocast(u.device.type, self.autocast):
            return self.network(u, time, conditions.labels).to(u.dtype)

    def __call__(self, u: Tensor, point: Point, conditions: Conditions = NO_CONDITIONS) -> Prediction:
        return self.head.predict(u, point.marginal, self.output(u, point, conditions), conditions)
