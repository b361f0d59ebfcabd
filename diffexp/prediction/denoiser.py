"""A denoiser maps (state, time, conditions) to a `Prediction` and counts what it asked the network.

Anything with this interface can be sampled: a trained network, a guided one, or a closed-form oracle.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from diffexp.core.transfer import to_device
from diffexp.prediction.conditions import NO_CONDITIONS, Conditions
from diffexp.prediction.form import Form
from diffexp.prediction.head import Head
from diffexp.prediction.result import Prediction
from diffexp.process.base import Marginal, Process, second_image
from diffexp.process.combination import Combination
from diffexp.process.operator import Operator

Parts = tuple[Tensor, ...]


@dataclass(frozen=True)
class Point:
    """Everything about one time of a grid that a denoiser needs, computed before the loop.

    Attributes:
        marginal: the process at that time, cast to the state's type and device.
        time: the network's time input on the state's device, (1,); None for oracles.
        data: x^ as a combination of the denoiser's parts, cast.
        noise: e^, likewise.
        extra: what this kind of denoiser needs besides.
        scale: what the state is multiplied by before a network sees it, cast; None: nothing.
    """

    marginal: Marginal
    time: Tensor | None
    data: Combination
    noise: Combination
    extra: Any = None
    scale: Operator | None = None


class Denoiser(abc.ABC):
    """A source of predictions on one process.

    Attributes:
        process: the forward process.
        gives: what its predictions hold, see `Head.gives`; "unconditional" when it can also answer without labels.
        evaluations: network evaluations so far, summed over images (guidance costs two for each).
        cost: network evaluations of one call, for each image.
    """

    process: Process
    gives: frozenset[str] = frozenset({"data", "noise", "score"})
    cost: int = 1

    def __init__(self, process: Process) -> None:
        self.process = process
        self.evaluations = 0

    @abc.abstractmethod
    def form(self, marginal: Marginal) -> Form:
        """How data and noise follow from the parts, at the times of a float64 marginal."""

    @abc.abstractmethod
    def parts(self, u: Tensor, point: Point, conditions: Conditions = NO_CONDITIONS) -> Parts:
        """The parts of the prediction at states `u` (B, *), all at one time: u itself first; counted."""

    def time_input(self, t: Tensor) -> Tensor | None:
        """What the network is told about the times `t`, float64; None for oracles."""
        return None

    def input_scale(self, t: Tensor) -> Operator | None:
        """What states at the times `t` are multiplied by before a network sees them, float64; None: nothing."""
        return None

    def extra(self, marginal: Marginal, device: torch.device | str) -> Any:
        """What else this kind of denoiser needs at one time of a grid; computed before the loop."""
        return None

    def prepare(self, t: Tensor, dtype: torch.dtype, device: torch.device | str) -> list[Point]:
        """One point for each of the times `t` (n,) that a sampling loop visits, for states of this type and device."""
        marginal = self.process.marginal(t)
        form = self.form(marginal)
        times = told(self.time_input(t), dtype, device)
        listed: Sequence[Tensor | None] = [None] * len(t) if times is None else times.split(1)
        scale = self.input_scale(t)
        return [
            Point(
                marginal[k].cast(dtype, device),
                listed[k],
                form.data[k].cast(dtype, device),
                form.noise[k].cast(dtype, device),
                self.extra(marginal[k], device),
                None if scale is None else scale[k].cast(dtype, device),
            )
            for k in range(len(t))
        ]

    def at(self, t: Tensor, dtype: torch.dtype, device: torch.device | str) -> Point:
        """The point of B states that stand at times of their own, `t` (B,): for solvers that choose their steps."""
        marginal = self.process.marginal(t)
        form, scale = self.form(marginal), self.input_scale(t)
        return Point(
            marginal.cast(dtype, device),
            told(self.time_input(t), dtype, device),
            form.data.cast(dtype, device),
            form.noise.cast(dtype, device),
            self.extra(marginal, device),
            None if scale is None else scale.cast(dtype, device),
        )

    def __call__(self, u: Tensor, point: Point, conditions: Conditions = NO_CONDITIONS) -> Prediction:
        """The prediction at states `u` (B, *), all at one time, or each at its own (see `at`)."""
        return Prediction(self.parts(u, point, conditions), point.data, point.noise)


def told(time: Tensor | None, dtype: torch.dtype, device: torch.device | str) -> Tensor | None:
    """A time input as the network receives it: float32, or float64 beside float64 states."""
    if time is None:
        return None
    return to_device(time, device, torch.promote_types(dtype, torch.float32))


def with_second(parts: Parts, marginal: Marginal, conditions: Conditions) -> Parts:
    """The parts, completed by the second image where it is given."""
    return (*parts, second_image(conditions.endpoint)) if marginal.given else parts


class NetworkDenoiser(Denoiser):
    """A denoiser made of a network and the meaning of its output.

    Args:
        network: maps (state, time input (B,) or (1,) when all states share it, labels) to `head.out_channels` channels.
        head: the prediction.
        process: the forward process.
        autocast: lower precision of the network alone while sampling, e.g. torch.bfloat16; states and coefficients keep
            theirs. In training the trainer does this.
        unconditional: the network was trained to answer also without labels (label -1), which guidance needs.

    Raises:
        ConfigError: when the head has no meaning on the process.
    """

    def __init__(
        self,
        network: nn.Module,
        head: Head,
        process: Process,
        autocast: torch.dtype | None = None,
        unconditional: bool = False,
    ) -> None:
        super().__init__(process)
        head.check(process)
        self.network = network
        self.head = head.on(process)
        self.gives = head.gives | ({"unconditional"} if unconditional else frozenset())
        self.autocast = autocast

    def form(self, marginal: Marginal) -> Form:
        return self.head.form(marginal)

    def time_input(self, t: Tensor) -> Tensor:
        return self.head.time_input(self.process, t)

    def input_scale(self, t: Tensor) -> Operator | None:
        return self.head.input_scale(self.process, t)

    def output(
        self, u: Tensor, time: Tensor, conditions: Conditions = NO_CONDITIONS, scale: Operator | None = None
    ) -> Tensor:
        """The raw network output in the state's type; counted.

        Args:
            u: states (B, *).
            time: the network's time input, (B,) or (1,).
            conditions: labels, and the image that the head shows to the network; a mask is not for it. Only where
                images were augmented the network gets a fourth argument, which says how.
            scale: `input_scale`, cast.

        Raises:
            ValueError: for a condition image that the network cannot be shown, or one that is missing.
        """
        self.evaluations += u.shape[0]
        shown = self._shown(u if scale is None else scale.apply(u), conditions)
        told = (conditions.labels,) if conditions.augment is None else (conditions.labels, conditions.augment)
        if self.autocast is None:
            return self.network(shown, time, *told).to(u.dtype)
        with torch.autocast(u.device.type, self.autocast):
            return self.network(shown, time, *told).to(u.dtype)

    def _shown(self, u: Tensor, conditions: Conditions) -> Tensor:
        """The network's input: the scaled state, and behind it the condition as it is."""
        shows = self.head.shows
        if conditions.image is not None and shows != "image":
            raise ValueError("this denoiser's network takes no condition image")
        if shows is None:
            return u
        image = conditions.image if shows == "image" else conditions.endpoint
        if image is None:
            raise ValueError(f"this denoiser's network is shown an image: give conditions.{shows}")
        return torch.cat([u, image.to(u.dtype)], dim=1)

    def parts(self, u: Tensor, point: Point, conditions: Conditions = NO_CONDITIONS) -> Parts:
        output = self.output(u, point.time, conditions, point.scale)
        return with_second((u, *self.head.split(output)), point.marginal, conditions)
